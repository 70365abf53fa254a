//! The first program of a guest: loads the modules of its devices, mounts its root and hands over
//! to the agent, which is process 1 in its place.
//!
//! It lies in the initial RAM disk with the modules, half a megabyte. The root lies on a drive,
//! read-only, whose pages the guest's kernel can drop: in the initial RAM disk the agent would take
//! memory for as long as the guest lives.
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
const LIST_BYTES: usize = 2048;

/// What of the kernel's command line is the agent's.
const OURS: &[u8] = b"plexspaces.";
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
    let flags = NO_SETUID | NO_PROGRAMS;
    must(
        c"/dev",
        mount(c"devtmpfs", c"/dev", c"devtmpfs", flags, c""),
    );
    // One more, so that the last word has a zero behind it.
    let mut line = [0; LINE_BYTES + 1];
    let (room, _) = line.split_at_mut(LINE_BYTES);
    must(c"/proc/cmdline", kernel::read(c"/proc/cmdline", room));
    end_words(&mut line);
    load(BASE);
    load(if is_vsock(&line) { VSOCK } else { PORT });
    must(DEVICE, mount_root());
    must(c"/dev", mount(c"/dev", c"/root/dev", c"", MOVE, c""));
    must(c"/root", kernel::change_root(c"/root"));
    must(AGENT, kernel::run(AGENT, words(&line, OURS)))
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

/// Load the modules of a list.
fn load(list: &CStr) {
    let mut paths = [0; LIST_BYTES];
    for path in words(must(list, kernel::read(list, &mut paths)), b"") {
        must(path, kernel::add_module(path));
    }
}

fn mount_root() -> Result<(), Fault> {
    let mut tries = TRIES;
    loop {
        match mount(DEVICE, c"/root", c"erofs", READ_ONLY | NO_DEVICES, c"") {
            Err(_) if tries > 0 => kernel::pause(PAUSE_NS),
            result => return result,
        }
        tries -= 1;
    }
}

/// Put a zero in the place of each blank.
fn end_words(line: &mut [u8]) {
    for byte in line {
        if byte.is_ascii_whitespace() {
            *byte = 0;
        }
    }
}

/// The words that begin so, each of which has a zero behind it.
fn words<'a>(mut line: &'a [u8], prefix: &'a [u8]) -> impl Iterator<Item = &'a CStr> {
    core::iter::from_fn(move || {
        loop {
            let word = CStr::from_bytes_until_nul(line).ok()?;
            line = line
                .get(word.to_bytes_with_nul().len()..)
                .unwrap_or_default();
            if !word.is_empty() && rest(word.to_bytes(), prefix).is_some() {
                return Some(word);
            }
        }
    })
}

/// Whether the link that the kernel's command line names last is a vsock; what it is exactly is the
/// agent's to read.
fn is_vsock(line: &[u8]) -> bool {
    let last = words(line, LINK).last().map(CStr::to_bytes);
    let kind = last.and_then(|word| rest(word, LINK));
    kind.is_some_and(|kind| rest(kind, b"vsock:").is_some())
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

    fn line(text: &str) -> Vec<u8> {
        let mut line = text.as_bytes().to_vec();
        line.push(0);
        end_words(&mut line);
        line
    }

    #[test]
    fn the_last_link_of_the_command_line_says_which_modules_are_wanted() {
        assert!(is_vsock(&line("quiet plexspaces.link=vsock:2:52\n")));
        assert!(!is_vsock(&line(
            "plexspaces.link=vsock:2:52 plexspaces.link=virtio-serial:a"
        )));
        assert!(!is_vsock(&line("xplexspaces.link=vsock:2:52")));
        assert!(!is_vsock(&line("")));
    }

    #[test]
    fn the_agent_is_told_what_is_its_own() {
        let line = line("  quiet plexspaces.vm=a\tro plexspaces.link=b\n");
        let told: Vec<&CStr> = words(&line, OURS).collect();
        assert_eq!(told, [c"plexspaces.vm=a", c"plexspaces.link=b"]);
    }

    #[test]
    fn a_list_of_modules_ends_where_a_zero_is_missing() {
        let paths: Vec<&CStr> = words(b"/a.ko\0/b.ko\0/c", b"").collect();
        assert_eq!(paths, [c"/a.ko", c"/b.ko"]);
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
