//! The entry point of a guest's first program: see the library beside it.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

use core::arch::naked_asm;
use core::panic::PanicInfo;

use plexspaces_init::{hand_over, kernel};

/// The kernel starts here, with a stack that is aligned as calls expect it.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call {begin}", begin = sym hand_over)
}

#[panic_handler]
fn end(_: &PanicInfo<'_>) -> ! {
    kernel::say(b"plexspaces: the first program panicked\n");
    kernel::restart()
}
