//! The limits that this process sets on itself before it reads anything.
//!
//! The one place of the program that is `unsafe`: each block is one call of the kernel, with plain
//! numbers.
#![allow(unsafe_code)]

use std::io;

/// What bounds this process; what is `None` stays as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of private memory that can be written to, touched or not.
    pub(crate) memory_bytes: Option<u64>,
    /// Of CPU time, of all threads together. The signal says so.
    pub(crate) cpu_s: Option<u64>,
    /// Of each file that is written.
    pub(crate) file_bytes: Option<u64>,
    /// Of open files.
    pub(crate) files: Option<u64>,
    /// The process with which this one ends, however that one does.
    pub(crate) parent: Option<u32>,
}

/// Set the limits, and leave no core dump in any case.
///
/// Fails where the kernel refuses one, and where the parent has ended already.
pub(crate) fn set(limits: &Limits) -> io::Result<()> {
    if let Some(parent) = limits.parent {
        end_with(parent)?;
    }
    bound(libc::RLIMIT_CORE, 0, 0)?;
    if let Some(bytes) = limits.memory_bytes {
        bound(libc::RLIMIT_DATA, bytes, bytes)?;
    }
    if let Some(seconds) = limits.cpu_s {
        // The soft limit's signal tells that it was the time; the hard one's would not.
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
    // SAFETY: plain integers; this program has one thread yet.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if set == -1 {
        return Err(io::Error::last_os_error());
    }
    // It may have ended before: then nothing would ever end this one.
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
    // A lower one that is there already stays: raising it needs a privilege.
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
