//! What bounds a guest: the memory and tables that its instances may take.

use wasmtime::{Error, ResourceLimiter, Result};

/// More than any language's runtime takes; a table's element costs eight bytes of the agent.
const TABLE_ELEMENTS: usize = 1_000_000;

const INSTANCES: usize = 256;
const TABLES: usize = 256;
const MEMORIES: usize = 64;

/// The bounds of one store, and what it has taken of them.
#[derive(Debug)]
pub(crate) struct Bounds {
    memory_limit: usize,
    memory: usize,
    /// Before the growth at hand, which may yet fail.
    memory_before: usize,
    table_elements: usize,
    refused: Option<usize>,
}

impl Bounds {
    /// Allow so much linear memory, all memories together.
    pub(crate) fn new(memory_limit: usize) -> Self {
        Self {
            memory_limit,
            memory: 0,
            memory_before: 0,
            table_elements: 0,
            refused: None,
        }
    }

    /// How much linear memory there may be.
    pub(crate) fn limit(&self) -> usize {
        self.memory_limit
    }

    /// How much linear memory there is.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// How much there would be, had it not been refused, since this was last asked.
    pub(crate) fn take_refused(&mut self) -> Option<usize> {
        self.refused.take()
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool> {
        let grown = self.memory.saturating_add(desired.saturating_sub(current));
        if grown > self.memory_limit {
            self.refused = Some(grown);
            self.memory_before = self.memory;
            return Ok(false);
        }
        self.memory_before = std::mem::replace(&mut self.memory, grown);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: Error) -> Result<()> {
        self.memory = self.memory_before;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool> {
        let more = desired.saturating_sub(current);
        let grown = self.table_elements.saturating_add(more);
        if grown > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.table_elements = grown;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(bounds: &mut Bounds, current: usize, desired: usize) -> bool {
        bounds
            .memory_growing(current, desired, None)
            .expect("an answer")
    }

    #[test]
    fn all_memories_together_are_bounded_and_a_refusal_is_remembered_once() {
        let mut bounds = Bounds::new(100);
        assert!(grow(&mut bounds, 0, 60));
        assert!(!grow(&mut bounds, 0, 50));
        assert_eq!(bounds.take_refused(), Some(110));
        assert_eq!(bounds.take_refused(), None);
        assert!(grow(&mut bounds, 60, 90));
        assert_eq!(bounds.memory(), 90);
    }

    #[test]
    fn growth_that_fails_takes_nothing() {
        let mut bounds = Bounds::new(100);
        assert!(grow(&mut bounds, 0, 60));
        assert!(grow(&mut bounds, 60, 90));
        bounds
            .memory_grow_failed(Error::msg("no memory"))
            .expect("an answer");
        assert_eq!(bounds.memory(), 60);
    }

    #[test]
    fn tables_are_bounded_by_their_elements() {
        let mut bounds = Bounds::new(100);
        assert!(
            bounds
                .table_growing(0, TABLE_ELEMENTS, None)
                .expect("an answer")
        );
        assert!(!bounds.table_growing(0, 1, None).expect("an answer"));
    }
}
