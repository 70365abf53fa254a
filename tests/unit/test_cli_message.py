"""A message in a pipe that nobody said to read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import pytest

from plexspaces_node.cli.message import message_of
from plexspaces_node.errors import InvalidArgument


@dataclass
class Pipe:
    """A pipe that is stdin."""

    stdin: TextIO
    writer: int


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield Pipe(stdin, writer)
    os.close(writer)


def test_message_when_a_pipe_holds_something_then_refused_and_it_is_still_there(pipe: Pipe) -> None:
    """It is not ignored, and not eaten: it may be the list that a script goes through."""
    os.write(pipe.writer, b"{}")
    with pytest.raises(InvalidArgument, match="a pipe with data in it") as caught:
        message_of(None, None, None)
    assert (caught.value.hint or "").startswith("plexspaces invoke NAME - to send it")
    assert message_of(None, "text", None) == b"text"
    assert os.read(pipe.stdin.fileno(), 10) == b"{}"


def test_message_when_a_pipe_holds_nothing_then_it_is_empty(pipe: Pipe) -> None:
    """Many a program starts others with a pipe that it never writes to."""
    assert message_of(None, None, None) == b""


def test_message_when_stdin_is_closed_then_it_is_empty(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may have none."""
    pipe.stdin.close()
    assert message_of(None, None, None) == b""
