//! The application of a machine at work: messages from its mailbox, one at a time for an actor,
//! several for a command, and the snapshots of an actor's state between them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::actor::Actor;
use crate::command::Command;
use crate::deadline::Spent;
use crate::link::connection::Connection;
use crate::link::proto::log::Level;
use crate::link::proto::{Failed, Failure, Reply, Stopped, from_agent::Frame};
use crate::mailbox::{Mailbox, Message, Next, Stop};
use crate::saving::Saver;

/// For a snapshot between messages.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// For the goodbye to be read, once all is done.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// An instance that has grown beyond this part of its memory may not have the memory to hand its
/// state over: that is tried before the message that made it grow is answered.
const PROVE_FROM: usize = 3;

/// The newest snapshot, for a node that may have missed it.
pub(crate) type Newest = Arc<Mutex<Bytes>>;

/// An actor at work.
pub(crate) struct ActorAtWork {
    actor: Actor,
    mailbox: Arc<Mailbox>,
    saver: Arc<Saver>,
    connection: Connection,
    newest: Newest,
    interval: Duration,
    memory_bytes: usize,
    /// When the state may first have changed since the newest snapshot.
    changed: Option<Instant>,
    /// How much memory the instance had when it last handed its state over.
    proven: usize,
}

impl ActorAtWork {
    /// Take an actor that has been started.
    pub(crate) fn new(
        actor: Actor,
        mailbox: Arc<Mailbox>,
        saver: Arc<Saver>,
        connection: Connection,
        newest: Newest,
        interval: Duration,
        memory_bytes: usize,
    ) -> Self {
        Self {
            actor,
            mailbox,
            saver,
            connection,
            newest,
            interval,
            memory_bytes,
            changed: None,
            proven: 0,
        }
    }

    /// Handle messages until the application is stopped.
    pub(crate) async fn run(mut self) {
        let mailbox = Arc::clone(&self.mailbox);
        loop {
            let due = self.changed.map(|changed| changed + self.interval);
            let next = tokio::select! {
                biased;
                next = mailbox.next() => Some(next),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => None,
            };
            match next {
                Some(Next::Message(message)) => self.answer(message).await,
                Some(Next::Stop(stop)) => match self.end(stop).await {
                    Ok(()) => return goodbye(&self.connection, stop).await,
                    Err(failure) => refuse_to_stop(&self.connection, stop, failure),
                },
                None => self.snapshot_between().await,
            }
            if self
                .changed
                .is_some_and(|changed| changed + self.interval <= Instant::now())
            {
                self.snapshot_between().await;
            }
        }
    }

    async fn answer(&mut self, message: Message) {
        let id = message.id;
        let queue = message.arrived.elapsed();
        let (result, spent) = self.handle(message).await;
        let failure = result.as_ref().err().cloned();
        let body = result.unwrap_or_default();
        reply(&self.connection, id, body, failure.clone(), spent, queue);
        if !self.actor.alive() {
            self.revive(failure.as_ref()).await;
        }
    }

    async fn handle(&mut self, message: Message) -> (Result<Bytes, Failure>, Spent) {
        if message.deadline <= Instant::now() {
            return (Err(late()), Spent::default());
        }
        if !self.actor.alive() {
            let state = self.newest();
            let (started, spent) = self.actor.start(&state, message.deadline).await;
            if let Err(failure) = started {
                return (Err(failure), spent);
            }
        }
        self.changed.get_or_insert_with(Instant::now);
        let (result, spent) = self.actor.handle(&message).await;
        drop(message);
        match result {
            Ok(reply) => (self.proved().await.map(|()| reply), spent),
            failed => (failed, spent),
        }
    }

    /// Make sure that a state which may be too large to be handed over can be.
    async fn proved(&mut self) -> Result<(), Failure> {
        let memory = self.actor.memory();
        if memory <= self.proven || memory <= self.memory_bytes / PROVE_FROM {
            return Ok(());
        }
        self.snapshot(Instant::now() + SNAPSHOT_TIMEOUT)
            .await
            .map_err(|failure| {
                Failure::actor(
                    "state-not-saved",
                    format!(
                        "after this message the actor's state cannot be saved: {}; it runs again \
                         from its last snapshot",
                        failure.message
                    ),
                )
                .hint("deploy it with more memory (--memory MIB), or keep large data in keyvalue")
            })
    }

    async fn snapshot_between(&mut self) {
        if let Err(failure) = self.snapshot(Instant::now() + SNAPSHOT_TIMEOUT).await {
            self.complain(format!("no snapshot: {}", failure.message));
            if !self.actor.alive() {
                self.revive(Some(&failure)).await;
            }
        }
    }

    async fn snapshot(&mut self, deadline: Instant) -> Result<(), Failure> {
        self.changed = None;
        if !self.actor.alive() {
            return Ok(());
        }
        let state = self.actor.snapshot(deadline).await.0?;
        self.proven = self.actor.memory();
        if state != self.newest() {
            self.keep(state.clone());
            self.saver.take(state);
        }
        Ok(())
    }

    async fn revive(&mut self, failure: Option<&Failure>) {
        self.changed = None;
        self.proven = 0;
        let why = failure.map_or("it trapped", |failure| &failure.message);
        self.complain(format!(
            "the actor runs again from its last snapshot: {why}"
        ));
        let state = self.newest();
        let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
        if let (Err(failure), _) = self.actor.start(&state, deadline).await {
            // The next message tries again and carries the error to whoever sent it.
            let message = &failure.message;
            self.complain(format!("the actor could not be made anew: {message}"));
        }
    }

    /// Snapshot, have it saved, shut the instance down.
    async fn end(&mut self, stop: Stop) -> Result<(), Failure> {
        let deadline = Instant::now() + stop.timeout;
        if self.changed.is_some()
            && let Err(failure) = self.snapshot(deadline).await
        {
            if !self.actor.alive() {
                self.revive(Some(&failure)).await;
            }
            return Err(not_saved(&failure));
        }
        self.saver
            .saved(&self.newest(), stop.timeout)
            .await
            .map_err(|failure| not_saved(&failure))?;
        if self.actor.alive()
            && let Err(failure) = self.actor.shutdown(deadline).await
        {
            self.complain(format!("shutdown: {}", failure.message));
        }
        Ok(())
    }

    fn complain(&self, line: String) {
        self.actor.words().complain(Level::Warn, line);
    }

    fn newest(&self) -> Bytes {
        let newest = self.newest.lock();
        newest.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, state: Bytes) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// A command at work.
pub(crate) struct CommandAtWork {
    command: Arc<Command>,
    mailbox: Arc<Mailbox>,
    connection: Connection,
    concurrency: u32,
    /// Where its programs run.
    workers: Handle,
}

impl CommandAtWork {
    /// Take a command, to handle so many messages at a time on these threads.
    pub(crate) fn new(
        command: Command,
        mailbox: Arc<Mailbox>,
        connection: Connection,
        concurrency: u32,
        workers: Handle,
    ) -> Self {
        Self {
            command: Arc::new(command),
            mailbox,
            connection,
            concurrency,
            workers,
        }
    }

    /// Handle messages until the application is stopped.
    pub(crate) async fn run(self) {
        let slots = Arc::new(Semaphore::new(self.concurrency as usize));
        loop {
            // First, so that a message waits where its time and its cancellation are seen.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match self.mailbox.next().await {
                Next::Message(message) => {
                    let command = Arc::clone(&self.command);
                    let connection = self.connection.clone();
                    self.workers.spawn(async move {
                        answer_by(&command, &connection, message).await;
                        drop(slot);
                    });
                }
                Next::Stop(stop) => {
                    drop(slot);
                    let all = slots.acquire_many(self.concurrency);
                    let _ = timeout_at(Instant::now() + stop.timeout, all).await;
                    return goodbye(&self.connection, stop).await;
                }
            }
        }
    }
}

async fn answer_by(command: &Command, connection: &Connection, message: Message) {
    let queue = message.arrived.elapsed();
    if message.deadline <= Instant::now() {
        let spent = Spent::default();
        return reply(
            connection,
            message.id,
            Bytes::new(),
            Some(late()),
            spent,
            queue,
        );
    }
    let answer = command.handle(&message).await;
    let id = message.id;
    drop(message);
    reply(
        connection,
        id,
        answer.output,
        answer.failure,
        answer.spent,
        queue,
    );
}

/// Answer a message.
pub(crate) fn reply(
    connection: &Connection,
    id: u64,
    body: Bytes,
    failure: Option<Failure>,
    spent: Spent,
    queue: Duration,
) {
    let reply = Reply {
        id,
        failure,
        compute_ns: spent.compute.as_nanos() as u64,
        wait_ns: spent.wait.as_nanos() as u64,
        queue_ns: queue.as_nanos() as u64,
    };
    connection.send(Frame::Reply(reply), body);
}

/// Answer the messages whose time runs out while they wait, for as long as the application is.
pub(crate) async fn expire(mailbox: Arc<Mailbox>, connection: Connection) {
    loop {
        for message in mailbox.expired().await {
            let queue = message.arrived.elapsed();
            let spent = Spent::default();
            reply(
                &connection,
                message.id,
                Bytes::new(),
                Some(late()),
                spent,
                queue,
            );
        }
    }
}

fn late() -> Failure {
    Failure::platform(
        "deadline_exceeded",
        "the message's time ran out in the mailbox while others were handled",
    )
    .hint("give it more time, or send slower")
}

fn not_saved(failure: &Failure) -> Failure {
    let said = &failure.message;
    Failure::platform(
        "unavailable",
        format!("the actor's last state is not saved: {said}"),
    )
    .hint(failure.hint.as_str())
}

fn refuse_to_stop(connection: &Connection, stop: Stop, failure: Failure) {
    let failed = Failed {
        id: stop.id,
        failure: Some(failure),
    };
    connection.send(Frame::Failed(failed), Bytes::new());
}

/// Say the last word, and wait until it is on its way.
pub(crate) async fn goodbye(connection: &Connection, stop: Stop) {
    connection.send(Frame::Stopped(Stopped { id: stop.id }), Bytes::new());
    let _ = timeout_at(Instant::now() + GOODBYE_TIMEOUT, connection.drained()).await;
}
