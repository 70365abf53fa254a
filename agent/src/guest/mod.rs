//! The agent as the first process of a guest.
//!
//! `plexspaces-init` runs it, once it has loaded the modules of the guest's devices and mounted its
//! root and `/dev`, and hands over what the kernel's command line has for it. Nothing here knows which
//! VMM is outside:
//!
//! ```text
//! plexspaces.vm=ID                      the machine's id, said in the hello, if it is told
//! plexspaces.link=virtio-serial:DEVICE  the virtio port of that name below /dev
//! plexspaces.link=vsock:CID:PORT        a connection to that port of the host
//! plexspaces.template                   it will be copied, once its link is open
//! ```

mod arguments;
mod console;
mod drive;
mod kernel;
mod memory;
mod port;
mod vsock;
mod wake;
mod warm;

use std::io;

use crate::guest::arguments::{Arguments, Link};
use crate::link::proto::Failure;
use crate::link::stream::Stream;
use crate::machine::Memory;

/// The guest, made ready.
#[derive(Debug)]
pub(crate) struct Guest {
    vm_id: String,
    link: Link,
    template: bool,
}

impl Guest {
    /// Read from the command line which guest this is, and make it ready.
    ///
    /// Ends the machine where it cannot be made so.
    pub(crate) fn prepare() -> Result<Self, String> {
        console::tell_panics();
        Self::prepared().or_else(|error| console::give_up(&error))
    }

    fn prepared() -> Result<Self, String> {
        let arguments = Arguments::parse(std::env::args().skip(1))?;
        if arguments.template {
            warm::bring_in().map_err(|error| error.to_string())?;
        }
        Ok(Self {
            vm_id: arguments.vm_id,
            link: arguments.link,
            template: arguments.template,
        })
    }

    /// The machine's id, empty when it is not told.
    pub(crate) fn vm_id(&self) -> &str {
        &self.vm_id
    }

    /// Whether this guest will be copied.
    pub(crate) fn is_template(&self) -> bool {
        self.template
    }

    /// Connect to the node, or wait, without bound, until it has.
    pub(crate) async fn dial(&self) -> io::Result<Stream> {
        match &self.link {
            Link::VirtioSerial { name } => port::open(name).await,
            Link::Vsock { cid, port } => vsock::connect(*cid, *port).await,
        }
    }

    /// Become a machine of one's own: set the clock and draw from fresh randomness.
    ///
    /// Ends the machine where that cannot be had: it would draw the same keys and identifiers as
    /// every other copy of its template.
    #[allow(clippy::unused_self)]
    pub(crate) fn wake(&self, time_unix_ns: u64, seed: &[u8]) {
        if let Err(error) = wake::wake(time_unix_ns, seed) {
            console::give_up(&format!("a copy cannot be told from others: {error}"));
        }
    }

    /// Mount the artifact's drive when `path` lies on it; blocks until it is there, for two seconds
    /// at most.
    #[allow(clippy::unused_self)]
    pub(crate) fn mount_artifact(&self, path: &str) -> Result<(), Failure> {
        drive::mount(path)
    }

    /// Measure the guest's memory.
    #[allow(clippy::unused_self)]
    pub(crate) fn measure(&self) -> Result<Memory, Failure> {
        memory::measure()
    }

    /// End the machine.
    #[allow(clippy::unused_self)]
    pub(crate) fn end(&self) -> ! {
        kernel::restart()
    }
}
