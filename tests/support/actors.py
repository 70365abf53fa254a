"""Artifacts for tests, made from the text files in tests/actors."""

from __future__ import annotations

import json
import subprocess
from enum import IntEnum
from importlib import resources
from pathlib import Path

from plexspaces_node.programs import compiler_program
from plexspaces_node.toolchains.wasm.assembly import assemble
from plexspaces_node.toolchains.wasm.wrap import wrap

ACTORS = Path(__file__).parent.parent / "actors"
_NOTHING_BEFORE = """\
  (core module $before-module (func (export "run")))
  (core instance $before (instantiate $before-module))
"""


class Init(IntEnum):
    """How the probe behaves in `init`."""

    WELL = 0
    ERROR = 1
    TRAP = 2
    LOOP = 3


def probe(init: Init = Init.WELL) -> bytes:
    """Return the probe actor: see the comments of probe.wat for what it answers."""
    text = (ACTORS / "probe.wat").read_text()
    return assemble(text.replace("i32.const INIT", f"i32.const {init.value}"))


def command() -> bytes:
    """Return the WASI command: see the comments of command.wat for what it does."""
    return assemble((ACTORS / "command.wat").read_text())


def command_component(*, calls: bool = False) -> bytes:
    """Return the WASI 0.2 command: see the comments of command-component.wat and before.wat."""
    return _component("command-component.wat", calls=calls)


def command_async() -> bytes:
    """Return the WASI 0.3 command: see the comment of command-async.wat."""
    return assemble((ACTORS / "command-async.wat").read_text())


def http_component(*, calls: bool = False, traps: bool = False) -> bytes:
    """Return the WASI 0.2 HTTP component: see the comments of http.wat and before.wat."""
    return _component("http.wat", calls=calls, traps=traps)


def http_async(*, calls: bool = False, traps: bool = False) -> bytes:
    """Return the WASI 0.3 HTTP component: see the comments of http-async.wat and before.wat."""
    return _component("http-async.wat", calls=calls, traps=traps)


def http_page(body: bytes) -> bytes:
    """Return the WASI 0.2 HTTP component with another body, of at most 4 KiB."""
    text = (ACTORS / "http.wat").read_text()
    at, size = 16384, len(body)
    content = "".join(f"\\{byte:02x}" for byte in body)
    for before, after in (
        ('(i32.const 16) "hello"', f'(i32.const {at}) "{content}"'),
        ("(i32.const 16) (i32.const 5)", f"(i32.const {at}) (i32.const {size})"),
    ):
        assert before in text
        text = text.replace(before, after)
    return assemble(text)


def talker() -> bytes:
    """Return the WASI command whose input says what it does: see talker.wat."""
    return assemble((ACTORS / "talker.wat").read_text())


def spinner() -> bytes:
    """Return the actor that takes as many rounds of a loop as it is told: see level_probe.wat."""
    text = resources.files("plexspaces_node.cli").joinpath("level_probe.wat").read_text()
    return wrap(assemble(text))


def hungry() -> bytes:
    """Return the actor that takes as much memory as it is told: see hungry.wat."""
    return wrap(assemble((ACTORS / "hungry.wat").read_text()))


def system() -> bytes:
    """Return the actor that answers from WASI, for example its environment: see preview1.wat."""
    return wrap(assemble((ACTORS / "preview1.wat").read_text()))


def _component(name: str, *, calls: bool, traps: bool = False) -> bytes:
    text = (ACTORS / name).read_text()
    if calls:
        assert _NOTHING_BEFORE in text
        before = (ACTORS / "before.wat").read_text().replace("const TRAPS", f"const {int(traps)}")
        text = text.replace(_NOTHING_BEFORE, before)
    return assemble(text)


def compiled(wasm: bytes, directory: Path) -> Path:
    """Compile an artifact as the node does, and return the native code's path."""
    source, target = directory / "actor.wasm", directory / "actor.cwasm"
    source.write_bytes(wasm)
    program = [str(compiler_program()), "compile", str(source), str(target)]
    done = subprocess.run(program, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["ok"], done.stdout
    return target


def keyed(key: str, value: bytes) -> bytes:
    """Return the payload that makes the probe put a value under a key, as message `u`."""
    return bytes([len(key)]) + key.encode() + value


def routed(to: str, msg_type: str, payload: bytes = b"") -> bytes:
    """Return the payload that makes the probe ask or tell `to`."""
    return bytes([len(to)]) + to.encode() + msg_type.encode() + payload
