//! What an application can ask the node for: requests over the link, and their answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::http::transfer::Transfers;
use crate::link::connection::Connection;
use crate::link::proto::{Answer, Failure, from_agent::Frame};

/// What the node answered.
type Answered = Result<(bool, Bytes), Failure>;

/// The requests that wait for an answer.
#[derive(Debug)]
pub(crate) struct Node {
    connection: Connection,
    requests: Mutex<Requests>,
    transfers: Arc<Transfers>,
}

#[derive(Debug, Default)]
struct Requests {
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Answered>>,
}

impl Node {
    /// Send requests on this connection.
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            requests: Mutex::default(),
            transfers: Arc::default(),
        }
    }

    /// Where log lines are sent.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The bodies of HTTP requests that are in progress, in both directions.
    pub(crate) fn transfers(&self) -> &Arc<Transfers> {
        &self.transfers
    }

    /// Send a request and wait for its answer: whether the value exists, and its bytes.
    ///
    /// Waits without a time limit. A caller that stops waiting drops the answer.
    pub(crate) async fn ask(&self, frame: impl FnOnce(u64) -> Frame, body: Bytes) -> Answered {
        let id = self.next_id();
        self.answer_to(id, frame(id), body).await
    }

    /// Return the id of a request that has yet to be sent.
    pub(crate) fn next_id(&self) -> u64 {
        let mut requests = self.requests();
        requests.last_id += 1;
        requests.last_id
    }

    /// Send the request of this id and wait for its answer; see `ask`.
    pub(crate) async fn answer_to(&self, id: u64, frame: Frame, body: Bytes) -> Answered {
        self.connection.room().await;
        let (sender, receiver) = oneshot::channel();
        self.requests().waiting.insert(id, sender);
        let _forget = Forget(self, id);
        if !self.connection.send(frame, body) {
            return Err(lost());
        }
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Pass an answer to the caller that waits for it. An answer that comes too late is dropped.
    pub(crate) fn answered(&self, answer: Answer, body: Bytes) {
        if let Some(waiting) = self.requests().waiting.remove(&answer.id) {
            let answered = match answer.failure {
                Some(failure) => Err(failure),
                None => Ok((answer.found, body)),
            };
            let _ = waiting.send(answered);
        }
    }

    /// Fail all waiting requests: the connection is lost.
    pub(crate) fn lost(&self) {
        self.requests().waiting.clear();
        self.transfers.lost();
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Forget<'a>(&'a Node, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.requests().waiting.remove(&self.1);
    }
}

fn lost() -> Failure {
    Failure::platform("unavailable", "the node is not reachable").retryable()
}
