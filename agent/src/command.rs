//! WASI commands: programs that are started for every message.
//!
//! The payload is on stdin, the reply is what they write to stdout, and stderr is the log. The
//! message's type, its sender and its trace are in the environment. Three binary forms behave the same: a core
//! module with `_start` (preview 1), and components that export `wasi:cli/run`, 0.2 or 0.3.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::Component;
use wasmtime::{Engine, Error, InstancePre, Linker, Module, Store};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{I32Exit, WasiCtx, p1, p2, p3};

use crate::actor::reply_too_large;
use crate::bounds::{Bounds, Pool};
use crate::deadline::{Spent, Ticker};
use crate::host::{Linkers, Surroundings};
use crate::link::proto::{Failure, log::Level};
use crate::mailbox::Message;
use crate::node::Node;
use crate::output::{Captured, Words};
use crate::program::Settings;
use crate::trap::{During, End};

const PREVIEW1: &str = "wasi_snapshot_preview1";

/// The variable in which OpenTelemetry passes a trace to a process.
const TRACEPARENT: &str = "TRACEPARENT";

/// The names of `run` begin with one of these.
const RUN_0_2: &str = "wasi:cli/run@0.2.";
const RUN_0_3: &str = "wasi:cli/run@0.3.";

/// A loaded command; it can handle many messages at a time.
pub(crate) struct Command {
    engine: Engine,
    form: Form,
    settings: Arc<Settings>,
    /// The memory of all messages that are being handled.
    pool: Arc<Pool>,
    ticker: Ticker,
    node: Arc<Node>,
}

enum Form {
    Preview1(InstancePre<Surroundings>),
    Component02(p2::bindings::CommandPre<Surroundings>),
    Component03(p3::bindings::CommandPre<Surroundings>),
}

/// The result of a message: its reply, or what the program wrote before it failed, and why.
pub(crate) struct Answer {
    /// What the program wrote to stdout.
    pub(crate) output: Bytes,
    /// Why the output is not a reply.
    pub(crate) failure: Option<Failure>,
    /// How long it took.
    pub(crate) spent: Spent,
}

impl Command {
    /// Load a core module with `_start`.
    pub(crate) fn of_module(
        engine: &Engine,
        module: &Module,
        settings: Arc<Settings>,
        ticker: Ticker,
        node: Arc<Node>,
    ) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine);
        p1::add_to_linker_async(&mut linker, |around: &mut Surroundings| &mut around.wasi)?;
        // wasmtime's own `proc_exit` refuses a status above 125.
        linker.allow_shadowing(true);
        linker.func_wrap(
            PREVIEW1,
            "proc_exit",
            |status: i32| -> wasmtime::Result<()> { Err(I32Exit(status).into()) },
        )?;
        let form = Form::Preview1(linker.instantiate_pre(module)?);
        Ok(Self {
            engine: engine.clone(),
            form,
            pool: Pool::new(settings.memory_bytes),
            settings,
            ticker,
            node,
        })
    }

    /// Load a component that exports `wasi:cli/run`.
    pub(crate) fn of_component(
        engine: &Engine,
        linkers: &Linkers,
        component: &Component,
        settings: Arc<Settings>,
        ticker: Ticker,
        node: Arc<Node>,
    ) -> wasmtime::Result<Self> {
        let pre = linkers.of(component)?.instantiate_pre(component)?;
        let kind = component.component_type();
        let exports = |prefix: &str| {
            kind.exports(engine)
                .any(|(name, _)| name.starts_with(prefix))
        };
        let form = if exports(RUN_0_2) {
            Form::Component02(p2::bindings::CommandPre::new(pre)?)
        } else if exports(RUN_0_3) {
            Form::Component03(p3::bindings::CommandPre::new(pre)?)
        } else {
            return Err(Error::msg("the component has no wasi:cli/run"));
        };
        Ok(Self {
            engine: engine.clone(),
            form,
            pool: Pool::new(settings.memory_bytes),
            settings,
            ticker,
            node,
        })
    }

    /// Run the program on one message.
    pub(crate) async fn handle(&self, message: &Message) -> Answer {
        let words = Words::new(self.node.connection().clone(), message.occasion().trace);
        let captured = Captured::new(self.settings.message_limit);
        let mut store = self.store(message, &words, &captured);
        let run = self.run(&mut store);
        let (ended, spent) = self.ticker.run(message.deadline, run).await;
        let refused = store.data_mut().bounds.take_refused();
        let failure = self.failure(ended, &words, refused);
        let (output, over) = captured.take();
        let failure = match failure {
            None if over => {
                let limit = self.settings.message_limit;
                Some(reply_too_large(limit.saturating_add(1), limit))
            }
            failure => failure,
        };
        Answer {
            output,
            failure,
            spent,
        }
    }

    /// Run the program to its end. Returns false if it failed on its own terms.
    async fn run(&self, store: &mut Store<Surroundings>) -> wasmtime::Result<bool> {
        match &self.form {
            Form::Preview1(pre) => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                start.call_async(store, ()).await.map(|()| true)
            }
            Form::Component02(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                Ok(command.wasi_cli_run().call_run(store).await?.is_ok())
            }
            Form::Component03(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                let run = async |store: &_| command.wasi_cli_run().call_run(store).await;
                Ok(store.run_concurrent(run).await??.is_ok())
            }
        }
    }

    fn failure(
        &self,
        ended: Option<wasmtime::Result<bool>>,
        words: &Words,
        refused: Option<usize>,
    ) -> Option<Failure> {
        let said = words.end_message();
        let end = End::of(&self.settings, During::Command, &said, refused);
        let error = match ended {
            None => return Some(end.out_of_time()),
            Some(Ok(true)) => return None,
            Some(Ok(false)) => return Some(end.exited(1)),
            Some(Err(error)) => error,
        };
        match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(0)) => None,
            Some(I32Exit(status)) => Some(end.exited(*status)),
            None => {
                let (failure, in_full) = end.explain(&error);
                words.complain(Level::Error, in_full);
                Some(failure)
            }
        }
    }

    fn store(&self, message: &Message, words: &Words, captured: &Captured) -> Store<Surroundings> {
        let occasion = message.occasion();
        let mut wasi = WasiCtx::builder();
        if occasion.trace.is_some() && !self.settings.has_variable(TRACEPARENT) {
            wasi.env(TRACEPARENT, &message.traceparent);
        }
        wasi.args(&self.settings.args)
            .envs(&self.settings.env)
            .env("PLEXSPACES_MESSAGE_TYPE", &message.kind)
            .env("PLEXSPACES_SENDER", &message.sender)
            .stdin(MemoryInputPipe::new(message.payload.clone()))
            .stdout(captured.output())
            .stderr(words.stderr());
        let surroundings = Surroundings::new(
            wasi.build_p1(),
            Bounds::new(Arc::clone(&self.pool)),
            Arc::clone(&self.node),
            self.settings.message_limit,
            message.deadline,
            occasion,
        );
        surroundings.store(&self.engine)
    }
}
