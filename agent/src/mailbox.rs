//! The mailbox: messages that wait for the application, in order, limited in number and time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::http::service::Request;
use crate::link::proto::Failure;
use crate::occasion::{Occasion, TraceId};

/// A message on its way to the application.
#[derive(Debug)]
pub(crate) struct Message {
    /// The id of its `Invoke`.
    pub(crate) id: u64,
    /// The sending application, or empty.
    pub(crate) sender: String,
    /// Its type.
    pub(crate) kind: String,
    /// Its payload.
    pub(crate) payload: Bytes,
    /// An HTTP request instead.
    pub(crate) request: Option<Box<Request>>,
    /// Its place in its trace, as W3C's header has it; empty if it is not traced.
    pub(crate) traceparent: String,
    /// When it arrived.
    pub(crate) arrived: Instant,
    /// Its deadline.
    pub(crate) deadline: Instant,
}

impl Message {
    /// What runs to handle it runs for it.
    pub(crate) fn occasion(&self) -> Occasion {
        Occasion {
            invoke: self.id,
            trace: TraceId::of(&self.traceparent),
        }
    }
}

/// A request to stop the application.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// The id of its frame.
    pub(crate) id: u64,
    /// How long everything that is left to do may take.
    pub(crate) timeout: Duration,
}

/// What the application does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Handle a message.
    Message(Message),
    /// Stop: no message waits.
    Stop(Stop),
}

/// The messages that wait for one application.
#[derive(Debug)]
pub(crate) struct Mailbox {
    waiting: Mutex<Waiting>,
    capacity: usize,
    arrived: Notify,
    /// A waiting message has an earlier deadline than all before.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    stop: Option<Stop>,
    /// The application asked for work and got some: new messages have to wait.
    busy: bool,
    /// When the expiry looks next, if at all.
    looks_at: Option<Instant>,
}

impl Mailbox {
    /// Create an empty mailbox for this many messages.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            capacity,
            arrived: Notify::new(),
            sooner: Notify::new(),
        }
    }

    /// Add a message. The caller does not send its reply. Fails if the mailbox is full.
    pub(crate) fn post(&self, message: Message) -> Result<(), Failure> {
        let mut waiting = self.waiting();
        if waiting.messages.len() >= self.capacity {
            return Err(Failure::platform(
                "resource_exhausted",
                format!("the mailbox is full ({} messages)", self.capacity),
            )
            .hint("send more slowly, or raise [limits] mailbox")
            .retryable());
        }
        let waits = waiting.busy || !waiting.messages.is_empty();
        let sooner = waiting.looks_at.is_none_or(|at| message.deadline < at);
        waiting.messages.push_back(message);
        drop(waiting);
        self.arrived.notify_one();
        if waits && sooner {
            self.sooner.notify_one();
        }
        Ok(())
    }

    /// Remove a message that still waits.
    pub(crate) fn cancel(&self, id: u64) -> Option<Message> {
        let mut waiting = self.waiting();
        let at = waiting.messages.iter().position(|one| one.id == id)?;
        waiting.messages.remove(at)
    }

    /// Stop the application after the messages that wait.
    pub(crate) fn stop(&self, stop: Stop) {
        self.waiting().stop = Some(stop);
        self.arrived.notify_one();
    }

    /// Wait for what to do next.
    pub(crate) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.arrived.notified().await;
        }
    }

    /// Whether a message waits.
    pub(crate) fn has_next(&self) -> bool {
        !self.waiting().messages.is_empty()
    }

    fn take(&self) -> Option<Next> {
        let mut waiting = self.waiting();
        let next = match waiting.messages.pop_front() {
            Some(message) => Some(Next::Message(message)),
            None => waiting.stop.take().map(Next::Stop),
        };
        waiting.busy = next.is_some();
        next
    }

    /// Wait for messages that time out while they wait, and remove them.
    pub(crate) async fn expired(&self) -> Vec<Message> {
        loop {
            let soonest = {
                let mut waiting = self.waiting();
                let now = Instant::now();
                let (over, rest) = std::mem::take(&mut waiting.messages)
                    .into_iter()
                    .partition::<VecDeque<_>, _>(|message| message.deadline <= now);
                waiting.messages = rest;
                waiting.looks_at = waiting.messages.iter().map(|one| one.deadline).min();
                if !over.is_empty() {
                    return over.into();
                }
                waiting.looks_at
            };
            match soonest {
                None => self.sooner.notified().await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.sooner.notified() => {}
                },
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u64, ms: u64) -> Message {
        Message {
            id,
            sender: String::new(),
            kind: String::new(),
            payload: Bytes::new(),
            request: None,
            traceparent: String::new(),
            arrived: Instant::now(),
            deadline: Instant::now() + Duration::from_millis(ms),
        }
    }

    async fn next_id(mailbox: &Mailbox) -> u64 {
        match mailbox.next().await {
            Next::Message(message) => message.id,
            Next::Stop(_) => panic!("a stop where a message was due"),
        }
    }

    #[tokio::test]
    async fn messages_come_in_order_and_the_stop_after_them() {
        let mailbox = Mailbox::new(3);
        let timeout = Duration::from_secs(1);
        for id in [1, 2] {
            mailbox.post(message(id, 1000)).expect("room");
        }
        mailbox.stop(Stop { id: 9, timeout });
        mailbox.post(message(3, 1000)).expect("room");
        assert_eq!(next_id(&mailbox).await, 1);
        assert_eq!(next_id(&mailbox).await, 2);
        assert_eq!(next_id(&mailbox).await, 3);
        assert!(matches!(
            mailbox.next().await,
            Next::Stop(Stop { id: 9, .. })
        ));
    }

    #[tokio::test]
    async fn a_full_mailbox_refuses_and_says_what_helps() {
        let mailbox = Mailbox::new(1);
        mailbox.post(message(1, 1000)).expect("room");
        let failure = mailbox.post(message(2, 1000)).expect_err("no room");
        assert_eq!(failure.code, "resource_exhausted");
        assert!(failure.retryable && failure.hint.contains("mailbox"));
    }

    #[tokio::test]
    async fn a_message_that_waits_can_be_cancelled_and_one_that_is_taken_cannot() {
        let mailbox = Mailbox::new(3);
        mailbox.post(message(1, 1000)).expect("room");
        mailbox.post(message(2, 1000)).expect("room");
        assert_eq!(next_id(&mailbox).await, 1);
        assert!(mailbox.cancel(1).is_none());
        assert_eq!(mailbox.cancel(2).map(|message| message.id), Some(2));
    }

    #[tokio::test]
    async fn a_message_expires_while_another_is_handled() {
        const AN_HOUR_MS: u64 = 3_600_000;
        let mailbox = Mailbox::new(5);
        mailbox.post(message(1, AN_HOUR_MS)).expect("room");
        assert_eq!(next_id(&mailbox).await, 1);
        let later = async {
            mailbox.post(message(2, AN_HOUR_MS)).expect("room");
            tokio::task::yield_now().await;
            mailbox.post(message(3, 1)).expect("room");
        };
        let (expired, ()) = tokio::join!(mailbox.expired(), later);
        let ids: Vec<u64> = expired.iter().map(|message| message.id).collect();
        assert_eq!(ids, [3]);
        assert_eq!(next_id(&mailbox).await, 2);
    }
}
