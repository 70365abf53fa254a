//! Snapshots on their way to the node: in parts, each acknowledged, one snapshot at a time.
//!
//! While one is on its way the next one waits, and of several that wait only the newest is kept.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::link::PART_BYTES;
use crate::link::connection::Connection;
use crate::link::proto::{Failure, Kept, Snapshot, from_agent::Frame};

/// What may be on its way without an acknowledgement.
const WINDOW_BYTES: usize = 4 * PART_BYTES;

/// Hands over the snapshots of one actor.
#[derive(Debug)]
pub(crate) struct Saver {
    connection: Connection,
    saving: Mutex<Saving>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Saving {
    last_id: u64,
    current: Option<Sending>,
    next: Option<Bytes>,
    /// Why the newest snapshot is not kept.
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Sending {
    id: u64,
    state: Bytes,
    sent: usize,
    kept: usize,
    all_sent: bool,
}

impl Saver {
    /// Save nothing yet.
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            saving: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Have a snapshot saved; does not wait.
    pub(crate) fn take(&self, state: Bytes) {
        let mut saving = self.saving();
        saving.failure = None;
        saving.next = Some(state);
        self.go_on(&mut saving);
    }

    /// Begin anew with the newest snapshot: the node may have missed what it was sent. With
    /// nothing on its way, that is `last`.
    pub(crate) fn resend(&self, last: Bytes) {
        let mut saving = self.saving();
        if saving.next.is_none() {
            let sending = saving.current.take().map(|sending| sending.state);
            saving.next = Some(sending.unwrap_or(last));
        }
        saving.current = None;
        self.go_on(&mut saving);
    }

    /// Take an acknowledgement.
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
                saving.current = None;
            }
        }
        self.go_on(&mut saving);
        self.changed.notify_waiters();
    }

    /// Wait until the newest snapshot, `newest`, is the node's to keep. Fails when it will not be
    /// kept, or when the node takes nothing more of it for so long.
    pub(crate) async fn saved(&self, newest: &Bytes, patience: Duration) -> Result<(), Failure> {
        if self.saving().failure.is_some() {
            self.take(newest.clone());
        }
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let saving = self.saving();
                if saving.current.is_none() && saving.next.is_none() {
                    return saving.failure.clone().map_or(Ok(()), Err);
                }
            }
            if timeout(patience, changed).await.is_err() {
                let message = "the node did not keep it within the time given";
                return Err(Failure::platform("deadline_exceeded", message));
            }
        }
    }

    fn go_on(&self, saving: &mut Saving) {
        if saving.current.is_none()
            && let Some(state) = saving.next.take()
        {
            saving.last_id += 1;
            saving.current = Some(Sending {
                id: saving.last_id,
                state,
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
            if !self.connection.send(Frame::Snapshot(part), body) {
                // After the next welcome it begins anew.
                return;
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

    #[tokio::test]
    async fn a_large_state_goes_in_parts_and_no_further_than_the_window() {
        let mut node = NodeEnd::new();
        let saver = Saver::new(node.connection.clone());
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
        saver.saved(&state, PATIENCE).await.expect("saved");
    }

    #[tokio::test]
    async fn of_several_states_that_wait_only_the_newest_is_sent() {
        let mut node = NodeEnd::new();
        let saver = Saver::new(node.connection.clone());
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
        let saver = Saver::new(node.connection.clone());
        let state = Bytes::from_static(b"state");
        saver.take(state.clone());
        let impatient = Duration::from_millis(1);
        let failure = saver.saved(&state, impatient).await.expect_err("not kept");
        assert_eq!(failure.code, "deadline_exceeded");
        let refused = Kept {
            failure: Some(Failure::platform("resource_exhausted", "the disk is full")),
            ..kept(1, 0)
        };
        saver.kept(refused);
        let again = saver.saved(&state, PATIENCE);
        let answer = async {
            assert_eq!(&node.next().await.1[..], b"state");
            assert_eq!(&node.next().await.1[..], b"state");
            saver.kept(kept(2, 5));
        };
        let (saved, ()) = tokio::join!(again, answer);
        saved.expect("saved");
    }

    #[tokio::test]
    async fn after_a_new_connection_the_newest_state_is_sent_anew() {
        let mut node = NodeEnd::new();
        let saver = Saver::new(node.connection.clone());
        saver.resend(Bytes::from_static(b"last"));
        assert_eq!(&node.next().await.1[..], b"last");
    }
}
