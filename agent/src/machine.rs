//! The machine around the agent: a process of the host, or a guest whose first process it is.

use std::io;

use crate::guest::Guest;
use crate::link::proto::Failure;
use crate::link::stream::Stream;
use crate::process::Process;

/// How much memory is in use: of a whole guest, or of the agent's process alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Of a whole guest.
    pub(crate) guest: bool,
    /// What there is, for a process what its limit allows; 0 for no limit.
    pub(crate) total_bytes: u64,
    /// What of it cannot be had; for a process what it has allocated.
    pub(crate) used_bytes: u64,
    /// What more can be had; 0 where there is no limit.
    pub(crate) available_bytes: u64,
}

/// What the agent asks of the machine it runs in.
#[derive(Debug)]
pub(crate) enum Machine {
    /// A child process of the node.
    Process(Process),
    /// A virtual machine.
    Guest(Guest),
}

impl Machine {
    /// The machine's id, empty when it is not told.
    pub(crate) fn vm_id(&self) -> &str {
        match self {
            Self::Process(process) => process.vm_id(),
            Self::Guest(guest) => guest.vm_id(),
        }
    }

    /// Whether this machine will be copied: what is done before it dials, its copies have.
    pub(crate) fn is_template(&self) -> bool {
        match self {
            Self::Process(_) => false,
            Self::Guest(guest) => guest.is_template(),
        }
    }

    /// Connect to the node; waits for it where the node is the end that connects.
    pub(crate) async fn dial(&self) -> io::Result<Stream> {
        match self {
            Self::Process(process) => process.dial(),
            Self::Guest(guest) => guest.dial().await,
        }
    }

    /// Whether a link that broke can be opened again: behind the walls of a process it cannot.
    pub(crate) fn redials(&self) -> bool {
        matches!(self, Self::Guest(_))
    }

    /// Become a machine of one's own: until the node's welcome it may be one of many copies.
    ///
    /// Ends the machine where that cannot be had.
    pub(crate) fn wake(&self, time_unix_ns: u64, seed: &[u8]) {
        if let Self::Guest(guest) = self {
            guest.wake(time_unix_ns, seed);
        }
    }

    /// Make the artifact at a path readable; blocks until it is, for two seconds at most.
    pub(crate) fn prepare(&self, path: &str) -> Result<(), Failure> {
        match self {
            Self::Process(_) => Ok(()),
            Self::Guest(guest) => guest.mount_artifact(path),
        }
    }

    /// Give up what the agent needs no more, once its artifact is mapped and before any of the
    /// application's code runs. Returns the names of the walls that this kernel does not have.
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

    /// How much memory can be had, in bytes; `None` where there is no limit or nobody knows.
    pub(crate) fn available(&self) -> Option<usize> {
        let memory = self
            .measure()
            .ok()
            .filter(|memory| memory.total_bytes > 0)?;
        usize::try_from(memory.available_bytes).ok()
    }

    /// End the machine, with this status where it has one.
    pub(crate) fn end(&self, status: i32) -> ! {
        match self {
            Self::Process(_) => std::process::exit(status),
            Self::Guest(guest) => guest.end(),
        }
    }
}
