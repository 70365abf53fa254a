//! System calls for which the standard library has no function.
//!
//! One of the places where the crate uses `unsafe`: each block is one call with arguments that this
//! file checks or makes.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use bytes::buf::UninitSlice;

/// Below 1,024, the least number that the kernel accepts at once.
pub(crate) const MOST_PARTS: usize = 64;

/// Make a descriptor non-blocking.
pub(crate) fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    let raw = descriptor.as_raw_fd();
    // SAFETY: plain integers.
    let flags = checked(unsafe { libc::fcntl(raw, libc::F_GETFL) })?;
    // SAFETY: plain integers.
    checked(unsafe { libc::fcntl(raw, libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Read available bytes into memory that need not be initialised.
pub(crate) fn read(descriptor: RawFd, into: &mut UninitSlice) -> io::Result<usize> {
    // SAFETY: the kernel writes at most as many bytes as the slice has.
    let read = unsafe { libc::read(descriptor, into.as_mut_ptr().cast(), into.len()) };
    length(read)
}

/// Write as much of these parts as the kernel accepts.
#[allow(clippy::cast_possible_wrap, reason = "`MOST_PARTS` is far below")]
pub(crate) fn write(descriptor: RawFd, parts: &[&[u8]]) -> io::Result<usize> {
    let mut vectors = [MaybeUninit::<libc::iovec>::uninit(); MOST_PARTS];
    let count = parts.len().min(MOST_PARTS);
    for (vector, part) in vectors.iter_mut().zip(parts) {
        vector.write(libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        });
    }
    // SAFETY: `count` vectors are initialised, each describes a slice, which is only read.
    length(unsafe { libc::writev(descriptor, vectors.as_ptr().cast(), count as libc::c_int) })
}

fn length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Turn the -1 of a system call into its error.
pub(crate) fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Make the C library return the memory of a long message at once.
pub(crate) fn give_back_large() {
    const LARGE_BYTES: libc::c_int = 1024 * 1024;
    // SAFETY: plain integers; called before any other thread is started.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
