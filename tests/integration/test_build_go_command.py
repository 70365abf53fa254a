"""A command in Go from source by the real compiler, run in the real agent: how it may end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.actors import compiled
from support.peer import ACTOR, Peer

from plexspaces_node.link import frames as link
from plexspaces_node.toolchains import build

PROGRAM = """
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	switch os.Getenv("PLEXSPACES_MESSAGE_TYPE") {
	case "fill":
		var kept [][]byte
		for {
			kept = append(kept, make([]byte, 8<<20))
			kept[len(kept)-1][5] = 1
		}
	case "panic":
		// More goroutines than the agent keeps lines of their traces.
		for range 100 {
			go func() { select {} }()
		}
		panic("no such account")
	case "chatter":
		fmt.Fprintln(os.Stderr, "panic: and recovered")
		fmt.Fprintln(os.Stderr, strings.Repeat("line\\n", 100)+strings.Repeat("x", 5000))
		os.Exit(4)
	}
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("ends")
    (project / "go.mod").write_text("module example.com/ends\n\ngo 1.24\n")
    (project / "main.go").write_text(PROGRAM)
    result = asyncio.run(build(project, project / "ends.wasm", progress=lambda _line: None))
    return compiled(result.path.read_bytes(), project)


@pytest.fixture
def ends(peer: Peer, program: Path) -> Peer:
    assert isinstance(peer.load(program, kind="command", memory_bytes=64 << 20), link.Loaded)
    return peer


def test_command_that_runs_out_of_memory_says_so_and_what_helps(ends: Peer) -> None:
    """In the words of the other languages, and not by the last line of Go's traces."""
    failure = ends.invoke("fill").failure
    assert failure is not None
    assert (failure.origin, failure.code) == (ACTOR, "exit-2")
    assert failure.message == (
        "the program ran out of its 64 MiB of memory; it last wrote: fatal error: out of memory"
    )
    assert failure.hint == "deploy it with more memory: --memory MIB"


def test_command_that_panics_says_why_however_many_goroutines_it_has(ends: Peer) -> None:
    """What Go tells of its goroutines comes after the reason, and may be long."""
    failure = ends.invoke("panic").failure
    assert failure is not None
    assert failure.message.startswith("panic: no such account")


def test_command_that_wrote_much_is_quoted_in_part(ends: Peer) -> None:
    """The last line is told, bounded, and the log has the rest."""
    failure = ends.invoke("chatter").failure
    assert failure is not None
    assert failure.code == "exit-4"
    assert failure.message.startswith("xxxx")
    assert len(failure.message.encode()) <= 300
    assert str(failure.hint).startswith("see its log: plexspaces logs ")
