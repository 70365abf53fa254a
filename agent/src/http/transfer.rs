//! The bodies of one request and its response, as they go over the link.
//!
//! Each comes in parts, no faster than it is read: a sender may be one window ahead of its receiver.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame as BodyFrame};
use tokio::time::Instant;
use wasmtime_wasi_http::Error;

use crate::link::WINDOW_BYTES;
use crate::link::connection::Connection;
use crate::link::proto::{Abandon, Part, Response, ResponseHead, Window, from_agent::Frame};

/// A receiver allows more when it has taken this much.
const ALLOW_BYTES: usize = WINDOW_BYTES / 2;

/// Shorter pieces that wait are joined: each costs more memory than its bytes.
const JOINED_BYTES: usize = 4096;

/// Whose bodies they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Of the `Invoke` with this id.
    Invoke(u64),
    /// Of the `Fetch` with this id.
    Fetch(u64),
}

impl Key {
    fn of(id: u64, of_fetch: bool) -> Self {
        if of_fetch {
            Self::Fetch(id)
        } else {
            Self::Invoke(id)
        }
    }
}

/// All that are in progress.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    open: Mutex<HashMap<Key, Arc<Transfer>>>,
}

impl Transfers {
    /// Begin one. What the other end sends is kept until the `Incoming` body is read or dropped.
    pub(crate) fn begin(self: &Arc<Self>, key: Key, connection: &Connection) -> Incoming {
        let transfer = Arc::new(Transfer {
            key,
            connection: connection.clone(),
            state: Mutex::new(State {
                pieces: VecDeque::new(),
                end: None,
                response: None,
                reader: None,
                touched: Instant::now(),
                allowed: WINDOW_BYTES,
                writer: None,
                cancelled: false,
            }),
        });
        self.open().insert(key, Arc::clone(&transfer));
        Incoming {
            transfers: Arc::clone(self),
            transfer,
            taken: 0,
        }
    }

    /// Take a part of a body.
    pub(crate) fn part(&self, part: &Part, body: Bytes) {
        let end = match (part.aborted, part.last) {
            (true, _) => Some(End::Aborted),
            (_, true) => Some(End::Complete),
            _ => None,
        };
        if let Some(transfer) = self.of(Key::of(part.id, part.of_fetch)) {
            transfer.arrived(body, end);
        }
    }

    /// Take the beginning of the response to a `Fetch`.
    pub(crate) fn response(&self, response: Response, body: Bytes) {
        if let Some(transfer) = self.of(Key::Fetch(response.id)) {
            transfer.state().response = Some(response.head.unwrap_or_default());
            transfer.arrived(body, response.last.then_some(End::Complete));
        }
    }

    /// Allow more of a body to be sent.
    pub(crate) fn window(&self, window: &Window) {
        if let Some(transfer) = self.of(Key::of(window.id, window.of_fetch)) {
            let mut state = transfer.state();
            let more = usize::try_from(window.bytes).unwrap_or(usize::MAX);
            state.allowed = state.allowed.saturating_add(more);
            wake(state.writer.take());
        }
    }

    /// End the request of an `Invoke`: nobody waits for its response.
    pub(crate) fn cancel(&self, id: u64) {
        if let Some(transfer) = self.of(Key::Invoke(id)) {
            transfer.cancel();
        }
    }

    /// End all of them: the connection is lost.
    pub(crate) fn lost(&self) {
        let open = std::mem::take(&mut *self.open());
        for transfer in open.into_values() {
            transfer.cancel();
            transfer.arrived(Bytes::new(), Some(End::Aborted));
        }
    }

    fn of(&self, key: Key) -> Option<Arc<Transfer>> {
        self.open().get(&key).cloned()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Key, Arc<Transfer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Aborted,
}

/// One request's bodies: what has arrived of one, and how much may be sent of the other.
#[derive(Debug)]
pub(crate) struct Transfer {
    key: Key,
    connection: Connection,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pieces: VecDeque<Bytes>,
    end: Option<End>,
    response: Option<ResponseHead>,
    reader: Option<Waker>,
    /// When something last arrived.
    touched: Instant,
    allowed: usize,
    writer: Option<Waker>,
    cancelled: bool,
}

impl State {
    fn keep(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        if let Some(last) = self.pieces.back_mut()
            && last.len() + piece.len() <= JOINED_BYTES
        {
            *last = [&last[..], &piece[..]].concat().into();
        } else {
            self.pieces.push_back(piece);
        }
    }
}

impl Transfer {
    /// When something last arrived.
    pub(crate) fn touched(&self) -> Instant {
        self.state().touched
    }

    /// Return whether nobody waits for the response any more. Whoever sends is woken when it is so.
    pub(crate) fn is_cancelled(&self, context: &Context<'_>) -> bool {
        let mut state = self.state();
        state.writer = Some(context.waker().clone());
        state.cancelled
    }

    /// Return how much more may be sent now; if it is nothing, the task is woken when it is more.
    pub(crate) fn allowed(&self, context: &Context<'_>) -> usize {
        let mut state = self.state();
        if state.allowed == 0 {
            state.writer = Some(context.waker().clone());
        }
        state.allowed
    }

    /// Count what is sent.
    pub(crate) fn sent(&self, bytes: usize) {
        let mut state = self.state();
        state.allowed = state.allowed.saturating_sub(bytes);
    }

    /// Return the head of the response to a `Fetch`, once it has arrived.
    pub(crate) fn poll_response(&self, context: &Context<'_>) -> Poll<ResponseHead> {
        let mut state = self.state();
        match state.response.take() {
            Some(head) => Poll::Ready(head),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Take what the other end sent.
    fn arrived(&self, piece: Bytes, end: Option<End>) {
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        state.touched = Instant::now();
        state.end = end;
        state.keep(piece);
        wake(state.reader.take());
    }

    fn cancel(&self) {
        let mut state = self.state();
        state.cancelled = true;
        wake(state.writer.take());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A body that arrives. Dropping it forgets the transfer.
#[derive(Debug)]
pub(crate) struct Incoming {
    transfers: Arc<Transfers>,
    transfer: Arc<Transfer>,
    /// Since more was last allowed.
    taken: usize,
}

impl Incoming {
    /// The transfer that it belongs to.
    pub(crate) fn transfer(&self) -> &Arc<Transfer> {
        &self.transfer
    }

    /// Take the first part, which came with the head, and whether more follow.
    pub(crate) fn first(&self, piece: Bytes, more: bool) {
        self.transfer
            .arrived(piece, (!more).then_some(End::Complete));
    }

    fn allow(&mut self) {
        let (id, of_fetch) = match self.transfer.key {
            Key::Invoke(id) => (id, false),
            Key::Fetch(id) => (id, true),
        };
        let bytes = std::mem::take(&mut self.taken) as u64;
        let window = Window {
            id,
            of_fetch,
            bytes,
        };
        self.transfer
            .connection
            .send(Frame::Window(window), Bytes::new());
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Error>>> {
        let (piece, end) = {
            let mut state = self.transfer.state();
            let piece = state.pieces.pop_front();
            if piece.is_none() && state.end.is_none() {
                state.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
            (piece, state.end)
        };
        match (piece, end) {
            (Some(piece), end) => {
                self.taken += piece.len();
                if self.taken >= ALLOW_BYTES && end.is_none() {
                    self.allow();
                }
                Poll::Ready(Some(Ok(BodyFrame::data(piece))))
            }
            (None, Some(End::Aborted)) => Poll::Ready(Some(Err(Error::ConnectionTerminated))),
            (None, _) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.transfer.state();
        state.pieces.is_empty() && state.end == Some(End::Complete)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let key = self.transfer.key;
        if let Key::Fetch(id) = key {
            self.transfers.open().remove(&key);
            if self.transfer.state().end.is_none() {
                let abandon = Frame::Abandon(Abandon { id });
                self.transfer.connection.send(abandon, Bytes::new());
            }
        }
    }
}

/// Forgets a request's transfer when the request is over, which may be long after its body was read.
#[derive(Debug)]
pub(crate) struct Begun {
    transfers: Arc<Transfers>,
    key: Key,
}

impl Begun {
    /// Watch over the transfer of a body.
    pub(crate) fn of(incoming: &Incoming) -> Self {
        Self {
            transfers: Arc::clone(&incoming.transfers),
            key: incoming.transfer.key,
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.transfers.open().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::NodeEnd;

    #[tokio::test]
    async fn bytes_that_come_one_by_one_wait_together() {
        let node = NodeEnd::new();
        let transfers = Arc::new(Transfers::default());
        let body = transfers.begin(Key::Invoke(7), &node.connection);
        let part = Part {
            id: 7,
            ..Part::default()
        };
        for _ in 0..2 * JOINED_BYTES {
            transfers.part(&part, Bytes::from_static(b"x"));
        }
        assert_eq!(body.transfer().state().pieces.len(), 2);
    }
}
