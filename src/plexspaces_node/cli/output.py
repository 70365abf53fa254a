"""The output of the commands: data to stdout, hints and errors to stderr.

This module has the formats that several commands share. It knows no command and no node. Every
command loads it, so it must load fast.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import typer

from plexspaces_node.model import MIB, PhaseTimings

NS_PER_MS = 1_000_000


def say(line: str = "") -> None:
    """Print a line of data, at once."""
    typer.echo(line)


def counted(number: int, what: str) -> str:
    """Return a number of things in words; the plural adds an s."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def note(line: str) -> None:
    """Print a line for people, beside the data."""
    typer.echo(line, err=True)


def print_error(message: str, hint: str | None) -> None:
    """Print an error and its hint on stderr if possible: the exit status reports it too."""
    with suppress(OSError):
        _print_labelled("error: ", typer.colors.RED, message)
        if hint:
            _print_labelled("hint: ", typer.colors.CYAN, hint)


def print_json(value: Any) -> None:
    """Print records, dicts or lists of them as indented JSON.

    On a terminal only in ASCII: a guest's texts may contain characters that control it.
    """
    say(json.dumps(value, default=_plain, ensure_ascii=sys.stdout.isatty(), indent=2))


def print_json_line(value: Any) -> None:
    """Print one record as JSON on one line."""
    say(json.dumps(value, default=_plain, ensure_ascii=sys.stdout.isatty()))


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values in lines, indented, with the values aligned."""
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


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a line for each row, the first being the heading, with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield printable("  ".join(cells).rstrip())


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
    """Format a duration in ms: whole from 10 ms on, below that with two decimals."""
    value = duration_ns / NS_PER_MS
    if value >= 10 or duration_ns == 0:
        return f"{value:.0f} ms"
    return f"{value:.2f} ms" if value >= 0.01 else "<0.01 ms"


def size(size_bytes: int) -> str:
    """Format a number of bytes."""
    if size_bytes >= MIB:
        return f"{size_bytes / MIB:.1f} MiB"
    if size_bytes >= 1024:
        return f"{size_bytes / 1024:.1f} KiB"
    return f"{size_bytes} B"


def moment(unix_ns: int) -> str:
    """Format a time as ISO 8601 in UTC, to the millisecond."""
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest_ns // NS_PER_MS:03d}Z"


def printable(text: str) -> str:
    """Make control characters visible: an actor's output must not control a terminal."""
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def flush_quietly() -> None:
    """Flush stdout; a reader that has gone is not an error."""
    try:
        sys.stdout.flush()
    except OSError:
        # Otherwise Python would flush again at exit and complain, and nobody reads it anyway.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _print_labelled(label: str, colour: str, text: str) -> None:
    if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        label = typer.style(label, fg=colour, bold=True)
    first, *rest = text.split("\n")
    note(label + printable(first))
    for more in rest:
        note("  " + printable(more))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            each.name: dict(one) if isinstance(one, Mapping) else one
            for each in dataclasses.fields(value)
            # What only a cluster has is not there without one.
            if (one := getattr(value, each.name)) or "in_a_cluster" not in each.metadata
        }
    return str(value)
