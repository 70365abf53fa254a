//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::limits::Limits;

/// The parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The limits of this process.
    pub(crate) limits: Limits,
    /// What to do.
    pub(crate) action: Action,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Print the engine that this compiles for.
    Version,
    /// Describe a file.
    Inspect {
        /// The file.
        file: PathBuf,
    },
    /// Describe a file and write its native code.
    Compile {
        /// The file.
        source: PathBuf,
        /// The output file.
        target: PathBuf,
    },
    /// Convert text on stdin to a binary on stdout.
    Assemble,
    /// Convert a core module on stdin to a component on stdout.
    Componentize,
}

impl Arguments {
    /// Parse the arguments after the program's name.
    pub(crate) fn read(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments;
        let mut limits = Limits::default();
        let action = loop {
            let word = next(
                &mut arguments,
                "a command (inspect, compile, assemble or componentize)",
            )?;
            match word.to_str().unwrap_or_default() {
                "--memory-bytes" => limits.memory_bytes = Some(number(&word, &mut arguments)?),
                "--cpu-s" => limits.cpu_s = Some(number(&word, &mut arguments)?),
                "--file-bytes" => limits.file_bytes = Some(number(&word, &mut arguments)?),
                "--files" => limits.files = Some(number(&word, &mut arguments)?),
                "--parent" => limits.parent = Some(number(&word, &mut arguments)?),
                "--version" => break Action::Version,
                "inspect" => {
                    break Action::Inspect {
                        file: next(&mut arguments, "a file to inspect")?.into(),
                    };
                }
                "compile" => {
                    break Action::Compile {
                        source: next(&mut arguments, "a file to compile")?.into(),
                        target: next(&mut arguments, "a file to write")?.into(),
                    };
                }
                "assemble" => break Action::Assemble,
                "componentize" => break Action::Componentize,
                _ => return Err(format!("unknown command or option {}", word.display())),
            }
        };
        match arguments.next() {
            None => Ok(Self { limits, action }),
            Some(word) => Err(format!("unexpected argument {}", word.display())),
        }
    }
}

fn next(arguments: &mut impl Iterator<Item = OsString>, wanted: &str) -> Result<OsString, String> {
    arguments
        .next()
        .ok_or_else(|| format!("{wanted} is missing"))
}

fn number<T: std::str::FromStr>(
    option: &OsString,
    arguments: &mut impl Iterator<Item = OsString>,
) -> Result<T, String> {
    let option = option.display();
    let word = next(arguments, &format!("a number after {option}"))?;
    word.to_str()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| format!("{option} needs a number, not {}", word.display()))
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use super::{Action, Arguments};
    use crate::limits::Limits;

    fn read(line: &str) -> Result<Arguments, String> {
        Arguments::read(line.split_whitespace().map(Into::into))
    }

    #[test]
    fn limits_come_before_the_command() {
        let limits = Limits {
            memory_bytes: Some(5),
            cpu_s: Some(6),
            file_bytes: Some(7),
            files: Some(8),
            parent: Some(9),
        };
        let line = "--memory-bytes 5 --cpu-s 6 --file-bytes 7 --files 8 --parent 9 compile a b";
        let action = Action::Compile {
            source: "a".into(),
            target: "b".into(),
        };
        assert_eq!(read(line), Ok(Arguments { limits, action }));
    }

    #[test]
    fn what_is_no_command_line_is_told() {
        for (line, said) in [
            (
                "",
                "a command (inspect, compile, assemble or componentize) is missing",
            ),
            ("explode", "unknown command or option explode"),
            ("inspect", "a file to inspect is missing"),
            ("compile a", "a file to write is missing"),
            ("--cpu-s", "a number after --cpu-s"),
            ("--cpu-s soon inspect a", "--cpu-s needs a number, not soon"),
            ("inspect a b", "unexpected argument b"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
