//! The byte stream of the link: a unix socket, a vsock or a virtio port, all the same from here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::{BufMut, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::system;

/// What the kernel takes in one write to a virtio port.
const PORT_WRITE_BYTES: usize = 32 * 1024;

/// A connection to the node. Its descriptor does not block.
#[derive(Debug)]
pub(crate) struct Stream {
    descriptor: AsyncFd<OwnedFd>,
    /// Each write becomes a buffer of the host's: few are better than many.
    is_port: bool,
}

impl Stream {
    /// Take a descriptor that nobody else reads or writes, and make it one that does not block.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        system::set_nonblocking(&descriptor)?;
        Ok(Self {
            descriptor: watched(descriptor, Interest::READABLE | Interest::WRITABLE)?,
            is_port: false,
        })
    }

    /// The same for a virtio port that has a host now: the stream ends when that goes.
    pub(crate) fn of_port(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            is_port: true,
            ..Self::new(descriptor)?
        })
    }

    /// Wait for bytes and append what there is; 0 at the end of the stream.
    pub(crate) async fn read(&self, into: &mut BytesMut) -> io::Result<usize> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            let closed = ready.ready().is_read_closed();
            let read = ready.try_io(|descriptor| {
                let read = system::read(descriptor.as_raw_fd(), into.chunk_mut())?;
                // SAFETY: so many bytes were just written there.
                #[allow(unsafe_code)]
                unsafe {
                    into.advance_mut(read);
                }
                Ok(read)
            });
            match read {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                // A port whose host went and that has another one already: not this stream's.
                Err(_would_block) if closed => return Ok(0),
                Err(_would_block) => {}
            }
        }
    }

    /// Write what the kernel takes now of these parts; `WouldBlock` when it takes nothing.
    pub(crate) fn try_write(&self, parts: &[&[u8]]) -> io::Result<usize> {
        self.descriptor.try_io(Interest::WRITABLE, |descriptor| {
            let descriptor = descriptor.as_raw_fd();
            match parts {
                [first, _, ..] if self.is_port && first.len() < PORT_WRITE_BYTES => {
                    system::write(descriptor, &[&joined(parts)])
                }
                _ => system::write(descriptor, parts),
            }
        })
    }

    /// Wait until the kernel may take more; fails when there is nobody any more to take it.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let mut ready = self.descriptor.writable().await?;
        ready.retain_ready();
        // A port whose host is gone is ready for ever and takes nothing.
        if ready.ready().is_write_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

/// Have the runtime watch a descriptor.
pub(crate) fn watched(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and the same, until what owns it is dropped.
    #[allow(unsafe_code)]
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    watched.map_err(|refused| refused.into_parts().1)
}

/// The beginning of what these parts are together, as much as one write to a port takes.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(PORT_WRITE_BYTES);
    for part in parts {
        let room = PORT_WRITE_BYTES - joined.len();
        joined.extend_from_slice(&part[..part.len().min(room)]);
    }
    joined
}
