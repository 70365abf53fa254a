//! What runs native code: an engine with the stacks of its guests, what they import, their ticker.

use wasmtime::Engine;

use crate::deadline::Ticker;
use crate::host::Linkers;
use crate::settings::settings;

const MIB: usize = 1024 * 1024;

/// What a guest's call gets of native stack beyond its own: for the host functions it calls.
const HOST_STACK_BYTES: usize = 512 * 1024;

/// Runs applications of one kind; there is one in a machine.
pub(crate) struct Runner {
    pub(crate) engine: Engine,
    pub(crate) linkers: Linkers,
    pub(crate) ticker: Ticker,
}

/// How deep guests may recurse. Native code is the same for all.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stack {
    /// An actor: there is one. The interpreters of Python and JavaScript count a stack of their own
    /// in the guest's memory, and raise an error that the application can catch when it is full;
    /// this one must not be full before. Measured, a byte of that takes up to 19 of this one, where
    /// text is parsed or JSON is written. Pages that no call has reached cost nothing.
    OfActor,
    /// A command: of those there are as many as messages at the same time.
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
    /// Make one, and start its ticker's thread. `ahead`: have ready whatever could be imported.
    pub(crate) fn start(stack: Stack, ahead: bool) -> wasmtime::Result<Self> {
        let mut settings = settings()?;
        settings
            .max_wasm_stack(stack.bytes())
            .async_stack_size(stack.bytes() + HOST_STACK_BYTES);
        let engine = Engine::new(&settings)?;
        Ok(Self {
            linkers: Linkers::new(&engine, ahead)?,
            ticker: Ticker::start(engine.clone())?,
            engine,
        })
    }
}
