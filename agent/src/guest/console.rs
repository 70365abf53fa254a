//! What the guest says to its console: why it ends.
//!
//! The node quotes the last line that begins so as the reason of a machine's end.

use std::io::Write;
use std::panic::{self, PanicHookInfo};

use super::kernel;

/// Have a panic told on the console, in one line, and the machine end with it.
///
/// Without it the line that is left of a panic is the kernel's own, about its first process.
pub(super) fn tell_panics() {
    panic::set_hook(Box::new(|panic| give_up(&told(panic))));
}

/// Say why the machine cannot go on, and end it.
pub(super) fn give_up(why: &str) -> ! {
    say(why);
    kernel::restart()
}

/// Write a line to the console.
pub(super) fn say(line: &str) {
    let line = line.replace(['\r', '\n'], " ");
    // Where there is no console there is nobody to tell.
    let _ = std::io::stderr().write_all(format!("plexspaces: {line}\n").as_bytes());
}

fn told(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(ToString::to_string);
    let what = panic.payload_as_str().unwrap_or("no words");
    format!(
        "the agent panicked at {}: {what}",
        place.unwrap_or_default()
    )
}
