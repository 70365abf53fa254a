//! What an actor's state may take of the machine's memory while it is handed over.
//!
//! For a moment it is there twice: in the actor's memory, and on its way to the node. Where there
//! is no memory for that the actor is to fail, and not the machine.

/// Of what is available, this part is left to whatever comes meanwhile.
const MARGIN: usize = 8;

/// And this part of the rest at least is for growth: less than what is left aside.
const GROWTH_PART: usize = 16;

/// The longest of the newest snapshots that the agent holds though the node has it.
const HELD_BYTES: usize = 64 * 1024 * 1024;

/// And the largest part of the actor's memory.
const HELD_PART: usize = 8;

/// What a snapshot may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// The state, in bytes.
    pub(crate) state: usize,
    /// What the actor's memory may grow by while it makes the state.
    pub(crate) growth: usize,
}

impl Room {
    /// Share what is available with an actor that has so much memory, and may have `limit`.
    pub(crate) fn new(available: usize, memory: usize, limit: usize) -> Self {
        let spare = available - available / MARGIN;
        let grown = limit.saturating_sub(memory);
        // All growth there may be, and else a state as long as the memory that it is made of.
        let state = spare.saturating_sub(grown).max(memory.min(spare));
        // Few states can be made without any growth: a little of it is taken from what is left aside.
        let growth = (spare - state).max(grown.min(spare / GROWTH_PART));
        Self { state, growth }
    }
}

/// Whether an actor that was started from so long a state could hand one as long over again.
///
/// Less is left aside than at a snapshot: what could be saved once is not refused for a little.
pub(crate) fn could_be_saved(state: usize, available: usize) -> bool {
    state <= available - available / (2 * MARGIN)
}

/// How long the newest snapshot may be that the agent of an actor with so much memory holds.
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
