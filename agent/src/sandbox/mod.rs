//! Restricts the agent when it is a process of the host.
//!
//! `hold` runs at the beginning: the process dies with its node, has limits, sees only its
//! machine's files, and becomes a user that owns nothing. `lock_down` runs before the application's
//! code: it permanently removes access to the kernel that the agent no longer needs.
//! `docs/process.md` says what each wall prevents, `docs/decisions/015-walls-of-the-agents-own.md`
//! why it is done this way.

pub(crate) mod calls;
pub(crate) mod files;
pub(crate) mod kernel;

use std::path::Path;

use thiserror::Error;

const MIB: u64 = 1024 * 1024;

/// How much the limit on data allows beyond the machine's memory.
///
/// The limit counts private writable pages, whether they were touched or not. It does not count
/// wasmtime's reservations of address space, which nobody can touch (measured: the first memory
/// adds 4,096 MiB to `VmSize` and nothing to `VmData`). Measured on x86-64: the agent 1 MiB; the
/// stack of an actor 32 MiB, see `runner`; each thread beside its first 2 MiB of stack; and for a
/// moment the whole native code, because it is mapped writable first: 36 MiB for `CPython`. The
/// rest is for messages in flight, which are held three times, and larger artifacts.
pub(crate) const DATA_RESERVE_MIB: u64 = 288;

/// The maximum size of the console log, the one file that the agent can write.
pub(crate) const FILE_LIMIT_BYTES: u64 = 16 * MIB;

/// The link, the console, and what the runtimes wait with.
pub(crate) const DESCRIPTOR_LIMIT: u64 = 256;

/// Threads count too. Only a user of the machine's own can be counted.
pub(crate) const THREAD_LIMIT: u64 = 128;

/// The restrictions of this process. Those that are not given are not applied.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Hold {
    /// The process that started this one and with which it dies.
    pub(crate) node_pid: Option<u32>,
    /// The machine's memory; the limit on data adds a reserve.
    pub(crate) memory_mib: Option<u64>,
    /// The user and group to become.
    pub(crate) uid: Option<u32>,
}

/// Why the restrictions failed, although this kernel supports them.
#[derive(Debug, Error)]
pub(crate) enum HoldError {
    /// The node ended before this process was tied to it.
    #[error("the node, process {0}, has ended")]
    NodeEnded(u32),
    /// The kernel refused a step.
    #[error("{step}: {error}")]
    Refused {
        /// What was asked.
        step: &'static str,
        /// Its answer.
        error: std::io::Error,
    },
    /// Landlock's rules were refused.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The machine's directory cannot be opened.
    #[error("Landlock: {0}")]
    Directory(#[from] landlock::PathFdError),
    /// The system call filter was refused.
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
    /// The system call filter is invalid.
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::BackendError),
}

/// Restrict this process, which still has only one thread, as `hold` says. Its files are those in
/// `directory`.
///
/// Whatever it needs later, above all the link, must be open. Returns the walls that this kernel
/// does not support.
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
    // Other processes of the same user must not read this one's memory or descriptors.
    kernel::forbid_inspection().map_err(refused("no inspection"))?;
    // Again, because the kernel forgets the death signal when the user changes.
    tie(hold.node_pid)?;
    Ok(missing)
}

/// Take from all threads what an agent no longer needs once its artifact is mapped.
///
/// Returns the walls that this kernel does not support.
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
    // The node may have ended before the signal was set up: then another process is the parent.
    if std::os::unix::process::parent_id() == node_pid {
        return Ok(());
    }
    Err(HoldError::NodeEnded(node_pid))
}

fn limit(hold: &Hold) -> std::io::Result<()> {
    // If the console is full, the write fails, and the machine goes on.
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
