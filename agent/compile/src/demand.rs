//! What an instance needs from the start.

use crate::refusal::Refusal;
use crate::settings::{INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};

/// Each costs the compiler work, whatever is in it. Tools create some tens.
const MOST_COMPONENTS: u64 = 4096;

/// What instances need at least, as far as the binary says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Linear memory of all memories together.
    pub(crate) memory_bytes: u64,
    /// How many memories there are.
    pub(crate) memories: u64,
    /// Elements of all tables together.
    pub(crate) table_elements: u64,
    /// How many tables there are.
    pub(crate) tables: u64,
    /// How many instances of core modules there are.
    pub(crate) instances: u64,
    /// How many instances of components there are within it.
    pub(crate) components: u64,
}

impl Demand {
    /// Add a memory of this many pages.
    pub(crate) fn add_memory(&mut self, pages: u64, page_size_log2: u32) {
        let bytes = pages.saturating_mul(1u64.checked_shl(page_size_log2).unwrap_or(u64::MAX));
        self.memory_bytes = self.memory_bytes.saturating_add(bytes);
        self.memories = self.memories.saturating_add(1);
    }

    /// Add a table of this many elements.
    pub(crate) fn add_table(&mut self, elements: u64) {
        self.table_elements = self.table_elements.saturating_add(elements);
        self.tables = self.tables.saturating_add(1);
    }

    /// Add another instance's needs.
    pub(crate) fn add(&mut self, other: &Self) {
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.memories = self.memories.saturating_add(other.memories);
        self.table_elements = self.table_elements.saturating_add(other.table_elements);
        self.tables = self.tables.saturating_add(other.tables);
        self.instances = self.instances.saturating_add(other.instances);
        self.components = self.components.saturating_add(other.components);
    }
}

/// Refuse what no application gets, however much memory it has.
pub(crate) fn check(demand: &Demand) -> Result<(), Refusal> {
    for (has, most, what) in [
        (
            demand.table_elements,
            TABLE_ELEMENTS as u64,
            "elements in its tables",
        ),
        (
            demand.instances,
            INSTANCES as u64,
            "instances of core modules",
        ),
        (
            demand.components,
            MOST_COMPONENTS,
            "instances of components",
        ),
        (demand.tables, TABLES as u64, "tables"),
        (demand.memories, MEMORIES as u64, "memories"),
    ] {
        if has > most {
            return Err(Refusal::new(
                format!("it starts with {has} {what}, but an application can have at most {most}"),
                "declare less at the start; a table can grow later",
            ));
        }
    }
    Ok(())
}
