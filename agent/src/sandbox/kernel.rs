//! System calls by which a process gives up rights.
//!
//! One of the places where the crate uses `unsafe`: each block is one call with arguments that this
//! file makes.
#![allow(unsafe_code)]

use std::io;
use std::ptr::null;

use crate::system::checked;

/// The argument of `setrlimit`: its type differs between C libraries.
pub(crate) type Resource = libc::__rlimit_resource_t;

/// `_LINUX_CAPABILITY_VERSION_3`, with two words per set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
const LAST_POSSIBLE_CAPABILITY: libc::c_ulong = 63;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Make the kernel kill this process when the thread that started it ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: plain integers.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    Ok(())
}

/// Never gain privileges by executing a program.
pub(crate) fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: plain integers; the unused ones must be 0.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

/// Keep processes of the same user from tracing this one, and from reading what belongs to root in
/// /proc.
pub(crate) fn forbid_inspection() -> io::Result<()> {
    // SAFETY: plain integers; the unused ones must be 0.
    checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    Ok(())
}

/// If a file would become too long, get an error and no signal.
pub(crate) fn ignore_file_limit_signal() -> io::Result<()> {
    // SAFETY: no function of ours is registered.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Set a limit permanently. A limit that is already lower stays.
pub(crate) fn set_limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = most.min(limit(resource)?.rlim_max);
    let wanted = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the kernel reads one structure that lives here.
    checked(unsafe { libc::setrlimit(resource, &raw const wanted) })?;
    Ok(())
}

/// Return the current limit; None if there is none.
pub(crate) fn limit_now(resource: Resource) -> io::Result<Option<u64>> {
    let now = limit(resource)?.rlim_cur;
    Ok((now != libc::RLIM_INFINITY).then_some(now))
}

fn limit(resource: Resource) -> io::Result<libc::rlimit> {
    let mut found = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one structure that lives here.
    checked(unsafe { libc::getrlimit(resource, &raw mut found) })?;
    Ok(found)
}

/// Whether this process has root's rights.
pub(crate) fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}

/// Drop the capabilities that a program executed by this process could have.
///
/// Not being allowed to is no error: without new privileges there are none to get that way.
pub(crate) fn drop_bounding_set() {
    for capability in 0..=LAST_POSSIBLE_CAPABILITY {
        // SAFETY: plain integers; the unused ones must be 0.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            return;
        }
    }
}

/// Become a user and its group, in no other group, permanently.
pub(crate) fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: a list of no groups.
    checked(unsafe { libc::setgroups(0, null()) })?;
    // SAFETY: plain integers.
    checked(unsafe { libc::setresgid(id, id, id) })?;
    // SAFETY: plain integers.
    checked(unsafe { libc::setresuid(id, id, id) })?;
    Ok(())
}

/// Give up every capability.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let none = [CapabilitySets {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: the kernel reads a header and, of this version, two sets.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// End this process at once, without running any cleanup.
#[cfg(test)]
pub(crate) fn leave(status: i32) -> ! {
    // SAFETY: does not return, and runs nothing of ours.
    unsafe { libc::_exit(status) }
}

/// Make a system call with these arguments; a test's way to what the agent itself never asks for.
#[cfg(test)]
pub(crate) fn call(number: libc::c_long, arguments: [usize; 6]) -> io::Result<i64> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the tests pass integers, and addresses of what lives until the call returns.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
