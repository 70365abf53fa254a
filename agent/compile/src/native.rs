//! From a file that can run here to native code.

use wasmtime::{Engine, Error};

use crate::artifact::Kind;
use crate::outline;
use crate::refusal::{Refusal, plain};
use crate::settings::settings;

/// Compile for the baseline of this host's architecture, on all of its processors.
pub(crate) fn compile(binary: &[u8], kind: Kind) -> Result<Vec<u8>, Refusal> {
    let compiled = settings().and_then(|settings| {
        let engine = Engine::new(&settings)?;
        match kind {
            Kind::Command => engine.precompile_module(binary),
            Kind::Actor | Kind::CommandComponent | Kind::HttpComponent => {
                engine.precompile_component(binary)
            }
        }
    });
    compiled.map_err(|error| refused(binary, &error))
}

/// Explain what the compiler refused: in our own words if our validation finds it too.
fn refused(binary: &[u8], error: &Error) -> Refusal {
    let found = outline::read(binary).and_then(|outline| outline.functions.validate(binary));
    found.err().unwrap_or_else(|| {
        Refusal::new(
            format!("it cannot be compiled: {}", plain(&format!("{error:#}"))),
            "build it again; `plexspaces doctor` checks whether the compiler works",
        )
    })
}
