//! The limits that this process sets for itself before it reads anything.
//!
//! The only place of the program that uses `unsafe`: each block is one system call with plain
//! numbers.
#![allow(unsafe_code)]

use std::io;

/// The limits of this process; `None` leaves a limit unchanged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Private writable memory, touched or not.
    pub(crate) memory_bytes: Option<u64>,
    /// CPU time of all threads together. The signal says which limit it was.
    pub(crate) cpu_s: Option<u64>,
    /// The size of each file that is written.
    pub(crate) file_bytes: Option<u64>,
    /// Open files.
    pub(crate) files: Option<u64>,
    /// The process whose end, however it comes, also ends this one.
    pub(crate) parent: Option<u32>,
}

/// Set the limits, and never leave a core dump.
///
/// Fails if the kernel refuses one, or if the parent has already ended.
pub(crate) fn set(limits: &Limits) -> io::Result<()> {
    if let Some(parent) = limits.parent {
        end_with(parent)?;
    }
    bound(libc::RLIMIT_CORE, 0, 0)?;
    if let Some(bytes) = limits.memory_bytes {
        bound(libc::RLIMIT_DATA, bytes, bytes)?;
    }
    if let Some(seconds) = limits.cpu_s {
        // The soft limit's signal shows that it was the time; the hard limit's would not.
        bound(libc::RLIMIT_CPU, seconds, seconds.saturating_add(1))?;
    }
    if let Some(bytes) = limits.file_bytes {
        bound(libc::RLIMIT_FSIZE, bytes, bytes)?;
    }
    if let Some(files) = limits.files {
        bound(libc::RLIMIT_NOFILE, files, files)?;
    }
    Ok(())
}

fn end_with(parent: u32) -> io::Result<()> {
    // SAFETY: plain integers; this program still has only one thread.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if set == -1 {
        return Err(io::Error::last_os_error());
    }
    // It may have ended before: then nothing would ever end this process.
    if std::os::unix::process::parent_id() != parent {
        return Err(io::Error::other(format!("its parent {parent} has ended")));
    }
    Ok(())
}

fn bound(what: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let mut there = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: it writes to a structure of this function.
    if unsafe { libc::getrlimit(what, &raw mut there) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // A lower limit stays: raising it needs a privilege.
    let wanted = libc::rlimit {
        rlim_cur: soft.min(there.rlim_max),
        rlim_max: hard.min(there.rlim_max),
    };
    // SAFETY: it reads a structure of this function.
    if unsafe { libc::setrlimit(what, &raw const wanted) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
