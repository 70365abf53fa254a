//! An actor: a component with one live instance, which is discarded after a trap.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use wasmtime::component::Component;
use wasmtime::{Engine, Error, Store};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::bounds::{Bounds, Pool};
use crate::deadline::{Spent, Ticker};
use crate::host::{Application, ApplicationPre, Linkers, Surroundings};
use crate::link::proto::{Failure, log::Level};
use crate::mailbox::Message;
use crate::node::Node;
use crate::occasion::{Occasion, TraceId};
use crate::output::Words;
use crate::program::Settings;
use crate::room::Room;
use crate::trap::{During, End};

/// The result of a call, and how long it took.
pub(crate) type Outcome<T> = (Result<T, Failure>, Spent);

/// A loaded actor, with or without an instance.
pub(crate) struct Actor {
    engine: Engine,
    pre: ApplicationPre<Surroundings>,
    settings: Arc<Settings>,
    node: Arc<Node>,
    ticker: Ticker,
    words: Words,
    instance: Option<Instance>,
}

struct Instance {
    store: Store<Surroundings>,
    exports: Application,
}

impl Actor {
    /// Load a compiled component, without an instance yet.
    pub(crate) fn load(
        engine: &Engine,
        linkers: &Linkers,
        component: &Component,
        settings: Arc<Settings>,
        node: Arc<Node>,
        ticker: Ticker,
    ) -> wasmtime::Result<Self> {
        let pre = ApplicationPre::new(linkers.of(component)?.instantiate_pre(component)?)?;
        let words = Words::new(node.connection().clone(), TraceId::NONE);
        Ok(Self {
            engine: engine.clone(),
            pre,
            settings,
            node,
            ticker,
            words,
            instance: None,
        })
    }

    /// Whether there is an instance: false before the first start and after a trap.
    pub(crate) fn alive(&self) -> bool {
        self.instance.is_some()
    }

    /// The instance's linear memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.instance
            .as_ref()
            .map_or(0, |instance| instance.store.data().bounds.memory())
    }

    /// What the actor writes, and lines about it.
    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    /// Create a new instance from a snapshot (empty for none) and discard the present one.
    pub(crate) async fn start(&mut self, state: &[u8], deadline: Instant) -> Outcome<()> {
        self.instance = None;
        self.words.begin(TraceId::NONE);
        let mut store = self.store(state.len(), deadline);
        let instantiate = self.pre.instantiate_async(&mut store);
        let (made, spent) = self.ticker.run(deadline, instantiate).await;
        let exports = match made {
            Some(Ok(exports)) => exports,
            ended => {
                let refused = store.data_mut().bounds.take_refused();
                let error = ended.and_then(Result::err);
                return (Err(self.ended(During::Start, error, refused)), spent);
            }
        };
        self.instance = Some(Instance { store, exports });
        let (answer, spent) = self
            .call(During::Init, deadline, Occasion::NONE, async |instance| {
                let actor = instance.exports.plexspaces_application_actor();
                actor.call_init(&mut instance.store, state).await
            })
            .await;
        let answer = answer.and_then(|said| {
            said.map_err(|said| {
                self.instance = None;
                Failure::actor("init", format!("init: {said}"))
            })
        });
        (answer, spent)
    }

    /// Deliver one message and return the reply.
    ///
    /// Afterwards the actor is `alive` unless it trapped or its deadline passed.
    pub(crate) async fn handle(&mut self, message: &Message) -> Outcome<Bytes> {
        let (answer, spent) = self
            .call(
                During::Message,
                message.deadline,
                message.occasion(),
                async |instance| {
                    let actor = instance.exports.plexspaces_application_actor();
                    let Message {
                        sender,
                        kind,
                        payload,
                        ..
                    } = message;
                    actor
                        .call_handle_message(&mut instance.store, sender, kind, payload)
                        .await
                },
            )
            .await;
        let limit = self.settings.message_limit;
        let answer = answer.and_then(|said| match said {
            Ok(reply) if reply.len() > limit => Err(reply_too_large(reply.len(), limit)),
            Ok(reply) => Ok(Bytes::from(reply)),
            Err(said) => {
                let failure = Failure::actor(&said.code, said.message);
                Err(if said.retryable {
                    failure.retryable()
                } else {
                    failure
                })
            }
        });
        (answer, spent)
    }

    /// Return the state. It may use at most `room`, if that is known.
    pub(crate) async fn snapshot(
        &mut self,
        deadline: Instant,
        room: Option<Room>,
    ) -> Outcome<Bytes> {
        let usual = self.instance.as_mut().map(|instance| {
            let usual = instance.store.hostcall_fuel();
            if let Some(room) = room {
                instance.store.set_hostcall_fuel(room.state.min(usual));
                instance.store.data_mut().bounds.allow_growth(room.growth);
            }
            usual
        });
        let (answer, spent) = self
            .call(
                During::Snapshot,
                deadline,
                Occasion::NONE,
                async |instance| {
                    let actor = instance.exports.plexspaces_application_actor();
                    actor.call_snapshot_state(&mut instance.store).await
                },
            )
            .await;
        if let (Some(instance), Some(usual)) = (&mut self.instance, usual) {
            instance.store.set_hostcall_fuel(usual);
            instance.store.data_mut().bounds.allow_growth(usize::MAX);
        }
        (answer.map(Bytes::from), spent)
    }

    /// Call the instance's `shutdown`.
    pub(crate) async fn shutdown(&mut self, deadline: Instant) -> Result<(), Failure> {
        self.call(
            During::Shutdown,
            deadline,
            Occasion::NONE,
            async |instance| {
                let actor = instance.exports.plexspaces_application_actor();
                actor.call_shutdown(&mut instance.store).await
            },
        )
        .await
        .0
    }

    /// Call the instance. If it traps or takes too long, it is discarded.
    async fn call<T>(
        &mut self,
        during: During,
        deadline: Instant,
        occasion: Occasion,
        call: impl AsyncFnOnce(&mut Instance) -> Result<T, Error>,
    ) -> Outcome<T> {
        let Some(mut instance) = self.instance.take() else {
            let failure = Failure::platform("unavailable", "the actor is not running").retryable();
            return (Err(failure), Spent::default());
        };
        instance.store.data_mut().begin(deadline, occasion);
        self.words.begin(occasion.trace);
        instance.store.set_epoch_deadline(1);
        let (ended, spent) = self.ticker.run(deadline, call(&mut instance)).await;
        let refused = instance.store.data_mut().bounds.take_refused();
        match ended {
            Some(Ok(answer)) => {
                self.words.end_message();
                self.instance = Some(instance);
                (Ok(answer), spent)
            }
            ended => {
                let error = ended.and_then(Result::err);
                (Err(self.ended(during, error, refused)), spent)
            }
        }
    }

    fn ended(&self, during: During, error: Option<Error>, refused: Option<usize>) -> Failure {
        let words = self.words.end_message();
        let end = End::of(&self.settings, during, &words, refused);
        match error {
            None => end.out_of_time(),
            Some(error) => {
                let (failure, in_full) = end.explain(&error);
                self.words.complain(Level::Error, in_full);
                failure
            }
        }
    }

    fn store(&self, state_bytes: usize, deadline: Instant) -> Store<Surroundings> {
        let surroundings = Surroundings::new(
            self.wasi(state_bytes),
            Bounds::new(Pool::new(self.settings.memory_bytes)),
            Arc::clone(&self.node),
            self.settings.message_limit,
            deadline,
            Occasion::NONE,
        );
        surroundings.store(&self.engine)
    }

    fn wasi(&self, state_bytes: usize) -> WasiP1Ctx {
        let mut wasi = WasiCtx::builder();
        // Only Go reads it: its collector does not know the limit, and would trap at 40 % of it.
        let collect_at = self.settings.memory_bytes / 4 * 3;
        if !self.settings.has_variable("GOMEMLIMIT") {
            wasi.env("GOMEMLIMIT", collect_at.to_string());
        }
        wasi.envs(&self.settings.env)
            // For languages that cannot allocate while the host passes data: they reserve memory
            // beforehand.
            .env(
                "PLEXSPACES_MESSAGE_LIMIT",
                self.settings.message_limit.to_string(),
            )
            .env("PLEXSPACES_STATE_BYTES", state_bytes.to_string())
            .stdout(self.words.stdout())
            .stderr(self.words.stderr());
        wasi.build_p1()
    }
}

/// The error for a reply over the limit; `size` is a lower bound.
pub(crate) fn reply_too_large(size: usize, limit: usize) -> Failure {
    let message = format!("a reply of {size} bytes or more is over the limit of {limit}");
    Failure::actor("reply-too-large", message)
        .hint("raise [limits] message_bytes, or answer in parts")
}
