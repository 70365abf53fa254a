//! The virtio port as a link: a device file that a host connects to.
//!
//! A port without a host reads as ended and polls as hung up, so waiting until it is readable does
//! not work. But the kernel wakes pollers whenever the host connects or disconnects, and that can
//! be waited for, edge by edge. A host that disconnects and connects again at once may be one edge.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::Interest;

use super::{console, kernel};
use crate::link::stream::{self, Stream};
use crate::system;

/// How long a port may take to appear once its driver is loaded.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);
const GONE: libc::c_short = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;

/// Open the port whose device has this name, and wait without a time limit until a host is
/// connected to it.
pub(super) async fn open(name: &str) -> io::Result<Stream> {
    let (path, begin) = (Path::new("/dev").join(name), Instant::now());
    let port = loop {
        match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && begin.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                console::say(&format!("the port {}: {error}", path.display()));
                return Err(error);
            }
            Ok(port) => break OwnedFd::from(port),
        }
    };
    system::set_nonblocking(&port)?;
    Stream::of_port(host_of(port).await?)
}

async fn host_of(port: OwnedFd) -> io::Result<OwnedFd> {
    let changes = stream::watched(kernel::changes_of(&port)?, Interest::READABLE)?;
    while kernel::poll_now(&port)? & GONE != 0 {
        let mut ready = changes.readable().await?;
        while kernel::seen(changes.get_ref())? {}
        ready.clear_ready();
    }
    discard(port)
}

/// Discard what a disconnected host left unread: the node sends nothing before the hello.
fn discard(port: OwnedFd) -> io::Result<OwnedFd> {
    let mut port = File::from(port);
    let mut unread = [0; 4096];
    loop {
        match port.read(&mut unread) {
            Ok(0) => return Ok(port.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(port.into()),
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    /// A socket pair polls as hung up when its other end is gone, as a port does.
    #[tokio::test(flavor = "current_thread")]
    async fn a_host_that_is_there_is_not_waited_for_and_its_predecessors_words_are_gone()
    -> io::Result<()> {
        let (port, mut host) = UnixStream::pair()?;
        port.set_nonblocking(true)?;
        host.write_all(&[7; 10_000])?;
        let port = host_of(port.into()).await?;
        host.write_all(b"now")?;
        let mut read = [0; 8];
        assert_eq!(File::from(port).read(&mut read)?, 3);
        Ok(())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_without_a_host_is_waited_at() -> io::Result<()> {
        let (port, host) = UnixStream::pair()?;
        drop(host);
        let waiting = host_of(port.into());
        tokio::pin!(waiting);
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending())
        });
        assert!(polled.await);
        Ok(())
    }
}
