//! The words for an import that nobody here has, and for a file that is of another world.

use crate::refusal::{Refusal, listed, plain, quoted};
use crate::wasi::{self, Version};

/// What helps an artifact without an entry.
pub(crate) const BUILD_HINT: &str = "export the world in wit/application.wit, or build a WASI \
                                     command with a main function";

const HTTP_HINT: &str = "components that serve or send HTTP (wasi:http) are not run here yet: \
                         export the world in wit/application.wit, or read the message on stdin";

const OFFERED_HINT: &str = "offered are plexspaces:application@0.1.0, of WASI 0.2 and 0.3.0 the \
                            interfaces cli, clocks, filesystem, io, random and sockets, and WASI \
                            preview 1";

/// Hosts by what is imported of them, and what helps those who built for one.
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
        "it is of a WASI from before preview 1: build it again with today's tools",
    ),
    (
        "wasi",
        "threads are not run here: build it for a target without -threads in its name",
    ),
    (
        "wasi_snapshot_preview2",
        "it is of a WASI from before 0.2: build it again with today's tools",
    ),
    (
        "wasmedge",
        "it was built for WasmEdge: build it without that host's own interfaces",
    ),
    (
        "env",
        "it was built for a host of its own, for example a browser (Emscripten): build it for \
         WASI, where such functions are not imported",
    ),
];

/// Refuse an import of something that is not here; `needs` are the names in it, each with its
/// kind before it.
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

/// Refuse an import of something that is here, of which something is wanted that is not.
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

/// Refuse an import whose type is another one here.
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

/// Refuse what exports nothing that can be called here.
pub(crate) fn no_entry<'a>(
    wanted: &str,
    exports: impl Iterator<Item = &'a str> + Clone,
) -> Refusal {
    let serves = exports.clone().find(|name| name.starts_with("wasi:http/"));
    let said = match listed(exports) {
        said if said.is_empty() => "nothing".to_owned(),
        said => said,
    };
    match serves {
        Some(_) => Refusal::new(
            format!(
                "it is an HTTP component, which is not run here yet: wanted {wanted}; it exports \
                 {said}"
            ),
            HTTP_HINT,
        ),
        None => Refusal::new(
            format!("no known entry: wanted {wanted}; it exports {said}"),
            BUILD_HINT,
        ),
    }
}

/// What helps an artifact that imports this.
pub(crate) fn hint(name: &str) -> String {
    if name.starts_with("wasi:http/") {
        return HTTP_HINT.to_owned();
    }
    match wasi::version_of(name) {
        Some(Version::Older) => {
            return "it is of a WASI from before 0.2: build it again with today's tools, for \
                    example for the target wasm32-wasip2"
                .to_owned();
        }
        Some(Version::Draft) => {
            return "it is of a draft of WASI 0.3: build it again with tools for 0.3.0 itself, or \
                    for 0.2"
                .to_owned();
        }
        _ => {}
    }
    let host = HOSTS.iter().find(|(host, _)| {
        *host == name || (matches!(*host, "__wbindgen" | "wasmedge") && name.starts_with(host))
    });
    host.map_or(OFFERED_HINT, |(_, hint)| hint).to_owned()
}
