//! The native stacks of a program's instances, kept for later ones: a stack that is mapped anew, with
//! its first pages, takes a tenth of the time of a short request.
//!
//! One of the places where the crate uses `unsafe`: wasmtime runs guests on what it is given here.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::{Error, StackCreator, StackMemory};

use crate::system::checked;

/// How many are kept while no instance needs them; all of them count as used memory.
const KEPT: usize = 4;

/// Below each stack, never accessible; a multiple of every page size.
const GUARD_BYTES: usize = 64 * 1024;

/// The stacks of one engine, which are all of one size.
#[derive(Default)]
pub(crate) struct Stacks {
    kept: Arc<Mutex<Vec<Mapping>>>,
}

// SAFETY: each stack is a mapping of its own, with a guard, that nobody else uses. It is not zeroed
// again, which wasmtime leaves to the engine's settings: they do not ask for it.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, _zeroed: bool) -> Result<Box<dyn StackMemory>, Error> {
        let kept = Arc::clone(&self.kept);
        let mapping = locked(&kept).pop();
        let mapping = match mapping {
            Some(mapping) => mapping,
            None => Mapping::new(size.next_multiple_of(GUARD_BYTES))?,
        };
        let mapping = Some(mapping);
        Ok(Box::new(Stack { kept, mapping }))
    }
}

/// A stack in use.
struct Stack {
    kept: Arc<Mutex<Vec<Mapping>>>,
    /// Until it is dropped.
    mapping: Option<Mapping>,
}

impl Stack {
    fn range(&self) -> Range<usize> {
        self.mapping.as_ref().map_or(0..0, |mapping| {
            mapping.address + GUARD_BYTES..mapping.address + GUARD_BYTES + mapping.stack_bytes
        })
    }
}

// SAFETY: as for `Stacks`.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.range().end)
    }

    fn range(&self) -> Range<usize> {
        self.range()
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let start = self.range().start;
        ptr::with_exposed_provenance_mut(start - GUARD_BYTES)
            ..ptr::with_exposed_provenance_mut(start)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut kept = locked(&self.kept);
        if kept.len() < KEPT {
            kept.extend(self.mapping.take());
        }
    }
}

/// The memory of a stack and its guard.
struct Mapping {
    address: usize,
    stack_bytes: usize,
}

impl Mapping {
    fn new(stack_bytes: usize) -> io::Result<Self> {
        let bytes = GUARD_BYTES + stack_bytes;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, wherever the kernel likes.
        let mapped = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = Self {
            address: mapped.expose_provenance(),
            stack_bytes,
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: within the mapping above.
        checked(unsafe { libc::mprotect(mapped.byte_add(GUARD_BYTES), stack_bytes, access) })?;
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let start = ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: this mapping, which nothing refers to any more.
        unsafe { libc::munmap(start, GUARD_BYTES + self.stack_bytes) };
    }
}

fn locked(kept: &Mutex<Vec<Mapping>>) -> MutexGuard<'_, Vec<Mapping>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_used_again_and_few_are_kept() {
        let stacks = Stacks::default();
        let new = || stacks.new_stack(100_000, false).expect("a stack");
        let many: Vec<_> = (0..=KEPT).map(|_| new()).collect();
        let tops: Vec<_> = many.iter().map(|stack| stack.top()).collect();
        for stack in &many {
            assert!(stack.range().len() >= 100_000);
            assert_eq!(stack.guard_range().end.addr(), stack.range().start);
            // SAFETY: the last byte of a stack that nothing runs on.
            unsafe { stack.top().sub(1).write(1) };
        }
        drop(many);
        assert_eq!(locked(&stacks.kept).len(), KEPT);
        assert!(tops.contains(&new().top()));
    }
}
