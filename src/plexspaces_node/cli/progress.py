"""Progress on stderr: a bar on a terminal, a line per step elsewhere.

Separate from `output` because it loads slowly: only commands that take long show progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as ProgressDisplay

from plexspaces_node.cli.output import note, size
from plexspaces_node.client import Progress

PHASES = {
    "upload": "uploading",
    "place": "finding a node",
    "copy": "copying the artifact to a second node",
    "cached": "the node already has the artifact",
    "compile": "compiling",
    "stop": "stopping the previous version",
    "vm": "starting the VM",
    "load": "loading the artifact",
}


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on stderr how many of `total` are done; the body calls the yielded function for each."""
    console = _console()
    if not console.is_interactive:
        note(what)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with ProgressDisplay(
        *columns, console=console, transient=True, disable=not console.is_interactive
    ) as display:
        task = display.add_task(what, total=total)
        yield lambda: display.advance(task)


@contextmanager
def working(what: str, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show on stderr that work continues; the body calls the yielded function with each step.

    On a terminal this is one changing line, at first `what`, with the time since the start; it is
    removed at the end. Elsewhere each step is a line.
    """
    console = console or _console()
    if not console.is_interactive:
        yield note
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with ProgressDisplay(*columns, console=console, transient=True) as display:
        task = display.add_task(what, total=None)
        yield lambda step: display.update(task, description=step)


@contextmanager
def if_interrupted(outcome: str) -> Iterator[None]:
    """If Ctrl-C or a signal ends the body, report the result in one line on stderr."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        # The terminal itself may be gone.
        with suppress(OSError):
            note(f"interrupted: {outcome}")
        raise


class DeployDisplay:
    """Shows the progress of a deploy: a bar on a terminal, a line per phase elsewhere.

    A context manager; call it with each `Progress`.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _console()
        self._shown = ""
        self._display = ProgressDisplay(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[sent]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_interactive,
        )
        self._task = self._display.add_task("contacting the node", total=None, sent="")

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.stop()

    def __call__(self, progress: Progress) -> None:
        done, total = progress.done_bytes, progress.total_bytes
        if progress.phase != self._shown:
            self._shown = progress.phase
            self._begin(PHASES.get(progress.phase, progress.phase), total)
        sent = f"{size(done)} of {size(total)}" if total else ""
        self._display.update(self._task, completed=done, sent=sent)

    def _begin(self, what: str, total_bytes: int) -> None:
        if not self._console.is_interactive:
            note(f"{what} {size(total_bytes)}" if total_bytes else what)
        # A new task, because one that has begun cannot get an unknown length again.
        self._display.remove_task(self._task)
        self._task = self._display.add_task(what, total=total_bytes or None, sent="")


def _console() -> Console:
    return Console(stderr=True, markup=False, highlight=False, emoji=False)
