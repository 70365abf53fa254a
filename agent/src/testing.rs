//! The node's end of a link, without a node, for tests.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::link::connection::Connection;
use crate::link::proto::{FromAgent, from_agent::Frame};
use crate::link::stream::Stream;

/// An agent's connection, and what it sends.
pub(crate) struct NodeEnd {
    /// The agent's end.
    pub(crate) connection: Connection,
    stream: Stream,
    peek: UnixStream,
    buffer: BytesMut,
}

impl NodeEnd {
    /// Create both ends. Must be called inside a runtime.
    pub(crate) fn new() -> Self {
        Self::on(Connection::default())
    }

    /// Create both ends, of a connection that may already have something to send.
    pub(crate) fn on(connection: Connection) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let stream = Stream::new(OwnedFd::from(theirs)).expect("a stream");
        connection.open(Arc::new(stream));
        let writer = connection.clone();
        tokio::spawn(async move { writer.write_out().await });
        let peek = ours.try_clone().expect("a copy of the socket");
        Self {
            connection,
            peek,
            stream: Stream::new(OwnedFd::from(ours)).expect("a stream"),
            buffer: BytesMut::new(),
        }
    }

    /// Wait for the next frame.
    pub(crate) async fn next(&mut self) -> (Frame, Bytes) {
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<8>() {
                let [a, b, c, d, e, f, g, h] = *prefix;
                let head = u32::from_le_bytes([a, b, c, d]) as usize;
                let body = u32::from_le_bytes([e, f, g, h]) as usize;
                if self.buffer.len() >= 8 + head + body {
                    let mut frame = self.buffer.split_to(8 + head + body).freeze().split_off(8);
                    let body = frame.split_off(head);
                    let message = FromAgent::decode(frame).expect("a frame of an agent");
                    return (message.frame.expect("a frame"), body);
                }
            }
            self.buffer.reserve(1 << 16);
            let read = self.stream.read(&mut self.buffer).await.expect("bytes");
            assert_ne!(read, 0, "the agent closed the link");
        }
    }

    /// Check that nothing more has been sent: sending completes before the call returns.
    pub(crate) async fn expect_nothing(&mut self) {
        self.connection.drained().await;
        assert!(self.buffer.is_empty());
        let read = self.peek.read(&mut [0]);
        assert!(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    }
}
