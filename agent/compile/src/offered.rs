//! The messages for imports that do not exist here, and for files built for another host.

use crate::refusal::{Refusal, listed, plain, quoted};
use crate::wasi::{self, Version};

/// The hint for an artifact without an entry point.
pub(crate) const BUILD_HINT: &str = "export the world in wit/application.wit or wasi:http/proxy, or \
                                     build a WASI command with a main function";

const OFFERED_HINT: &str = "this node provides plexspaces:application@0.1.0, WASI preview 1, and of WASI \
                            0.2 and 0.3.0 the interfaces cli, clocks, filesystem, http, io, random \
                            and sockets";

/// Other hosts, by the names imported from them, each with a hint.
const HOSTS: [(&str, &str); 9] = [
    (
        "wbg",
        "it was built for JavaScript by wasm-bindgen: build it for the target wasm32-wasip1, \
         without wasm-bindgen",
    ),
    (
        "__wbindgen",
        "it was built for JavaScript by wasm-bindgen: build it for the target wasm32-wasip1, \
         without wasm-bindgen",
    ),
    (
        "gojs",
        "it was built for JavaScript: build it with GOOS=wasip1, or as an actor with plexspaces build",
    ),
    (
        "go",
        "it was built for JavaScript: build it with GOOS=wasip1, or as an actor with plexspaces build",
    ),
    (
        "wasi_unstable",
        "it was built for a WASI older than preview 1: build it with current tools",
    ),
    (
        "wasi",
        "threads are not supported: build it for a target without -threads in its name",
    ),
    (
        "wasi_snapshot_preview2",
        "it was built for a WASI older than 0.2: build it with current tools",
    ),
    (
        "wasmedge",
        "it was built for WasmEdge: build it without WasmEdge's own interfaces",
    ),
    (
        "env",
        "it was built for another host, for example a browser (Emscripten): build it for WASI, \
         which does not import such functions",
    ),
];

/// Refuse an import that does not exist here. `needs` are the names used from it, each preceded by
/// its kind.
pub(crate) fn unknown(name: &str, needs: &[String]) -> Refusal {
    let of = match needs {
        [] => String::new(),
        needs => format!(": {}", listed(needs.iter().map(String::as_str))),
    };
    Refusal::new(
        format!(
            "it imports {}, which this node does not offer{of}",
            quoted(name)
        ),
        hint(name),
    )
}

/// Refuse an import that exists here, but not with everything that is used from it.
pub(crate) fn lacking(name: &str, need: &str, hint: &str) -> Refusal {
    Refusal::new(
        format!(
            "it imports {} of {}, which this node does not offer",
            plain(need),
            quoted(name)
        ),
        hint,
    )
}

/// Refuse an import whose type differs from the one here.
pub(crate) fn mismatched(name: &str, need: &str, found: &str, wanted: &str, hint: &str) -> Refusal {
    Refusal::new(
        format!(
            "it imports the function {} of {} with the wrong type: it is {found} and must be \
             {wanted}",
            plain(need),
            quoted(name)
        ),
        hint,
    )
}

/// Refuse a file that exports nothing that can be called here.
pub(crate) fn no_entry<'a>(wanted: &str, exports: impl Iterator<Item = &'a str>) -> Refusal {
    let said = match listed(exports) {
        said if said.is_empty() => "nothing".to_owned(),
        said => said,
    };
    Refusal::new(
        format!("no known entry point: expected {wanted}; it exports {said}"),
        BUILD_HINT,
    )
}

/// The hint for an artifact that imports this.
pub(crate) fn hint(name: &str) -> String {
    match wasi::version_of(name) {
        Some(Version::Older) => {
            return "it was built for a WASI older than 0.2: build it with current tools, for \
                    example for the target wasm32-wasip2"
                .to_owned();
        }
        Some(Version::Draft) => {
            return "it was built for a draft of WASI 0.3: build it with tools for 0.3.0 itself, \
                    or for 0.2"
                .to_owned();
        }
        _ => {}
    }
    let host = HOSTS.iter().find(|(host, _)| {
        *host == name || (matches!(*host, "__wbindgen" | "wasmedge") && name.starts_with(host))
    });
    host.map_or(OFFERED_HINT, |(_, hint)| hint).to_owned()
}
