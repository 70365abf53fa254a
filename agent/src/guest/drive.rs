//! The drive that carries the artifact.

use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::kernel;
use crate::link::proto::Failure;

const DIRECTORY: &str = "/artifact/";
const DEVICE: &CStr = c"/dev/vdb";
/// The host writes the drive's content before it sends `Load`, so the kernel may not have noticed
/// it yet.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Mount the drive if `path` is on it and not visible yet.
pub(super) fn mount(path: &str) -> Result<(), Failure> {
    if !path.starts_with(DIRECTORY) || Path::new(path).exists() {
        return Ok(());
    }
    patiently(PATIENCE, mount_now).map_err(|error| {
        Failure::platform(
            "unavailable",
            format!("the artifact's drive cannot be mounted: {}", told(&error)),
        )
        .hint("see the VM's console: plexspaces vms console NAME")
    })
}

fn mount_now() -> io::Result<()> {
    // Executable, because the artifact is machine code and is mapped.
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    kernel::mount(DEVICE, c"/artifact", c"erofs", flags, c"")
}

fn told(error: &io::Error) -> String {
    format!("{}: {error}", DEVICE.to_string_lossy())
}

/// Call `act` until it succeeds or the time is over; then return the last error.
fn patiently<T>(patience: Duration, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let (begin, mut pause) = (Instant::now(), PAUSE);
    loop {
        match act() {
            Err(_) if begin.elapsed() < patience => thread::sleep(pause),
            result => return result,
        }
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_lies_elsewhere_mounts_nothing() {
        // Who runs the tests has no right to mount, or no such drive.
        assert_eq!(mount("/tmp/artifact.cwasm"), Ok(()));
        assert_eq!(mount("/artifacts/artifact.cwasm"), Ok(()));
    }

    #[test]
    fn a_drive_that_is_seen_late_is_mounted() {
        let mut looks = 0;
        let found = patiently(Duration::from_mins(1), || {
            looks += 1;
            if looks < 4 {
                Err(io::ErrorKind::NotFound.into())
            } else {
                Ok(looks)
            }
        });
        assert_eq!(found.ok(), Some(4));
    }

    #[test]
    fn a_drive_that_cannot_be_mounted_is_told_with_the_last_reason() {
        let refused = patiently(Duration::ZERO, || {
            Err::<(), _>(io::Error::other("no such file system"))
        });
        let told = told(&refused.unwrap_err());
        assert_eq!(told, "/dev/vdb: no such file system");
    }
}
