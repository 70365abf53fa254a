"""What the agent says of the end of a guest, and which command it names."""

from __future__ import annotations

import pytest

from plexspaces_node.agent.output import Output
from plexspaces_node.agent.runtime import MORE_MEMORY_HINT, Settings, explain, last_words
from plexspaces_node.agent.wasm import WasmError
from plexspaces_node.errors import ActorFailed, ActorTrapped, DeadlineExceeded

MIB = 1024 * 1024
SETTINGS = Settings(application="calc", env={}, memory_bytes=16 * MIB, message_limit=MIB)
UNREACHABLE = WasmError("error while executing at …\n\nwasm trap: wasm `unreachable` instruction")
PYTHON = [
    "Traceback (most recent call last):",
    '  File "/1/app.py", line 46, in eat',
    "MemoryError",
    "thread '<unnamed>' (1) panicked at runtime/src/lib.rs:1293:29:",
    "Python function threw an unexpected exception",
    "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
]


class Wrote(Output):
    """The output of a guest that wrote these lines to stderr."""

    def __init__(self, *lines: str) -> None:
        """Keep the lines."""
        self._lines = list(lines)

    def drain(self) -> list[str]:
        """Return the lines."""
        return self._lines


def test_last_words_when_python_threw_then_the_exception_and_not_its_runtimes_panic() -> None:
    """The line before the panic says what happened."""
    assert last_words(PYTHON) == "MemoryError"
    assert last_words(PYTHON[3:]).endswith("Python function threw an unexpected exception")


@pytest.mark.parametrize(
    "lines",
    [
        PYTHON,
        ["fatal error: runtime: out of memory"],
        ["memory allocation of 1048576 bytes failed"],
    ],
    ids=["python", "go", "rust"],
)
def test_trap_when_memory_was_refused_then_it_says_so_and_how_to_give_more(
    lines: list[str],
) -> None:
    """Who ran out of memory is told that, in every language whose runtime tells."""
    error = explain(UNREACHABLE, Wrote(*lines), "handle-message", SETTINGS)
    assert isinstance(error, ActorTrapped)
    assert "unreachable: the actor ran out of memory; it last wrote: " in error.message
    assert error.hint == MORE_MEMORY_HINT


def test_trap_when_it_is_another_then_memory_is_not_blamed_for_what_was_last_written() -> None:
    """A line about memory explains an abort, and no division by zero."""
    error = explain(
        WasmError("wasm trap: integer divide by zero"),
        Wrote("out of memory, evicting"),
        "m",
        SETTINGS,
    )
    assert isinstance(error, ActorTrapped)
    assert "the actor divided by zero" in error.message
    assert error.hint == "see what it wrote with: plexspaces logs calc"


def test_trap_when_a_refusal_was_overcome_before_then_it_is_not_blamed() -> None:
    """Only the last words tell of the end, not what was written earlier."""
    error = explain(UNREACHABLE, Wrote("MemoryError", "panic: astray"), "handle-message", SETTINGS)
    assert isinstance(error, ActorTrapped)
    assert "aborted or ran out of its memory; it last wrote: panic: astray" in error.message
    assert error.hint == "see what it wrote with: plexspaces logs calc"


@pytest.mark.parametrize("during", ["starting the actor", "init"])
def test_trap_when_the_application_did_not_come_up_then_no_command_that_cannot_work(
    during: str,
) -> None:
    """A deploy that failed leaves no application whose log could be read."""
    error = explain(UNREACHABLE, Wrote(), during, SETTINGS)
    assert isinstance(error, ActorTrapped)
    assert error.hint is None


@pytest.mark.parametrize(
    ("during", "hint"),
    [
        ("handle-message", "give it more time: --timeout SECONDS"),
        ("init", "[limits] deploy_timeout_s"),
    ],
)
def test_interrupt_when_explained_then_the_hint_gives_time_where_it_was_short(
    during: str, hint: str
) -> None:
    """A message has its own time, an init the deploy's."""
    error = explain(WasmError("wasm trap: interrupt"), Wrote(), during, SETTINGS)
    assert isinstance(error, DeadlineExceeded)
    assert hint in str(error.hint)


def test_memory_when_too_small_to_begin_with_then_mebibytes_and_how_much_more() -> None:
    """No pages: what is needed, what is there, and what to add."""
    said = WasmError("memory minimum size of 400 pages exceeds memory limits")
    error = explain(said, Wrote(), "starting the actor", SETTINGS)
    assert isinstance(error, ActorFailed)
    assert error.message == (
        "starting the actor: it needs 25 MiB of memory to begin with, and 16 MiB are left for it"
    )
    assert error.hint == "deploy with more memory, at least 9 MiB more: --memory MIB"
