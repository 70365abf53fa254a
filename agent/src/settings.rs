//! The engine's settings, one set for what compiles and what runs.
//!
//! Native code is refused by an engine with other settings, so both programs of this workspace take
//! them from here. Change one and raise `plexspaces_node.model.ENGINE_REVISION`: the node's cache
//! of native code is keyed by it.

use wasmtime::{Config, Result, WasmBacktraceDetails};

/// What compiles and runs artifacts; equal to `plexspaces_node.model.ENGINE`, and to Cargo.lock.
pub(crate) const ENGINE: &str = "wasmtime 48.0.8";

// What the agent gives to an application, and the compiler refuses beforehand; native code does not
// depend on it.

/// More than any language's runtime takes; a table's element costs eight bytes of the agent.
pub(crate) const TABLE_ELEMENTS: usize = 1_000_000;

/// How many instances of core modules there may be,
pub(crate) const INSTANCES: usize = 256;

/// how many tables,
pub(crate) const TABLES: usize = 256;

/// and how many linear memories.
pub(crate) const MEMORIES: usize = 64;

/// The settings on which native code depends.
pub(crate) fn settings() -> Result<Config> {
    let mut config = Config::new();
    // The baseline, and not this very CPU: what was compiled for one CPU model's extensions is
    // refused on another, and a guest's CPU is not its host's.
    config
        .target(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH))?
        .epoch_interruption(true)
        .wasm_component_model_async(true)
        // A trap says where it was, with source lines where the artifact has them.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    Ok(config)
}
