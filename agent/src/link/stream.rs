//! The byte stream of the link: a unix socket, a vsock or a virtio port, behind one interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use bytes::{BufMut, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::system;

/// How much the kernel accepts in one write to a virtio port.
const PORT_WRITE_BYTES: usize = 32 * 1024;

/// A connection to the node. Its descriptor is non-blocking.
#[derive(Debug)]
pub(crate) struct Stream {
    descriptor: AsyncFd<OwnedFd>,
    /// The same, watched only while something has to wait until it is writable: a socket becomes
    /// that with each read of the node, and would wake the thread.
    writing: OwnedFd,
    /// Each write becomes a buffer of the host's, so few large ones are better than many.
    is_port: bool,
}

impl Stream {
    /// Take over a descriptor that nobody else reads or writes, and make it non-blocking.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        system::set_nonblocking(&descriptor)?;
        Ok(Self {
            writing: descriptor.try_clone()?,
            descriptor: watched(descriptor, Interest::READABLE)?,
            is_port: false,
        })
    }

    /// The same for a virtio port that has a host now. The stream ends when the host disconnects.
    pub(crate) fn of_port(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            is_port: true,
            ..Self::new(descriptor)?
        })
    }

    /// Wait for bytes and append them. Returns 0 at the end of the stream.
    pub(crate) async fn read(&self, into: &mut BytesMut) -> io::Result<usize> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            let closed = ready.ready().is_read_closed();
            let room = into.chunk_mut().len();
            let read = ready.try_io(|descriptor| {
                let read = system::read(descriptor.as_raw_fd(), into.chunk_mut())?;
                // SAFETY: this many bytes were just written there.
                #[allow(unsafe_code)]
                unsafe {
                    into.advance_mut(read);
                }
                Ok(read)
            });
            match read {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => {
                    // Less than there is room for was all of a socket, so that asking for more would
                    // be in vain. Of a port it was one buffer.
                    if !self.is_port && result.as_ref().is_ok_and(|&read| read < room) {
                        ready.clear_ready();
                    }
                    return result;
                }
                // The host disconnected and another one is already connected: that is not this
                // stream's.
                Err(_would_block) if closed => return Ok(0),
                Err(_would_block) => {}
            }
        }
    }

    /// Write as much of these parts as the kernel accepts now; `WouldBlock` if nothing.
    pub(crate) fn try_write(&self, parts: &[&[u8]]) -> io::Result<usize> {
        let descriptor = self.writing.as_raw_fd();
        match parts {
            [first, _, ..] if self.is_port && first.len() < PORT_WRITE_BYTES => {
                system::write(descriptor, &[&joined(parts)])
            }
            _ => system::write(descriptor, parts),
        }
    }

    /// Wait until the kernel may accept more. Fails if the other end is gone.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let watched = watched(self.writing.as_fd(), Interest::WRITABLE)?;
        // A port whose host is gone is always ready and accepts nothing.
        if watched.writable().await?.ready().is_write_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

/// Register a descriptor with the runtime.
pub(crate) fn watched<T: AsFd + AsRawFd>(
    descriptor: T,
    interest: Interest,
) -> io::Result<AsyncFd<T>> {
    // SAFETY: an owned or borrowed descriptor stays open and the same until it is dropped.
    #[allow(unsafe_code)]
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    watched.map_err(|refused| refused.into_parts().1)
}

/// The beginning of these parts, as much as one write to a port accepts.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(PORT_WRITE_BYTES);
    for part in parts {
        let room = PORT_WRITE_BYTES - joined.len();
        joined.extend_from_slice(&part[..part.len().min(room)]);
    }
    joined
}
