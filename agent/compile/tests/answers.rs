//! What is told of a file that can be run, what is compiled of it, and the limits of all that.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use program::{answer, inspected, run, scratch};

const START: &str = r#"(func (export "_start"))"#;

/// A section `producers` that names one language and one tool.
fn producers(language: &str, tool: &str) -> Vec<u8> {
    let name = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let field =
        |field: &str, value: &str| [name(field), vec![1], name(value), name("1.0")].concat();
    let body = [
        name("producers"),
        vec![2],
        field("language", language),
        field("processed-by", tool),
    ]
    .concat();
    [vec![0, body.len() as u8], body].concat()
}

fn section(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    [
        &[kind, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8],
        body,
    ]
    .concat()
}

const RUN: &str = r#"(component
  (core module $m (func (export "run") (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"#;

#[test]
fn languages_and_tools_are_told_the_outermost_first_each_once() {
    let inner = [
        b"\0asm\x01\0\0\0".to_vec(),
        producers("Rust", "rustc"),
        producers("Rust", "x"),
    ]
    .concat();
    let mut whole = wat::parse_str(RUN).unwrap();
    let nested = section(1, &inner);
    whole.splice(8..8, [producers("JavaScript", "jco"), nested].concat());
    // One module more before it changes which one is instantiated.
    let said = inspected(&whole);
    assert_eq!(said["ok"], false, "{said}");
    let mut whole = wat::parse_str(RUN).unwrap();
    whole.extend(section(1, &inner));
    whole.splice(8..8, producers("JavaScript", "jco"));
    let said = inspected(&whole);
    assert_eq!(
        said["languages"],
        serde_json::json!(["JavaScript", "Rust"]),
        "{said}"
    );
    assert_eq!(
        said["processed_by"],
        serde_json::json!(["jco", "rustc", "x"])
    );
}

#[test]
fn a_component_with_pythons_interpreter_is_python() {
    let dylink = [b"\x08dylink.0".as_slice(), b"\x02 libpython3.14.so"].concat();
    let inner = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(0, &dylink),
        producers("Rust", "rustc"),
    ]
    .concat();
    let mut whole = wat::parse_str(RUN).unwrap();
    whole.extend(section(1, &inner));
    assert_eq!(
        inspected(&whole)["languages"],
        serde_json::json!(["Python", "Rust"])
    );
}

#[test]
fn memory_is_that_of_all_instances_and_of_nothing_that_is_not_instantiated() {
    let pages = |text: &str| {
        let said = inspected(&wat::parse_str(text).unwrap());
        assert_eq!(said["ok"], true, "{text}: {said}");
        said["memory_bytes"].as_u64().unwrap() / 65_536
    };
    assert_eq!(pages(&format!("(module (memory 40000) {START})")), 40_000);
    assert_eq!(pages(&format!("(module (memory 3) (memory 4) {START})")), 7);
    let component =
        |more: &str| pages(&RUN.replacen("(component", &format!("(component {more}"), 1));
    let module = "(core module $a (memory 5))";
    assert_eq!(component(module), 0);
    assert_eq!(
        component(&format!(
            "{module} (core instance (instantiate $a)) (core instance (instantiate $a))"
        )),
        10
    );
    // A component within, instantiated twice, which takes the module from outside.
    assert_eq!(
        component(&format!(
            "{module} (component $c (alias outer 1 $a (core module $b)) (core instance (instantiate $b)))
             (instance (instantiate $c)) (instance (instantiate $c))"
        )),
        10
    );
}

#[test]
fn a_file_is_compiled_to_what_the_engine_takes_for_native_code() {
    let (source, target) = (scratch("run.wasm"), scratch("run.cwasm"));
    std::fs::write(&source, wat::parse_str(RUN).unwrap()).unwrap();
    let arguments = [
        "compile",
        source.to_str().unwrap(),
        target.to_str().unwrap(),
    ];
    assert_eq!(answer(&run(&arguments, b""))["kind"], "command-component");
    let found = wasmtime::Engine::detect_precompiled_file(&target).unwrap();
    assert!(matches!(found, Some(wasmtime::Precompiled::Component)));
    for path in [source, target] {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn code_that_is_not_valid_is_told_by_inspecting_and_by_compiling_alike() {
    let binary = wat::parse_str(format!("(module (func (result i32)) {START})")).unwrap();
    let (source, target) = (scratch("invalid.wasm"), scratch("invalid.cwasm"));
    std::fs::write(&source, &binary).unwrap();
    let arguments = [
        "compile",
        source.to_str().unwrap(),
        target.to_str().unwrap(),
    ];
    let said = answer(&run(&arguments, b""));
    assert_eq!(said, inspected(&binary));
    let message = said["message"].as_str().unwrap();
    assert!(
        message.starts_with("not valid WebAssembly: type mismatch"),
        "{message}"
    );
    assert!(!target.exists());
    std::fs::remove_file(source).unwrap();
}

#[test]
fn text_is_assembled_and_an_error_in_it_says_where() {
    let done = run(&["assemble"], b"(module (func))");
    assert!(done.status.success() && done.stdout.starts_with(b"\0asm"));
    let done = run(&["assemble"], b"(module\n  (fun))");
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains(":2:"), "{said}");
}

#[test]
fn limits_are_those_that_it_was_told_and_its_parents_end_is_its_own() {
    let parent = std::process::id().to_string();
    let limits = [
        "--memory-bytes",
        "536870912",
        "--cpu-s",
        "30",
        "--file-bytes",
        "1000000",
        "--files",
        "64",
        "--parent",
        &parent,
    ];
    // A pipe whose other end is open: it waits for its file there.
    let mut child = Command::new(env!("CARGO_BIN_EXE_plexspaces-compile"))
        .args(limits)
        .args(["inspect", "/dev/stdin"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let found = loop {
        let found = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        // The last one that is set.
        if found.contains("Max open files            64 ") {
            break found;
        }
        std::thread::yield_now();
    };
    for line in [
        "Max data size             536870912            536870912",
        "Max cpu time              30                   31",
        "Max file size             1000000              1000000",
        "Max core file size        0                    0",
    ] {
        assert!(found.contains(line), "{line}: {found}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done = run(&["--parent", "1", "inspect", "/dev/stdin"], b"");
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("its parent 1 has ended"), "{said}");
}

#[test]
fn beyond_its_limits_it_ends_in_a_way_that_tells_which() {
    let text = format!(
        "(module (memory 1) (data (i32.const 0) \"{}\") {START})",
        "x".repeat(60_000)
    );
    let (source, target) = (scratch("large.wasm"), scratch("large.cwasm"));
    std::fs::write(&source, wat::parse_str(text).unwrap()).unwrap();
    let end = |limits: [&str; 2]| {
        let paths = [source.to_str().unwrap(), target.to_str().unwrap()];
        run(&[limits.as_slice(), &["compile"], &paths].concat(), b"")
    };
    let of_size = end(["--file-bytes", "1000"]);
    assert_eq!(of_size.status.signal(), Some(25), "SIGXFSZ: {of_size:?}");
    let of_memory = end(["--memory-bytes", "300000"]);
    assert!(!of_memory.status.success(), "{of_memory:?}");
    for path in [source, target] {
        let _ = std::fs::remove_file(path);
    }
}

#[test]
fn a_command_line_that_is_none_ends_with_2() {
    assert_eq!(run(&["explode"], b"").status.code(), Some(2));
    let done = run(&["inspect", "/nonexistent"], b"");
    assert_eq!(done.status.code(), Some(1));
    assert!(
        String::from_utf8(done.stderr)
            .unwrap()
            .contains("/nonexistent")
    );
}
