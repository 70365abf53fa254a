//! What is loaded: the settings of an application, and its artifact in one of four forms.

use std::collections::BTreeMap;
use std::path::Path;

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::link::proto::{Failure, Load, load::Kind};

/// The limits and parameters of an application, fixed for the life of the machine.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Its name.
    pub(crate) application: String,
    /// Its environment.
    pub(crate) env: Vec<(String, String)>,
    /// A command's arguments, its name first.
    pub(crate) args: Vec<String>,
    /// The limit of linear memory.
    pub(crate) memory_bytes: usize,
    /// The longest message.
    pub(crate) message_limit: usize,
}

impl Settings {
    /// Take what is needed later from a `Load`.
    pub(crate) fn new(load: &Load, message_limit: usize) -> Self {
        let env: BTreeMap<String, String> = load.env.clone();
        let args = std::iter::once(load.application.clone()).chain(load.args.clone());
        Self {
            application: load.application.clone(),
            env: env.into_iter().collect(),
            args: args.collect(),
            memory_bytes: usize::try_from(load.memory_bytes).unwrap_or(usize::MAX),
            message_limit,
        }
    }

    /// Whether its environment has this variable: what the platform would set gives way to it.
    pub(crate) fn has_variable(&self, name: &str) -> bool {
        self.env.iter().any(|(one, _)| one == name)
    }
}

/// An artifact's native code, mapped from its file.
pub(crate) enum Artifact {
    /// A component that exports the actor interface.
    Actor(Component),
    /// A core module with `_start`.
    Module(Module),
    /// A component that exports `wasi:cli/run`.
    Command(Component),
    /// A component that exports the handler of `wasi:http`.
    Http(Component),
}

impl Artifact {
    /// Map the native code at a path. Fails if another engine or configuration compiled it.
    pub(crate) fn open(engine: &Engine, path: &Path, kind: Kind) -> Result<Self, Failure> {
        let opened = match kind {
            Kind::Actor => component(engine, path).map(Self::Actor),
            Kind::CommandComponent => component(engine, path).map(Self::Command),
            Kind::HttpComponent => component(engine, path).map(Self::Http),
            Kind::Command => module(engine, path).map(Self::Module),
            Kind::Unspecified => {
                return Err(Failure::platform("internal", "unknown kind of artifact"));
            }
        };
        opened.map_err(|error| does_not_load(&error))
    }
}

/// The error for native code that this agent cannot run.
pub(crate) fn does_not_load(error: &wasmtime::Error) -> Failure {
    Failure::platform(
        "internal",
        format!("the native code cannot be loaded: {error:#}"),
    )
    .hint("deploy it again, so that it is compiled for this version")
}

fn component(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the node has compiled the file and names it by its digest; nobody else may write it.
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize_file(engine, path)
    }
}

fn module(engine: &Engine, path: &Path) -> wasmtime::Result<Module> {
    // SAFETY: as for a component.
    #[allow(unsafe_code)]
    unsafe {
        Module::deserialize_file(engine, path)
    }
}
