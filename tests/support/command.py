"""The `plexspaces` command, run in the test's own process."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from plexspaces_node import programs
from plexspaces_node.cli.main import main


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it wrote."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """What it wrote to stdout, as text."""
        return self.stdout.decode()

    @property
    def json(self) -> Any:
        """What it wrote to stdout, as JSON."""
        return json.loads(self.stdout)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class Command(Protocol):
    """Runs the command with these arguments and this standard input."""

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> Ran: ...


def make_command(
    monkeypatch: pytest.MonkeyPatch, read_output: Callable[[], Sequence[bytes]], home: Path
) -> Command:
    """Return a runner whose commands see nothing of this machine's own settings."""
    for variable in os.environ:
        if variable.startswith(("PLEXSPACES_", "FIRECRACKER_", "XDG_")):
            monkeypatch.delenv(variable)
    kept = programs.programs_cache()
    # A checkout's programs belong to it and not to the user: they are found from a new home too.
    monkeypatch.setattr(programs, "programs_cache", lambda *_: kept)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(home)

    def run(*arguments: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main([str(argument) for argument in arguments])
        out, err = read_output()
        return Ran(status, out, err.decode())

    return run
