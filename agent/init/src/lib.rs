//! The first program of a guest: loads its device modules, mounts its root and then becomes the
//! agent, as process 1.
//!
//! It is in the initial RAM disk together with the modules, half a megabyte. The root is on a
//! read-only drive, whose pages the guest's kernel can drop. In the initial RAM disk the agent
//! would take memory for as long as the guest lives.
//!
//! It does not use the standard library, whose start alone takes an emulated CPU longer than
//! everything done here, because code that runs once has to be translated first.
#![cfg_attr(not(test), no_std)]

pub mod kernel;

use core::ffi::CStr;

use kernel::{Fault, MOVE, NO_DEVICES, NO_PROGRAMS, NO_SETUID, READ_ONLY, mount};

const AGENT: &CStr = c"/plexspaces-agent";
const DEVICE: &CStr = c"/dev/vda";

/// Lists of modules: those that every guest needs, and those of each kind of link. One path after
/// another in the order of loading, each followed by a zero.
const BASE: &CStr = c"/modules/base";
const PORT: &CStr = c"/modules/virtio-serial";
const VSOCK: &CStr = c"/modules/vsock";
const LIST_BYTES: usize = 2048;

/// The parameters on the kernel's command line that are passed to the agent.
const OURS: &[u8] = b"plexspaces.";
const LINK: &[u8] = b"plexspaces.link=";
/// The longest command line that a kernel of this architecture accepts.
const LINE_BYTES: usize = 2048;

/// The exit status if something else than a guest's kernel started this program.
const USAGE_STATUS: usize = 2;

const NO_FILES: usize = NO_SETUID | NO_DEVICES | NO_PROGRAMS;
/// How long the drive may take to appear once its driver is loaded.
const TRIES: u32 = 2000;
const PAUSE_NS: i64 = 1_000_000;

/// The whole program.
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
    // One more byte, so that the last word is followed by a zero.
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

/// Return the value, or report the error and end the machine.
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

/// Replace each blank with a zero.
fn end_words(line: &mut [u8]) {
    for byte in line {
        if byte.is_ascii_whitespace() {
            *byte = 0;
        }
    }
}

/// The words with this prefix, each of which is followed by a zero.
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

/// Whether the last link on the kernel's command line is a vsock. The agent parses the rest of it.
fn is_vsock(line: &[u8]) -> bool {
    let last = words(line, LINK).last().map(CStr::to_bytes);
    let kind = last.and_then(|word| rest(word, LINK));
    kind.is_some_and(|kind| rest(kind, b"vsock:").is_some())
}

/// The text after a prefix. Byte by byte, because there is no C library that compares faster.
fn rest<'a>(word: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (begin, rest) = word.split_at_checked(prefix.len())?;
    begin.iter().eq(prefix).then_some(rest)
}

/// Write a number to the end of a buffer and return the part that it takes.
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
