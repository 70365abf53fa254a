//! What the agent writes to the guest's console: why the guest ends.
//!
//! The node quotes the last line with this prefix as the reason why a machine ended.

use std::io::Write;
use std::panic::{self, PanicHookInfo};

use super::kernel;

/// Report a panic on the console, in one line, and end the machine.
///
/// Without this, the last line after a panic would be the kernel's own about its first process.
pub(super) fn tell_panics() {
    panic::set_hook(Box::new(|panic| give_up(&told(panic))));
}

/// Report why the machine cannot continue, and end it.
pub(super) fn give_up(why: &str) -> ! {
    say(why);
    kernel::restart()
}

/// Write a line to the console.
pub(super) fn say(line: &str) {
    let line = line.replace(['\r', '\n'], " ");
    // If there is no console, nobody can read it.
    let _ = std::io::stderr().write_all(format!("plexspaces: {line}\n").as_bytes());
}

fn told(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(ToString::to_string);
    let what = panic.payload_as_str().unwrap_or("no message");
    format!(
        "the agent panicked at {}: {what}",
        place.unwrap_or_default()
    )
}
