"""Artifacts for tests, made from the text files in tests/actors by wasmtime's own assembler."""

from __future__ import annotations

import subprocess
import sys
from enum import IntEnum
from pathlib import Path

from wasmtime import wat2wasm

ACTORS = Path(__file__).parent.parent / "actors"


class Init(IntEnum):
    """How the probe behaves in `init`."""

    WELL = 0
    ERROR = 1
    TRAP = 2
    LOOP = 3


def probe(init: Init = Init.WELL) -> bytes:
    """Return the probe actor: see the comments of probe.wat for what it answers."""
    text = (ACTORS / "probe.wat").read_text()
    return bytes(wat2wasm(text.replace("i32.const INIT", f"i32.const {init.value}")))


def command() -> bytes:
    """Return the WASI command: see the comments of command.wat for what it does."""
    return bytes(wat2wasm((ACTORS / "command.wat").read_text()))


def command_component() -> bytes:
    """Return the WASI 0.2 command: see the comment of command-component.wat."""
    return bytes(wat2wasm((ACTORS / "command-component.wat").read_text()))


def compiled(wasm: bytes, directory: Path) -> Path:
    """Compile an artifact as the node does, and return the native code's path."""
    source, target = directory / "actor.wasm", directory / "actor.cwasm"
    source.write_bytes(wasm)
    program = [sys.executable, "-m", "plexspaces_node.agent.compile", str(source), str(target)]
    done = subprocess.run(program, capture_output=True, check=True, timeout=60)
    assert b'"ok": true' in done.stdout, done.stdout
    return target


def routed(to: str, msg_type: str, payload: bytes = b"") -> bytes:
    """Return the payload that makes the probe ask or tell `to`."""
    return bytes([len(to)]) + to.encode() + msg_type.encode() + payload
