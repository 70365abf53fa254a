//! How a guest that may be a copy of another gets its own identity.

use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::kernel;

/// How long the node's answer may take to arrive: no reason to set the clock back.
const CLOCK_FAULT_NS: u64 = 5_000_000;
const RANDOM: &str = "/dev/urandom";

/// Set the clock to the node's time, unless that is 0, and add fresh bytes to the kernel's random
/// number generator.
pub(super) fn wake(time_unix_ns: u64, seed: &[u8]) -> io::Result<()> {
    // First, because the time was correct when it was sent. At boot a guest knows whole seconds
    // only if the VMM offers no better source than a PC's clock, and a copy has its template's
    // time.
    if is_off(now_ns(), time_unix_ns) {
        kernel::set_clock(time_unix_ns)?;
    }
    kernel::reseed(&File::options().write(true).open(RANDOM)?, seed)
}

fn is_off(now_ns: u64, time_unix_ns: u64) -> bool {
    time_unix_ns != 0 && now_ns.abs_diff(time_unix_ns) > CLOCK_FAULT_NS
}

fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_set_when_it_is_off_by_more_than_the_way_costs() {
        let node = 1_700_000_000_000_000_000;
        assert!(is_off(node - 6_000_000, node));
        assert!(is_off(node + 6_000_000, node));
        assert!(is_off(0, node));
        assert!(!is_off(node + 4_000_000, node));
    }

    #[test]
    fn a_clock_is_left_when_no_time_is_told() {
        assert!(!is_off(1_700_000_000_000_000_000, 0));
    }
}
