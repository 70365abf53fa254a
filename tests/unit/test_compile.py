"""What the compiler program makes of a file, and what it refuses before a machine is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.actors import command, command_component, probe
from wasmtime import wat2wasm

from plexspaces_node.agent.compile import compile_file
from plexspaces_node.errors import InvalidArgument

ACTOR = "plexspaces:application/actor@0.1.0"
RIGHT = {
    "init": '(param "initial-state" (list u8)) (result (result (error string)))',
    "handle-message": (
        '(param "from" string) (param "type" string) (param "data" (list u8)) '
        "(result (result (list u8) (error $actor-error)))"
    ),
    "snapshot-state": "(result (list u8))",
    "shutdown": "",
}
CORE_PARAMETERS = {"init": 2, "handle-message": 6}

Refused = Callable[[bytes], InvalidArgument]


def actor(
    *, interface: str = ACTOR, retryable: str = "bool", before: str = "", **other: str
) -> bytes:
    """Return a component that exports an actor, the types of some functions changed.

    An empty type leaves the function out.
    """
    types = {**RIGHT, **{name.replace("_", "-"): text for name, text in other.items()}}
    functions = "".join(_function(name, text) for name, text in types.items())
    exported = "".join(f'(export "{name}" (func ${name}))' for name in types)
    return bytes(
        wat2wasm(f"""(component {before}
            (type $record
              (record (field "code" string) (field "message" string)
                (field "retryable" {retryable})))
            (export $actor-error "actor-error" (type $record))
            {functions}
            (instance $actor (export "actor-error" (type $actor-error)) {exported})
            (export "{interface}" (instance $actor)))""")
    )


def _function(name: str, wit: str) -> str:
    # Of the core function only as much matters as the canonical ABI asks for.
    count = CORE_PARAMETERS.get(name, 0) if wit == RIGHT[name] else wit.count("u32")
    core = "(param i32) " * count + ("(result i32) i32.const 0" if "(result" in wit else "")
    return f"""
        (core module $m-{name} (memory (export "memory") 1) (func (export "f") {core})
          (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0))
        (core instance $i-{name} (instantiate $m-{name}))
        (alias core export $i-{name} "memory" (core memory $memory-{name}))
        (alias core export $i-{name} "realloc" (core func $realloc-{name}))
        (func ${name} {wit} (canon lift (core func $i-{name} "f")
          (memory $memory-{name}) (realloc $realloc-{name})))"""


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Give a function that compiles what must be refused, and returns the error."""

    def compile_(wasm: bytes) -> InvalidArgument:
        (tmp_path / "a.wasm").write_bytes(wasm)
        with pytest.raises(InvalidArgument) as error:
            compile_file(tmp_path / "a.wasm", tmp_path / "a.cwasm")
        assert not (tmp_path / "a.cwasm").exists()
        return error.value

    return compile_


@pytest.mark.parametrize(
    ("wasm", "kind"),
    [
        (probe, "actor"),
        (actor, "actor"),
        (command, "command"),
        (command_component, "command-component"),
    ],
)
def test_compile_of_what_runs_here_writes_native_code(
    tmp_path: Path, wasm: Callable[[], bytes], kind: str
) -> None:
    """Each kind is told apart; the names of an actor's parameters are its own."""
    (tmp_path / "a.wasm").write_bytes(wasm())
    report = compile_file(tmp_path / "a.wasm", tmp_path / "a.cwasm")
    assert (report["ok"], report["kind"]) == (True, kind)
    assert (tmp_path / "a.cwasm").stat().st_size > 0


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"snapshot_state": "(result string)"}, "snapshot-state of .* func() -> string"),
        (
            {"snapshot_state": "(result (tuple u8 (option s64)))"},
            "func() -> tuple<u8, option<s64>>",
        ),
        ({"snapshot_state": "(result (result))"}, "func() -> result and"),
        ({"snapshot_state": "(result (result u8))"}, "func() -> result<u8> and"),
        ({"init": '(param "state" u32)'}, "init of .* func(u32)"),
        ({"shutdown": '(param "why" u32)'}, "shutdown of .* func(u32) and must be func()"),
        ({"retryable": "u8"}, "retryable: u8 }> and must be .* retryable: bool }>"),
    ],
)
def test_compile_of_an_actor_with_a_wrong_type_names_both(
    refused: Refused, changed: dict[str, str], found: str
) -> None:
    """Right names are not enough: found when deployed, and not by the first message."""
    error = refused(actor(**changed))
    for part in found.split(" .* "):
        assert part in error.message
    assert "wit/application.wit of version 0.1.0" in str(error.hint)


def test_compile_of_an_actor_without_a_function_names_it(refused: Refused) -> None:
    """What is not there is told before the types of the rest."""
    wasm = wat2wasm(f'(component (instance $actor) (export "{ACTOR}" (instance $actor)))')
    error = refused(bytes(wasm))
    assert "lacks handle-message, init, shutdown, snapshot-state" in error.message


@pytest.mark.parametrize(
    "wasm",
    [
        actor(interface="plexspaces:application/actor@0.2.0"),
        actor(before='(import "plexspaces:application/logging@0.2.0" (instance))'),
    ],
    ids=["export", "import"],
)
def test_compile_of_another_version_of_the_contract_names_both(
    refused: Refused, wasm: bytes
) -> None:
    """An SDK that this node does not speak is no mystery about exports."""
    error = refused(wasm)
    assert "it speaks plexspaces:application@0.2.0, this node 0.1.0" in error.message
    assert "SDK that came with this version" in str(error.hint)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(component)", "it exports nothing"),
        (
            '(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))',
            "it exports wasi:http/incoming-handler@0.2.0",
        ),
        ('(module (func (export "main")))', "a function _start (a WASI command); it exports main"),
        (
            '(module (import "env" "f" (func)) (func (export "_start")))',
            "it imports 'env', which this node does not offer",
        ),
    ],
)
def test_compile_of_another_world_names_what_it_is(refused: Refused, text: str, said: str) -> None:
    """A component or module for some other host is told by what it exports or imports."""
    error = refused(bytes(wat2wasm(text)))
    assert said in error.message
    assert error.hint


@pytest.mark.parametrize("name", ["wasi:http/types@0.2.0", "wasi:cli/stdout@0.3.0", "a:b/c"])
def test_compile_of_an_actor_with_a_foreign_import_names_it(refused: Refused, name: str) -> None:
    """Other interfaces, and other versions of WASI, are refused before they fail to load."""
    error = refused(actor(before=f'(import "{name}" (instance))'))
    assert f"it imports {name!r}" in error.message
