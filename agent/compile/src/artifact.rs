//! What a file is, according to its sections, before its code is looked at.

use crate::outline::{self, Functions, Outline};
use crate::refusal::Refusal;
use crate::{command, component, demand};

/// How an artifact is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A component that exports the actor interface.
    Actor,
    /// A core module with `_start`: WASI preview 1.
    Command,
    /// A component that exports `wasi:cli/run`.
    CommandComponent,
    /// A component that exports `wasi:http/incoming-handler` or `wasi:http/handler`.
    HttpComponent,
}

impl Kind {
    /// Its name in the node.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Actor => "actor",
            Self::Command => "command",
            Self::CommandComponent => "command-component",
            Self::HttpComponent => "http-component",
        }
    }
}

/// An artifact that can run here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// How it is run.
    pub(crate) kind: Kind,
    /// The languages it says it was written in, the outermost first.
    pub(crate) languages: Vec<String>,
    /// The tools it says it was made by.
    pub(crate) processed_by: Vec<String>,
    /// What it imports: interfaces of a component, modules of a core module.
    pub(crate) imports: Vec<String>,
    /// What it exports.
    pub(crate) exports: Vec<String>,
    /// How much linear memory it has from the start.
    pub(crate) memory_bytes: u64,
}

/// An artifact that can run here, except that its code has not been checked.
pub(crate) struct Judged<'a> {
    /// What it is.
    pub(crate) artifact: Artifact,
    /// Its code, which has not been validated.
    pub(crate) functions: Functions<'a>,
}

/// Determine what a file is, or why it cannot run here.
pub(crate) fn judge(binary: &[u8]) -> Result<Judged<'_>, Refusal> {
    let outline = outline::read(binary)?;
    let kind = if outline.is_component {
        component::judge(&outline)?
    } else {
        command::judge(&outline)?
    };
    demand::check(&outline.demand)?;
    let Outline {
        languages,
        processed_by,
        imports,
        exports,
        demand,
        functions,
        ..
    } = outline;
    let artifact = Artifact {
        kind,
        languages,
        processed_by,
        imports,
        exports,
        memory_bytes: demand.memory_bytes,
    };
    Ok(Judged {
        artifact,
        functions,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::judge;

    const TEXTS: [&str; 2] = [
        include_str!("../../../tests/actors/command-async.wat"),
        include_str!("../../../tests/actors/command.wat"),
    ];

    fn inspect(binary: &[u8]) -> bool {
        judge(binary).is_ok_and(|judged| judged.functions.validate(binary).is_ok())
    }

    #[test]
    fn no_change_of_a_byte_and_no_end_makes_it_panic() {
        for text in TEXTS {
            let whole = wat::parse_str(text).unwrap();
            assert!(inspect(&whole));
            for at in 0..whole.len() {
                inspect(&whole[..at]);
                for other in [0, 0xff, whole[at] ^ 1] {
                    let mut changed = whole.clone();
                    changed[at] = other;
                    inspect(&changed);
                }
            }
        }
    }
}
