//! The vsock as a link: a connection to a port of the host.

use std::io;

use tokio::io::Interest;

use super::kernel;
use crate::link::stream::{self, Stream};

/// Connect to a port of the host, which has CID 2. The kernel gives up after two seconds.
pub(super) async fn connect(cid: u32, port: u32) -> io::Result<Stream> {
    let socket = stream::watched(kernel::begin_vsock(cid, port)?, Interest::WRITABLE)?;
    socket.writable().await?.retain_ready();
    kernel::connected(socket.get_ref())?;
    Stream::new(socket.into_inner())
}
