"""What a plot of performance reports shows: its rows, its axis, and the file it goes to.

`plot_svg` draws it as a picture, `plot_text` in a terminal.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from plexspaces_node.cli.report import ACCEPTABLE_RATIO
from plexspaces_node.errors import InvalidArgument, Unavailable, quoted
from plexspaces_node.tracker import Coordination, PerformanceReport

TERMINAL_ONLY = "-"
TITLE = "Compute and coordination per language"
NAMES = {
    Coordination.VM: "VM",
    Coordination.UPLOAD: "upload",
    Coordination.COMPILE: "compile",
    Coordination.LOAD: "load",
    Coordination.MESSAGES: "messages",
}
"""What coordination is spent on, in the order in which it happens, and in words."""

_SUFFIX = ".svg"
_LINEAR_UP_TO = 50
"""The ratio of the longest time to the shortest up to which a linear axis shows both."""
_STEPS = (1, 2, 5)
_WISHED_TICKS = 5
_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


@dataclass(frozen=True, slots=True)
class Row:
    """The times of an application, or of all of them together, which has no language."""

    name: str
    language: str
    report: PerformanceReport

    @property
    def heading(self) -> str:
        """The name and the language."""
        return f"{self.name} ({self.language})" if self.language else self.name

    @property
    def ratio(self) -> str:
        """The granularity ratio, with a sign if it is too low or high enough."""
        ratio = self.report.granularity_ratio
        if math.isnan(ratio):
            return "n/a"
        sign = "⚠" if ratio < ACCEPTABLE_RATIO else "✓"
        return f"{sign} ∞×" if math.isinf(ratio) else f"{sign} {ratio:.2f}×"

    @property
    def parts(self) -> dict[Coordination, int]:
        """What coordination was spent on, in nanoseconds."""
        report = self.report
        return {
            Coordination.VM: report.vm_ns,
            Coordination.UPLOAD: report.upload_ns,
            Coordination.COMPILE: report.compile_ns,
            Coordination.LOAD: report.load_ns,
            Coordination.MESSAGES: report.messages_ns,
        }

    def shares(self) -> Iterator[tuple[Coordination, float, float]]:
        """Yield each part of coordination with where its share begins and ends, from 0 to 1."""
        whole, begin = self.report.coordinate_ns, 0
        for part, duration_ns in self.parts.items():
            if duration_ns:
                yield part, begin / whole, (begin + duration_ns) / whole
            begin += duration_ns


@dataclass(frozen=True, slots=True)
class Plot:
    """Rows from top to bottom, and a line that says what was measured."""

    rows: tuple[Row, ...]
    caption: str

    @property
    def axis(self) -> Axis:
        """An axis on which every time can be seen."""
        return Axis.of(
            duration_ns
            for row in self.rows
            for duration_ns in (row.report.compute_ns, row.report.coordinate_ns)
        )


class Tick(NamedTuple):
    """A place on an axis, from 0 to 1, and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of times: linear from 0, or logarithmic if the shortest would not be seen."""

    low_ns: float
    high_ns: float
    is_logarithmic: bool

    @classmethod
    def of(cls, durations_ns: Iterator[int]) -> Axis:
        """Return an axis for these times; those that are 0 have no bar and do not count."""
        seen = [duration_ns for duration_ns in durations_ns if duration_ns > 0] or [1_000_000]
        low, high = min(seen), max(seen)
        if high <= low * _LINEAR_UP_TO:
            return cls(0, high, False)
        # A power of ten far enough below the shortest that this has a bar.
        return cls(10.0 ** math.floor(math.log10(low / 1.5)), high, True)

    def at(self, duration_ns: float) -> float:
        """Return where a time is on the axis, from 0 to 1."""
        if not self.is_logarithmic:
            return duration_ns / self.high_ns
        if duration_ns <= self.low_ns:
            return 0.0
        return math.log10(duration_ns / self.low_ns) / math.log10(self.high_ns / self.low_ns)

    def ticks(self) -> Iterator[Tick]:
        """Yield round times along the axis, the shortest first."""
        if self.is_logarithmic:
            value = self.low_ns
            while value <= self.high_ns:
                yield Tick(self.at(value), _in_words(value))
                value *= 10
            return
        step = _round_step(self.high_ns / _WISHED_TICKS)
        for number in range(int(self.high_ns / step) + 1):
            yield Tick(self.at(number * step), _in_words(number * step))


def _round_step(at_least: float) -> float:
    power = 10.0 ** math.floor(math.log10(at_least))
    return next((step * power for step in _STEPS if step * power >= at_least), 10 * power)


def _in_words(duration_ns: float) -> str:
    for unit_ns, unit in _UNITS:
        if duration_ns >= unit_ns:
            return f"{duration_ns / unit_ns:g} {unit}"
    return "0"


def check_target(target: str) -> Path | None:
    """Return the file that a plot is written to, or None for `-`: no file.

    A link is followed. Raises `InvalidArgument` for what cannot become an SVG file.
    """
    if target == TERMINAL_ONLY:
        return None
    if not target.lower().endswith(_SUFFIX):
        raise InvalidArgument(
            f"the plot {target!r} does not end with {_SUFFIX}",
            hint=f"plexspaces run --plot {quoted(target or 'run')}{_SUFFIX}",
        )
    given = Path(target)
    try:
        path = given.resolve()
        if not path.name.lower().endswith(_SUFFIX):
            # Somebody else's link, in a directory for all, to a file that is none of theirs.
            raise InvalidArgument(
                f"{target!r} is a link to what does not end with {_SUFFIX}",
                hint=f"ls -l {quoted(target)}",
            )
        if path.exists() and not path.is_file():
            what = "a directory" if path.is_dir() else "not a regular file"
            raise InvalidArgument(f"{target!r} is {what}", hint="name a file with --plot FILE.svg")
        if not path.parent.is_dir():
            raise InvalidArgument(
                f"the directory {str(path.parent)!r} does not exist",
                hint=f"mkdir -p {quoted(path.parent)}",
            )
    except (OSError, RuntimeError, ValueError) as error:
        # A name that is too long, a loop of links, a directory that may not be entered.
        raise InvalidArgument(
            f"{target!r} cannot be written: {error}", hint="name a file with --plot FILE.svg"
        ) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InvalidArgument(
            f"the directory {str(path.parent)!r} cannot be written",
            hint=f"ls -ld {quoted(path.parent)}",
        )
    return path


def write_picture(path: Path, picture: bytes) -> None:
    """Write a file at once, in place of one that is there; raises `Unavailable` if it cannot."""
    part = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        part.write_bytes(picture)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise Unavailable(
            f"the plot {str(path)!r} was not written: {error.strerror}",
            hint=f"df -h {quoted(path.parent)}",
        ) from error
