//! What a machine that will be copied does once, for all its copies.

use std::io;

use super::kernel;

/// Where the kernel lists this process's mappings.
const MAPPINGS: &str = "/proc/self/maps";
const AGENT: &str = "/plexspaces-agent";

/// Load the parts of this program that are only on the drive into memory: a copy would read them
/// page by page. If the kernel is short of memory it drops them again.
pub(super) fn bring_in() -> io::Result<()> {
    for (begin, end) in kernel::tell(MAPPINGS)?.lines().filter_map(of_agent) {
        kernel::bring_in(begin, end);
    }
    Ok(())
}

/// The addresses in a line about a mapping of this program's file.
fn of_agent(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (addresses, rights) = (words.next()?, words.next()?);
    if words.next_back() != Some(AGENT) || !rights.starts_with('r') {
        return None;
    }
    let (begin, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(begin)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_of_the_program_is_found_and_nothing_else() {
        let line = "7f0000001000-7f0000003000 r-xp 00001000 fe:00 13   /plexspaces-agent";
        assert_eq!(of_agent(line), Some((0x7f00_0000_1000, 0x7f00_0000_3000)));
        for line in [
            "7f0000001000-7f0000003000 ---p 00001000 fe:00 13   /plexspaces-agent",
            "7f0000001000-7f0000003000 r-xp 00001000 fe:00 13   /artifact/artifact.cwasm",
            "7f0000001000-7f0000003000 rw-p 00000000 00:00 0",
            "x-y r-xp 00001000 fe:00 13   /plexspaces-agent",
            "",
        ] {
            assert_eq!(of_agent(line), None, "{line}");
        }
    }
}
