//! A component: an actor of the contract, or an HTTP component or a command of WASI 0.2 or 0.3.

use wasmparser::component_types::{
    ComponentAnyTypeId, ComponentEntityType, ComponentFuncTypeId, ComponentInstanceType,
    ComponentItem,
};
use wasmparser::types::TypesRef;

use crate::artifact::Kind;
use crate::contract::{self, ACTOR, ACTOR_FUNCTIONS, HOST_FUNCTIONS};
use crate::offered::{self, BUILD_HINT, lacking, mismatched, no_entry, unknown};
use crate::outline::Outline;
use crate::refusal::{Refusal, plain};
use crate::signature::spelled;
use crate::wasi::{self, Version};

/// An export of WASI that is called for every message or request: an interface with one function.
struct Entry {
    /// Its name up to its version.
    interface: &'static str,
    version: Version,
    function: &'static str,
    /// The function's type, or how it begins if it is long: the agent's linker compares all of it.
    begin: &'static str,
    /// The function's type in words for the user.
    wanted: &'static str,
    hint: &'static str,
    kind: Kind,
}

const RUN_HINT: &str = "build it with a main function for WASI 0.2 or 0.3.0, for example for the \
                        target wasm32-wasip2";
const HTTP_HINT: &str = "build it for the world proxy of wasi:http 0.2 or the world service of \
                         wasi:http 0.3.0";

/// If a component exports several, the first of these counts.
const ENTRIES: [Entry; 4] = [
    Entry {
        interface: "wasi:http/handler@",
        version: Version::Final3,
        function: "handle",
        begin: "async func(own<resource>) -> result<own<resource>, variant { DNS-timeout, \
                DNS-error(record { rcode: option<string>, info-code: option<u16> }), \
                destination-not-found, destination-unavailable, ",
        wanted: "async func(own<resource>) -> result<own<resource>, error-code>",
        hint: HTTP_HINT,
        kind: Kind::HttpComponent,
    },
    Entry {
        interface: "wasi:http/incoming-handler@",
        version: Version::Final2,
        function: "handle",
        begin: "func(own<resource>, own<resource>)",
        wanted: "func(own<resource>, own<resource>)",
        hint: HTTP_HINT,
        kind: Kind::HttpComponent,
    },
    Entry {
        interface: "wasi:cli/run@",
        version: Version::Final3,
        function: "run",
        begin: "async func() -> result",
        wanted: "async func() -> result",
        hint: RUN_HINT,
        kind: Kind::CommandComponent,
    },
    Entry {
        interface: "wasi:cli/run@",
        version: Version::Final2,
        function: "run",
        begin: "func() -> result",
        wanted: "func() -> result",
        hint: RUN_HINT,
        kind: Kind::CommandComponent,
    },
];

/// Determine what a component is, or why it cannot run here.
pub(crate) fn judge(outline: &Outline<'_>) -> Result<Kind, Refusal> {
    let types = outline.types.as_ref();
    let exports = || outline.exports.iter().map(String::as_str);
    check_versions(exports())?;
    let kind = if exports().any(|name| name == ACTOR) {
        check_actor(types)?;
        Kind::Actor
    } else if let Some((entry, name)) = entry(&outline.exports) {
        check_entry(types, entry, name)?;
        entry.kind
    } else {
        return Err(no_known_entry(outline));
    };
    check_versions(outline.imports.iter().map(String::as_str))?;
    for name in &outline.imports {
        check_import(types, name)?;
    }
    Ok(kind)
}

/// Refuse another version of the contract: every name of this version is known.
fn check_versions<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    for name in names {
        if let Some(version) = contract::version_of(name)
            && version != contract::VERSION
        {
            return Err(Refusal::new(
                format!(
                    "it was built for {}@{}, but this node supports {}",
                    contract::PACKAGE,
                    plain(version),
                    contract::VERSION
                ),
                contract::HINT,
            ));
        }
    }
    Ok(())
}

/// The entry of WASI that counts, with the name under which it is exported.
fn entry(exports: &[String]) -> Option<(&'static Entry, &str)> {
    ENTRIES.iter().find_map(|entry| {
        let is_it = |name: &&String| {
            name.starts_with(entry.interface) && wasi::version_of(name) == Some(entry.version)
        };
        exports
            .iter()
            .find(is_it)
            .map(|name| (entry, name.as_str()))
    })
}

fn no_known_entry(outline: &Outline<'_>) -> Refusal {
    let exports = outline.exports.iter().map(String::as_str);
    let mut refusal = no_entry(
        &format!(
            "{ACTOR} or wasi:http/incoming-handler@0.2.x or wasi:http/handler@0.3.x or \
             wasi:cli/run@0.2.x or wasi:cli/run@0.3.x"
        ),
        exports.clone(),
    );
    // Its exports say more; its imports are the next best.
    let imports = outline.imports.iter().map(String::as_str);
    let foreign = exports.chain(imports).find(|name| {
        matches!(
            wasi::version_of(name),
            Some(Version::Older | Version::Draft)
        )
    });
    if let Some(name) = foreign {
        refusal.hint = offered::hint(name);
    }
    refusal
}

fn check_actor(types: TypesRef<'_>) -> Result<(), Refusal> {
    let exports = instance(types, types.component_item_for_export(ACTOR));
    let function = |name: &str| exports.and_then(|exports| function_of(exports, name));
    let missing: Vec<&str> = ACTOR_FUNCTIONS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| function(name).is_none())
        .collect();
    if !missing.is_empty() {
        return Err(Refusal::new(
            format!("the component's {ACTOR} lacks {}", missing.join(", ")),
            BUILD_HINT,
        ));
    }
    for (name, wanted) in ACTOR_FUNCTIONS {
        let found = function(name).map(|id| spelled(types, id));
        if let Some(found) = found
            && found != wanted
        {
            return Err(Refusal::new(
                format!(
                    "the component's {name} of {ACTOR} has the wrong type: it is {found} and \
                     must be {wanted}"
                ),
                contract::HINT,
            ));
        }
    }
    Ok(())
}

fn check_entry(types: TypesRef<'_>, entry: &Entry, name: &str) -> Result<(), Refusal> {
    let exports = instance(types, types.component_item_for_export(name));
    let Some(function) = exports.and_then(|exports| function_of(exports, entry.function)) else {
        return Err(Refusal::new(
            format!("the component's {} lacks {}", plain(name), entry.function),
            entry.hint,
        ));
    };
    let found = spelled(types, function);
    // A short type is told apart from a longer one that begins with it.
    if found == entry.begin || (entry.begin != entry.wanted && found.starts_with(entry.begin)) {
        return Ok(());
    }
    Err(Refusal::new(
        format!(
            "the component's {} of {} has the wrong type: it is {found} and must be {}",
            entry.function,
            plain(name),
            entry.wanted
        ),
        entry.hint,
    ))
}

fn check_import(types: TypesRef<'_>, name: &str) -> Result<(), Refusal> {
    let item = types.component_item_for_import(name);
    // A type that equals another one needs nothing from a host.
    if let Some(ComponentItem {
        ty: ComponentEntityType::Type { created, .. },
        ..
    }) = item
        && !matches!(created, ComponentAnyTypeId::Resource(_))
    {
        return Ok(());
    }
    let needs = instance(types, item);
    if let Some((_, there)) = HOST_FUNCTIONS.iter().find(|(host, _)| *host == name) {
        return check_host(types, name, needs, there);
    }
    if name == contract::TYPES {
        return Ok(());
    }
    let (Some(there), Some(needs)) = (wasi::offered(name), needs) else {
        let needs: Vec<String> = needs
            .into_iter()
            .flat_map(called)
            .map(|(name, what)| format!("{what} {}", plain(name)))
            .collect();
        return Err(unknown(name, &needs));
    };
    match called(needs).find(|(one, _)| !there.split(' ').any(|it| it == *one)) {
        Some((missing, what)) => {
            let need = format!("the {what} {missing}");
            Err(lacking(name, &need, &offered::hint(name)))
        }
        None => Ok(()),
    }
}

fn check_host(
    types: TypesRef<'_>,
    name: &str,
    needs: Option<&ComponentInstanceType>,
    there: &[(&str, &str)],
) -> Result<(), Refusal> {
    for (function, what) in needs.into_iter().flat_map(called) {
        let wanted = there.iter().find(|(one, _)| *one == function);
        let (Some((_, wanted)), Some(id)) =
            (wanted, needs.and_then(|needs| function_of(needs, function)))
        else {
            let need = format!("the {what} {function}");
            return Err(lacking(name, &need, contract::HINT));
        };
        let found = spelled(types, id);
        if found != *wanted {
            return Err(mismatched(name, function, &found, wanted, contract::HINT));
        }
    }
    Ok(())
}

fn instance<'a>(
    types: TypesRef<'a>,
    item: Option<&ComponentItem>,
) -> Option<&'a ComponentInstanceType> {
    match item?.ty {
        ComponentEntityType::Instance(id) => types.get(id),
        _ => None,
    }
}

fn function_of(instance: &ComponentInstanceType, name: &str) -> Option<ComponentFuncTypeId> {
    match instance.exports.get(name)?.ty {
        ComponentEntityType::Func(id) => Some(id),
        _ => None,
    }
}

/// What a host must provide for an item of an imported instance: nothing for types alone, and
/// resources come with their functions.
fn called(instance: &ComponentInstanceType) -> impl Iterator<Item = (&str, &'static str)> {
    instance.exports.iter().filter_map(|(name, item)| {
        let what = match &item.ty {
            ComponentEntityType::Func(_) => "function",
            ComponentEntityType::Type { .. } => return None,
            ComponentEntityType::Module(_) => "module",
            ComponentEntityType::Value(_) => "value",
            ComponentEntityType::Instance(_) => "instance",
            ComponentEntityType::Component(_) => "component",
        };
        Some((name.as_str(), what))
    })
}
