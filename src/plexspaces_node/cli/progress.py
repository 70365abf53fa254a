"""Progress on stderr: a bar on a terminal, a line for what begins elsewhere.

Apart from `output` for the time it takes to load: only commands that take long show any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as ProgressDisplay

from plexspaces_node.cli.output import note, size
from plexspaces_node.client import Progress

PHASES = {
    "upload": "uploading",
    "cached": "the node has the artifact already",
    "compile": "compiling",
    "vm": "starting the VM",
    "load": "loading the artifact",
    "init": "starting the actor",
}


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on stderr how many of `total` are done; the body calls what it is given for each."""
    console = _console()
    if not console.is_terminal:
        note(what)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with ProgressDisplay(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as display:
        task = display.add_task(what, total=total)
        yield lambda: display.advance(task)


class DeployDisplay:
    """Shows where a deploy is: a bar on a terminal, a line per phase elsewhere.

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
            disable=not self._console.is_terminal,
        )
        self._task = self._display.add_task("asking the node", total=None, sent="")

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
        if not self._console.is_terminal:
            note(f"{what} {size(total_bytes)}" if total_bytes else what)
        # A task anew: the length of one that has begun cannot become unknown again.
        self._display.remove_task(self._task)
        self._task = self._display.add_task(what, total=total_bytes or None, sent="")


def _console() -> Console:
    return Console(stderr=True, markup=False, highlight=False, emoji=False)
