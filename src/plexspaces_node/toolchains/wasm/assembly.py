"""Converts WebAssembly's text form and core modules, with the program that compiles artifacts."""

from __future__ import annotations

import subprocess

from plexspaces_node.artifact_inspection import ENVIRONMENT
from plexspaces_node.errors import Internal
from plexspaces_node.programs import compiler_program

_TIMEOUT_S = 60


def assemble(text: str) -> bytes:
    """Return the module or component of a text; blocks for some milliseconds.

    The text is ours and not a user's: only time limits the process. Raises `Internal` if it is not
    WebAssembly's text form or the program fails, and `NotFound` if the program is missing.
    """
    return _converted("assemble", text.encode(), "it does not assemble")


def componentize(module: bytes) -> bytes:
    """Return the component of a core module that says what it imports and exports.

    The module is a build's output. Blocks for some hundred milliseconds. Raises as `assemble` does.
    """
    return _converted("componentize", module, "the module is not that of a component")


def _converted(action: str, content: bytes, fault: str) -> bytes:
    command = [str(compiler_program()), action]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, env=ENVIRONMENT, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Internal(f"{command[0]} cannot be run: {exc}", hint="plexspaces doctor") from exc
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise Internal(f"{fault}: {said or f'exit status {done.returncode}'}")
    return done.stdout
