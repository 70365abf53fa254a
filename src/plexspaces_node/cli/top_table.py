"""The table of `top`: what applications do now, in order, as rows, and what the node does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

from rich.table import Table
from rich.text import Text

from plexspaces_node.cli.bars import Marks, line_of, split_bar
from plexspaces_node.cli.output import counted, milliseconds, printable, size
from plexspaces_node.model import MIB, ApplicationState
from plexspaces_node.telemetry import ActivityUpdate, ApplicationActivity, NodeActivity, TimeSpent

_WIDE = 110
_BAR, _WIDE_BAR, _SUM_BAR = 8, 20, 12
_NONE = "–"
_GIB = 1024 * MIB


class Sort(StrEnum):
    """What the table is sorted by; the largest first, but for names."""

    COORDINATION = "coordination"
    COMPUTE = "compute"
    MESSAGES = "messages"
    P50 = "p50"
    P99 = "p99"
    MEMORY = "memory"
    CPU = "cpu"
    RESTARTS = "restarts"
    NAME = "name"

    @property
    def next(self) -> Sort:
        """The one after it, in a circle."""
        every = list(Sort)
        return every[(every.index(self) + 1) % len(every)]


_KEYS: dict[Sort, Callable[[ApplicationActivity], Any]] = {
    # Without messages now, by what it cost until now.
    Sort.COORDINATION: lambda one: (-one.recent.coordination_ns, -one.total.coordination_ns),
    Sort.COMPUTE: lambda one: (-one.recent.compute_ns, -one.total.compute_ns),
    Sort.MESSAGES: lambda one: (-one.messages_per_s, -one.total.messages),
    Sort.P50: lambda one: -one.p50_ns,
    Sort.P99: lambda one: -one.p99_ns,
    Sort.MEMORY: lambda one: -one.memory_bytes,
    Sort.CPU: lambda one: -one.cpu_percent,
    Sort.RESTARTS: lambda one: -one.restarts,
    Sort.NAME: lambda one: one.name,
}


class Now:
    """What applications and their node do now, by the updates taken.

    Attributes:
        looks: how many updates were taken; what the processor did is known from the second on.
    """

    def __init__(self) -> None:
        self._applications: dict[str, ApplicationActivity] = {}
        self.node: NodeActivity | None = None
        self.time_unix_ns = 0
        self.looks = 0

    def take(self, update: ActivityUpdate) -> None:
        """Take over what an update says."""
        self._applications |= {one.name: one for one in update.applications}
        for name in update.removed:
            self._applications.pop(name, None)
        self.node = update.node
        self.time_unix_ns = update.time_unix_ns
        self.looks += 1

    def applications(self, sort: Sort) -> list[ApplicationActivity]:
        """Return them in order; equal ones by name."""
        return sorted(self._applications.values(), key=lambda one: (_KEYS[sort](one), one.name))

    def record(self, sort: Sort) -> dict[str, object]:
        """Return all of it for programs."""
        return {
            "time_unix_ns": self.time_unix_ns,
            "node": self.node,
            "applications": self.applications(sort),
        }


def heading(now: Now, marks: Marks) -> list[Text]:
    """Return the lines above the table: all applications together, and their node."""
    every = now.applications(Sort.NAME)
    spent = TimeSpent(
        compute_ns=sum(one.recent.compute_ns for one in every),
        wait_ns=sum(one.recent.coordination_ns for one in every),
    )
    rate = sum(one.messages_per_s for one in every)
    running = sum(one.state == ApplicationState.RUNNING for one in every)
    first = line_of(
        f"{counted(len(every), 'application')}, {running} running · {rate:.1f} messages/s  "
    )
    if spent.total_ns:
        first.append(_shares(marks, spent, _SUM_BAR)).append(" coordination")
    node = now.node
    if node is None:
        return [first]
    cpu = f"CPU {node.cpu_percent:.1f} %, " if now.looks > 1 else ""
    late = milliseconds(node.loop_lag_ns)
    granted, host = node.granted_memory_bytes / _GIB, node.host_memory_bytes / _GIB
    second = (
        f"node {node.node_id}, {node.isolation}: {cpu}{size(node.memory_bytes)}, late by {late} · "
        f"VMs: {granted:.1f} of {host:.1f} GiB"
    )
    return [first, line_of(printable(second))]


def table(
    applications: Iterable[ApplicationActivity], marks: Marks, *, width: int, cpu_known: bool
) -> Table:
    """Return the table; names are cut if the width is too small for them."""
    is_wide = width >= _WIDE
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="bold")
    drawn.add_column("NAME", ratio=1, no_wrap=True, overflow="ellipsis")
    drawn.add_column("STATE", no_wrap=True)
    if is_wide:
        drawn.add_column("LANGUAGE", no_wrap=True)
    for name in ("MSG/S", "P50", "P99"):
        drawn.add_column(name, justify="right", no_wrap=True)
    bar = _WIDE_BAR if is_wide else _BAR
    drawn.add_column("COORDINATION", no_wrap=True, min_width=bar + 5)
    for name in ("MEM MiB", "CPU", "RST"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for one in applications:
        cells = _cells(one, marks, bar, cpu_known)
        drawn.add_row(*(cell for number, cell in enumerate(cells) if is_wide or number != 2))
    return drawn


def rows(
    applications: Iterable[ApplicationActivity], *, cpu_known: bool
) -> Sequence[Sequence[str]]:
    """Return the table for whoever reads it with another program: no bars, nothing cut."""
    head = (
        *("NAME", "STATE", "LANGUAGE", "MSG/S", "P50", "P99"),
        *("COORDINATION", "MEM MiB", "CPU", "RST"),
    )
    told = [head]
    for one in applications:
        cells = [cell.plain for cell in _cells(one, None, 0, cpu_known)]
        told.append(tuple(cell.strip() for cell in cells))  # type: ignore[arg-type]
    return told


def troubles(applications: Iterable[ApplicationActivity]) -> list[str]:
    """Return why those that do not run do not, one line each."""
    return [
        printable(f"{one.name}: {one.last_error}")
        for one in applications
        if one.last_error and one.state != ApplicationState.RUNNING
    ]


def _cells(
    one: ApplicationActivity, marks: Marks | None, bar: int, cpu_known: bool
) -> tuple[Text, ...]:
    memory = f"{one.memory_bytes // MIB}/" if one.memory_bytes else ""
    is_running = one.state == ApplicationState.RUNNING
    return (
        Text(printable(one.name)),
        Text(printable(one.state), style="" if is_running else "yellow"),
        Text(printable(one.language)),
        Text(f"{one.messages_per_s:.1f}"),
        Text(_duration(one.p50_ns)),
        Text(_duration(one.p99_ns)),
        _shares(marks, one.recent, bar),
        Text(f"{memory}{one.memory_limit_bytes // MIB}"),
        Text(f"{one.cpu_percent:.0f}%" if cpu_known else _NONE),
        Text(str(one.restarts)),
    )


def _shares(marks: Marks | None, spent: TimeSpent, width: int) -> Text:
    if not spent.total_ns:
        return Text(_NONE)
    share = spent.coordination_ns / spent.total_ns
    bar = split_bar(marks, 1 - share, width) if marks else Text()
    return bar.append(f"{share * 100:4.0f}%")


def _duration(duration_ns: int) -> str:
    if duration_ns >= 10_000_000_000:
        return f"{duration_ns / 1_000_000_000:.0f} s"
    return milliseconds(duration_ns) if duration_ns else _NONE
