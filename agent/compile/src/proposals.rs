//! Which parts of WebAssembly run here, and the messages for those that do not.

use wasmparser::{Error, Validator, WasmFeatures};

use crate::refusal::{Refusal, plain};

/// The hint for an incomplete file.
pub(crate) const DAMAGED_HINT: &str = "build it again, or copy all of it";

/// A proposal that is disabled.
struct Proposal {
    feature: WasmFeatures,
    /// What a file does that needs it.
    name: &'static str,
    hint: &'static str,
}

const COMPONENT_HINT: &str =
    "build it with tools for WASI 0.2 or 0.3.0, without features that are not final yet";

const OFF: [Proposal; 18] = [
    Proposal {
        feature: WasmFeatures::THREADS,
        name: "threads (shared memory and atomic instructions)",
        hint: "build it without threads: not for a target with -threads in its name, without \
               -pthread and without the target feature atomics",
    },
    Proposal {
        feature: WasmFeatures::SHARED_EVERYTHING_THREADS,
        name: "shared-everything threads",
        hint: "build it without threads",
    },
    Proposal {
        feature: WasmFeatures::LEGACY_EXCEPTIONS,
        name: "the old form of exceptions (try and catch)",
        hint: "build it with the final form (-mllvm -wasm-use-legacy-eh=false), or translate it: \
               wasm-opt --translate-to-exnref FILE -o FILE",
    },
    Proposal {
        feature: WasmFeatures::CUSTOM_PAGE_SIZES,
        name: "custom page sizes",
        hint: "build it with memory in pages of 64 KiB, the default",
    },
    Proposal {
        feature: WasmFeatures::STACK_SWITCHING,
        name: "stack switching",
        hint: "build it without continuations (cont.new, resume, suspend)",
    },
    Proposal {
        feature: WasmFeatures::WIDE_ARITHMETIC,
        name: "wide arithmetic",
        hint: "build it without the target feature wide-arithmetic",
    },
    Proposal {
        feature: WasmFeatures::MEMORY_CONTROL,
        name: "memory control (memory.discard)",
        hint: "build it without memory.discard",
    },
    Proposal {
        feature: WasmFeatures::CUSTOM_DESCRIPTORS,
        name: "custom descriptors",
        hint: "build it without custom descriptors",
    },
    Proposal {
        feature: WasmFeatures::COMPACT_IMPORTS,
        name: "compact import sections",
        hint: "build it with imports in the usual form",
    },
    Proposal {
        feature: WasmFeatures::CM_VALUES,
        name: "values in components",
        hint: COMPONENT_HINT,
    },
    Proposal {
        feature: WasmFeatures::CM_NESTED_NAMES,
        name: "nested names in components",
        hint: COMPONENT_HINT,
    },
    Proposal {
        feature: WasmFeatures::CM_ASYNC_STACKFUL
            .union(WasmFeatures::CM_MORE_ASYNC_BUILTINS)
            .union(WasmFeatures::CM_THREADING),
        name: "a part of asynchronous components that is not final",
        hint: COMPONENT_HINT,
    },
    Proposal {
        feature: WasmFeatures::CM_ERROR_CONTEXT,
        name: "error contexts in components",
        hint: COMPONENT_HINT,
    },
    Proposal {
        feature: WasmFeatures::CM_FIXED_LENGTH_LISTS,
        name: "lists of fixed length in components",
        hint: COMPONENT_HINT,
    },
    Proposal {
        feature: WasmFeatures::CM_GC,
        name: "garbage collection in components",
        hint: COMPONENT_HINT,
    },
    Proposal {
        feature: WasmFeatures::CM_MAP,
        name: "maps in components",
        hint: COMPONENT_HINT,
    },
    Proposal {
        feature: WasmFeatures::CM64,
        name: "memory of 64 bits in components",
        hint: "build it for wasm32",
    },
    Proposal {
        feature: WasmFeatures::CM_IMPLEMENTS.union(WasmFeatures::CM_CANON_NAMES),
        name: "a form of names in components that is not final",
        hint: COMPONENT_HINT,
    },
];

/// The features that the agent's engine accepts; a test compares them with the engine.
pub(crate) fn run_here() -> WasmFeatures {
    WasmFeatures::WASM3
        .difference(WasmFeatures::THREADS)
        .union(WasmFeatures::COMPONENT_MODEL)
        .union(WasmFeatures::CM_ASYNC)
}

/// Explain why a file is not valid here: it uses a disabled proposal, or it is damaged.
pub(crate) fn explain(binary: &[u8], error: &Error) -> Refusal {
    let said = format!(
        "{} (at offset {:#x})",
        plain(error.message()),
        error.offset()
    );
    if let Some(proposal) = wanted(binary, error) {
        return Refusal::new(
            format!(
                "it uses {}, which this node does not support: {said}",
                proposal.name
            ),
            proposal.hint,
        );
    }
    if error.message().starts_with("unexpected end") {
        let length = binary.len();
        return Refusal::new(
            format!("not valid WebAssembly: truncated: {said}; there are {length} bytes"),
            DAMAGED_HINT,
        );
    }
    Refusal::new(format!("not valid WebAssembly: {said}"), DAMAGED_HINT)
}

fn wanted(binary: &[u8], error: &Error) -> Option<&'static Proposal> {
    if let Some(feature) = error.missing_wasm_feature() {
        return OFF.iter().find(|one| one.feature.intersects(feature));
    }
    // Not every error names its proposal: it is the one that validates further when enabled.
    OFF.iter().find(
        |one| match validate(binary, run_here().union(one.feature)) {
            None => true,
            Some(other) => other.offset() > error.offset(),
        },
    )
}

fn validate(binary: &[u8], features: WasmFeatures) -> Option<Error> {
    Validator::new_with_features(features)
        .validate_all(binary)
        .err()
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use wasmtime::component::Component;
    use wasmtime::{Engine, Module};

    use super::{explain, run_here, validate};
    use crate::settings::settings;

    /// Modules and components, each of one proposal, with what is said of those that are off.
    const FILES: [(&str, &str); 21] = [
        ("(module (memory 1 1 shared))", "threads"),
        (
            "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
            "threads",
        ),
        ("(module (memory 1 (pagesize 1)))", "custom page sizes"),
        (
            "(module (func try catch_all end))",
            "the old form of exceptions",
        ),
        (
            "(module (type $f (func)) (type (cont $f)))",
            "stack switching",
        ),
        (
            "(module (func (result i64 i64)
               (i64.add128 (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1))))",
            "wide arithmetic",
        ),
        (
            "(component (import \"a\" (value string)))",
            "values in components",
        ),
        (
            "(component (core func (canon error-context.drop)))",
            "error contexts",
        ),
        ("(component (type (list u8 4)))", "lists of fixed length"),
        ("(component (type (map string u8)))", "maps in components"),
        (
            "(component (core func (canon thread.available_parallelism)))",
            "shared-everything threads",
        ),
        (
            "(component (core func (canon thread.index)))",
            "a part of asynchronous components",
        ),
        ("(module (memory i64 1))", ""),
        ("(module (memory 1) (memory 1))", ""),
        ("(module (tag $t) (func (throw $t)))", ""),
        ("(module (func (block $b (try_table (catch_all $b)))))", ""),
        (
            "(module (type $s (struct (field i32))) (func (drop (struct.new $s (i32.const 1)))))",
            "",
        ),
        ("(module (func $f (return_call $f)))", ""),
        (
            "(module (func (param v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))",
            "",
        ),
        ("(component (core func (canon task.return)))", ""),
        (
            "(component (type (stream u8)) (core func (canon stream.new 0)))",
            "",
        ),
    ];

    #[test]
    fn what_is_valid_here_is_what_the_engine_accepts() {
        let engine = settings()
            .and_then(|settings| Engine::new(&settings))
            .unwrap();
        for (text, _) in FILES {
            let binary = wat::parse_str(text).unwrap();
            let accepted = if text.starts_with("(component") {
                Component::new(&engine, &binary).is_ok()
            } else {
                Module::new(&engine, &binary).is_ok()
            };
            assert_eq!(validate(&binary, run_here()).is_none(), accepted, "{text}");
        }
    }

    #[test]
    fn what_is_off_is_named_with_what_helps() {
        for (text, name) in FILES {
            let binary = wat::parse_str(text).unwrap();
            let Some(error) = validate(&binary, run_here()) else {
                assert_eq!(name, "", "{text}");
                continue;
            };
            let refusal = explain(&binary, &error);
            let begin = format!("it uses {name}");
            assert!(
                !name.is_empty() && refusal.message.starts_with(&begin),
                "{text}: {refusal:?}"
            );
            assert!(refusal.hint.starts_with("build it"), "{text}: {refusal:?}");
        }
    }
}
