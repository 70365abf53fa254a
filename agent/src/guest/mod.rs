//! The agent as the first process of a guest.
//!
//! `plexspaces-init` runs it after it has loaded the modules of the guest's devices and mounted its
//! root and `/dev`, and passes on its parameters from the kernel's command line. Nothing here
//! depends on the VMM outside:
//!
//! ```text
//! plexspaces.vm=ID                      the machine's id, sent in the hello, if given
//! plexspaces.link=virtio-serial:DEVICE  the virtio port of that name below /dev
//! plexspaces.link=vsock:CID:PORT        a connection to that port of the host
//! plexspaces.template                   the machine will be copied once its link is open
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

/// The prepared guest.
#[derive(Debug)]
pub(crate) struct Guest {
    vm_id: String,
    link: Link,
    template: bool,
}

impl Guest {
    /// Read the guest's parameters from the command line and prepare it.
    ///
    /// Ends the machine if that fails.
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

    /// The machine's id, or empty if it was not given.
    pub(crate) fn vm_id(&self) -> &str {
        &self.vm_id
    }

    /// Whether this guest will be copied.
    pub(crate) fn is_template(&self) -> bool {
        self.template
    }

    /// Connect to the node, or wait without a time limit until it has connected.
    pub(crate) async fn dial(&self) -> io::Result<Stream> {
        match &self.link {
            Link::VirtioSerial { name } => port::open(name).await,
            Link::Vsock { cid, port } => vsock::connect(*cid, *port).await,
        }
    }

    /// Give this machine its own identity: set the clock and add fresh randomness.
    ///
    /// Ends the machine if that fails, because it would generate the same keys and identifiers as
    /// every other copy of its template.
    #[allow(clippy::unused_self)]
    pub(crate) fn wake(&self, time_unix_ns: u64, seed: &[u8]) {
        if let Err(error) = wake::wake(time_unix_ns, seed) {
            console::give_up(&format!(
                "this copy cannot get its own time and randomness: {error}"
            ));
        }
    }

    /// Mount the artifact's drive if `path` is on it. Blocks until it is there, for at most two
    /// seconds.
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
