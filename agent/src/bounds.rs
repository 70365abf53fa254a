//! The limits of a guest: how much memory and how many tables its instances may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::{Error, ResourceLimiter};

use crate::settings::{INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};

/// The linear memory of an application, shared by all its instances.
#[derive(Debug)]
pub(crate) struct Pool {
    limit: usize,
    taken: AtomicUsize,
}

impl Pool {
    /// Create a pool of this size.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let taken = AtomicUsize::new(0);
        Arc::new(Self { limit, taken })
    }

    /// Take this much more. Fails with what the total would have been.
    fn take(&self, more: usize) -> Result<(), usize> {
        let fits = |taken: usize| {
            let grown = taken.checked_add(more)?;
            (grown <= self.limit).then_some(grown)
        };
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(|_| ())
            .map_err(|taken| taken.saturating_add(more))
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The limits of one store, and how much of them it uses.
#[derive(Debug)]
pub(crate) struct Bounds {
    pool: Arc<Pool>,
    /// How large this store's memories together may become now.
    ceiling: usize,
    memory: usize,
    /// A growth that was allowed and may still fail.
    growth: usize,
    table_elements: usize,
    refused: Option<usize>,
}

impl Bounds {
    /// Take linear memory from this pool.
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            ceiling: usize::MAX,
            memory: 0,
            growth: 0,
            table_elements: 0,
            refused: None,
        }
    }

    /// The limit of linear memory.
    pub(crate) fn limit(&self) -> usize {
        self.pool.limit
    }

    /// How much linear memory is in use.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Allow this much growth for now; `usize::MAX` for no further limit.
    pub(crate) fn allow_growth(&mut self, most: usize) {
        self.ceiling = self.memory.saturating_add(most);
    }

    /// Return the size that was last refused, since the last call of this function.
    pub(crate) fn take_refused(&mut self) -> Option<usize> {
        self.refused.take()
    }
}

impl Drop for Bounds {
    fn drop(&mut self) {
        self.pool.give_back(self.memory);
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.growth = 0;
        if maximum.is_some_and(|most| desired > most) {
            // The limit is in the program's own declaration: more memory would not help.
            return Ok(false);
        }
        let growth = desired.saturating_sub(current);
        let grown = self.memory.saturating_add(growth);
        if grown > self.ceiling {
            self.refused = Some(grown);
            return Ok(false);
        }
        if let Err(wanted) = self.pool.take(growth) {
            self.refused = Some(wanted);
            return Ok(false);
        }
        self.growth = growth;
        self.memory = grown;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: Error) -> wasmtime::Result<()> {
        // Also called for a growth that was not asked for.
        let growth = std::mem::take(&mut self.growth);
        if growth > 0 {
            self.refused = Some(self.memory);
            self.memory -= growth;
            self.pool.give_back(growth);
        }
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
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
        let mut bounds = Bounds::new(Pool::new(100));
        assert!(grow(&mut bounds, 0, 60));
        assert!(!grow(&mut bounds, 0, 50));
        assert_eq!(bounds.take_refused(), Some(110));
        assert_eq!(bounds.take_refused(), None);
        assert!(grow(&mut bounds, 60, 90));
        assert_eq!(bounds.memory(), 90);
    }

    #[test]
    fn growth_that_the_machine_refuses_takes_nothing_and_is_a_refusal() {
        let mut bounds = Bounds::new(Pool::new(100));
        assert!(grow(&mut bounds, 0, 60));
        assert!(grow(&mut bounds, 60, 90));
        for _ in 0..2 {
            // The second is of a growth that its own type does not allow: nobody is asked.
            bounds
                .memory_grow_failed(Error::msg("no memory"))
                .expect("an answer");
            assert_eq!(bounds.memory(), 60);
        }
        assert_eq!(bounds.take_refused(), Some(90));
        assert!(grow(&mut bounds, 60, 100));
    }

    #[test]
    fn growth_beyond_what_a_memory_declares_is_no_want_of_memory() {
        let mut bounds = Bounds::new(Pool::new(100));
        let grown = bounds.memory_growing(0, 60, Some(50));
        assert!(!grown.expect("an answer"));
        assert_eq!((bounds.memory(), bounds.take_refused()), (0, None));
    }

    #[test]
    fn instances_share_the_memory_and_one_that_ends_gives_back_its_own() {
        let pool = Pool::new(100);
        let mut one = Bounds::new(Arc::clone(&pool));
        let mut other = Bounds::new(Arc::clone(&pool));
        assert!(grow(&mut one, 0, 60));
        assert!(!grow(&mut other, 0, 60));
        assert_eq!(other.take_refused(), Some(120));
        drop(one);
        assert!(grow(&mut other, 0, 100));
        assert_eq!(other.memory(), 100);
    }

    #[test]
    fn growth_can_be_held_for_a_time() {
        let mut bounds = Bounds::new(Pool::new(100));
        assert!(grow(&mut bounds, 0, 60));
        bounds.allow_growth(10);
        assert!(!grow(&mut bounds, 60, 71));
        assert!(grow(&mut bounds, 60, 70));
        bounds.allow_growth(usize::MAX);
        assert!(grow(&mut bounds, 70, 100));
    }

    #[test]
    fn tables_are_bounded_by_their_elements() {
        let mut bounds = Bounds::new(Pool::new(100));
        assert!(
            bounds
                .table_growing(0, TABLE_ELEMENTS, None)
                .expect("an answer")
        );
        assert!(!bounds.table_growing(0, 1, None).expect("an answer"));
    }
}
