//! The agent as a child process of the node.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::link::proto::Failure;
use crate::link::stream::Stream;
use crate::machine::Memory;
use crate::sandbox::{self, Hold, kernel};

/// Where the kernel reports what this process has allocated.
const STATUS: &str = "/proc/self/status";

/// More than the kernel ever writes there.
const STATUS_BYTES: usize = 16 * 1024;

/// The process, restricted as its command line says.
#[derive(Debug)]
pub(crate) struct Process {
    vm_id: String,
    /// Open from the beginning: the restricted process cannot open it.
    link: Mutex<Option<UnixStream>>,
    status: File,
    /// The walls that this kernel does not support.
    missing: Vec<&'static str>,
}

#[derive(Debug, Default)]
struct Options {
    vm_id: Option<String>,
    link: Option<PathBuf>,
    hold: Hold,
}

impl Process {
    /// Connect to the node and apply the restrictions of the command line: `plexspaces-agent
    /// --vm-id ID --link PATH [--node-pid PID] [--memory-mib MIB] [--uid UID]`.
    ///
    /// Must be called while there is only one thread. The directory of PATH holds the machine's
    /// files.
    pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let options = Options::parse(arguments)?;
        let vm_id = options.vm_id.ok_or("--vm-id ID is missing")?;
        let link = options.link.ok_or("--link PATH is missing")?;
        let opened = |path: &Path, error| format!("{}: {error}", path.display());
        // Opens the random number device, which stays open: the restricted process cannot open it.
        getrandom::fill(&mut [0]).map_err(|error| format!("no random numbers: {error}"))?;
        let status = File::open(STATUS).map_err(|error| opened(Path::new(STATUS), error))?;
        let stream = UnixStream::connect(&link).map_err(|error| opened(&link, error))?;
        let directory = link.parent().ok_or("--link PATH has no directory")?;
        let missing = sandbox::hold(&options.hold, directory).map_err(|error| error.to_string())?;
        Ok(Self {
            vm_id,
            link: Mutex::new(Some(stream)),
            status,
            missing,
        })
    }

    /// The machine's id.
    pub(crate) fn vm_id(&self) -> &str {
        &self.vm_id
    }

    /// Return the connection to the node. A process has only one.
    pub(crate) fn dial(&self) -> io::Result<Stream> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = link.take().ok_or(io::ErrorKind::NotConnected)?;
        Stream::new(OwnedFd::from(stream))
    }

    /// Give up what an agent no longer needs once its artifact is mapped. Must be called only once.
    ///
    /// Returns the names of the walls that this kernel does not support.
    pub(crate) fn lock_down(&self) -> Result<Vec<String>, Failure> {
        let late = sandbox::lock_down().map_err(|error| {
            Failure::platform(
                "internal",
                format!("the agent's restrictions cannot be applied: {error}"),
            )
        })?;
        let all = self.missing.iter().chain(&late);
        Ok(all.map(ToString::to_string).collect())
    }

    /// Measure how much of its limit this process has allocated.
    ///
    /// Both count private writable pages, whether they were touched or not.
    pub(crate) fn measure(&self) -> Result<Memory, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::platform("unavailable", format!("{STATUS} cannot be read: {error}"))
        };
        let used_bytes = self.allocated_bytes().map_err(|error| failed(&error))?;
        let limit = kernel::limit_now(libc::RLIMIT_DATA).map_err(|error| failed(&error))?;
        Ok(Memory {
            guest: false,
            total_bytes: limit.unwrap_or(0),
            used_bytes,
            available_bytes: limit.map_or(0, |limit| limit.saturating_sub(used_bytes)),
        })
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        let mut text = [0; STATUS_BYTES];
        let length = self.status.read_at(&mut text, 0)?;
        let told = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
        data_kib(&told)
            .map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::other("it has no VmData"))
    }
}

/// Restrict this process as a machine's agent is, and return the missing walls as JSON.
///
/// The node calls it to find out what this host supports: `plexspaces-agent --probe [--uid UID …]`.
pub(crate) fn probe(arguments: impl Iterator<Item = String>) -> Result<String, String> {
    let options = Options::parse(arguments)?;
    getrandom::fill(&mut [0]).map_err(|error| format!("no random numbers: {error}"))?;
    let mut missing =
        sandbox::hold(&options.hold, Path::new(".")).map_err(|error| error.to_string())?;
    missing.extend(sandbox::lock_down().map_err(|error| error.to_string())?);
    let names: Vec<String> = missing.iter().map(|name| format!("\"{name}\"")).collect();
    Ok(format!("{{\"missing_walls\": [{}]}}", names.join(", ")))
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--vm-id" => options.vm_id = Some(value),
                "--link" => options.link = Some(PathBuf::from(value)),
                "--node-pid" => options.hold.node_pid = Some(number(&name, &value)?),
                "--memory-mib" => options.hold.memory_mib = Some(number(&name, &value)?),
                "--uid" => options.hold.uid = Some(number(&name, &value)?),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{name} {value} is not a number or is out of range"))
}

/// Read how much a process has allocated, in KiB, from its status.
fn data_kib(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmData:"))?;
    line.split_whitespace().next()?.parse().ok()
}
