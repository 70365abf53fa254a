//! The engine's settings, the same for the compiler and the agent.
//!
//! An engine refuses native code that was compiled with other settings, so both programs of this
//! workspace use these. If you change one, raise `plexspaces_node.model.ENGINE_REVISION`: the
//! node's cache of native code is keyed by it.

use wasmtime::{Config, Result, WasmBacktraceDetails};

/// The engine that compiles and runs artifacts; equal to `plexspaces_node.model.ENGINE` and to
/// Cargo.lock.
pub(crate) const ENGINE: &str = "wasmtime 48.0.8";

// The limits of an application, which the compiler checks beforehand. Native code does not depend
// on them.

/// More than any language's runtime needs; a table's element takes eight bytes of the agent.
pub(crate) const TABLE_ELEMENTS: usize = 1_000_000;

/// The maximum number of instances of core modules.
pub(crate) const INSTANCES: usize = 256;

/// The maximum number of tables.
pub(crate) const TABLES: usize = 256;

/// The maximum number of linear memories.
pub(crate) const MEMORIES: usize = 64;

/// The settings that native code depends on.
pub(crate) fn settings() -> Result<Config> {
    let mut config = Config::new();
    // The baseline, not this CPU: code compiled for one CPU model's extensions is refused on
    // another, and a guest's CPU is not its host's.
    config
        .target(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH))?
        .epoch_interruption(true)
        .wasm_component_model_async(true)
        // A trap reports where it was, with source lines if the artifact has them.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    Ok(config)
}
