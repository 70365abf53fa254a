//! Runs native code: an engine, its guests' stacks, their imports and their ticker.

use std::sync::Arc;

use wasmtime::Engine;

use crate::deadline::Ticker;
use crate::host::Linkers;
use crate::settings::settings;
use crate::stacks::Stacks;

const MIB: usize = 1024 * 1024;

/// How much native stack a guest's call gets beyond its own, for the host functions it calls.
const HOST_STACK_BYTES: usize = 512 * 1024;

/// Runs applications of one kind; a machine has one.
pub(crate) struct Runner {
    pub(crate) engine: Engine,
    pub(crate) linkers: Linkers,
    pub(crate) ticker: Ticker,
}

/// How deep guests can recurse. Native code is the same for all.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stack {
    /// An actor: there is only one. The interpreters of Python and JavaScript keep a stack of their
    /// own in the guest's memory and raise an error that the application can catch when it is full.
    /// The native stack must not be full before that. Measured, one byte of theirs takes up to 19
    /// native ones where text is parsed or JSON is written. Pages that no call has reached cost
    /// nothing.
    OfActor,
    /// A command: there are as many as messages at the same time.
    OfCommand,
}

impl Stack {
    const fn bytes(self) -> usize {
        match self {
            Self::OfActor => 32 * MIB,
            Self::OfCommand => MIB,
        }
    }
}

impl Runner {
    /// Create a runner and start its ticker's thread. With `ahead`, prepare everything that could
    /// be imported.
    pub(crate) fn start(stack: Stack, ahead: bool) -> wasmtime::Result<Self> {
        let mut settings = settings()?;
        settings
            .max_wasm_stack(stack.bytes())
            .async_stack_size(stack.bytes() + HOST_STACK_BYTES);
        if matches!(stack, Stack::OfCommand) {
            settings.with_host_stack(Arc::<Stacks>::default());
        }
        let engine = Engine::new(&settings)?;
        Ok(Self {
            linkers: Linkers::new(&engine, ahead)?,
            ticker: Ticker::start(engine.clone())?,
            engine,
        })
    }
}
