//! WASI preview 1: what a core module can import, with the functions' types.
//!
//! These are the functions that `wasmtime_wasi::p1::add_to_linker_async` of the agent's release
//! defines.

use wasmparser::types::TypesRef;
use wasmparser::{CompositeInnerType, ValType};

/// The module that they are imported from.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";

/// The functions, sorted by name.
pub(crate) const FUNCTIONS: [(&str, &str); 46] = [
    ("args_get", "func(i32, i32) -> i32"),
    ("args_sizes_get", "func(i32, i32) -> i32"),
    ("clock_res_get", "func(i32, i32) -> i32"),
    ("clock_time_get", "func(i32, i64, i32) -> i32"),
    ("environ_get", "func(i32, i32) -> i32"),
    ("environ_sizes_get", "func(i32, i32) -> i32"),
    ("fd_advise", "func(i32, i64, i64, i32) -> i32"),
    ("fd_allocate", "func(i32, i64, i64) -> i32"),
    ("fd_close", "func(i32) -> i32"),
    ("fd_datasync", "func(i32) -> i32"),
    ("fd_fdstat_get", "func(i32, i32) -> i32"),
    ("fd_fdstat_set_flags", "func(i32, i32) -> i32"),
    ("fd_fdstat_set_rights", "func(i32, i64, i64) -> i32"),
    ("fd_filestat_get", "func(i32, i32) -> i32"),
    ("fd_filestat_set_size", "func(i32, i64) -> i32"),
    ("fd_filestat_set_times", "func(i32, i64, i64, i32) -> i32"),
    ("fd_pread", "func(i32, i32, i32, i64, i32) -> i32"),
    ("fd_prestat_dir_name", "func(i32, i32, i32) -> i32"),
    ("fd_prestat_get", "func(i32, i32) -> i32"),
    ("fd_pwrite", "func(i32, i32, i32, i64, i32) -> i32"),
    ("fd_read", "func(i32, i32, i32, i32) -> i32"),
    ("fd_readdir", "func(i32, i32, i32, i64, i32) -> i32"),
    ("fd_renumber", "func(i32, i32) -> i32"),
    ("fd_seek", "func(i32, i64, i32, i32) -> i32"),
    ("fd_sync", "func(i32) -> i32"),
    ("fd_tell", "func(i32, i32) -> i32"),
    ("fd_write", "func(i32, i32, i32, i32) -> i32"),
    ("path_create_directory", "func(i32, i32, i32) -> i32"),
    ("path_filestat_get", "func(i32, i32, i32, i32, i32) -> i32"),
    (
        "path_filestat_set_times",
        "func(i32, i32, i32, i32, i64, i64, i32) -> i32",
    ),
    (
        "path_link",
        "func(i32, i32, i32, i32, i32, i32, i32) -> i32",
    ),
    (
        "path_open",
        "func(i32, i32, i32, i32, i32, i64, i64, i32, i32) -> i32",
    ),
    ("path_readlink", "func(i32, i32, i32, i32, i32, i32) -> i32"),
    ("path_remove_directory", "func(i32, i32, i32) -> i32"),
    ("path_rename", "func(i32, i32, i32, i32, i32, i32) -> i32"),
    ("path_symlink", "func(i32, i32, i32, i32, i32) -> i32"),
    ("path_unlink_file", "func(i32, i32, i32) -> i32"),
    ("poll_oneoff", "func(i32, i32, i32, i32) -> i32"),
    ("proc_exit", "func(i32)"),
    ("proc_raise", "func(i32) -> i32"),
    ("random_get", "func(i32, i32) -> i32"),
    ("sched_yield", "func() -> i32"),
    ("sock_accept", "func(i32, i32, i32) -> i32"),
    ("sock_recv", "func(i32, i32, i32, i32, i32, i32) -> i32"),
    ("sock_send", "func(i32, i32, i32, i32, i32) -> i32"),
    ("sock_shutdown", "func(i32, i32) -> i32"),
];

/// The type of a function, spelled as above; empty if it is not a function.
pub(crate) fn spelled(types: TypesRef<'_>, id: wasmparser::types::CoreTypeId) -> String {
    let CompositeInnerType::Func(function) = &types[id].composite_type.inner else {
        return String::new();
    };
    let results = match function.results() {
        [] => String::new(),
        [one] => format!(" -> {one}"),
        more => format!(" -> ({})", joined(more)),
    };
    format!("func({}){results}", joined(function.params()))
}

fn joined(kinds: &[ValType]) -> String {
    // More than any correct function has.
    let kinds: Vec<String> = kinds.iter().take(16).map(ToString::to_string).collect();
    kinds.join(", ")
}
