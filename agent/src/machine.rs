//! The agent's environment: a process of the host, or a guest whose first process it is.

use std::io;

use crate::guest::Guest;
use crate::link::proto::Failure;
use crate::link::stream::Stream;
use crate::process::Process;

/// How much memory is in use: by a whole guest, or by the agent's process alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Whether it is a whole guest.
    pub(crate) guest: bool,
    /// The total; for a process its limit, or 0 for no limit.
    pub(crate) total_bytes: u64,
    /// What is in use; for a process what it has allocated.
    pub(crate) used_bytes: u64,
    /// What is available; 0 if there is no limit.
    pub(crate) available_bytes: u64,
}

/// What the agent asks of its environment.
#[derive(Debug)]
pub(crate) enum Machine {
    /// A child process of the node.
    Process(Process),
    /// A virtual machine.
    Guest(Guest),
}

impl Machine {
    /// The machine's id, or empty if it was not given.
    pub(crate) fn vm_id(&self) -> &str {
        match self {
            Self::Process(process) => process.vm_id(),
            Self::Guest(guest) => guest.vm_id(),
        }
    }

    /// Whether this machine will be copied. Its copies keep what is done before it connects.
    pub(crate) fn is_template(&self) -> bool {
        match self {
            Self::Process(_) => false,
            Self::Guest(guest) => guest.is_template(),
        }
    }

    /// Connect to the node, or wait for the node if that is the end that connects.
    pub(crate) async fn dial(&self) -> io::Result<Stream> {
        match self {
            Self::Process(process) => process.dial(),
            Self::Guest(guest) => guest.dial().await,
        }
    }

    /// Whether a broken link can be opened again. A restricted process cannot do that.
    pub(crate) fn redials(&self) -> bool {
        matches!(self, Self::Guest(_))
    }

    /// Give this machine its own identity: until the node's welcome it may be one of many copies.
    ///
    /// Ends the machine if that fails.
    pub(crate) fn wake(&self, time_unix_ns: u64, seed: &[u8]) {
        if let Self::Guest(guest) = self {
            guest.wake(time_unix_ns, seed);
        }
    }

    /// Make the artifact at a path readable. Blocks until it is, for at most two seconds.
    pub(crate) fn prepare(&self, path: &str) -> Result<(), Failure> {
        match self {
            Self::Process(_) => Ok(()),
            Self::Guest(guest) => guest.mount_artifact(path),
        }
    }

    /// Give up what the agent no longer needs, once its artifact is mapped and before any code of
    /// the application runs. Returns the names of the walls that this kernel does not support.
    pub(crate) fn lock_down(&self) -> Result<Vec<String>, Failure> {
        match self {
            Self::Process(process) => process.lock_down(),
            Self::Guest(_) => Ok(Vec::new()),
        }
    }

    /// Measure the memory that is in use.
    pub(crate) fn measure(&self) -> Result<Memory, Failure> {
        match self {
            Self::Process(process) => process.measure(),
            Self::Guest(guest) => guest.measure(),
        }
    }

    /// How much memory is available, in bytes; `None` if there is no limit or it is unknown.
    pub(crate) fn available(&self) -> Option<usize> {
        let memory = self
            .measure()
            .ok()
            .filter(|memory| memory.total_bytes > 0)?;
        usize::try_from(memory.available_bytes).ok()
    }

    /// End the machine, with this status if it has one.
    pub(crate) fn end(&self, status: i32) -> ! {
        match self {
            Self::Process(_) => std::process::exit(status),
            Self::Guest(guest) => guest.end(),
        }
    }
}
