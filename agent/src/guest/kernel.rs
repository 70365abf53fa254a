//! System calls that only the first process makes.
//!
//! One of the places where the crate uses `unsafe`: each block is one call with arguments that this
//! file checks or makes.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::system::checked;

/// Mount a file system. The error names the place.
pub(super) fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
) -> io::Result<()> {
    // SAFETY: the kernel reads five values, four of which are texts that end with a zero.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    checked(result).map(drop).map_err(|error| {
        let kind_of = error.kind();
        io::Error::new(
            kind_of,
            format!("{} cannot be mounted: {error}", target.to_string_lossy()),
        )
    })
}

/// Read a file below `/proc`.
///
/// `/proc` is mounted only when it is needed: if it is mounted from the beginning, the C library
/// reads in it about the first thread's stack, which takes an emulated CPU longer than to mount it.
pub(super) fn tell(file: &str) -> io::Result<String> {
    let told = fs::read_to_string(file).or_else(|_| {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        mount(c"proc", c"/proc", c"proc", flags, c"")?;
        fs::read_to_string(file)
    });
    told.map_err(|error| io::Error::new(error.kind(), format!("{file} cannot be read: {error}")))
}

/// Set the clock, in nanoseconds since the epoch.
pub(super) fn set_clock(time_unix_ns: u64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: (time_unix_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (time_unix_ns % 1_000_000_000).cast_signed(),
    };
    // SAFETY: the kernel reads one `timespec`.
    checked(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) }).map(drop)
}

/// Add these bytes to the kernel's random number generator.
pub(super) fn reseed(random: &File, seed: &[u8]) -> io::Result<()> {
    // `struct rand_pool_info`: how many bits, how many bytes, the bytes.
    let length = libc::c_int::try_from(seed.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut pool = Vec::with_capacity(8 + seed.len());
    pool.extend_from_slice(&length.saturating_mul(8).to_ne_bytes());
    pool.extend_from_slice(&length.to_ne_bytes());
    pool.extend_from_slice(seed);
    // SAFETY: the kernel reads what the two lengths at its beginning say, all of it in `pool`.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, pool.as_ptr()) })?;
    // SAFETY: takes no argument.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0) }).map(drop)
}

const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// End the machine. Every VMM ends when its guest restarts, but not all do when it powers off.
pub(super) fn restart() -> ! {
    // The last output must have left the console. If the console is not a terminal this fails, and
    // there is nothing to wait for.
    unsafe { libc::tcdrain(libc::STDERR_FILENO) };
    // SAFETY: a plain integer.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    // Reached only without the right to restart, which the first process has. The kernel panics
    // then.
    std::process::abort()
}

/// Read the memory that is mapped at these addresses of this process, if it is readable.
pub(super) fn bring_in(begin: usize, end: usize) {
    let length = end.saturating_sub(begin);
    // SAFETY: the call changes no content and fails for addresses where nothing is mapped. It is
    // only an optimisation.
    unsafe { libc::madvise(begin as *mut libc::c_void, length, libc::MADV_POPULATE_READ) };
}

/// The current poll events of a virtio port or a socket.
pub(super) fn poll_now(descriptor: &OwnedFd) -> io::Result<libc::c_short> {
    let mut found = libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one `pollfd`, which the kernel reads and writes.
    checked(unsafe { libc::poll(&raw mut found, 1, 0) })?;
    Ok(found.revents)
}

/// Make a descriptor that polls as readable at each change of `descriptor`, until `seen` is called.
pub(super) fn changes_of(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: a plain integer; nobody owns the returned descriptor yet.
    let changes =
        unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET).cast_unsigned(),
        u64: 0,
    };
    let (own, other) = (changes.as_raw_fd(), descriptor.as_raw_fd());
    // SAFETY: descriptors that are open, and one event, which the kernel reads.
    checked(unsafe { libc::epoll_ctl(own, libc::EPOLL_CTL_ADD, other, &raw mut event) })?;
    Ok(changes)
}

/// Consume a change reported by a descriptor of `changes_of`. Returns whether there was one.
pub(super) fn seen(changes: &OwnedFd) -> io::Result<bool> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: the kernel writes one event at most.
    let count = unsafe { libc::epoll_wait(changes.as_raw_fd(), &raw mut event, 1, 0) };
    checked(count).map(|count| count != 0)
}

/// Start to connect to a port of the host. The socket is non-blocking and polls when it is done.
pub(super) fn begin_vsock(cid: u32, port: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain integers; nobody owns the returned descriptor yet.
    let socket = unsafe { OwnedFd::from_raw_fd(checked(libc::socket(libc::AF_VSOCK, kind, 0))?) };
    // SAFETY: a structure of integers, for which zeros are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the kernel reads one address, whose length is given.
    let begun = checked(unsafe {
        libc::connect(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length)
    });
    match begun {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// The result of a connection that `begin_vsock` started.
pub(super) fn connected(socket: &OwnedFd) -> io::Result<()> {
    let mut code: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes one integer and its length.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            ptr::from_mut(&mut code).cast(),
            &raw mut length,
        )
    })?;
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}
