//! A core module: a program of WASI preview 1, which is started for every message.

use wasmparser::types::{EntityType, TypesRef};

use crate::artifact::Kind;
use crate::offered::{self, lacking, mismatched, no_entry, unknown};
use crate::outline::Outline;
use crate::preview1::{self, FUNCTIONS, MODULE};
use crate::refusal::{Refusal, plain};

const START: &str = "_start";
const START_TYPE: &str = "func()";
const MEMORY: &str = "memory";

const START_HINT: &str = "build it as a program with a main function: the compiler then creates \
                          _start";
const MEMORY_HINT: &str = "export the module's memory as memory, as linkers for WASI do by default";
const LIBRARY_HINT: &str = "it is a library (a WASI reactor): build a program with a main \
                            function, or an actor of wit/application.wit";
const PART_HINT: &str = "it is the core module of a component, not yet a component: plexspaces \
                         build makes one, and so does wasm-tools component new";
const FUNCTION_HINT: &str = "build it for plain WASI preview 1, without the extensions of another \
                             host; an application has no network";
const TYPE_HINT: &str = "build it for wasm32 and WASI preview 1 (wasm32-wasip1, GOOS=wasip1)";

/// Determine whether a core module is a command, or why it cannot run here.
pub(crate) fn judge(outline: &Outline<'_>) -> Result<Kind, Refusal> {
    let types = outline.types.as_ref();
    check_start(outline, types)?;
    check_imports(outline, types)?;
    check_memory(types)?;
    Ok(Kind::Command)
}

fn exported(types: TypesRef<'_>, name: &str) -> Option<EntityType> {
    types
        .core_exports()?
        .find(|(exported, _)| *exported == name)
        .map(|(_, kind)| kind)
}

fn check_start(outline: &Outline<'_>, types: TypesRef<'_>) -> Result<(), Refusal> {
    let wrong = |found: &str| {
        Refusal::new(
            format!("its {START} has the wrong type: it is {found} and must be {START_TYPE}"),
            START_HINT,
        )
    };
    match exported(types, START) {
        Some(EntityType::Func(id) | EntityType::FuncExact(id)) => {
            let found = preview1::spelled(types, id);
            if found == START_TYPE {
                return Ok(());
            }
            Err(wrong(&found))
        }
        Some(other) => Err(wrong(&format!("a {}", kind_of(&other)))),
        None => {
            let exports = outline.exports.iter().map(String::as_str);
            let mut refusal = no_entry("a function _start (a WASI command)", exports.clone());
            if exports
                .clone()
                .any(|name| name.starts_with(crate::contract::ACTOR) || name.starts_with("wasi:"))
            {
                PART_HINT.clone_into(&mut refusal.hint);
            } else if exports.clone().any(|name| name == "_initialize") {
                LIBRARY_HINT.clone_into(&mut refusal.hint);
            } else if let Some(foreign) = foreign(outline) {
                refusal.hint = offered::hint(foreign);
            }
            Err(refusal)
        }
    }
}

fn foreign<'a>(outline: &'a Outline<'_>) -> Option<&'a str> {
    let mut imports = outline.imports.iter().map(String::as_str);
    imports.find(|name| *name != MODULE)
}

fn check_imports(outline: &Outline<'_>, types: TypesRef<'_>) -> Result<(), Refusal> {
    let imports = || types.core_imports().into_iter().flatten();
    if let Some(module) = foreign(outline) {
        let needs: Vec<String> = imports()
            .filter(|(from, _, _)| *from == module)
            .map(|(_, name, kind)| format!("{} {}", kind_of(&kind), plain(name)))
            .collect();
        return Err(unknown(module, &needs));
    }
    for (_, name, kind) in imports() {
        let EntityType::Func(id) = kind else {
            let need = format!("the {} {name}", kind_of(&kind));
            return Err(lacking(MODULE, &need, FUNCTION_HINT));
        };
        let Some((_, wanted)) = FUNCTIONS.iter().find(|(there, _)| *there == name) else {
            let need = format!("the function {name}");
            return Err(lacking(MODULE, &need, FUNCTION_HINT));
        };
        let found = preview1::spelled(types, id);
        if found != *wanted {
            return Err(mismatched(MODULE, name, &found, wanted, TYPE_HINT));
        }
    }
    Ok(())
}

fn check_memory(types: TypesRef<'_>) -> Result<(), Refusal> {
    // Every WASI function looks for the caller's memory, whether it needs it or not.
    let Some((_, called, _)) = types.core_imports().into_iter().flatten().next() else {
        return Ok(());
    };
    match exported(types, MEMORY) {
        Some(EntityType::Memory(_)) => Ok(()),
        Some(other) => Err(Refusal::new(
            format!(
                "its export memory is a {}, but WASI's {called} needs a memory there",
                kind_of(&other)
            ),
            MEMORY_HINT,
        )),
        None => Err(Refusal::new(
            format!("it exports no memory, but WASI's {called} needs one"),
            MEMORY_HINT,
        )),
    }
}

fn kind_of(kind: &EntityType) -> &'static str {
    match kind {
        EntityType::Func(_) | EntityType::FuncExact(_) => "function",
        EntityType::Table(_) => "table",
        EntityType::Memory(_) => "memory",
        EntityType::Global(_) => "global",
        EntityType::Tag(_) => "tag",
    }
}
