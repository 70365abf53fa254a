//! Saving snapshots on the node: in parts, each acknowledged, one snapshot at a time.
//!
//! While one is being sent the next one waits; of several that wait only the newest is kept. When
//! the node has the newest one, the agent keeps it only if it is short: a long one would use memory
//! that the next one needs, and the node can send it again.

use std::hash::{DefaultHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::link::PART_BYTES;
use crate::link::connection::Connection;
use crate::link::proto::{Failure, Kept, Snapshot, from_agent::Frame};

/// How much may be sent without an acknowledgement.
const WINDOW_BYTES: usize = 4 * PART_BYTES;

/// Sends the snapshots of one actor.
#[derive(Debug)]
pub(crate) struct Saver {
    connection: Connection,
    /// Up to this length the newest snapshot is kept although the node has it, because an actor
    /// that trapped is restarted from it at once.
    held_bytes: usize,
    saving: Mutex<Saving>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Saving {
    last_id: u64,
    current: Option<Sending>,
    next: Option<Bytes>,
    newest: Newest,
    /// Why the newest snapshot was not saved.
    failure: Option<Failure>,
}

/// The newest snapshot.
#[derive(Debug)]
enum Newest {
    Held(Bytes),
    /// Only the node has it.
    Kept(Digest),
}

impl Default for Newest {
    fn default() -> Self {
        Self::Held(Bytes::new())
    }
}

/// Tells states apart.
#[derive(Debug, PartialEq, Eq)]
struct Digest {
    length: usize,
    hash: u64,
}

impl Digest {
    fn of(state: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        // In the parts in which it is hashed while it is sent.
        for part in state.chunks(PART_BYTES) {
            hasher.write(part);
        }
        Self {
            length: state.len(),
            hash: hasher.finish(),
        }
    }
}

#[derive(Debug)]
struct Sending {
    id: u64,
    state: Bytes,
    /// A hash of what was sent of a state too long to be kept.
    hasher: DefaultHasher,
    sent: usize,
    kept: usize,
    all_sent: bool,
}

impl Saver {
    /// Save nothing yet: the newest snapshot is `state`, which the node has.
    pub(crate) fn new(connection: Connection, state: Bytes, held_bytes: usize) -> Self {
        let newest = if state.len() > held_bytes {
            Newest::Kept(Digest::of(&state))
        } else {
            Newest::Held(state)
        };
        let saving = Saving {
            newest,
            ..Saving::default()
        };
        Self {
            connection,
            held_bytes,
            saving: Mutex::new(saving),
            changed: Notify::new(),
        }
    }

    /// The newest snapshot; `None` if only the node has it.
    pub(crate) fn newest(&self) -> Option<Bytes> {
        match &self.saving().newest {
            Newest::Held(state) => Some(state.clone()),
            Newest::Kept(_) => None,
        }
    }

    /// Start to save a snapshot, unless it equals the newest one. Does not wait.
    pub(crate) fn take(&self, state: Bytes) {
        let mut saving = self.saving();
        let is_newest = match &saving.newest {
            Newest::Held(newest) => *newest == state,
            Newest::Kept(digest) => digest.length == state.len() && *digest == Digest::of(&state),
        };
        if !is_newest {
            saving.newest = Newest::Held(state.clone());
            self.send_anew(&mut saving, state);
        }
    }

    fn send_anew(&self, saving: &mut Saving, state: Bytes) {
        saving.failure = None;
        saving.next = Some(state);
        self.go_on(saving);
    }

    /// On a new connection, send again what the node may not have.
    pub(crate) fn resend(&self) {
        let mut saving = self.saving();
        let current = saving.current.take().map(|sending| sending.state);
        saving.next = match (saving.next.take(), &saving.newest) {
            (Some(next), _) => Some(next),
            (None, Newest::Held(newest)) if saving.failure.is_some() => Some(newest.clone()),
            (None, _) => current,
        };
        self.go_on(&mut saving);
    }

    /// Handle an acknowledgement.
    pub(crate) fn kept(&self, kept: Kept) {
        let mut saving = self.saving();
        let Some(sending) = &mut saving.current else {
            return;
        };
        if sending.id != kept.id {
            return;
        }
        if kept.failure.is_some() {
            saving.failure = kept.failure;
            saving.current = None;
        } else {
            sending.kept = (kept.bytes as usize).min(sending.sent);
            if sending.all_sent && sending.kept == sending.state.len() {
                let digest = Digest {
                    length: sending.state.len(),
                    hash: sending.hasher.finish(),
                };
                saving.current = None;
                saving.failure = None;
                // If another one waits, that is the newest.
                if saving.next.is_none() && digest.length > self.held_bytes {
                    saving.newest = Newest::Kept(digest);
                }
            }
        }
        self.go_on(&mut saving);
        self.changed.notify_waiters();
    }

    /// Wait until nothing is being sent. Returns `false` if the node acknowledges nothing for this
    /// long.
    pub(crate) async fn idle(&self, patience: Duration) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            // Then nothing waits either: it would be being sent.
            if self.saving().current.is_none() {
                return true;
            }
            if timeout(patience, changed).await.is_err() {
                return false;
            }
        }
    }

    /// Wait until the node has saved the newest snapshot. Fails if it cannot be saved, or if the
    /// node acknowledges nothing for this long.
    pub(crate) async fn saved(&self, patience: Duration) -> Result<(), Failure> {
        {
            let mut saving = self.saving();
            if saving.failure.is_some()
                && let Newest::Held(newest) = &saving.newest
            {
                let newest = newest.clone();
                self.send_anew(&mut saving, newest);
            }
        }
        if !self.idle(patience).await {
            let message = "the node did not save it in time";
            return Err(Failure::platform("deadline_exceeded", message));
        }
        self.saving().failure.clone().map_or(Ok(()), Err)
    }

    fn go_on(&self, saving: &mut Saving) {
        if saving.current.is_none()
            && let Some(state) = saving.next.take()
        {
            saving.last_id += 1;
            saving.current = Some(Sending {
                id: saving.last_id,
                state,
                hasher: DefaultHasher::new(),
                sent: 0,
                kept: 0,
                all_sent: false,
            });
        }
        if let Some(sending) = &mut saving.current {
            self.send(sending);
        }
    }

    fn send(&self, sending: &mut Sending) {
        while !sending.all_sent && sending.sent - sending.kept < WINDOW_BYTES {
            let end = (sending.sent + PART_BYTES).min(sending.state.len());
            let last = end == sending.state.len();
            let part = Snapshot {
                id: sending.id,
                offset: sending.sent as u64,
                last,
            };
            let body = sending.state.slice(sending.sent..end);
            if !self.connection.send(Frame::Snapshot(part), body.clone()) {
                // It is sent again after the next welcome.
                return;
            }
            if sending.state.len() > self.held_bytes {
                sending.hasher.write(&body);
            }
            sending.sent = end;
            sending.all_sent = last;
        }
    }

    fn saving(&self) -> MutexGuard<'_, Saving> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::NodeEnd;

    const PATIENCE: Duration = Duration::from_mins(1);

    fn kept(id: u64, bytes: usize) -> Kept {
        Kept {
            id,
            bytes: bytes as u64,
            failure: None,
        }
    }

    fn saver(node: &NodeEnd, held_bytes: usize) -> Saver {
        Saver::new(node.connection.clone(), Bytes::new(), held_bytes)
    }

    #[tokio::test]
    async fn a_large_state_goes_in_parts_and_no_further_than_the_window() {
        let mut node = NodeEnd::new();
        let saver = saver(&node, usize::MAX);
        let state = Bytes::from(vec![7; WINDOW_BYTES + PART_BYTES / 2]);
        saver.take(state.clone());
        for part in 0..4 {
            let (frame, body) = node.next().await;
            let Frame::Snapshot(snapshot) = frame else {
                panic!("{frame:?}");
            };
            assert_eq!(snapshot.offset as usize, part * PART_BYTES);
            assert_eq!((body.len(), snapshot.last), (PART_BYTES, false));
        }
        node.expect_nothing().await;
        saver.kept(kept(1, PART_BYTES));
        let (frame, body) = node.next().await;
        assert!(matches!(
            frame,
            Frame::Snapshot(Snapshot { last: true, .. })
        ));
        assert_eq!(body.len(), PART_BYTES / 2);
        saver.kept(kept(1, state.len()));
        saver.saved(PATIENCE).await.expect("saved");
    }

    #[tokio::test]
    async fn of_several_states_that_wait_only_the_newest_is_sent() {
        let mut node = NodeEnd::new();
        let saver = saver(&node, usize::MAX);
        for state in ["first", "second", "third"] {
            saver.take(Bytes::from_static(state.as_bytes()));
        }
        assert_eq!(&node.next().await.1[..], b"first");
        saver.kept(kept(1, 5));
        assert_eq!(&node.next().await.1[..], b"third");
    }

    #[tokio::test]
    async fn a_state_that_the_node_does_not_take_is_not_saved_and_is_offered_again() {
        let mut node = NodeEnd::new();
        let saver = saver(&node, usize::MAX);
        let state = Bytes::from_static(b"state");
        saver.take(state.clone());
        let impatient = Duration::from_millis(1);
        let failure = saver.saved(impatient).await.expect_err("not kept");
        assert_eq!(failure.code, "deadline_exceeded");
        let refused = Kept {
            failure: Some(Failure::platform("resource_exhausted", "the disk is full")),
            ..kept(1, 0)
        };
        saver.kept(refused);
        let again = saver.saved(PATIENCE);
        let answer = async {
            assert_eq!(&node.next().await.1[..], b"state");
            assert_eq!(&node.next().await.1[..], b"state");
            saver.kept(kept(2, 5));
        };
        let (saved, ()) = tokio::join!(again, answer);
        saved.expect("saved");
    }

    #[tokio::test]
    async fn after_a_new_connection_what_the_node_may_not_have_is_sent_anew() {
        let mut node = NodeEnd::new();
        let saver = saver(&node, usize::MAX);
        saver.take(Bytes::from_static(b"last"));
        assert_eq!(&node.next().await.1[..], b"last");
        saver.resend();
        assert_eq!(&node.next().await.1[..], b"last");
        saver.kept(kept(2, 4));
        saver.resend();
        node.expect_nothing().await;
    }

    #[tokio::test]
    async fn a_state_that_the_node_has_is_held_if_it_is_short_and_sent_once_in_any_case() {
        let mut node = NodeEnd::new();
        let saver = saver(&node, 5);
        let long = Bytes::from(vec![3; PART_BYTES + 1]);
        for (id, state) in [Bytes::from_static(b"short"), long.clone()]
            .iter()
            .enumerate()
        {
            saver.take(state.clone());
            node.next().await;
            assert_eq!(saver.newest().as_ref(), Some(state));
            saver.kept(kept(id as u64 + 1, PART_BYTES.min(state.len())));
        }
        node.next().await;
        assert!(saver.newest().is_some(), "a part of it is not kept yet");
        saver.kept(kept(2, long.len()));
        assert_eq!(saver.newest(), None);
        saver.take(Bytes::copy_from_slice(&long));
        node.expect_nothing().await;
        saver.take(Bytes::from_static(b"other"));
        assert_eq!(&node.next().await.1[..], b"other");
        assert!(saver.newest().is_some());
    }

    #[tokio::test]
    async fn a_state_that_was_refused_is_no_failure_of_the_one_after_it() {
        let mut node = NodeEnd::new();
        let saver = saver(&node, usize::MAX);
        for state in ["first", "second"] {
            saver.take(Bytes::from_static(state.as_bytes()));
        }
        node.next().await;
        saver.kept(Kept {
            failure: Some(Failure::platform("resource_exhausted", "the disk is full")),
            ..kept(1, 0)
        });
        node.next().await;
        saver.kept(kept(2, 6));
        saver.saved(PATIENCE).await.expect("saved");
        node.expect_nothing().await;
    }
}
