//! Describes why a guest ended: the kind of trap, where it was, and the guest's last output.

use std::fmt::Write as _;

use wasmtime::{Error, FrameInfo, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::link::failure::cut;
use crate::link::proto::Failure;
use crate::program::Settings;

/// How many functions a failure names; the log has all of them.
const NAMED_FRAMES: usize = 3;

/// How much of a function's or a file's name is shown: a program can choose any name.
const NAME_BYTES: usize = 512;

/// wasmtime's message if more would cross to the host than the host has memory for.
const CROSSES_NOT: &str = "fuel allocated for hostcalls";

/// How much of a program's output is shown; the log has all of it.
const SAID_BYTES: usize = 300;

/// Text in a line in which a language's runtime says why it gives up.
const LAST_WORDS: [&str; 3] = ["panic:", "fatal error:", "panicked at"];

/// Those that begin the line if the runtime writes it and not the program.
const RUNTIME_GAVE_UP: [&str; 2] = ["panic:", "fatal error:"];

/// The panic of Python's runtime, which says nothing: the line before it is the exception's.
const PYTHON_THREW: &str = "Python function threw";

/// Text in the last lines of a runtime that was refused memory.
const RAN_OUT: [&str; 3] = ["MemoryError", "out of memory", "memory allocation of "];

/// Functions by which a language's runtime ends a program. They say nothing about the program
/// itself.
const MACHINERY: [&str; 15] = [
    "core::panicking",
    "std::panicking",
    "std::process",
    "std::sys",
    "std::rt",
    "rust_panic",
    "__rust",
    "abort",
    "rust_begin_unwind",
    "core::ops::function",
    "core::result::unwrap_failed",
    "core::option::unwrap_failed",
    "core::option::expect_failed",
    "runtime.",
    "alloc::alloc",
];

const MIB: usize = 1024 * 1024;

/// The hint for an application with too little memory.
pub(crate) const MORE_MEMORY: &str = "deploy it with more memory: --memory MIB";

/// What the guest was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum During {
    /// Instances are being created.
    Start,
    /// `init`.
    Init,
    /// `handle-message`.
    Message,
    /// `snapshot-state`.
    Snapshot,
    /// `shutdown`.
    Shutdown,
    /// A command's run.
    Command,
    /// The handler of wasi:http.
    Request,
}

impl During {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Init => "init",
            Self::Message => "handle-message",
            Self::Snapshot => "snapshot-state",
            Self::Shutdown => "shutdown",
            Self::Command => "running the command",
            Self::Request => "handling the request",
        }
    }

    fn deploying(self) -> bool {
        matches!(self, Self::Start | Self::Init)
    }
}

/// What is known about an end.
#[derive(Debug)]
pub(crate) struct End<'a> {
    /// The application's name.
    pub(crate) application: &'a str,
    /// What the guest was doing.
    pub(crate) during: During,
    /// What it last wrote to stderr.
    pub(crate) words: &'a [String],
    /// Its limit of linear memory, in bytes.
    pub(crate) memory_limit: usize,
    /// How much it would have had if that had not been refused.
    pub(crate) refused: Option<usize>,
}

impl<'a> End<'a> {
    /// Put together what is known about the end of an application with these settings.
    pub(crate) fn of(
        settings: &'a Settings,
        during: During,
        words: &'a [String],
        refused: Option<usize>,
    ) -> Self {
        Self {
            application: &settings.application,
            during,
            words,
            memory_limit: settings.memory_bytes,
            refused,
        }
    }

    /// The failure of a call whose deadline passed.
    pub(crate) fn out_of_time(&self) -> Failure {
        let during = self.during.name();
        let message = format!(
            "{during}: no answer within the timeout; it was interrupted{}",
            self.last_wrote()
        );
        Failure::platform("deadline_exceeded", message).hint(if self.during.deploying() {
            "make it do less there, or raise [limits] deploy_timeout_s"
        } else {
            "set a longer timeout: --timeout SECONDS"
        })
    }

    /// Describe an error that ended the guest: for its caller, and in full for its log.
    pub(crate) fn explain(&self, error: &Error) -> (Failure, String) {
        let during = self.during.name();
        if let Some(failure) = self.too_little_to_begin_with() {
            let in_full = failure.message.clone();
            return (failure, in_full);
        }
        let (code, what, memory) = self.kind(error);
        let place = place(error);
        let message = format!("{during}: {what}{place}{}", self.last_wrote());
        let failure = Failure::trap(code, message.as_str());
        let failure = if memory {
            failure.hint(MORE_MEMORY)
        } else if self.during.deploying() {
            // If an application does not start, its deploy is undone, and its log is deleted.
            failure
        } else {
            failure.hint(logs_hint(self.application))
        };
        (failure, format!("{during}: {what}{}", backtrace(error)))
    }

    /// The code of a trap, what it means, and whether more memory would help.
    fn kind(&self, error: &Error) -> (&'static str, String, bool) {
        let Some(trap) = error.downcast_ref::<Trap>() else {
            return self.no_trap(error);
        };
        let (code, name, meaning) = match trap {
            Trap::UnreachableCodeReached => (
                "unreachable",
                "unreachable",
                "the program panicked or aborted",
            ),
            Trap::StackOverflow => (
                "stack-overflow",
                "call stack exhausted",
                "the program recursed too deeply",
            ),
            Trap::MemoryOutOfBounds | Trap::HeapMisaligned => (
                "memory-out-of-bounds",
                "out of bounds memory access",
                "the program read or wrote outside its memory",
            ),
            Trap::IntegerDivisionByZero => (
                "divide-by-zero",
                "integer divide by zero",
                "the program divided by zero",
            ),
            Trap::TableOutOfBounds | Trap::IndirectCallToNull | Trap::BadSignature => (
                "bad-call",
                "indirect call",
                "the program called something that is not a function",
            ),
            _ => return ("trap", format!("trap: {}", kind_of(*trap)), false),
        };
        if code == "unreachable" && self.ran_out_of_memory() {
            return (
                code,
                format!("trap: {name}: {}", self.out_of_memory()),
                true,
            );
        }
        (code, format!("trap: {name}: {meaning}"), false)
    }

    fn too_little_to_begin_with(&self) -> Option<Failure> {
        // If the machine itself had no memory left, what was refused is within the limit.
        let lacks = |wanted: &usize| *wanted > self.memory_limit;
        let wanted = self
            .refused
            .filter(lacks)
            .filter(|_| self.during == During::Start)?;
        let (needed, given) = (mib(wanted), self.memory_limit / MIB);
        let message = format!(
            "{}: it needs {needed} MiB of memory to start, but only {given} MiB are left",
            self.during.name()
        );
        Some(Failure::actor("too-little-memory", message).hint(format!(
            "deploy with more memory, at least {} MiB more: --memory MIB",
            needed - given
        )))
    }

    fn no_trap(&self, error: &Error) -> (&'static str, String, bool) {
        if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
            // A runtime that gives up exits with a status, like a program that does so on purpose.
            if said_no_memory(self.words) {
                return ("unreachable", self.out_of_memory(), true);
            }
            if self.words.iter().any(|line| gives_up(line)) {
                return ("unreachable", "the program panicked".to_owned(), false);
            }
            let what = format!("the program exited with status {status}");
            return ("exit", what, false);
        }
        let is_shared = matches!(self.during, During::Command | During::Request);
        if let Some(wanted) = self.refused.filter(|_| is_shared) {
            let (needed, given) = (mib(wanted), self.memory_limit / MIB);
            let what = format!(
                "this message and the others being handled need {needed} MiB of memory, but \
                 share {given} MiB"
            );
            return ("too-little-memory", what, true);
        }
        let cause = error.root_cause().to_string();
        if cause.contains(CROSSES_NOT) {
            let what = "it passes more data to the host than the VM has memory for".to_owned();
            return ("too-little-memory", what, true);
        }
        let line = cause.lines().map(str::trim).find(|line| !line.is_empty());
        ("trap", line.unwrap_or("unknown").to_owned(), false)
    }

    /// The failure of a command that exited with a status other than 0.
    pub(crate) fn exited(&self, status: i32) -> Failure {
        let code = format!("exit-{status}");
        if said_no_memory(self.words) {
            let message = format!("{}{}", self.out_of_memory(), self.last_wrote());
            return Failure::actor(&code, message).hint(MORE_MEMORY);
        }
        match last_words(self.words) {
            Some(said) => {
                Failure::actor(&code, cut(said, SAID_BYTES)).hint(logs_hint(self.application))
            }
            // It wrote nothing, so there is no log to look at.
            None => Failure::actor(&code, format!("the command ended with status {status}")),
        }
    }

    fn ran_out_of_memory(&self) -> bool {
        self.refused.is_some() || said_no_memory(self.words)
    }

    fn out_of_memory(&self) -> String {
        let limit = self.memory_limit / MIB;
        format!("the program ran out of its {limit} MiB of memory")
    }

    fn last_wrote(&self) -> String {
        let Some(said) = last_words(self.words) else {
            return String::new();
        };
        let told = cut(said.clone(), SAID_BYTES);
        // If an application does not start, its deploy is undone, and its log is deleted.
        if told == said || self.during.deploying() {
            return format!("; it last wrote: {told}");
        }
        let application = self.application;
        format!("; it last wrote: {told} (more: plexspaces logs {application})")
    }
}

/// Whether the last lines of a runtime say that it was refused memory.
fn said_no_memory(lines: &[String]) -> bool {
    let signs = |line: &String| RAN_OUT.iter().any(|sign| line.contains(sign));
    lines.iter().any(signs)
}

/// Whether this is the line in which Go's runtime says why it gives up.
pub(crate) fn gives_up(line: &str) -> bool {
    RUNTIME_GAVE_UP.iter().any(|mark| line.starts_with(mark))
}

/// Whether this is a place in a trace of Go's runtime, which is the last line it writes.
pub(crate) fn ends_a_trace(line: &str) -> bool {
    line.starts_with('\t') && line.contains(".go:")
}

/// A guest's own explanation of its end: the line of its panic, else the last line.
fn last_words(lines: &[String]) -> Option<String> {
    for (at, line) in lines.iter().enumerate().rev() {
        if LAST_WORDS.iter().any(|mark| line.contains(mark)) {
            let mut words = line.clone();
            // Rust puts the message on the line after the place.
            if let Some(next) = lines.get(at + 1).filter(|_| line.ends_with(':')) {
                words = format!("{line} {next}");
            }
            return match at.checked_sub(1).and_then(|before| lines.get(before)) {
                Some(before) if words.contains(PYTHON_THREW) => Some(before.clone()),
                _ => Some(words),
            };
        }
    }
    lines.last().cloned()
}

/// The hint that shows an application's output.
fn logs_hint(application: &str) -> String {
    format!("see its log: plexspaces logs {application}")
}

/// The name of a trap, without the prefix that all have in common.
fn kind_of(trap: Trap) -> String {
    trap.to_string().replace("wasm trap: ", "")
}

/// Bytes in MiB, rounded up.
pub(crate) fn mib(bytes: usize) -> usize {
    bytes.div_ceil(MIB)
}

/// Name the innermost functions of the program itself.
fn place(error: &Error) -> String {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else {
        return String::new();
    };
    let calls = trace.frames().iter().flat_map(calls_of);
    let own: Vec<String> = calls
        .filter(|call| !call.is_machinery())
        .take(NAMED_FRAMES)
        .map(|call| call.to_string())
        .collect();
    if own.is_empty() {
        return String::new();
    }
    format!(", in {}", own.join(" < "))
}

fn backtrace(error: &Error) -> String {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else {
        return String::new();
    };
    let mut text = String::new();
    for call in trace.frames().iter().flat_map(calls_of) {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  in {call}");
    }
    text
}

struct Call {
    function: String,
    source: Option<String>,
}

impl Call {
    fn is_machinery(&self) -> bool {
        let name = self.function.trim_start_matches('<');
        MACHINERY.iter().any(|part| name.starts_with(part))
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.function)?;
        match &self.source {
            Some(source) => write!(out, " ({source})"),
            None => Ok(()),
        }
    }
}

/// The calls of a frame, innermost first: inlined functions have no frame of their own.
fn calls_of(frame: &FrameInfo) -> Vec<Call> {
    let symbols = frame.symbols();
    if symbols.is_empty() {
        let function = frame
            .func_name()
            .map_or_else(|| format!("function {}", frame.func_index()), demangled);
        return vec![Call {
            function,
            source: None,
        }];
    }
    let named = |symbol: &wasmtime::FrameSymbol| Call {
        function: symbol
            .name()
            .or_else(|| frame.func_name())
            .map_or_else(|| format!("function {}", frame.func_index()), demangled),
        source: symbol.file().map(|file| {
            // The end of the path, because the rest belongs to the machine that built it.
            let tail: Vec<&str> = file.rsplit('/').take(2).collect();
            let file = tail.into_iter().rev().collect::<Vec<_>>().join("/");
            let file = cut(file, NAME_BYTES);
            match symbol.line() {
                Some(line) => format!("{file}:{line}"),
                None => file,
            }
        }),
    };
    symbols.iter().map(named).collect()
}

fn demangled(name: &str) -> String {
    cut(format!("{:#}", rustc_demangle::demangle(name)), NAME_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    fn end(during: During, words: &[String]) -> End<'_> {
        End {
            application: "shop",
            during,
            words,
            memory_limit: 64 * MIB,
            refused: None,
        }
    }

    #[test]
    fn the_last_words_are_the_line_of_the_panic_with_its_message() {
        let rust = words(&[
            "thread 'main' panicked at src/lib.rs:3:5:",
            "too many",
            "note: run",
        ]);
        let said = last_words(&rust).expect("words");
        assert_eq!(said, "thread 'main' panicked at src/lib.rs:3:5: too many");
        let go = words(&["panic: no such account", "", "goroutine 1 [running]:"]);
        assert_eq!(last_words(&go).as_deref(), Some("panic: no such account"));
        let python = words(&["ValueError: no", "x panicked at y: Python function threw"]);
        assert_eq!(last_words(&python).as_deref(), Some("ValueError: no"));
        assert_eq!(last_words(&[]), None);
    }

    #[test]
    fn a_trap_names_its_kind_and_what_it_means() {
        let error = Error::from(Trap::IntegerDivisionByZero);
        let (failure, _) = end(During::Message, &[]).explain(&error);
        assert_eq!(failure.code, "divide-by-zero");
        assert_eq!(
            failure.message,
            "handle-message: trap: integer divide by zero: the program divided by zero"
        );
        assert_eq!(failure.hint, "see its log: plexspaces logs shop");
    }

    #[test]
    fn a_trap_of_a_guest_without_memory_says_so_and_what_helps() {
        let error = Error::from(Trap::UnreachableCodeReached);
        let said = words(&["memory allocation of 100 bytes failed"]);
        let by_words = end(During::Message, &said);
        let by_refusal = End {
            refused: Some(65 * MIB),
            ..end(During::Message, &[])
        };
        for end in [by_words, by_refusal] {
            let (failure, _) = end.explain(&error);
            assert!(failure.message.contains("ran out of its 64 MiB of memory"));
            assert_eq!(failure.hint, MORE_MEMORY);
        }
    }

    #[test]
    fn a_runtime_that_ended_itself_without_memory_says_so_and_what_helps() {
        let said = words(&["fatal error: out of memory", "\tmain.go:3 +0x1"]);
        let error = Error::from(I32Exit(2));
        let (actor, _) = end(During::Message, &said).explain(&error);
        let command = end(During::Command, &said).exited(2);
        for failure in [actor, command] {
            assert!(failure.message.contains("ran out of its 64 MiB of memory"));
            assert!(failure.message.ends_with("fatal error: out of memory"));
            assert_eq!(failure.hint, MORE_MEMORY);
        }
    }

    #[test]
    fn a_program_that_ended_itself_is_told_from_one_that_panicked() {
        let error = Error::from(I32Exit(3));
        let (failure, _) = end(During::Message, &[]).explain(&error);
        assert_eq!(
            (failure.code.as_str(), failure.message.as_str()),
            ("exit", "handle-message: the program exited with status 3")
        );
        let said = words(&["panic: astray", "", "goroutine 9 [running]:"]);
        let (failure, _) = end(During::Message, &said).explain(&Error::from(I32Exit(2)));
        assert_eq!(failure.code, "unreachable");
        assert_eq!(
            failure.message,
            "handle-message: the program panicked; it last wrote: panic: astray"
        );
    }

    #[test]
    fn what_a_program_said_is_told_in_part_where_it_is_long_and_where_the_rest_is() {
        let said = words(&["x".repeat(5000).as_str()]);
        let failure = end(During::Message, &said).out_of_time();
        assert!(failure.message.len() < 600, "{}", failure.message);
        let end_of_it = "… (more: plexspaces logs shop)";
        assert!(failure.message.ends_with(end_of_it), "{}", failure.message);
        let failure = end(During::Init, &said).out_of_time();
        assert!(failure.message.ends_with("x …"), "{}", failure.message);
        let failure = end(During::Command, &said).exited(1);
        assert!(failure.message.len() <= SAID_BYTES);
        assert_eq!(failure.hint, "see its log: plexspaces logs shop");
    }

    #[test]
    fn a_guest_that_does_not_fit_to_begin_with_says_how_much_it_needs() {
        let end = End {
            refused: Some(100 * MIB),
            ..end(During::Start, &[])
        };
        let (failure, _) = end.explain(&Error::msg("memory minimum size of 1600 pages"));
        assert_eq!(failure.code, "too-little-memory");
        assert!(failure.message.contains("needs 100 MiB") && failure.message.contains("64 MiB"));
    }

    #[test]
    fn a_guest_for_which_the_machine_has_no_more_ran_out_of_memory_at_its_start_too() {
        let end = End {
            refused: Some(20 * MIB),
            ..end(During::Start, &[])
        };
        let (failure, _) = end.explain(&Error::from(Trap::UnreachableCodeReached));
        assert!(failure.message.contains("ran out of its 64 MiB of memory"));
        assert_eq!(failure.hint, MORE_MEMORY);
    }

    #[test]
    fn a_message_that_does_not_fit_beside_the_others_says_what_they_share() {
        let end = End {
            refused: Some(70 * MIB),
            ..end(During::Command, &[])
        };
        let (failure, _) = end.explain(&Error::msg("memory minimum size of 160 pages"));
        assert_eq!(failure.code, "too-little-memory");
        assert!(
            failure
                .message
                .contains("need 70 MiB of memory, but share 64 MiB")
        );
        assert_eq!(failure.hint, MORE_MEMORY);
    }

    #[test]
    fn names_of_functions_are_told_in_part_where_they_are_long() {
        for name in ["a".repeat(100_000), "é".repeat(50_000)] {
            let told = demangled(&name);
            assert!(told.len() <= NAME_BYTES && told.ends_with('…'), "{told}");
        }
        assert_eq!(demangled("_ZN4core3fmt5WriteE"), "core::fmt::Write");
    }

    #[test]
    fn out_of_time_says_what_was_interrupted_and_what_it_wrote() {
        let said = words(&["still counting"]);
        let failure = end(During::Command, &said).out_of_time();
        assert_eq!(failure.code, "deadline_exceeded");
        assert!(
            failure
                .message
                .starts_with("running the command: no answer")
        );
        assert!(failure.message.ends_with("it last wrote: still counting"));
    }
}
