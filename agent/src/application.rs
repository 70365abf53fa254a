//! A running application: messages from its mailbox, one at a time for an actor, several for a
//! command, and snapshots of an actor's state between them.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::actor::{Actor, Outcome};
use crate::command::Command;
use crate::deadline::Spent;
use crate::http::service::Service;
use crate::link::connection::Connection;
use crate::link::proto::log::Level;
use crate::link::proto::{Failed, Failure, Reply, Stopped, from_agent::Frame};
use crate::machine::Machine;
use crate::mailbox::{Mailbox, Message, Next, Stop};
use crate::room::Room;
use crate::saving::Saver;

/// Time limit of a snapshot. A stop's snapshot has as long, so that a slow one is not lost.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit for the node to acknowledge a part of a snapshot that something waits for.
const PART_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the last frame to be sent.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// The replies to messages that take less go together, if the next message waits already.
const SHORT: Duration = Duration::from_micros(100);

/// The id of a last frame that answers no request.
const UNASKED: u64 = 0;

/// If an instance has grown beyond this part of its memory, there may not be enough left to copy
/// its state. So that is tried before the message that made it grow is answered.
const PROVE_FROM: usize = 3;

/// How an actor is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The longest time that a changed state stays unsaved while messages arrive.
    pub(crate) snapshot_interval: Duration,
    /// Time limit for creating an instance, including `init`.
    pub(crate) start_timeout: Duration,
    /// The limit of linear memory.
    pub(crate) memory_bytes: usize,
}

/// Why an actor cannot be restarted in this VM.
pub(crate) type GivenUp = String;

/// The end of the application, as reported to whoever serves the node.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    over: Notify,
    given_up: OnceLock<GivenUp>,
}

impl Ending {
    /// Report that it was stopped, or why it gave up.
    pub(crate) fn tell(&self, end: Result<(), GivenUp>) {
        if let Err(why) = end {
            // One line: it is the last line of the console, which says why a machine ended.
            self.given_up.get_or_init(|| why.replace('\n', " "));
        }
        self.over.notify_one();
    }

    /// Wait for the report.
    pub(crate) async fn told(&self) -> Result<(), GivenUp> {
        self.over.notified().await;
        self.given_up.get().cloned().map_or(Ok(()), Err)
    }
}

/// A running actor.
pub(crate) struct ActorAtWork {
    actor: Actor,
    mailbox: Arc<Mailbox>,
    saver: Arc<Saver>,
    connection: Connection,
    machine: Arc<Machine>,
    terms: Terms,
    /// When the state may first have changed since the newest snapshot.
    changed: Option<Instant>,
    /// How much memory the instance had at its last snapshot.
    proven: usize,
}

impl ActorAtWork {
    /// Take over an actor that has been started.
    pub(crate) fn new(
        actor: Actor,
        mailbox: Arc<Mailbox>,
        saver: Arc<Saver>,
        connection: Connection,
        machine: Arc<Machine>,
        terms: Terms,
    ) -> Self {
        Self {
            actor,
            mailbox,
            saver,
            connection,
            machine,
            terms,
            changed: None,
            proven: 0,
        }
    }

    /// Handle messages until the application is stopped or its actor cannot be restarted.
    pub(crate) async fn run(mut self) -> Result<(), GivenUp> {
        let end = self.work().await;
        match &end {
            Ok(stop) => goodbye(&self.connection, stop.id).await,
            Err(_) => {
                // The next machine starts from the snapshot that is being saved.
                let _ = self.saver.saved(PART_TIMEOUT).await;
                goodbye(&self.connection, UNASKED).await;
            }
        }
        end.map(|_| ())
    }

    async fn work(&mut self) -> Result<Stop, GivenUp> {
        let mailbox = Arc::clone(&self.mailbox);
        let connection = self.connection.clone();
        loop {
            let due = self.due();
            // Replies that the node has not read use the machine's memory: wait for room before
            // adding to them.
            let in_turn = async {
                connection.room().await;
                mailbox.next().await
            };
            let next = tokio::select! {
                biased;
                next = in_turn => Some(next),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => None,
            };
            match next {
                Some(Next::Message(message)) => self.answer(message).await?,
                Some(Next::Stop(stop)) => match self.end(stop).await {
                    Ok(()) => return Ok(stop),
                    Err(failure) => {
                        // First, because restarting the actor may take longer than anybody waits.
                        fail(&self.connection, stop.id, not_saved(&failure));
                        self.revive(&failure).await?;
                    }
                },
                None => self.snapshot_between().await?,
            }
            if self.due().is_some_and(|due| due <= Instant::now()) {
                self.snapshot_between().await?;
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        Some(self.changed? + self.terms.snapshot_interval)
    }

    async fn answer(&mut self, message: Message) -> Result<(), GivenUp> {
        let (id, deadline, queue) = (message.id, message.deadline, message.arrived.elapsed());
        let trace = message.occasion().trace;
        let (mut result, mut spent) = self.handle(message).await;
        if result.is_ok() && self.may_be_too_large() {
            let connection = self.connection.clone();
            let not_yet = |wait: Duration| {
                let failure = Some(not_kept_yet());
                let spent = Spent {
                    wait: spent.wait + wait,
                    ..spent
                };
                reply(&connection, id, Bytes::new(), failure, spent, queue);
            };
            let (proof, took, in_time) = self.prove(deadline, not_yet).await;
            // What is said of the proof from here on, the message is the reason for.
            self.actor.words().begin(trace);
            if !in_time {
                return match proof {
                    Ok(()) => Ok(()),
                    Err(failure) => self.revive(&failure).await,
                };
            }
            spent.compute += took.compute;
            spent.wait += took.wait;
            result = result.and_then(|body| proof.map(|()| body));
        }
        let failure = result.as_ref().err().cloned();
        let body = result.unwrap_or_default();
        let frame = reply_of(id, failure.clone(), spent, queue);
        if spent.compute < SHORT && self.mailbox.has_next() {
            self.connection.send_soon(frame, body);
        } else {
            self.connection.send(frame, body);
        }
        match failure {
            Some(failure) => self.revive(&failure).await,
            None => Ok(()),
        }
    }

    async fn handle(&mut self, message: Message) -> Outcome<Bytes> {
        if message.deadline <= Instant::now() {
            return (Err(late()), Spent::default());
        }
        self.changed.get_or_insert_with(Instant::now);
        self.actor.handle(&message).await
    }

    /// Whether the instance has grown so much that its state may be too large to save.
    fn may_be_too_large(&self) -> bool {
        let memory = self.actor.memory();
        memory > self.proven && memory > self.terms.memory_bytes / PROVE_FROM
    }

    /// Take a snapshot and return whether it was done in time. If not, `late` is called with how
    /// long it took so far.
    async fn prove(
        &mut self,
        deadline: Instant,
        late: impl FnOnce(Duration),
    ) -> (Result<(), Failure>, Spent, bool) {
        let begin = Instant::now();
        let mut snapshot = pin!(self.snapshot());
        let in_time = timeout_at(deadline, &mut snapshot).await;
        let is_in_time = in_time.is_ok();
        let (proof, spent) = match in_time {
            Ok(taken) => taken,
            Err(_) => {
                late(begin.elapsed());
                snapshot.await
            }
        };
        (
            proof.map_err(|failure| cannot_be_saved(&failure)),
            spent,
            is_in_time,
        )
    }

    async fn snapshot_between(&mut self) -> Result<(), GivenUp> {
        match self.snapshot().await.0 {
            Ok(()) => Ok(()),
            Err(failure) => {
                self.complain(format!("snapshot failed: {}", failure.message));
                self.revive(&failure).await
            }
        }
    }

    async fn snapshot(&mut self) -> Outcome<()> {
        self.changed = None;
        let mut room = self.room();
        if room.is_some_and(|room| room.state < self.actor.memory()) {
            // A snapshot that is being sent uses memory that this one may need.
            let _ = self.saver.idle(PART_TIMEOUT).await;
            room = self.room();
        }
        let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
        let (state, spent) = self.actor.snapshot(deadline, room).await;
        let taken = state.map(|state| {
            self.proven = self.actor.memory();
            self.saver.take(state);
        });
        (taken, spent)
    }

    fn room(&self) -> Option<Room> {
        let (memory, limit) = (self.actor.memory(), self.terms.memory_bytes);
        let available = self.machine.available()?;
        Some(Room::new(available, memory, limit))
    }

    /// Restart an actor that was lost; otherwise do nothing.
    ///
    /// Meanwhile messages wait and expire as usual.
    async fn revive(&mut self, failure: &Failure) -> Result<(), GivenUp> {
        if self.actor.alive() {
            return Ok(());
        }
        self.changed = None;
        self.proven = 0;
        let why = &failure.message;
        let Some(state) = self.saver.newest() else {
            return Err(format!(
                "the actor starts again in another VM, because its state is too large to \
                 keep in this one: {why}"
            ));
        };
        self.complain(format!(
            "the actor was restarted from its last snapshot: {why}"
        ));
        let deadline = Instant::now() + self.terms.start_timeout;
        let (started, _) = self.actor.start(&state, deadline).await;
        started.map_err(|failure| {
            let message = failure.message;
            format!("the actor cannot be restarted: {message}")
        })
    }

    /// Take a snapshot, have it saved, shut the instance down.
    async fn end(&mut self, stop: Stop) -> Result<(), Failure> {
        if self.changed.is_some() {
            self.snapshot().await.0?;
        }
        self.saver.saved(stop.timeout).await?;
        let deadline = Instant::now() + stop.timeout;
        if let Err(failure) = self.actor.shutdown(deadline).await {
            self.complain(format!("shutdown: {}", failure.message));
        }
        Ok(())
    }

    fn complain(&self, line: String) {
        self.actor.words().complain(Level::Warn, line);
    }
}

/// A program that handles several messages at the same time, each in an instance of its own.
pub(crate) enum Handler {
    /// A command.
    Command(Command),
    /// A component of wasi:http.
    Service(Service),
}

impl Handler {
    async fn answer(&self, connection: &Connection, message: Message) {
        match self {
            Self::Command(command) => answer_by(command, connection, message).await,
            Self::Service(service) => service.answer(connection, message).await,
        }
    }
}

/// A running program that handles several messages at the same time.
pub(crate) struct HandlerAtWork {
    handler: Arc<Handler>,
    mailbox: Arc<Mailbox>,
    connection: Connection,
    concurrency: u32,
    /// The threads that its programs run on.
    workers: Handle,
}

impl HandlerAtWork {
    /// Take over a program that handles this many messages at a time on these threads.
    pub(crate) fn new(
        handler: Handler,
        mailbox: Arc<Mailbox>,
        connection: Connection,
        concurrency: u32,
        workers: Handle,
    ) -> Self {
        Self {
            handler: Arc::new(handler),
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
            // First, so that a message waits where its timeout and its cancellation are noticed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            // As for an actor.
            self.connection.room().await;
            match self.mailbox.next().await {
                Next::Message(message) => {
                    let handler = Arc::clone(&self.handler);
                    let connection = self.connection.clone();
                    self.workers.spawn(async move {
                        handler.answer(&connection, message).await;
                        drop(slot);
                    });
                }
                Next::Stop(stop) => {
                    drop(slot);
                    let all = slots.acquire_many(self.concurrency);
                    let _ = timeout_at(Instant::now() + stop.timeout, all).await;
                    return goodbye(&self.connection, stop.id).await;
                }
            }
        }
    }
}

async fn answer_by(command: &Command, connection: &Connection, message: Message) {
    let queue = message.arrived.elapsed();
    if message.deadline <= Instant::now() {
        return refuse(connection, message.id, late(), queue);
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
    connection.send(reply_of(id, failure, spent, queue), body);
}

fn reply_of(id: u64, failure: Option<Failure>, spent: Spent, queue: Duration) -> Frame {
    Frame::Reply(Reply {
        id,
        failure,
        compute_ns: spent.compute.as_nanos() as u64,
        wait_ns: spent.wait.as_nanos() as u64,
        queue_ns: queue.as_nanos() as u64,
        response: None,
    })
}

/// Answer a message that was not handled.
pub(crate) fn refuse(connection: &Connection, id: u64, failure: Failure, queue: Duration) {
    let spent = Spent::default();
    reply(connection, id, Bytes::new(), Some(failure), spent, queue);
}

/// Answer messages that time out while they wait, as long as the application runs.
pub(crate) async fn expire(mailbox: Arc<Mailbox>, connection: Connection) {
    loop {
        for message in mailbox.expired().await {
            refuse(&connection, message.id, late(), message.arrived.elapsed());
        }
    }
}

/// The failure of a message whose time was over before it was handled.
pub(crate) fn late() -> Failure {
    Failure::platform(
        "deadline_exceeded",
        "the message timed out in the mailbox while others were handled",
    )
    .hint("set a longer timeout, or send more slowly")
}

fn not_kept_yet() -> Failure {
    Failure::platform(
        "deadline_exceeded",
        "the message was handled, but timed out before the agent knew whether the actor's \
         larger state can be saved",
    )
    .hint("set a longer timeout: --timeout SECONDS")
}

fn cannot_be_saved(failure: &Failure) -> Failure {
    Failure::actor(
        "state-not-saved",
        format!(
            "after this message the actor's state cannot be saved: {}; the actor was restarted \
             from its last snapshot",
            failure.message
        ),
    )
    .hint("deploy it with more memory (--memory MIB), or keep large data in keyvalue")
}

fn not_saved(failure: &Failure) -> Failure {
    let said = &failure.message;
    Failure::platform(
        "unavailable",
        format!("the actor's last state was not saved: {said}"),
    )
    .hint(failure.hint.as_str())
}

/// Answer a request other than a message that cannot be fulfilled.
pub(crate) fn fail(connection: &Connection, id: u64, failure: Failure) {
    let failure = Some(failure);
    connection.send(Frame::Failed(Failed { id, failure }), Bytes::new());
}

/// Send the last frame, with this id, and wait until it is sent.
pub(crate) async fn goodbye(connection: &Connection, id: u64) {
    connection.send(Frame::Stopped(Stopped { id }), Bytes::new());
    let _ = timeout_at(Instant::now() + GOODBYE_TIMEOUT, connection.drained()).await;
}
