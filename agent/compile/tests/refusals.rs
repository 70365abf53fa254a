//! What is refused before anything is sent or compiled, and in which words.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{answer, inspected, run, scratch};
use serde_json::Value;

const WRITE: &str = r#"(import "wasi_snapshot_preview1" "fd_write"
    (func $w (param i32 i32 i32 i32) (result i32)))"#;
const MEMORY: &str = r#"(memory (export "memory") 1)"#;
const START: &str = r#"(func (export "_start"))"#;

fn refused(text: &str) -> (String, String) {
    let binary = wat::parse_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    words(&inspected(&binary), text)
}

fn words(said: &Value, of: &str) -> (String, String) {
    assert_eq!(said["ok"], false, "{of}: {said}");
    assert_eq!(said["code"], "invalid_argument");
    let word = |name: &str| said[name].as_str().unwrap().to_owned();
    (word("message"), word("hint"))
}

/// Each text is refused with a message and a hint that contain these.
fn check(cases: &[(&str, &str, &str)]) {
    for (text, message, hint) in cases {
        let said = refused(text);
        assert!(said.0.contains(message), "{text}: {said:?}");
        assert!(said.1.contains(hint), "{text}: {said:?}");
    }
}

#[test]
fn a_module_that_is_no_command_says_what_it_is() {
    check(&[
        (
            r#"(module (func (export "main")))"#,
            "no known entry point: expected a function _start (a WASI command); it exports main",
            "main function",
        ),
        ("(module)", "it exports nothing", "main function"),
        (
            r#"(module (func (export "_initialize")) (func (export "f")))"#,
            "it exports _initialize, f",
            "library",
        ),
        (
            r#"(module (func (export "plexspaces:application/actor@0.1.0#init")))"#,
            "no known entry",
            "plexspaces build makes one",
        ),
        (
            r#"(module (import "wbg" "f" (func)) (func (export "main")))"#,
            "no known entry",
            "wasm-bindgen",
        ),
    ]);
}

#[test]
fn a_start_that_is_not_a_plain_function_is_told_with_both_types() {
    let must = "and must be func()";
    for (what, found) in [
        (r#"(func (export "_start") (param i32))"#, "it is func(i32)"),
        (
            r#"(func (export "_start") (result i32) (i32.const 3))"#,
            "it is func() -> i32",
        ),
        (
            r#"(global (export "_start") i32 (i32.const 1))"#,
            "it is a global",
        ),
        (r#"(table (export "_start") 1 funcref)"#, "it is a table"),
    ] {
        let text = format!("(module {MEMORY} {what})");
        let said = refused(&text);
        let words = format!("its _start has the wrong type: {found} {must}");
        assert_eq!(said.0, words, "{text}");
        assert!(said.1.contains("main function"));
    }
}

#[test]
fn an_import_that_nobody_has_is_named() {
    let module = |imports: &str| format!("(module {imports} {MEMORY} {START})");
    let preview1 = "wasi_snapshot_preview1";
    check(&[
        (
            &module(r#"(import "env" "f" (func)) (import "env" "m" (memory 1))"#),
            "it imports 'env', which this node does not offer: function f, memory m",
            "build it for WASI",
        ),
        (
            &module(&format!(
                r#"(import "{preview1}" "sock_open" (func (param i32 i32 i32) (result i32)))"#
            )),
            "it imports the function sock_open of 'wasi_snapshot_preview1', which this node does not offer",
            "no network",
        ),
        (
            &module(&format!(
                r#"(import "{preview1}" "proc_exit" (func (param i64)))"#
            )),
            "it imports the function proc_exit of 'wasi_snapshot_preview1' with the wrong type: it is func(i64) and must be func(i32)",
            "wasm32",
        ),
        (
            &module(&format!(r#"(import "{preview1}" "fd_write" (global i32))"#)),
            "it imports the global fd_write of 'wasi_snapshot_preview1'",
            "preview 1",
        ),
        (
            &module(r#"(import "wasi_unstable" "fd_write" (func))"#),
            "it imports 'wasi_unstable'",
            "older than preview 1",
        ),
        (
            &module(r#"(import "wasi" "thread-spawn" (func (param i32) (result i32)))"#),
            "it imports 'wasi', which this node does not offer: function thread-spawn",
            "threads are not supported",
        ),
        (
            &module(r#"(import "wasmedge_process" "run" (func))"#),
            "it imports 'wasmedge_process'",
            "WasmEdge",
        ),
    ]);
}

#[test]
fn a_command_without_its_memory_exported_is_refused_and_one_that_needs_none_is_not() {
    let without = |imports: &str| format!("(module {imports} (memory 1) {START})");
    let said = refused(&without(WRITE));
    assert_eq!(
        said.0,
        "it exports no memory, but WASI's fd_write needs one"
    );
    assert!(said.1.contains("export the module's memory as memory"));
    let other = format!(r#"(module {WRITE} (global (export "memory") i32 (i32.const 1)) {START})"#);
    let said = refused(&other);
    assert_eq!(
        said.0,
        "its export memory is a global, but WASI's fd_write needs a memory there"
    );
    let alone = wat::parse_str(format!("(module {START})")).unwrap();
    assert_eq!(inspected(&alone)["kind"], "command");
}

#[test]
fn more_than_an_application_ever_gets_is_refused() {
    let with = |each: &str, count: usize| format!("(module {} {START})", each.repeat(count));
    check(&[
        (
            &with("(table 100000000 funcref)", 1),
            "it starts with 100000000 elements in its tables, but an application can have at most 1000000",
            "grow later",
        ),
        (
            &with("(table 600000 funcref)", 2),
            "it starts with 1200000 elements in its tables",
            "grow",
        ),
        (
            &with("(memory 0)", 65),
            "it starts with 65 memories",
            "declare less",
        ),
    ]);
}

#[test]
fn a_component_of_another_world_says_what_it_is() {
    let export =
        |name: &str| format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#);
    check(&[
        (
            "(component)",
            "no known entry point: expected plexspaces:application/actor@0.1.0 or wasi:http/incoming-handler@0.2.x",
            "main function",
        ),
        ("(component)", "it exports nothing", ""),
        (
            &export("wasi:http/incoming-handler@0.2.0-rc-2023-12-05"),
            "no known entry",
            "older than 0.2",
        ),
        (
            &export("wasi:http/handler@0.3.0-rc-2026-03-15"),
            "it exports wasi:http/handler@0.3.0-rc-2026-03-15",
            "draft of WASI 0.3",
        ),
        (
            &export("wasi:http/handler@0.2.0"),
            "or wasi:http/incoming-handler@0.2.x or wasi:http/handler@0.3.x or",
            "wasi:http/proxy",
        ),
        (
            &export("wasi:http/incoming-handler@0.2.0"),
            "the component's wasi:http/incoming-handler@0.2.0 lacks handle",
            "world proxy",
        ),
        (
            &export("wasi:cli/run@0.2.0-rc-2023-12-05"),
            "no known entry",
            "older than 0.2",
        ),
        (
            &export("wasi:cli/run@0.3.0-rc-2025-09-16"),
            "no known entry",
            "draft of WASI 0.3",
        ),
        (
            &export("plexspaces:application/actor@0.2.0"),
            "it was built for plexspaces:application@0.2.0, but this node supports 0.1.0",
            "SDK that came with this version",
        ),
    ]);
}

/// A component that exports `run` of `wasi:cli/run` in a version, of a type.
fn command(version: &str, kind: &str, core: &str, before: &str) -> String {
    format!(
        r#"(component {before}
          (core module $m (func (export "run") {core}) (func (export "callback") (param i32 i32 i32) (result i32) (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $run {kind})
          (instance $r (export "run" (func $run)))
          (export "wasi:cli/run@{version}" (instance $r)))"#
    )
}

const RESULT: &str = r#"(result (result)) (canon lift (core func $i "run"))"#;
const NUMBER: &str = r#"(result u32) (canon lift (core func $i "run"))"#;
const ASYNC: &str = r#"async (result (result)) (canon lift (core func $i "run") async (callback (func $i "callback")))"#;
const CODE: &str = "(result i32) (i32.const 0)";

#[test]
fn a_run_of_another_type_is_told_with_both() {
    for (version, kind, found, wanted) in [
        ("0.2.0", NUMBER, "func() -> u32", "func() -> result"),
        ("0.2.6", ASYNC, "async func() -> result", "func() -> result"),
        (
            "0.3.0",
            RESULT,
            "func() -> result",
            "async func() -> result",
        ),
    ] {
        let text = command(version, kind, CODE, "");
        let said = refused(&text);
        let words = format!(
            "the component's run of wasi:cli/run@{version} has the wrong type: it is {found} and must be {wanted}"
        );
        assert_eq!(said.0, words, "{text}");
        assert!(said.1.contains("main function"));
    }
    let empty = r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    assert_eq!(
        refused(empty).0,
        "the component's wasi:cli/run@0.2.0 lacks run"
    );
}

#[test]
fn commands_of_wasi_0_2_and_0_3_are_accepted() {
    for (version, kind) in [("0.2.0", RESULT), ("0.2.12", RESULT), ("0.3.0", ASYNC)] {
        let binary = wat::parse_str(command(version, kind, CODE, "")).unwrap();
        let said = inspected(&binary);
        assert_eq!(said["kind"], "command-component", "{version}: {said}");
    }
}

const SERVER_2: &str = include_str!("../../../tests/actors/http.wat");
const SERVER_3: &str = include_str!("../../../tests/actors/http-async.wat");

#[test]
fn http_components_of_wasi_0_2_and_0_3_are_accepted() {
    let later = SERVER_2.replace("@0.2.0", "@0.2.12");
    for text in [SERVER_2, SERVER_3, &later] {
        let said = inspected(&wat::parse_str(text).unwrap());
        assert_eq!(said["kind"], "http-component", "{said}");
    }
}

#[test]
fn an_http_component_that_is_also_a_command_is_an_http_component() {
    let ends_in = |text: &'static str| text.trim_end().strip_suffix(')').unwrap();
    let run = r#"
      (core module $r (func (export "run") (result i32) (i32.const 0)))
      (core instance $ri (instantiate $r))
      (func $run (result (result)) (canon lift (core func $ri "run")))
      (instance $re (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $re)))"#;
    let text = format!("{}{run}", ends_in(SERVER_2));
    let said = inspected(&wat::parse_str(&text).unwrap());
    assert_eq!(said["kind"], "http-component", "{said}");
}

#[test]
fn a_handle_of_another_type_is_told_with_both() {
    for (name, kind, found, wanted, hint) in [
        (
            "wasi:http/incoming-handler@0.2.0",
            NUMBER,
            "func() -> u32",
            "func(own<resource>, own<resource>)",
            "world proxy of wasi:http 0.2",
        ),
        (
            "wasi:http/handler@0.3.0",
            ASYNC,
            "async func() -> result",
            "async func(own<resource>) -> result<own<resource>, error-code>",
            "world service of wasi:http 0.3.0",
        ),
    ] {
        let text = command("0.2.0", kind, CODE, "")
            .replace(
                "(export \"run\" (func $run))",
                "(export \"handle\" (func $run))",
            )
            .replace("wasi:cli/run@0.2.0", name);
        let said = refused(&text);
        let words = format!(
            "the component's handle of {name} has the wrong type: it is {found} and must be {wanted}"
        );
        assert_eq!(said.0, words, "{text}");
        assert!(said.1.contains(hint), "{said:?}");
    }
}

#[test]
fn imports_of_components_are_looked_at_function_by_function() {
    let import = |name: &str, inside: &str| {
        command(
            "0.2.0",
            RESULT,
            CODE,
            &format!(r#"(import "{name}" (instance {inside}))"#),
        )
    };
    let function = r#"(export "f" (func))"#;
    check(&[
        (
            &import("a:b/c", function),
            "it imports 'a:b/c', which this node does not offer: function f",
            "this node provides",
        ),
        (
            &import("wasi:http/types@0.2.0", function),
            "it imports the function f of 'wasi:http/types@0.2.0', which this node does not offer",
            "this node provides",
        ),
        (
            &import("wasi:http/handler@0.3.0", function),
            "it imports 'wasi:http/handler@0.3.0', which this node does not offer: function f",
            "http, io, random and sockets",
        ),
        (
            &import("wasi:http/client@0.3.0-rc-2026-03-15", function),
            "it imports 'wasi:http/client@0.3.0-rc-2026-03-15'",
            "draft of WASI 0.3",
        ),
        (
            &import("wasi:cli/stdout@0.2.0", function),
            "it imports the function f of 'wasi:cli/stdout@0.2.0', which this node does not offer",
            "this node provides",
        ),
        (
            &import("wasi:cli/stdout@0.2.0-rc-2023-12-05", function),
            "it imports",
            "older than 0.2",
        ),
        (
            &import("wasi:cli/stdout@0.3.0-rc-2025-09-16", function),
            "it imports",
            "draft",
        ),
        (
            &import("wasi:io/poll@0.3.0", function),
            "it imports 'wasi:io/poll@0.3.0'",
            "this node provides",
        ),
        (
            &import("plexspaces:application/keyvalue@0.1.0", function),
            "it imports the function f of 'plexspaces:application/keyvalue@0.1.0'",
            "SDK",
        ),
        (
            &import(
                "plexspaces:application/keyvalue@0.1.0",
                r#"(export "get" (func (param "key" string) (result string)))"#,
            ),
            "with the wrong type: it is func(string) -> string and must be func(string) -> result<option<list<u8>>, string>",
            "SDK",
        ),
        (
            &import("plexspaces:application/logging@0.2.0", ""),
            "it was built for plexspaces:application@0.2.0, but this node supports 0.1.0",
            "SDK",
        ),
    ]);
    for (name, inside) in [
        (
            "wasi:random/random@0.2.99",
            r#"(export "get-random-u64" (func (result u64)))"#,
        ),
        (
            "wasi:random/random@0.3.0",
            r#"(export "get-random-u64" (func (result u64)))"#,
        ),
        (
            "wasi:cli/types@0.3.0",
            r#"(type $e (enum "a")) (export "error-code" (type (eq $e)))"#,
        ),
        ("plexspaces:application/types@0.1.0", ""),
    ] {
        let binary = wat::parse_str(import(name, inside)).unwrap();
        let said = inspected(&binary);
        assert_eq!(said["ok"], true, "{name}: {said}");
    }
}

#[test]
fn a_file_that_is_no_whole_webassembly_is_told_by_what_it_is() {
    let whole = wat::parse_str(format!("(module {MEMORY} {START})")).unwrap();
    for (bytes, message) in [
        (b"".as_slice(), "the file is empty"),
        (
            b"\0as",
            "not WebAssembly: the file begins with 00 61 73, not 00 61 73 6d",
        ),
        (b"\x7fELF\x02\x01\x01\0", "the file begins with 7f 45 4c 46"),
        (b"\0asm\x01", "truncated: the file ends after 5 bytes"),
        (b"\0asm\x0c\0\x01\0", "a binary format older than WASI 0.2"),
        (
            b"\0asm\x07\0\0\0",
            "unknown WebAssembly version 07 00 00 00",
        ),
    ] {
        let said = words(&inspected(bytes), message);
        assert!(said.0.contains(message), "{said:?}");
    }
    for end in 8..whole.len() {
        // Cut between two sections it may be a whole file of something else.
        let said = words(&inspected(&whole[..end]), "cut");
        let told = ["truncated", "no known entry", "code section is absent"];
        assert!(
            told.iter().any(|one| said.0.contains(one)),
            "{end}: {said:?}"
        );
    }
}

#[test]
fn components_nested_too_deep_are_refused_and_ordinary_ones_are_not() {
    let nested = |levels: usize| {
        let mut binary = Vec::new();
        for _ in 0..levels {
            let mut inside = [b"\0asm\x0d\0\x01\0".as_slice(), &binary].concat();
            if !binary.is_empty() {
                let length = binary.len();
                let leb = [0, 7, 14].map(|shift| (length >> shift) as u8 | 0x80);
                let head = [&[4], leb.as_slice(), &[(length >> 21) as u8]].concat();
                inside.splice(8..8, head);
            }
            binary = inside;
        }
        words(&inspected(&binary), "nested").0
    };
    assert!(nested(16).starts_with("no known entry"));
    assert_eq!(nested(17), "it has components nested deeper than 16");
    assert_eq!(nested(5000), "it has components nested deeper than 16");
}

#[test]
fn components_that_are_instantiated_without_end_are_refused_and_hundreds_are_not() {
    // Each level has eight of the one before: the file grows by a line, and what it takes eightfold.
    let nested = |levels: usize| {
        let inner = (1..levels).map(|level| {
            let within = "(instance (instantiate $p))".repeat(8);
            let alias = format!("(alias outer 1 $c{} (component $p))", level - 1);
            format!("(component $c{level} {alias} {within})")
        });
        let all = inner.collect::<String>();
        let last = format!("(instance (instantiate $c{}))", levels - 1);
        let run = r#"(core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $a (instantiate $m))
            (func $run (result (result)) (canon lift (core func $a "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e))"#;
        let text = format!("(component (component $c0) {all} {last} {run})");
        inspected(&wat::parse_str(text).unwrap())
    };
    assert_eq!(nested(4)["ok"], true, "{}", nested(4));
    for levels in [5, 60] {
        let said = words(&nested(levels), "nested").0;
        assert!(said.contains("instances of components"), "{said}");
    }
}

#[test]
fn what_a_user_is_told_holds_nothing_that_a_terminal_obeys() {
    let said = refused("(module (import \"\\1b[2J\\00\" \"f\" (func)) (func (export \"_start\")))");
    assert!(
        said.0.starts_with("it imports '\\u{1b}[2J\\u{0}'"),
        "{said:?}"
    );
    let long = format!(
        r#"(module (import "{}" "f" (func)) {START})"#,
        "x".repeat(50_000)
    );
    assert!(refused(&long).0.len() < 500);
}

#[test]
fn what_cannot_run_is_told_before_its_code_is_compiled_and_nothing_is_written() {
    // Its code is not even valid: with it the answer would be another one.
    let text = format!(r#"(module (import "env" "f" (func)) (func (result i32)) {START})"#);
    let binary = wat::parse_str(&text).unwrap();
    let (source, target) = (scratch("foreign.wasm"), scratch("foreign.cwasm"));
    std::fs::write(&source, &binary).unwrap();
    let arguments = [
        "compile",
        source.to_str().unwrap(),
        target.to_str().unwrap(),
    ];
    let said = words(&answer(&run(&arguments, b"")), "foreign");
    assert!(said.0.starts_with("it imports 'env'"), "{said:?}");
    assert!(!target.exists());
    std::fs::remove_file(source).unwrap();
}
