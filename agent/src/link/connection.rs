//! One connection to the node, and the frames that wait to be sent on it.
//!
//! Frames are written at once as far as the kernel accepts them; the rest waits for the writer. Log
//! lines are collected until something else is sent, until there are many, or while the writer is
//! busy. Callers that can wait ask for room first: a node that does not read stops the application,
//! and no buffer grows.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

use super::TEXT_BYTES;
use super::failure::cut;
use super::frames::head_of;
use super::proto::{Log, from_agent::Frame, log::Line};
use super::stream::Stream;
use crate::system::MOST_PARTS;

/// How much may wait to be sent before callers that can wait are made to wait.
const ROOM_BYTES: usize = 1024 * 1024;

/// This many bytes of log lines make a frame of their own.
const LOG_BYTES: usize = 32 * 1024;

/// The overhead of a line beside its texts.
const LINE_OVERHEAD_BYTES: usize = 32;

/// The current connection, if any. Frames sent without one are dropped. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    outbound: Mutex<Outbound>,
    /// There is something to write.
    work: Notify,
    /// Less is waiting than before.
    room: Notify,
}

#[derive(Debug, Default)]
struct Outbound {
    stream: Option<Arc<Stream>>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// The kernel does not accept more now: the writer waits for it.
    is_blocked: bool,
    lines: VecDeque<Line>,
    lines_bytes: usize,
}

impl Connection {
    /// Send on this stream from now on. What waited for another stream is dropped.
    pub(crate) fn open(&self, stream: Arc<Stream>) {
        let mut outbound = self.outbound();
        *outbound = Outbound {
            stream: Some(stream),
            lines: mem::take(&mut outbound.lines),
            lines_bytes: outbound.lines_bytes,
            ..Outbound::default()
        };
    }

    /// Send nothing more, and let nobody wait.
    pub(crate) fn close(&self) {
        *self.outbound() = Outbound::default();
        self.shared.room.notify_waiters();
        self.shared.work.notify_one();
    }

    /// Send a frame. Returns false if there is no connection.
    pub(crate) fn send(&self, frame: Frame, body: Bytes) -> bool {
        let mut outbound = self.outbound();
        let is_open = outbound.add(frame, body);
        self.flush(outbound);
        is_open
    }

    /// Send a frame with the next one, or when the task that runs now has to wait.
    pub(crate) fn send_soon(&self, frame: Frame, body: Bytes) {
        self.outbound().add(frame, body);
        self.shared.work.notify_one();
    }

    /// Send a log line soon; a long one is cut.
    pub(crate) fn log(&self, mut line: Line) {
        line.message = cut(line.message, TEXT_BYTES);
        let mut outbound = self.outbound();
        outbound.lines_bytes += cost(&line);
        outbound.lines.push_back(line);
        if outbound.stream.is_none() {
            // Nobody reads them now; the newest ones say why.
            while outbound.lines_bytes > ROOM_BYTES
                && let Some(oldest) = outbound.lines.pop_front()
            {
                outbound.lines_bytes -= cost(&oldest);
            }
        } else if outbound.lines_bytes >= LOG_BYTES {
            outbound.gather_lines();
            self.flush(outbound);
        } else {
            drop(outbound);
            self.shared.work.notify_one();
        }
    }

    /// Whether callers that can wait may send more.
    pub(crate) fn has_room(&self) -> bool {
        let outbound = self.outbound();
        outbound.stream.is_none() || outbound.queued_bytes + outbound.lines_bytes < ROOM_BYTES
    }

    /// Wait until more may be sent.
    pub(crate) async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.shared.room.notified());
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// Write what waits, as long as the connection lasts.
    pub(crate) async fn write_out(&self) -> io::Result<()> {
        loop {
            let blocked = {
                let mut outbound = self.outbound();
                outbound.gather_lines();
                let Some(stream) = outbound.stream.clone() else {
                    return Ok(());
                };
                outbound.write(&stream)?;
                outbound.is_blocked.then_some(stream)
            };
            self.shared.room.notify_waiters();
            match blocked {
                None => self.shared.work.notified().await,
                Some(stream) => stream.writable().await?,
            }
        }
    }

    /// Wait until nothing waits to be sent.
    pub(crate) async fn drained(&self) {
        loop {
            let mut freed = std::pin::pin!(self.shared.room.notified());
            freed.as_mut().enable();
            {
                let outbound = self.outbound();
                if outbound.queue.is_empty() && outbound.lines.is_empty() {
                    return;
                }
            }
            self.shared.work.notify_one();
            freed.await;
        }
    }

    /// Write what the kernel accepts now, and leave the rest to the writer.
    fn flush(&self, mut outbound: MutexGuard<'_, Outbound>) {
        let Some(stream) = outbound.stream.clone().filter(|_| !outbound.is_blocked) else {
            return;
        };
        // An error is left to the reader, which sees the same break.
        let _ = outbound.write(&stream);
        if outbound.is_blocked {
            drop(outbound);
            self.shared.work.notify_one();
        }
    }

    fn outbound(&self) -> MutexGuard<'_, Outbound> {
        // The contents are consistent after every call, also after one that panicked.
        self.shared
            .outbound
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(line: &Line) -> usize {
    line.message.len() + line.trace_id.len() + LINE_OVERHEAD_BYTES
}

impl Outbound {
    fn add(&mut self, frame: Frame, body: Bytes) -> bool {
        if self.stream.is_none() {
            return false;
        }
        self.gather_lines();
        self.push(head_of(frame, body.len()));
        self.push(body);
        true
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    fn gather_lines(&mut self) {
        if self.stream.is_none() {
            return;
        }
        let mut rest = mem::take(&mut self.lines).into_iter().peekable();
        while rest.peek().is_some() {
            let mut bytes = 0;
            // One frame's worth: more wait only after a time without a connection.
            let lines = std::iter::from_fn(|| {
                let line = rest.next_if(|_| bytes < LOG_BYTES)?;
                bytes += cost(&line);
                Some(line)
            });
            let lines = lines.collect();
            self.push(head_of(Frame::Log(Log { lines }), 0));
        }
        self.lines_bytes = 0;
    }

    fn write(&mut self, stream: &Stream) -> io::Result<()> {
        self.is_blocked = false;
        while !self.queue.is_empty() {
            let parts: Vec<&[u8]> = self.queue.iter().take(MOST_PARTS).map(|b| &b[..]).collect();
            let mut written = match stream.try_write(&parts) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.queued_bytes -= written;
            while let Some(first) = self.queue.front_mut() {
                if written < first.len() {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                self.queue.pop_front();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::proto::{Get, Stopped};
    use crate::testing::NodeEnd;

    fn line(message: impl Into<String>) -> Line {
        Line {
            message: message.into(),
            ..Line::default()
        }
    }

    #[tokio::test]
    async fn lines_are_gathered_and_go_before_what_is_sent_after_them() {
        let mut node = NodeEnd::new();
        node.connection.log(line("one"));
        node.connection.log(line("two"));
        node.connection
            .send(Frame::Stopped(Stopped { id: 1 }), Bytes::new());
        let (Frame::Log(log), _) = node.next().await else {
            panic!("no lines");
        };
        let said: Vec<&str> = log.lines.iter().map(|line| &line.message[..]).collect();
        assert_eq!(said, ["one", "two"]);
        assert!(matches!(node.next().await.0, Frame::Stopped(_)));
    }

    #[tokio::test]
    async fn a_line_of_any_length_is_cut() {
        let mut node = NodeEnd::new();
        node.connection.log(line("é".repeat(1024 * 1024)));
        let (Frame::Log(log), _) = node.next().await else {
            panic!("no lines");
        };
        let said = &log.lines[0].message;
        assert!(said.len() <= TEXT_BYTES && said.ends_with('…'));
    }

    #[tokio::test]
    async fn lines_of_a_time_without_a_node_are_bounded_and_come_in_frames_of_their_size() {
        let connection = Connection::default();
        for number in 0..50_000 {
            connection.log(line(number.to_string()));
        }
        let mut node = NodeEnd::on(connection);
        node.connection
            .send(Frame::Stopped(Stopped { id: 1 }), Bytes::new());
        let (mut count, mut newest) = (0, String::new());
        while let (Frame::Log(log), _) = node.next().await {
            assert!(log.lines.iter().map(cost).sum::<usize>() <= LOG_BYTES + LOG_BYTES / 2);
            count += log.lines.len();
            newest.clone_from(&log.lines.last().expect("a line").message);
        }
        assert_eq!(newest, "49999");
        assert!(count < 50_000 && count > 10_000);
    }

    #[tokio::test]
    async fn who_can_wait_waits_for_a_node_that_does_not_read() {
        let mut node = NodeEnd::new();
        let body = Bytes::from(vec![0; ROOM_BYTES]);
        let connection = node.connection.clone();
        for id in 0..2 {
            let get = Get {
                id,
                ..Get::default()
            };
            connection.send(Frame::Get(get), body.clone());
        }
        assert!(!connection.has_room());
        let waits = tokio::spawn(async move { connection.room().await });
        for _ in 0..2 {
            node.next().await;
        }
        waits.await.expect("room");
    }

    #[tokio::test]
    async fn what_is_sent_soon_goes_with_the_next_frame_or_when_the_task_waits() {
        let mut node = NodeEnd::new();
        let stopped = |id| Frame::Stopped(Stopped { id });
        node.connection.send_soon(stopped(1), Bytes::new());
        assert!(!node.connection.outbound().queue.is_empty());
        node.connection.send(stopped(2), Bytes::new());
        assert!(node.connection.outbound().queue.is_empty());
        node.connection.send_soon(stopped(3), Bytes::new());
        for id in 1..=3 {
            assert_eq!(node.next().await.0, stopped(id));
        }
    }

    #[tokio::test]
    async fn without_a_connection_nothing_is_sent_and_nobody_waits() {
        let connection = Connection::default();
        assert!(!connection.send(Frame::Stopped(Stopped { id: 1 }), Bytes::new()));
        connection.room().await;
    }
}
