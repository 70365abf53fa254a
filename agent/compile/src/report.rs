//! The program's answer, as the node and the client read it.

use serde_json::{Value, json};

use crate::artifact::Artifact;
use crate::refusal::Refusal;

/// The code of every refusal: only the user can change the file.
const CODE: &str = "invalid_argument";

/// Write an answer as JSON.
pub(crate) fn written(found: &Result<Artifact, Refusal>) -> Value {
    match found {
        Ok(artifact) => json!({
            "ok": true,
            "kind": artifact.kind.name(),
            "languages": artifact.languages,
            "processed_by": artifact.processed_by,
            "imports": artifact.imports,
            "exports": artifact.exports,
            "memory_bytes": artifact.memory_bytes,
            "engine": crate::settings::ENGINE,
        }),
        Err(refusal) => json!({
            "ok": false,
            "code": CODE,
            "message": refusal.message,
            "hint": refusal.hint,
        }),
    }
}
