//! The first program of a guest: loads the modules of its devices, mounts its root and hands over
//! to the agent, which is process 1 in its place.
//!
//! It lies in the initial RAM disk with the modules, and all of that is gone from memory
//! afterwards. The root lies on a drive, read-only, whose pages the guest's kernel can drop: in an
//! initial RAM disk the agent would take memory for as long as the guest lives.
//!
//! Without the standard library, whose start alone takes an emulated CPU longer than all that is done
//! here: what runs once has to be translated first.
#![cfg_attr(not(test), no_std)]

pub mod kernel;

use core::ffi::CStr;

use kernel::{Fault, MOVE, NO_DEVICES, NO_PROGRAMS, NO_SETUID, READ_ONLY, mount};

const AGENT: &CStr = c"/plexspaces-agent";
const DEVICE: &CStr = c"/dev/vda";

/// Lists of modules: of what every guest needs, and of each kind of link. A path after another, in
/// the order of loading, each with a zero behind it.
const BASE: &CStr = c"/modules/base";
const PORT: &CStr = c"/modules/virtio-serial";
const VSOCK: &CStr = c"/modules/vsock";
const LIST_BYTES: usize = 1024;

const LINK: &[u8] = b"plexspaces.link=";
/// The longest command line a kernel of this architecture takes.
const LINE_BYTES: usize = 2048;

/// Of a program that was started elsewhere.
const USAGE_STATUS: usize = 2;

const NO_FILES: usize = NO_SETUID | NO_DEVICES | NO_PROGRAMS;
/// For the drive to be seen once its driver is loaded.
const TRIES: u32 = 2000;
const PAUSE_NS: i64 = 1_000_000;

/// What is done, from the first instruction to the last.
pub fn hand_over() -> ! {
    if !kernel::is_first() {
        kernel::say(b"plexspaces-init: only a guest's kernel can start this program\n");
        kernel::exit(USAGE_STATUS);
    }
    must(c"/proc", mount(c"proc", c"/proc", c"proc", NO_FILES, c""));
    must(c"/sys", mount(c"sysfs", c"/sys", c"sysfs", NO_FILES, c""));
    let flags = NO_SETUID | NO_PROGRAMS;
    must(
        c"/dev",
        mount(c"devtmpfs", c"/dev", c"devtmpfs", flags, c""),
    );
    let mut line = [0; LINE_BYTES];
    let line = must(c"/proc/cmdline", kernel::read(c"/proc/cmdline", &mut line));
    load(BASE);
    load(if is_vsock(line) { VSOCK } else { PORT });
    must(DEVICE, mount_root());
    must(c"/proc", mount(c"/proc", c"/root/proc", c"", MOVE, c""));
    must(c"/sys", mount(c"/sys", c"/root/sys", c"", MOVE, c""));
    must(c"/dev", mount(c"/dev", c"/root/dev", c"", MOVE, c""));
    must(c"/init", kernel::remove(c"/init"));
    must(c"/root", kernel::change_root(c"/root"));
    must(AGENT, kernel::run(AGENT))
}

/// The value, or the end of the machine with a word about it.
fn must<T>(what: &CStr, result: Result<T, Fault>) -> T {
    match result {
        Ok(value) => value,
        Err(fault) => {
            let mut digits = [0; 10];
            for part in [
                b"plexspaces: ",
                what.to_bytes(),
                b": error ",
                decimal(fault.0, &mut digits),
                b" of the kernel\n",
            ] {
                kernel::say(part);
            }
            kernel::restart()
        }
    }
}

/// Load the modules of a list and let go of their files: what lies in the initial RAM disk is
/// memory.
fn load(list: &CStr) {
    let mut paths = [0; LIST_BYTES];
    let mut paths = must(list, kernel::read(list, &mut paths));
    while let Ok(path) = CStr::from_bytes_until_nul(paths) {
        must(path, kernel::add_module(path));
        must(path, kernel::remove(path));
        paths = paths
            .get(path.to_bytes_with_nul().len()..)
            .unwrap_or_default();
    }
    must(list, kernel::remove(list));
}

fn mount_root() -> Result<(), Fault> {
    let mut tries = TRIES;
    loop {
        match mount(DEVICE, c"/root", c"ext4", READ_ONLY | NO_DEVICES, c"noload") {
            Err(_) if tries > 0 => kernel::pause(PAUSE_NS),
            result => return result,
        }
        tries -= 1;
    }
}

/// Whether the link that the kernel's command line names last is a vsock; what it is exactly is the
/// agent's to read.
fn is_vsock(line: &[u8]) -> bool {
    let words = line.split(u8::is_ascii_whitespace);
    let mut links = words.filter_map(|word| rest(word, LINK));
    let last = links.next_back();
    last.is_some_and(|link| rest(link, b"vsock:").is_some())
}

/// What follows a prefix. Byte by byte, for there is no C library that compares more at once.
fn rest<'a>(word: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (begin, rest) = word.split_at_checked(prefix.len())?;
    begin.iter().eq(prefix).then_some(rest)
}

/// Write a number into a buffer, from its end; what of that is the number.
fn decimal(mut number: i32, buffer: &mut [u8; 10]) -> &[u8] {
    let mut begin = buffer.len();
    for byte in buffer.iter_mut().rev() {
        *byte = b'0' + (number % 10).unsigned_abs() as u8;
        number /= 10;
        begin -= 1;
        if number == 0 {
            break;
        }
    }
    buffer.get(begin..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_link_of_the_command_line_says_which_modules_are_wanted() {
        assert!(is_vsock(b"quiet plexspaces.link=vsock:2:52\n"));
        assert!(!is_vsock(
            b"plexspaces.link=vsock:2:52 plexspaces.link=virtio-serial:a"
        ));
        assert!(!is_vsock(b"xplexspaces.link=vsock:2:52"));
        assert!(!is_vsock(b""));
    }

    #[test]
    fn numbers_are_told_as_they_are_written() {
        let told = |number| String::from_utf8_lossy(decimal(number, &mut [0; 10])).into_owned();
        assert_eq!(
            [told(0), told(7), told(22), told(i32::MAX)],
            ["0", "7", "22", "2147483647"]
        );
    }
}
