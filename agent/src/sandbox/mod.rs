//! What holds the agent where it is a process of the host.
//!
//! `hold` is for the beginning: the process dies with its node, has limits, sees no file but its
//! machine's, and is a user that owns nothing. `lock_down` is for the moment before an application's
//! code runs: what the agent needs no more of the kernel is taken from it for good. Which of it holds
//! what is `docs/process.md`'s, why it is so `docs/decisions/015-walls-of-the-agents-own.md`'s.

pub(crate) mod calls;
pub(crate) mod files;
pub(crate) mod kernel;

use std::path::Path;

use thiserror::Error;

const MIB: u64 = 1024 * 1024;

/// What the limit on data allows beyond the machine's memory.
///
/// The limit counts private writable pages whether they were touched or not, and not wasmtime's
/// reservations of address space, which nobody may touch (measured: the first memory adds 4,096 MiB
/// to `VmSize` and nothing to `VmData`). Measured on x86-64: the agent 1 MiB; the stack of an actor
/// 32 MiB, see `runner`; each thread beside its first 2 MiB of stack; and for a moment the whole native code, because it is mapped writable
/// first: 36 MiB for `CPython`. The rest is for messages in flight, which are held three times, and
/// larger artifacts.
pub(crate) const DATA_RESERVE_MIB: u64 = 288;

/// The longest that the console log, the one file the agent can write, may become.
pub(crate) const FILE_LIMIT_BYTES: u64 = 16 * MIB;

/// The link, the console, what the runtimes wait with.
pub(crate) const DESCRIPTOR_LIMIT: u64 = 256;

/// Threads count too; only a user of the machine's own can be counted.
pub(crate) const THREAD_LIMIT: u64 = 128;

/// What is to hold this process; what is not said is not done.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Hold {
    /// The process that started this one, with which it dies.
    pub(crate) node_pid: Option<u32>,
    /// The machine's memory, to which the limit on data adds a reserve.
    pub(crate) memory_mib: Option<u64>,
    /// The user and group to become.
    pub(crate) uid: Option<u32>,
}

/// Why the walls could not be raised, though this kernel has them.
#[derive(Debug, Error)]
pub(crate) enum HoldError {
    /// The node ended before this process could be tied to it.
    #[error("the node, process {0}, has ended")]
    NodeEnded(u32),
    /// The kernel refused a step.
    #[error("{step}: {error}")]
    Refused {
        /// What was asked of it.
        step: &'static str,
        /// Its answer.
        error: std::io::Error,
    },
    /// The rules for files were refused.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The machine's directory cannot be opened.
    #[error("Landlock: {0}")]
    Directory(#[from] landlock::PathFdError),
    /// The filter of system calls was refused.
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
    /// The filter of system calls is none.
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::BackendError),
}

/// Hold this process, which has one thread as yet, as `hold` says; its files are `directory`'s.
///
/// What must be open before, the link above all, is open. Returns the walls that this kernel lacks.
pub(crate) fn hold(hold: &Hold, directory: &Path) -> Result<Vec<&'static str>, HoldError> {
    let refused = |step| move |error| HoldError::Refused { step, error };
    tie(hold.node_pid)?;
    kernel::forbid_new_privileges().map_err(refused("no new privileges"))?;
    limit(hold).map_err(refused("limits"))?;
    let missing = files::restrict(directory)?;
    if kernel::is_root() {
        kernel::drop_bounding_set();
    }
    if let Some(uid) = hold.uid {
        kernel::become_user(uid).map_err(refused("a user of its own"))?;
    }
    kernel::drop_capabilities().map_err(refused("no capabilities"))?;
    // Another process of the same user shall read neither memory nor descriptors of this one.
    kernel::forbid_inspection().map_err(refused("no inspection"))?;
    // Once more: the kernel forgets the death signal when the user changes.
    tie(hold.node_pid)?;
    Ok(missing)
}

/// Take from all threads what an agent whose artifact is mapped needs no more.
///
/// Returns the walls that this kernel lacks.
pub(crate) fn lock_down() -> Result<Vec<&'static str>, HoldError> {
    files::close_directory()?;
    Ok(if calls::restrict()? {
        Vec::new()
    } else {
        vec!["seccomp"]
    })
}

fn tie(node_pid: Option<u32>) -> Result<(), HoldError> {
    let Some(node_pid) = node_pid else {
        return Ok(());
    };
    kernel::die_with_parent().map_err(|error| HoldError::Refused {
        step: "a death signal",
        error,
    })?;
    // It may have ended before there was a signal to send: then this is somebody else's child.
    if std::os::unix::process::parent_id() == node_pid {
        return Ok(());
    }
    Err(HoldError::NodeEnded(node_pid))
}

fn limit(hold: &Hold) -> std::io::Result<()> {
    // A console that is full is an error of the write and not the end of the machine.
    kernel::ignore_file_limit_signal()?;
    kernel::set_limit(libc::RLIMIT_NOFILE, DESCRIPTOR_LIMIT)?;
    kernel::set_limit(libc::RLIMIT_CORE, 0)?;
    kernel::set_limit(libc::RLIMIT_FSIZE, FILE_LIMIT_BYTES)?;
    if let Some(memory_mib) = hold.memory_mib {
        let data = memory_mib
            .saturating_add(DATA_RESERVE_MIB)
            .saturating_mul(MIB);
        kernel::set_limit(libc::RLIMIT_DATA, data)?;
    }
    if hold.uid.is_some() {
        kernel::set_limit(libc::RLIMIT_NPROC, THREAD_LIMIT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
