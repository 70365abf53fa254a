//! How much memory of the guest is in use, according to its kernel.

use super::kernel;
use crate::link::proto::Failure;
use crate::machine::Memory;

const FILE: &str = "/proc/meminfo";

/// Measure the guest's memory.
pub(super) fn measure() -> Result<Memory, Failure> {
    let told = kernel::tell(FILE).map_err(|error| unavailable(error.to_string()))?;
    parsed(&told).map_err(unavailable)
}

fn unavailable(what: String) -> Failure {
    Failure::platform("unavailable", what)
}

fn parsed(told: &str) -> Result<Memory, String> {
    let total_bytes = bytes_of(told, "MemTotal")?;
    let available_bytes = bytes_of(told, "MemAvailable")?;
    Ok(Memory {
        guest: true,
        total_bytes,
        used_bytes: total_bytes.saturating_sub(available_bytes),
        available_bytes,
    })
}

fn bytes_of(told: &str, name: &str) -> Result<u64, String> {
    let value = told.lines().find_map(|line| {
        let kib: u64 = line
            .strip_prefix(name)?
            .strip_prefix(':')?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()?;
        kib.checked_mul(1024)
    });
    value.ok_or_else(|| format!("{FILE} has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_the_guests_memory() {
        let told = "MemTotal:         121856 kB\nMemFree:           52000 kB\n\
                    MemAvailable:      64512 kB\nSwapFree:              0 kB\n";
        let found = parsed(told);
        let expected = Memory {
            guest: true,
            total_bytes: 121_856 * 1024,
            used_bytes: (121_856 - 64_512) * 1024,
            available_bytes: 64_512 * 1024,
        };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_named() {
        for told in [
            "",
            "MemTotal: 12 kB\nMemAvailable:\n",
            "MemTotal: 12 kB\nMemAvailable: x kB",
        ] {
            assert!(parsed(told).unwrap_err().contains("has no Mem"), "{told}");
        }
    }
}
