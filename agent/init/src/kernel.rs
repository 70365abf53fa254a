//! System calls of a guest's first process.
//!
//! The only place of this program that uses `unsafe`: each block is one system call with arguments
//! that this file checks or makes.
#![allow(unsafe_code)]

use core::arch::asm;
use core::ffi::CStr;
use core::ptr;

/// For `mount`: read-only.
pub const READ_ONLY: usize = 1;
/// For `mount`: ignore set-user-ID bits.
pub const NO_SETUID: usize = 2;
/// For `mount`: no device files.
pub const NO_DEVICES: usize = 4;
/// For `mount`: no executable programs.
pub const NO_PROGRAMS: usize = 8;
/// For `mount`: move a mount to another place.
pub const MOVE: usize = 8192;

const READ: usize = 0;
const WRITE: usize = 1;
const OPEN: usize = 2;
const CLOSE: usize = 3;
const IOCTL: usize = 16;
const NANOSLEEP: usize = 35;
const GETPID: usize = 39;
const EXECVE: usize = 59;
const EXIT: usize = 60;
const CHDIR: usize = 80;
const CHROOT: usize = 161;
const MOUNT: usize = 165;
const REBOOT: usize = 169;
const FINIT_MODULE: usize = 313;

const STDERR: usize = 2;
const MOST_ARGUMENTS: usize = 8;
const CLOSE_ON_EXEC: usize = 0x8_0000;
/// `TCSBRK`, which with an argument other than 0 waits until a terminal has written everything.
const DRAIN: usize = 0x5409;
const REBOOT_MAGIC: [usize; 2] = [0xfee1_dead, 0x2812_1969];
const RESTART: usize = 0x0123_4567;

/// An error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub i32);

/// Whether this is the first process of its kernel.
#[must_use]
pub fn is_first() -> bool {
    // SAFETY: takes no argument.
    unsafe { call(GETPID, [0; 5]) == Ok(1) }
}

/// End this process.
pub fn exit(status: usize) -> ! {
    loop {
        // SAFETY: a plain integer.
        let _ = unsafe { call(EXIT, [status, 0, 0, 0, 0]) };
    }
}

/// Mount a file system.
pub fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: usize,
    data: &CStr,
) -> Result<(), Fault> {
    let texts = [source, target, kind, data].map(|text| text.as_ptr() as usize);
    // SAFETY: the kernel reads a number and four texts that end with a zero.
    unsafe { call(MOUNT, [texts[0], texts[1], texts[2], flags, texts[3]]) }.map(drop)
}

/// Read the beginning of a file.
pub fn read<'a>(path: &CStr, into: &'a mut [u8]) -> Result<&'a [u8], Fault> {
    let file = open(path)?;
    // SAFETY: the kernel writes at most as many bytes as the slice has.
    let read = unsafe { call(READ, [file, into.as_mut_ptr() as usize, into.len(), 0, 0]) };
    close(file);
    Ok(into.get(..read?).unwrap_or_default())
}

/// Add a module to the kernel.
pub fn add_module(path: &CStr) -> Result<(), Fault> {
    let file = open(path)?;
    // SAFETY: an open descriptor, an empty text, and a plain integer.
    let added = unsafe { call(FINIT_MODULE, [file, c"".as_ptr() as usize, 0, 0, 0]) };
    close(file);
    added.map(drop)
}

/// Make the file system that is mounted at `root` the root.
pub fn change_root(root: &CStr) -> Result<(), Fault> {
    let directory = |number, path: &CStr| {
        // SAFETY: two calls that read a text which ends with a zero.
        unsafe { call(number, [path.as_ptr() as usize, 0, 0, 0, 0]) }.map(drop)
    };
    directory(CHDIR, root)?;
    mount(c".", c"/", c"", MOVE, c"")?;
    directory(CHROOT, c".")?;
    directory(CHDIR, c"/")
}

/// Replace this process with a program, with these arguments (as many as fit) and without an
/// environment. Returns only if that fails, with the reason.
pub fn run<'a, T>(
    program: &'a CStr,
    arguments: impl Iterator<Item = &'a CStr>,
) -> Result<T, Fault> {
    let mut list = [ptr::null(); MOST_ARGUMENTS + 2];
    // The last place stays null.
    let places = list.iter_mut().take(MOST_ARGUMENTS + 1);
    for (place, argument) in places.zip(core::iter::once(program).chain(arguments)) {
        *place = argument.as_ptr();
    }
    let environment: [*const u8; 1] = [ptr::null()];
    let lists = [list.as_ptr() as usize, environment.as_ptr() as usize];
    // SAFETY: a text, and two lists of texts that end with a null.
    match unsafe {
        call(
            EXECVE,
            [program.as_ptr() as usize, lists[0], lists[1], 0, 0],
        )
    } {
        Err(fault) => Err(fault),
        Ok(_) => restart(),
    }
}

/// Wait for less than a second.
pub fn pause(time_ns: i64) {
    let time = [0_i64, time_ns];
    // SAFETY: the kernel reads two integers.
    let _ = unsafe { call(NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// Write to the console, if there is one.
pub fn say(text: &[u8]) {
    // SAFETY: the kernel reads as many bytes as the slice has.
    let _ = unsafe { call(WRITE, [STDERR, text.as_ptr() as usize, text.len(), 0, 0]) };
}

/// End the machine. Every VMM ends when its guest restarts, but not all do when it powers off.
pub fn restart() -> ! {
    // SAFETY: plain integers. The last output has to leave the console first.
    let _ = unsafe { call(IOCTL, [STDERR, DRAIN, 1, 0, 0]) };
    loop {
        // SAFETY: plain integers.
        let _ = unsafe { call(REBOOT, [REBOOT_MAGIC[0], REBOOT_MAGIC[1], RESTART, 0, 0]) };
    }
}

fn open(path: &CStr) -> Result<usize, Fault> {
    // SAFETY: a text that ends with a zero; for reading.
    unsafe { call(OPEN, [path.as_ptr() as usize, CLOSE_ON_EXEC, 0, 0, 0]) }
}

fn close(file: usize) {
    // SAFETY: a descriptor that `open` returned and nobody else has.
    let _ = unsafe { call(CLOSE, [file, 0, 0, 0, 0]) };
}

/// Make a system call.
///
/// # Safety
///
/// The arguments are valid for this call, and the memory it writes to is ours.
unsafe fn call(number: usize, arguments: [usize; 5]) -> Result<usize, Fault> {
    let [first, second, third, fourth, fifth] = arguments;
    let result: isize;
    // SAFETY: the caller guarantees it; the two registers that the instruction overwrites are
    // named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    usize::try_from(result).map_err(|_| Fault(i32::try_from(-result).unwrap_or(i32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_one_that_is_not_there_is_an_error() {
        let mut line = [0; 4096];
        assert!(read(c"/proc/cmdline", &mut line).is_ok_and(|line| !line.is_empty()));
        assert_eq!(read(c"/proc/not-there", &mut line), Err(Fault(2)));
    }
}
