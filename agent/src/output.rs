//! What a program writes to stdout and stderr: log lines, or a command's reply.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::link::TEXT_BYTES;
use crate::link::connection::Connection;
use crate::link::proto::log::{Level, Line, Stream};
use crate::occasion::TraceId;
use crate::trap::{ends_a_trace, gives_up};

/// How much a program can write at once.
const PERMIT_BYTES: usize = 64 * 1024;

/// How many lines of stderr are kept to explain a failure.
const KEPT_LINES: usize = 64;

/// What one program writes, until `end_message` during one message.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    connection: Connection,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last: VecDeque<String>,
    /// The last line in which a runtime said why it gives up, if it is no longer among the kept
    /// lines: the trace that follows may be longer than those.
    gave_up: Option<String>,
    /// The trace of the message that the program handles.
    trace: TraceId,
}

impl Words {
    /// Start with nothing written, in this trace.
    pub(crate) fn new(connection: Connection, trace: TraceId) -> Self {
        let lines = Lines {
            trace,
            ..Lines::default()
        };
        Self {
            connection,
            lines: Arc::new(Mutex::new(lines)),
        }
    }

    /// Begin what belongs to this trace, until the next `begin`: also lines about the program.
    pub(crate) fn begin(&self, trace: TraceId) {
        self.lines().trace = trace;
    }

    /// The stdout of a program whose stdout is a log.
    pub(crate) fn stdout(&self) -> Output {
        Output(Sink::Log(self.clone(), Stream::Stdout))
    }

    /// The stderr of a program.
    pub(crate) fn stderr(&self) -> Output {
        Output(Sink::Log(self.clone(), Stream::Stderr))
    }

    /// Add a line about the program.
    pub(crate) fn complain(&self, level: Level, message: String) {
        let trace = self.lines().trace;
        self.say(Stream::Agent, level, message, trace);
    }

    /// End unfinished lines. Returns the last lines of stderr and forgets them.
    pub(crate) fn end_message(&self) -> Vec<String> {
        let mut lines = self.lines();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(lines.unfinished(stream));
            if !rest.is_empty() {
                self.line(&mut lines, stream, &rest);
            }
        }
        let gave_up = lines.gave_up.take();
        let traced = lines.last.back().is_some_and(|line| ends_a_trace(line));
        let reason = gave_up.filter(|_| traced);
        reason.into_iter().chain(lines.last.drain(..)).collect()
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut lines = self.lines();
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let mut line = std::mem::take(lines.unfinished(stream));
            line.extend_from_slice(part);
            while line.len() > TEXT_BYTES && line.last() != Some(&b'\n') {
                let rest = line.split_off(TEXT_BYTES);
                self.line(&mut lines, stream, &line);
                line = rest;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
                self.line(&mut lines, stream, &line);
            } else {
                *lines.unfinished(stream) = line;
            }
        }
    }

    fn line(&self, lines: &mut Lines, stream: Stream, line: &[u8]) {
        for part in line
            .chunks(TEXT_BYTES)
            .chain(line.is_empty().then_some(&b""[..]))
        {
            let text = String::from_utf8_lossy(part);
            let text = text.trim_end_matches('\r');
            if stream == Stream::Stderr && !text.trim().is_empty() {
                if lines.last.len() == KEPT_LINES {
                    let leaving = lines.last.pop_front();
                    if let Some(reason) = leaving.filter(|line| gives_up(line)) {
                        lines.gave_up = Some(reason);
                    }
                }
                lines.last.push_back(text.to_owned());
            }
            let level = match stream {
                Stream::Stdout => Level::Info,
                _ => Level::Warn,
            };
            self.say(stream, level, text.to_owned(), lines.trace);
        }
    }

    fn say(&self, stream: Stream, level: Level, message: String, trace: TraceId) {
        self.connection.log(line_of(stream, level, message, trace));
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn unfinished(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            _ => &mut self.stderr,
        }
    }
}

/// Make a log line with the current time.
pub(crate) fn line_of(stream: Stream, level: Level, message: String, trace: TraceId) -> Line {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Line {
        stream: stream.into(),
        level: level.into(),
        message,
        time_unix_ns: now.unwrap_or_default().as_nanos() as u64,
        trace_id: trace.to_string(),
    }
}

/// What a command wrote to its stdout: its reply, limited in size.
#[derive(Debug, Clone)]
pub(crate) struct Captured(Arc<Mutex<Capture>>);

#[derive(Debug)]
struct Capture {
    bytes: BytesMut,
    limit: usize,
    over: bool,
}

impl Captured {
    /// Accept at most `limit` bytes and refuse more.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Capture {
            bytes: BytesMut::new(),
            limit,
            over: false,
        })))
    }

    /// The stdout of a program whose stdout is its reply.
    pub(crate) fn output(&self) -> Output {
        Output(Sink::Capture(self.clone()))
    }

    /// Return what was written, and whether more was refused.
    pub(crate) fn take(&self) -> (Bytes, bool) {
        let mut capture = self.capture();
        let over = capture.over;
        (std::mem::take(&mut capture.bytes).freeze(), over)
    }

    fn write(&self, bytes: &[u8]) -> bool {
        let mut capture = self.capture();
        capture.over |= capture.bytes.len() + bytes.len() > capture.limit;
        if !capture.over {
            capture.bytes.extend_from_slice(bytes);
        }
        !capture.over
    }

    fn capture(&self) -> MutexGuard<'_, Capture> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that a program writes to, in the forms that each version of WASI uses.
#[derive(Debug, Clone)]
pub(crate) struct Output(Sink);

#[derive(Debug, Clone)]
enum Sink {
    Log(Words, Stream),
    Capture(Captured),
}

impl Output {
    fn has_room(&self) -> bool {
        match &self.0 {
            Sink::Log(words, _) => words.connection.has_room(),
            Sink::Capture(_) => true,
        }
    }

    fn take(&self, bytes: &[u8]) -> bool {
        match &self.0 {
            Sink::Log(words, stream) => {
                words.write(*stream, bytes);
                true
            }
            Sink::Capture(captured) => captured.write(bytes),
        }
    }

    async fn room(&self) {
        if let Sink::Log(words, _) = &self.0 {
            words.connection.room().await;
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(AsyncOutput {
            output: self.clone(),
            room: None,
        })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.take(&bytes) {
            Ok(())
        } else {
            Err(StreamError::Closed)
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.has_room() { PERMIT_BYTES } else { 0 })
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.room().await;
    }
}

struct AsyncOutput {
    output: Output,
    room: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl AsyncWrite for AsyncOutput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.output.has_room() || self.room.is_some() {
            let output = self.output.clone();
            let room = self
                .room
                .get_or_insert_with(|| Box::pin(async move { output.room().await }));
            if room.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.room = None;
        }
        let part = &bytes[..bytes.len().min(PERMIT_BYTES)];
        if self.output.take(part) {
            Poll::Ready(Ok(part.len()))
        } else {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::proto::{Stopped, from_agent::Frame};
    use crate::testing::NodeEnd;

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// As many lines of a trace as are kept, and more.
    fn trace(words: &Words) {
        for number in 0..KEPT_LINES {
            let place = format!("runtime.gopark()\n\truntime/proc.go:{number} +0x1\n");
            words.write(Stream::Stderr, place.as_bytes());
        }
    }

    #[test]
    fn why_a_runtime_gave_up_is_kept_beyond_its_traces() {
        let words = Words::new(Connection::default(), TraceId::NONE);
        words.write(Stream::Stderr, b"fatal error: out of memory\n\n");
        trace(&words);
        let said = words.end_message();
        assert_eq!(said[0], "fatal error: out of memory");
        assert_eq!(said.len(), KEPT_LINES + 1);
        assert!(words.end_message().is_empty());
    }

    #[tokio::test]
    async fn lines_belong_to_the_trace_of_their_message_and_none_goes_on_in_the_next() {
        let mut node = NodeEnd::new();
        let words = Words::new(node.connection.clone(), TraceId::NONE);
        words.write(Stream::Stdout, b"init ");
        words.end_message();
        words.begin(TraceId::of(TRACEPARENT));
        words.write(Stream::Stdout, b"one\ntwo");
        words.end_message();
        words.complain(Level::Error, "it trapped".to_owned());
        words.begin(TraceId::NONE);
        words.write(Stream::Stderr, b"three\n");
        words
            .connection
            .send(Frame::Stopped(Stopped::default()), Bytes::new());
        let (Frame::Log(log), _) = node.next().await else {
            panic!("no lines");
        };
        let said = log.lines.iter();
        let said: Vec<_> = said
            .map(|line| (&line.message[..], &line.trace_id[..]))
            .collect();
        let trace = &TRACEPARENT[3..35];
        assert_eq!(
            said,
            [
                ("init ", ""),
                ("one", trace),
                ("two", trace),
                ("it trapped", trace),
                ("three", "")
            ]
        );
    }

    #[test]
    fn what_a_program_wrote_long_ago_is_no_reason_of_its_end() {
        let words = Words::new(Connection::default(), TraceId::NONE);
        words.write(Stream::Stderr, b"panic: and recovered\n");
        trace(&words);
        words.write(Stream::Stderr, b"bad input\n");
        let said = words.end_message();
        assert_eq!(said.len(), KEPT_LINES);
        assert_eq!(said.last().map(String::as_str), Some("bad input"));
    }
}
