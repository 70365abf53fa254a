//! How much of the machine's memory an actor's state may use during a snapshot.
//!
//! For a moment the state exists twice: in the actor's memory and on its way to the node. If there
//! is not enough memory for that, the actor should fail, not the machine.

/// This part of the available memory is left for whatever else happens meanwhile.
const MARGIN: usize = 8;

/// At least this part of the rest is for growth; less than what is left aside.
const GROWTH_PART: usize = 16;

/// The longest newest snapshot that the agent keeps although the node has it.
const HELD_BYTES: usize = 64 * 1024 * 1024;

/// And the largest part of the actor's memory.
const HELD_PART: usize = 8;

/// What a snapshot may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// The state, in bytes.
    pub(crate) state: usize,
    /// How much the actor's memory may grow while it makes the state.
    pub(crate) growth: usize,
}

impl Room {
    /// Share the available memory with an actor that uses `memory` and may use `limit`.
    pub(crate) fn new(available: usize, memory: usize, limit: usize) -> Self {
        let spare = available - available / MARGIN;
        let grown = limit.saturating_sub(memory);
        // All the growth there may be, and otherwise a state as long as the memory it is made from.
        let state = spare.saturating_sub(grown).max(memory.min(spare));
        // Few states can be made without any growth: a little of what is left aside is used for it.
        let growth = (spare - state).max(grown.min(spare / GROWTH_PART));
        Self { state, growth }
    }
}

/// Whether an actor that was started from a state of this length could save one as long.
///
/// Less is left aside than at a snapshot, so that a state that could be saved once is not refused
/// for a small difference.
pub(crate) fn could_be_saved(state: usize, available: usize) -> bool {
    state <= available - available / (2 * MARGIN)
}

/// How long the newest snapshot kept by the agent may be, for an actor with this much memory.
pub(crate) fn held_bytes(limit: usize) -> usize {
    HELD_BYTES.min(limit / HELD_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn room(available: usize, memory: usize, limit: usize) -> (usize, usize) {
        let Room { state, growth } = Room::new(available * MIB, memory * MIB, limit * MIB);
        (state / MIB, growth / MIB)
    }

    #[test]
    fn where_all_fits_nothing_is_held_back() {
        assert_eq!(room(800, 10, 100), (610, 90));
        assert_eq!(room(400, 100, 100), (350, 0));
    }

    #[test]
    fn where_not_all_fits_a_state_as_long_as_the_memory_comes_first() {
        assert_eq!(room(800, 480, 1000), (480, 220));
        assert_eq!(room(800, 750, 1000), (700, 43));
        assert_eq!(room(100, 90, 180), (87, 5));
        assert_eq!(room(0, 10, 100), (0, 0));
    }

    #[test]
    fn what_is_held_is_a_small_part_of_a_small_memory() {
        assert_eq!(held_bytes(80 * MIB), 10 * MIB);
        assert_eq!(held_bytes(4096 * MIB), HELD_BYTES);
    }
}
