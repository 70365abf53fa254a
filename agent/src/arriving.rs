//! The parts of the state that the next `Load` starts from.

use bytes::Bytes;

use crate::link::proto::Failure;
use crate::trap::MORE_MEMORY;

/// How much to reserve at a time. Doubling would take as much memory again as a large state, which
/// its actor is about to need.
const STEP_BYTES: usize = 16 * 1024 * 1024;

/// The parts received so far.
#[derive(Debug, Default)]
pub(crate) struct Arriving {
    state: Vec<u8>,
    /// There was no memory for one of the parts, and none of them is kept.
    refused: bool,
}

impl Arriving {
    /// Add a part. `lost` is the length of a part for which there was no memory.
    pub(crate) fn add(&mut self, part: &[u8], lost: bool) {
        self.refused = self.refused || lost || !self.has_room(part.len());
        if self.refused {
            self.state = Vec::new();
        } else {
            self.state.extend_from_slice(part);
        }
    }

    /// Return the state, which must be `announced` bytes long.
    pub(crate) fn take(&mut self, announced: u64) -> Result<Bytes, Failure> {
        let Self { mut state, refused } = std::mem::take(self);
        if refused {
            let message =
                format!("the VM does not have enough memory for a state of {announced} bytes");
            return Err(Failure::platform("resource_exhausted", message).hint(MORE_MEMORY));
        }
        if state.len() as u64 != announced {
            let came = state.len();
            let message =
                format!("a state of {announced} bytes was announced, but {came} bytes arrived");
            return Err(Failure::platform("internal", message));
        }
        state.shrink_to_fit();
        Ok(Bytes::from(state))
    }

    fn has_room(&mut self, more: usize) -> bool {
        if self.state.capacity() - self.state.len() >= more {
            return true;
        }
        // Most states have one part.
        let step = if self.state.is_empty() { 0 } else { STEP_BYTES };
        self.state.try_reserve_exact(more.max(step)).is_ok()
            || self.state.try_reserve_exact(more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_state_once_they_have_its_length() {
        let mut arriving = Arriving::default();
        for part in ["one", "two", "three"] {
            arriving.add(part.as_bytes(), false);
        }
        let state = arriving.take(11).expect("a state");
        assert_eq!(&state[..], b"onetwothree");
        assert_eq!(arriving.take(0).expect("none"), Bytes::new());
        assert_eq!(arriving.take(7).expect_err("nothing came").code, "internal");
    }

    #[test]
    fn a_part_without_memory_is_told_as_such() {
        let mut arriving = Arriving::default();
        arriving.add(b"one", false);
        arriving.add(b"", true);
        arriving.add(b"three", false);
        let failure = arriving.take(11).expect_err("a part is missing");
        assert_eq!(failure.code, "resource_exhausted");
        assert!(
            failure
                .message
                .contains("enough memory for a state of 11 bytes")
        );
        assert!(failure.hint.contains("--memory"));
    }
}
