//! From a `Load` to a running application.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::Instant;

use crate::actor::Actor;
use crate::application::{ActorAtWork, Ending, Handler, HandlerAtWork, Terms, expire, fail};
use crate::command::Command;
use crate::http::service::Service;
use crate::link::connection::Connection;
use crate::link::proto::{Failure, Load, Loaded, from_agent::Frame, load::Kind};
use crate::machine::Machine;
use crate::mailbox::Mailbox;
use crate::node::Node;
use crate::program::{Artifact, Settings, does_not_load};
use crate::room::{could_be_saved, held_bytes};
use crate::runner::Runner;
use crate::saving::Saver;
use crate::trap::{MORE_MEMORY, mib};

/// What exists before any application.
pub(crate) struct Around<'a> {
    /// Runs native code.
    pub(crate) runner: &'a Runner,
    /// Where applications send their requests.
    pub(crate) node: &'a Arc<Node>,
    /// The longest message, in bytes.
    pub(crate) message_limit: usize,
    /// Notified when the application has ended.
    pub(crate) ending: &'a Arc<Ending>,
}

/// The application of this machine, from the moment its load began.
pub(crate) struct Loading {
    /// Its name.
    pub(crate) name: String,
    /// Where its messages wait.
    pub(crate) mailbox: Arc<Mailbox>,
    /// Whether it handles HTTP requests instead of messages.
    pub(crate) handles_requests: bool,
    /// How an actor's snapshots are saved.
    pub(crate) saver: Option<Arc<Saver>>,
    /// The threads of a command that uses several.
    workers: Option<Runtime>,
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            // What still computes there ends with the process: nothing waits for it.
            workers.shutdown_background();
        }
    }
}

impl Loading {
    /// Map an artifact and start its application. The answer to the `Load` is sent later.
    ///
    /// From here on the agent is restricted.
    pub(crate) fn begin(
        machine: &Arc<Machine>,
        around: &Around<'_>,
        load: &Load,
        state: Bytes,
    ) -> Result<Self, Failure> {
        let begin = Instant::now();
        machine.prepare(&load.path)?;
        let artifact = Artifact::open(&around.runner.engine, Path::new(&load.path), load.kind())?;
        let settings = Arc::new(Settings::new(load, around.message_limit));
        let mailbox = Arc::new(Mailbox::new(load.mailbox as usize));
        let program =
            Program::load(around, &artifact, &settings).map_err(|error| does_not_load(&error))?;
        let workers = match &program {
            Program::Handler(_) => workers(load)?,
            Program::Actor(_) => None,
        };
        let missing_walls = machine.lock_down()?;
        let starting = Starting {
            connection: around.node.connection().clone(),
            machine: Arc::clone(machine),
            ending: Arc::clone(around.ending),
            mailbox: Arc::clone(&mailbox),
            id: load.id,
            load_ns: begin.elapsed().as_nanos() as u64,
            missing_walls,
        };
        tokio::spawn(expire(Arc::clone(&mailbox), starting.connection.clone()));
        let saver = match program {
            Program::Actor(actor) => Some(starting.start_actor(actor, load, state)),
            Program::Handler(handler) => {
                let threads = workers
                    .as_ref()
                    .map_or_else(Handle::current, |runtime| runtime.handle().clone());
                starting.start_handler(*handler, load, threads);
                None
            }
        };
        Ok(Self {
            name: load.application.clone(),
            mailbox,
            handles_requests: load.kind() == Kind::HttpComponent,
            saver,
            workers,
        })
    }
}

enum Program {
    Actor(Box<Actor>),
    Handler(Box<Handler>),
}

impl Program {
    fn load(
        around: &Around<'_>,
        artifact: &Artifact,
        settings: &Arc<Settings>,
    ) -> wasmtime::Result<Self> {
        let Runner {
            engine,
            linkers,
            ticker,
        } = around.runner;
        let ticker = ticker.clone();
        let (settings, node) = (Arc::clone(settings), Arc::clone(around.node));
        Ok(match artifact {
            Artifact::Actor(component) => {
                let actor = Actor::load(engine, linkers, component, settings, node, ticker)?;
                Self::Actor(Box::new(actor))
            }
            Artifact::Module(module) => {
                let command = Command::of_module(engine, module, settings, ticker, node)?;
                Self::Handler(Box::new(Handler::Command(command)))
            }
            Artifact::Command(component) => {
                let command =
                    Command::of_component(engine, linkers, component, settings, ticker, node)?;
                Self::Handler(Box::new(Handler::Command(command)))
            }
            Artifact::Http(component) => {
                let service = Service::load(engine, linkers, component, settings, ticker, node)?;
                Self::Handler(Box::new(Handler::Service(service)))
            }
        })
    }
}

/// Start the threads on which several programs compute at the same time. One program needs none.
fn workers(load: &Load) -> Result<Option<Runtime>, Failure> {
    let threads = load.vcpus.min(load.concurrency);
    if threads <= 1 {
        return Ok(None);
    }
    Builder::new_multi_thread()
        .worker_threads(threads as usize)
        .thread_name("command")
        // As on the main thread: timers are checked each time a computing guest yields.
        .event_interval(1)
        .enable_time()
        .build()
        .map(Some)
        .map_err(|error| {
            let message = format!("{threads} threads cannot be started: {error}");
            Failure::platform("resource_exhausted", message)
        })
}

/// An application that is about to start.
struct Starting {
    connection: Connection,
    machine: Arc<Machine>,
    ending: Arc<Ending>,
    mailbox: Arc<Mailbox>,
    /// The id of the `Load`.
    id: u64,
    load_ns: u64,
    missing_walls: Vec<String>,
}

impl Starting {
    fn start_actor(self, mut actor: Box<Actor>, load: &Load, state: Bytes) -> Arc<Saver> {
        let terms = Terms {
            snapshot_interval: Duration::from_nanos(load.snapshot_interval_ns),
            start_timeout: Duration::from_nanos(load.timeout_ns),
            memory_bytes: usize::try_from(load.memory_bytes).unwrap_or(usize::MAX),
        };
        let held = held_bytes(terms.memory_bytes);
        let saver = Arc::new(Saver::new(self.connection.clone(), state.clone(), held));
        let theirs = Arc::clone(&saver);
        let deadline = Instant::now() + terms.start_timeout;
        tokio::spawn(async move {
            let begin = Instant::now();
            if let (Err(failure), _) = actor.start(&state, deadline).await {
                return self.failed(failure);
            }
            if let Err(failure) = self.can_save(state) {
                return self.failed(failure);
            }
            self.loaded(begin.elapsed().as_nanos() as u64);
            let (mailbox, connection) = (self.mailbox, self.connection);
            let at_work =
                ActorAtWork::new(*actor, mailbox, theirs, connection, self.machine, terms);
            self.ending.tell(at_work.run().await);
        });
        saver
    }

    /// Check that the state which the actor was started from could be saved again, and drop it.
    fn can_save(&self, state: Bytes) -> Result<(), Failure> {
        let length = state.len();
        drop(state);
        let left = self.machine.available();
        if left.is_none_or(|left| could_be_saved(length, left)) {
            return Ok(());
        }
        let message = format!(
            "its state of {} MiB could not be saved in this VM: beside the actor itself only \
             {} MiB are free",
            mib(length),
            mib(left.unwrap_or(0))
        );
        Err(Failure::actor("too-little-memory", message).hint(MORE_MEMORY))
    }

    fn start_handler(self, handler: Handler, load: &Load, workers: Handle) {
        self.loaded(0);
        let concurrency = load.concurrency.max(1);
        let at_work =
            HandlerAtWork::new(handler, self.mailbox, self.connection, concurrency, workers);
        tokio::spawn(async move {
            at_work.run().await;
            self.ending.tell(Ok(()));
        });
    }

    fn loaded(&self, init_ns: u64) {
        let loaded = Loaded {
            id: self.id,
            load_ns: self.load_ns,
            init_ns,
            missing_walls: self.missing_walls.clone(),
        };
        self.connection.send(Frame::Loaded(loaded), Bytes::new());
    }

    fn failed(&self, failure: Failure) {
        fail(&self.connection, self.id, failure);
    }
}
