"""How the commands speak: data to stdout, progress, hints and errors to stderr.

This file owns formats that several commands share. It knows no command and asks no node.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as ProgressDisplay
from rich.text import Text

from plexspaces_node.client import Progress
from plexspaces_node.model import MIB, PhaseTimings

NS_PER_MS = 1_000_000

PHASES = {
    "upload": "uploading",
    "cached": "the node has the artifact already",
    "compile": "compiling",
    "vm": "starting the VM",
    "load": "loading the artifact",
    "init": "starting the actor",
}


def stdout_console() -> Console:
    """A console for data; it takes nothing in a text for markup."""
    return Console(markup=False, highlight=False, emoji=False)


def stderr_console() -> Console:
    """A console for progress and errors."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def say(line: str = "") -> None:
    """Print a line of data, at once."""
    typer.echo(line)


def note(line: str) -> None:
    """Print a line for a person, beside the data."""
    typer.echo(line, err=True)


def print_error(message: str, hint: str | None) -> None:
    """Print an error and its hint on stderr."""
    console = stderr_console()
    _labelled(console, "error: ", "bold red", message)
    if hint:
        _labelled(console, "hint: ", "bold cyan", hint)


def print_json(value: Any) -> None:
    """Print records, dicts or lists of them as indented JSON.

    On a terminal in ASCII alone: texts of a guest may hold letters that steer one.
    """
    say(json.dumps(value, default=_plain, ensure_ascii=sys.stdout.isatty(), indent=2))


def print_json_line(value: Any) -> None:
    """Print one record as JSON on one line."""
    say(json.dumps(value, default=_plain, ensure_ascii=sys.stdout.isatty()))


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values below one another, indented, values aligned."""
    rows = tuple(fields)
    width = max(len(name) for name, _ in rows) + 1
    for name, value in rows:
        say(f"  {name + ':':<{width}} {printable(value)}")


def print_times(rows: Sequence[tuple[str, str]]) -> None:
    """Print a table of phases and their times."""
    left = max(len(name) for name, _ in rows)
    right = max(len(value) for _, value in rows)
    for name, value in rows:
        say(f"  {name:<{left}}  {value:>{right}}")


def print_phases(timings: PhaseTimings) -> None:
    """Print how long each phase of a deploy took, or why it took no time."""
    upload = milliseconds(timings.upload_ns) if timings.upload_ns else "not needed"
    compiled = "cached" if timings.compile_cached else milliseconds(timings.compile_ns)
    print_times(
        [
            ("Phase", "Time"),
            ("upload", upload),
            ("compile", compiled),
            ("VM", milliseconds(timings.vm_ns)),
            ("load", milliseconds(timings.load_ns)),
            ("init", milliseconds(timings.init_ns)),
            ("total", milliseconds(timings.total_ns)),
        ]
    )


def milliseconds(duration_ns: int) -> str:
    """Show a duration in ms: whole ones from 10 ms, below that to the hundredth."""
    value = duration_ns / NS_PER_MS
    if value >= 10 or duration_ns == 0:
        return f"{value:.0f} ms"
    return f"{value:.2f} ms" if value >= 0.01 else "<0.01 ms"


def size(size_bytes: int) -> str:
    """Show a number of bytes."""
    if size_bytes >= MIB:
        return f"{size_bytes / MIB:.1f} MiB"
    if size_bytes >= 1024:
        return f"{size_bytes / 1024:.1f} KiB"
    return f"{size_bytes} B"


def moment(unix_ns: int) -> str:
    """Show a time as ISO 8601 in UTC, to the millisecond."""
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest_ns // NS_PER_MS:03d}Z"


def printable(text: str) -> str:
    """Make control characters visible: what an actor writes must not steer a terminal."""
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
        for char in text
    )


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show on stderr how many of `total` are done; the body calls what it is given for each."""
    console = stderr_console()
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
        self._console = console or stderr_console()
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


def flush_quietly() -> None:
    """Flush stdout; a reader that has gone is no error of ours."""
    if sys.stdout is None:  # closed by whoever called us
        return
    try:
        sys.stdout.flush()
    except OSError:
        # Python flushes once more at exit and would complain; nobody reads it anyway.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _labelled(console: Console, label: str, style: str, text: str) -> None:
    first, *rest = text.split("\n")
    console.print(Text().append(label, style=style).append(printable(first)), soft_wrap=True)
    for more in rest:
        console.print(Text("  " + printable(more)), soft_wrap=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
