//! Checks a WebAssembly file and compiles it to the native code that the agent loads.
//!
//! ```text
//! plexspaces-compile [LIMITS] inspect FILE      describe a file, from its own sections
//! plexspaces-compile [LIMITS] compile IN OUT    the same, and write its native code
//! plexspaces-compile assemble                   text on stdin, binary on stdout
//! plexspaces-compile componentize               core module on stdin, component on stdout
//! plexspaces-compile --version
//! ```
//!
//! `inspect` and `compile` print one JSON object: what the file is, or why it cannot run here. The
//! exit status is 0 in both cases. The caller limits this process with [`limits`], because a
//! hostile file can cost time and memory, and has to explain any other exit status.

mod arguments;
mod artifact;
mod command;
mod component;
mod componentize;
mod contract;
mod demand;
mod limits;
mod native;
mod offered;
mod outline;
mod preview1;
mod proposals;
mod refusal;
mod report;
#[path = "../../src/settings.rs"]
mod settings;
mod signature;
mod wasi;

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use arguments::{Action, Arguments};
use artifact::Artifact;
use refusal::Refusal;

/// The usual exit status for a wrong command line.
const USAGE_STATUS: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("plexspaces-compile: {error}");
            return ExitCode::from(USAGE_STATUS);
        }
    };
    let done = limits::set(&arguments.limits)
        .map_err(|error| format!("its limits cannot be set: {error}"))
        .and_then(|()| run(&arguments.action));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plexspaces-compile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: &Action) -> Result<(), String> {
    match action {
        Action::Version => say(&format!(
            "plexspaces-compile {} ({})\n",
            env!("CARGO_PKG_VERSION"),
            settings::ENGINE
        )),
        Action::Inspect { file } => answer(&inspect(&read(file)?)),
        Action::Compile { source, target } => compile(&read(source)?, target),
        Action::Assemble => assemble(),
        Action::Componentize => componentize(),
    }
}

fn inspect(binary: &[u8]) -> Result<Artifact, Refusal> {
    let judged = artifact::judge(binary)?;
    judged.functions.validate(binary)?;
    Ok(judged.artifact)
}

fn compile(binary: &[u8], target: &Path) -> Result<(), String> {
    // The compiler validates the functions' bodies when it compiles them.
    let compiled = artifact::judge(binary).and_then(|judged| {
        let code = native::compile(binary, judged.artifact.kind)?;
        Ok((judged.artifact, code))
    });
    let artifact = match compiled {
        Ok((artifact, code)) => {
            std::fs::write(target, code).map_err(|error| of(target, &error))?;
            Ok(artifact)
        }
        Err(refusal) => Err(refusal),
    };
    answer(&artifact)
}

fn assemble() -> Result<(), String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| format!("stdin: {error}"))?;
    let binary = wat::parse_str(&text).map_err(|error| error.to_string())?;
    write(&binary)
}

fn componentize() -> Result<(), String> {
    let mut module = Vec::new();
    std::io::stdin()
        .read_to_end(&mut module)
        .map_err(|error| format!("stdin: {error}"))?;
    write(&componentize::componentize(&module)?)
}

fn answer(found: &Result<Artifact, Refusal>) -> Result<(), String> {
    say(&report::written(found).to_string())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| of(file, &error))
}

fn of(file: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", file.display())
}

fn say(text: &str) -> Result<(), String> {
    write(text.as_bytes())
}

fn write(bytes: &[u8]) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("stdout: {error}"))
}
