//! From a `Load` to an application at work.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio::time::Instant;
use wasmtime::Engine;

use crate::actor::Actor;
use crate::application::{ActorAtWork, CommandAtWork, Newest, expire};
use crate::command::Command;
use crate::deadline::Ticker;
use crate::host::Linkers;
use crate::link::connection::Connection;
use crate::link::proto::{Failed, Failure, Load, Loaded, from_agent::Frame};
use crate::machine::Machine;
use crate::mailbox::Mailbox;
use crate::node::Node;
use crate::program::{Artifact, Settings, does_not_load};
use crate::saving::Saver;

/// What there is before any application.
pub(crate) struct Around<'a> {
    /// What runs native code.
    pub(crate) engine: &'a Engine,
    /// What its components import.
    pub(crate) linkers: &'a Linkers,
    /// What bounds calls into it.
    pub(crate) ticker: &'a Ticker,
    /// Whom applications ask.
    pub(crate) node: &'a Arc<Node>,
    /// The longest message, in bytes.
    pub(crate) message_limit: usize,
    /// Told once the application was stopped.
    pub(crate) stopped: &'a Arc<Notify>,
}

/// The application of the machine, from the moment its load began.
pub(crate) struct Loading {
    /// Its name.
    pub(crate) name: String,
    /// Where its messages wait.
    pub(crate) mailbox: Arc<Mailbox>,
    /// How an actor's snapshots are saved, and the newest of them.
    pub(crate) saving: Option<(Arc<Saver>, Newest)>,
    /// The threads of a command that runs on several.
    workers: Option<Runtime>,
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            // What still computes there ends with the process: nobody waits for it.
            workers.shutdown_background();
        }
    }
}

impl Loading {
    /// Map an artifact and have its application started; that answers the `Load`, later.
    ///
    /// From here on the machine is behind its walls.
    pub(crate) fn begin(
        machine: &Machine,
        around: &Around<'_>,
        load: &Load,
        state: Vec<u8>,
    ) -> Result<Self, Failure> {
        let begin = Instant::now();
        machine.prepare(&load.path)?;
        let artifact = Artifact::open(around.engine, Path::new(&load.path), load.kind())?;
        let settings = Arc::new(Settings::new(load, around.message_limit));
        let mailbox = Arc::new(Mailbox::new(load.mailbox as usize));
        let program =
            Program::load(around, &artifact, &settings).map_err(|error| does_not_load(&error))?;
        let workers = match &program {
            Program::Command(_) => workers(load)?,
            Program::Actor(_) => None,
        };
        let missing_walls = machine.lock_down()?;
        let starting = Starting {
            connection: around.node.connection().clone(),
            stopped: Arc::clone(around.stopped),
            mailbox: Arc::clone(&mailbox),
            id: load.id,
            load_ns: begin.elapsed().as_nanos() as u64,
            missing_walls,
        };
        tokio::spawn(expire(Arc::clone(&mailbox), starting.connection.clone()));
        let saving = match program {
            Program::Actor(actor) => Some(starting.start_actor(actor, load, state)),
            Program::Command(command) => {
                let handle = workers
                    .as_ref()
                    .map_or_else(Handle::current, |runtime| runtime.handle().clone());
                starting.start_command(*command, load, handle);
                None
            }
        };
        Ok(Self {
            name: load.application.clone(),
            mailbox,
            saving,
            workers,
        })
    }
}

enum Program {
    Actor(Box<Actor>),
    Command(Box<Command>),
}

impl Program {
    fn load(
        around: &Around<'_>,
        artifact: &Artifact,
        settings: &Arc<Settings>,
    ) -> wasmtime::Result<Self> {
        let (engine, ticker) = (around.engine, around.ticker.clone());
        let (settings, node) = (Arc::clone(settings), Arc::clone(around.node));
        Ok(match artifact {
            Artifact::Actor(component) => {
                let actor = Actor::load(engine, around.linkers, component, settings, node, ticker)?;
                Self::Actor(Box::new(actor))
            }
            Artifact::Module(module) => {
                let command = Command::of_module(engine, module, settings, ticker, node)?;
                Self::Command(Box::new(command))
            }
            Artifact::Command(component) => {
                let command = Command::of_component(
                    engine,
                    around.linkers,
                    component,
                    settings,
                    ticker,
                    node,
                )?;
                Self::Command(Box::new(command))
            }
        })
    }
}

/// Make the threads on which several programs compute at the same time; one needs none.
fn workers(load: &Load) -> Result<Option<Runtime>, Failure> {
    let threads = load.vcpus.min(load.concurrency);
    if threads <= 1 {
        return Ok(None);
    }
    Builder::new_multi_thread()
        .worker_threads(threads as usize)
        .thread_name("command")
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
    stopped: Arc<Notify>,
    mailbox: Arc<Mailbox>,
    /// Of the `Load`.
    id: u64,
    load_ns: u64,
    missing_walls: Vec<String>,
}

impl Starting {
    fn start_actor(
        self,
        mut actor: Box<Actor>,
        load: &Load,
        state: Vec<u8>,
    ) -> (Arc<Saver>, Newest) {
        let saver = Arc::new(Saver::new(self.connection.clone()));
        let newest = Newest::default();
        let saving = (Arc::clone(&saver), Arc::clone(&newest));
        let interval = Duration::from_nanos(load.snapshot_interval_ns);
        let memory_bytes = usize::try_from(load.memory_bytes).unwrap_or(usize::MAX);
        let deadline = Instant::now() + Duration::from_nanos(load.timeout_ns);
        tokio::spawn(async move {
            let begin = Instant::now();
            let state = Bytes::from(state);
            if let (Err(failure), _) = actor.start(&state, deadline).await {
                return self.failed(failure);
            }
            newest
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone_from(&state);
            self.loaded(begin.elapsed().as_nanos() as u64);
            ActorAtWork::new(
                *actor,
                self.mailbox,
                saver,
                self.connection,
                newest,
                interval,
                memory_bytes,
            )
            .run()
            .await;
            self.stopped.notify_one();
        });
        saving
    }

    fn start_command(self, command: Command, load: &Load, workers: Handle) {
        self.loaded(0);
        let concurrency = load.concurrency.max(1);
        let at_work =
            CommandAtWork::new(command, self.mailbox, self.connection, concurrency, workers);
        tokio::spawn(async move {
            at_work.run().await;
            self.stopped.notify_one();
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
        let failed = Failed {
            id: self.id,
            failure: Some(failure),
        };
        self.connection.send(Frame::Failed(failed), Bytes::new());
    }
}
