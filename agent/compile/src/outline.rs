//! A file's sections: names, types and needs. Its code is only collected.
//!
//! Everything is validated with exactly the features that the agent's engine accepts. Nothing is
//! judged here.

use wasmparser::types::Types;
use wasmparser::{
    CustomSectionReader, FuncToValidate, FuncValidatorAllocations, FunctionBody, KnownCustom,
    Parser, Payload, ProducersSectionReader, ValidPayload, Validator, ValidatorResources,
};

use crate::demand::Demand;
use crate::proposals;
use crate::refusal::Refusal;

mod levels;

use levels::Levels;

const MAGIC: &[u8] = b"\0asm";
const CORE_LAYER: &[u8] = b"\x01\0\0\0";
const COMPONENT_LAYER: &[u8] = b"\x0d\0\x01\0";

/// How many languages or tools are reported.
const MOST_TOLD: usize = 64;

/// A library that only Python's interpreter uses.
const PYTHON: &[u8] = b"libpython3";

/// A file's sections.
pub(crate) struct Outline<'a> {
    /// Whether it is a component, and not a core module.
    pub(crate) is_component: bool,
    /// The languages that the `producers` sections name, the outermost first, each once.
    pub(crate) languages: Vec<String>,
    /// The tools that those sections name.
    pub(crate) processed_by: Vec<String>,
    /// Names of what a component imports, or modules that a core module imports from.
    pub(crate) imports: Vec<String>,
    /// Names of what it exports.
    pub(crate) exports: Vec<String>,
    /// What it needs from the start.
    pub(crate) demand: Demand,
    /// The types of all of these.
    pub(crate) types: Types,
    /// Its code.
    pub(crate) functions: Functions<'a>,
}

/// The bodies of functions, validated once everything else is known to be right.
#[derive(Default)]
pub(crate) struct Functions<'a>(Vec<(FuncToValidate<ValidatorResources>, FunctionBody<'a>)>);

impl Functions<'_> {
    /// Validate them; `binary` is the file that they belong to.
    pub(crate) fn validate(self, binary: &[u8]) -> Result<(), Refusal> {
        let mut allocations = FuncValidatorAllocations::default();
        for (function, body) in self.0 {
            let mut validator = function.into_validator(allocations);
            validator
                .validate(&body)
                .map_err(|error| proposals::explain(binary, &error))?;
            allocations = validator.into_allocations();
        }
        Ok(())
    }
}

/// Read a file's sections and validate everything but the code.
pub(crate) fn read(binary: &[u8]) -> Result<Outline<'_>, Refusal> {
    let is_component = is_component(binary)?;
    let mut told = Told::default();
    let mut levels = Levels::new();
    let mut functions = Functions::default();
    let mut validator = Validator::new_with_features(proposals::run_here());
    let mut parser = Parser::new(0);
    parser.set_features(proposals::run_here());
    for payload in parser.parse_all(binary) {
        let payload = payload.map_err(|error| proposals::explain(binary, &error))?;
        let valid = validator
            .payload(&payload)
            .map_err(|error| proposals::explain(binary, &error))?;
        if let Payload::CustomSection(section) = &payload {
            told.read(section)?;
        }
        levels
            .see(&payload)
            .map_err(|error| proposals::explain(binary, &error))??;
        match valid {
            ValidPayload::Func(function, body) => functions.0.push((function, body)),
            ValidPayload::End(types) if levels.is_closed() => {
                return Ok(Outline {
                    is_component,
                    languages: told.languages,
                    processed_by: told.processed_by,
                    imports: levels.imports(is_component),
                    exports: levels.exports(),
                    demand: levels.demand(),
                    types,
                    functions,
                });
            }
            _ => {}
        }
    }
    Err(Refusal::new(
        "not valid WebAssembly: it has no end",
        proposals::DAMAGED_HINT,
    ))
}

fn is_component(binary: &[u8]) -> Result<bool, Refusal> {
    if binary.is_empty() {
        return Err(Refusal::new("the file is empty", proposals::DAMAGED_HINT));
    }
    if !binary.starts_with(MAGIC) {
        return Err(Refusal::new(
            format!(
                "not WebAssembly: the file begins with {}, not 00 61 73 6d",
                hexadecimal(binary.get(..4).unwrap_or(binary))
            ),
            "give the .wasm file that plexspaces build or your compiler wrote",
        ));
    }
    let layer = binary.get(4..8).ok_or_else(|| {
        Refusal::new(
            format!("truncated: the file ends after {} bytes", binary.len()),
            proposals::DAMAGED_HINT,
        )
    })?;
    match layer {
        CORE_LAYER => Ok(false),
        COMPONENT_LAYER => Ok(true),
        [version, 0, 1, 0] if *version < COMPONENT_LAYER[0] => Err(Refusal::new(
            format!("it is a component in a binary format older than WASI 0.2 ({version:#x})"),
            "build it with current tools, for example for the target wasm32-wasip2",
        )),
        layer => Err(Refusal::new(
            format!("unknown WebAssembly version {}", hexadecimal(layer)),
            "build it with tools that write WebAssembly 1 or components of WASI 0.2 or 0.3",
        )),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// What custom sections say about how a file was made, those of nested modules included.
#[derive(Default)]
struct Told {
    languages: Vec<String>,
    processed_by: Vec<String>,
}

impl Told {
    fn read(&mut self, section: &CustomSectionReader<'_>) -> Result<(), Refusal> {
        match section.name() {
            "producers" => {
                if let KnownCustom::Producers(producers) = section.as_known() {
                    self.read_producers(producers).map_err(|error| {
                        Refusal::new(
                            format!("not valid WebAssembly: its producers section: {error}"),
                            proposals::DAMAGED_HINT,
                        )
                    })?;
                }
            }
            // componentize-py's own output names only the language of an adapter.
            "dylink.0" if contains(section.data(), PYTHON) => {
                keep(&mut self.languages, "Python");
            }
            _ => {}
        }
        Ok(())
    }

    fn read_producers(&mut self, producers: ProducersSectionReader<'_>) -> wasmparser::Result<()> {
        for field in producers {
            let field = field?;
            let kept = match field.name {
                "language" => &mut self.languages,
                "processed-by" => &mut self.processed_by,
                _ => continue,
            };
            for value in field.values {
                keep(kept, value?.name);
            }
        }
        Ok(())
    }
}

fn keep(kept: &mut Vec<String>, name: &str) {
    if kept.len() < MOST_TOLD && kept.iter().all(|one| one != name) {
        kept.push(name.to_owned());
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|part| part == wanted)
}
