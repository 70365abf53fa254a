"""How the times of an application's messages go: now, and over the last minutes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from plexspaces_node.node.telemetry.durations import count_steps, merged, new_steps, quantiles_ns

MOMENT_S = 2.0
MOMENTS = 60
"""The last two minutes, in moments of 2 s."""
LONG_MOMENT_S = 30.0
LONG_MOMENTS = 60
"""The half hour before that, in moments of 30 s."""
_LEEWAY_NS = round(MOMENT_S / 2 * 1e9)
_LONG_NS = round(LONG_MOMENT_S * 1e9) - _LEEWAY_NS
"""As many moments as come closest to that: none is exactly as long as it should be."""

_TOGETHER = 400
"""Durations whose steps are counted together."""

RECENT_NS = 10_000_000_000
"""What "now" is in rates."""


class Spent(NamedTuple):
    """How the time of messages was spent, in nanoseconds; together the parts are the total."""

    messages: int = 0
    failures: int = 0
    compute_ns: int = 0
    wait_ns: int = 0
    queue_ns: int = 0
    link_ns: int = 0

    @property
    def coordinate_ns(self) -> int:
        """All but compute."""
        return self.wait_ns + self.queue_ns + self.link_ns


class Moment(NamedTuple):
    """What happened in a short time; times are sums over its messages."""

    end_unix_ns: int
    duration_ns: int
    messages: int
    failures: int
    compute_ns: int
    wait_ns: int
    queue_ns: int
    link_ns: int
    p50_ns: int
    p99_ns: int
    max_ns: int


_FIELDS = len(Moment._fields)


class Ring:
    """The last moments, in as much memory as their numbers take."""

    __slots__ = ("_most", "_next", "_numbers")

    def __init__(self, most: int) -> None:
        self._most = most
        self._next = 0
        self._numbers = array("Q")

    def __repr__(self) -> str:
        return f"<Ring of {len(self._numbers) // _FIELDS} moments>"

    def add(self, moment: Moment) -> None:
        """Keep a moment, in place of the oldest."""
        if len(self._numbers) < self._most * _FIELDS:
            self._numbers.extend(moment)
            return
        begin = self._next * _FIELDS
        self._numbers[begin : begin + _FIELDS] = array("Q", moment)
        self._next = (self._next + 1) % self._most

    def __iter__(self) -> Iterator[Moment]:
        """Yield the moments, oldest first."""
        count = len(self._numbers) // _FIELDS
        for index in range(count):
            yield self._at((self._next + index) % count)

    def __reversed__(self) -> Iterator[Moment]:
        """Yield the moments, newest first."""
        count = len(self._numbers) // _FIELDS
        for index in range(1, count + 1):
            yield self._at((self._next - index) % count)

    def _at(self, place: int) -> Moment:
        return Moment(*self._numbers[place * _FIELDS : (place + 1) * _FIELDS])


class Timeline:
    """Durations as they come, in moments. Used on the event loop.

    Attributes:
        short, long: the last minutes, in moments of `MOMENT_S` and of `LONG_MOMENT_S`.
        since_unix_ns: since when there is one.
    """

    def __init__(self, unix_ns: int) -> None:
        self.short, self.long = Ring(MOMENTS), Ring(LONG_MOMENTS)
        self.since_unix_ns = unix_ns
        # Durations that are not counted by their step yet.
        self._waiting = array("Q")
        # Of the moment that goes on; allocated with the first message.
        self._steps: array[int] | None = None
        self._max_ns = 0
        self._before = Spent()
        # Of the long moment that goes on, and of the one before.
        self._long_steps: array[int] | None = None
        self._previous_steps: array[int] | None = None
        self._long_max_ns = 0
        self._long_before = Spent()
        # By the moments in it, and not by a clock that can be set.
        self._long_ns = 0

    def __repr__(self) -> str:
        return f"<Timeline {self.short!r} {self.long!r}>"

    def begin(self) -> None:
        """Begin a long moment now, after a time in which there was nothing."""
        self._long_ns = 0

    def add_all(self, durations_ns: Sequence[int]) -> None:
        """Count sorted durations, at least one."""
        self._waiting.extend(durations_ns)
        self._max_ns = max(self._max_ns, durations_ns[-1])
        if len(self._waiting) >= _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            if self._steps is None:
                self._steps = new_steps()
            count_steps(sorted(self._waiting), self._steps)
            self._waiting = array("Q")

    def end_moment(self, spent: Spent, unix_ns: int, duration_ns: int) -> bool:
        """End a moment, before which this was spent; return whether the next ones are empty."""
        self._settle()
        is_idle = spent == self._before
        if not is_idle:
            self._end_short(spent, unix_ns, duration_ns)
        self._long_ns += duration_ns
        if self._long_ns >= _LONG_NS:
            return self._end_long(spent, unix_ns) and is_idle
        # What was refused has no duration, and belongs to a long moment all the same.
        return is_idle and spent == self._long_before and self._previous_steps is None

    def _end_short(self, spent: Spent, unix_ns: int, duration_ns: int) -> None:
        steps, before = self._steps, self._before
        self.short.add(_moment(unix_ns, duration_ns, spent, before, steps, self._max_ns))
        self._long_max_ns = max(self._long_max_ns, self._max_ns)
        if steps is not None:
            long_steps = self._long_steps
            self._long_steps = steps if long_steps is None else merged(long_steps, steps)
        self._before, self._steps, self._max_ns = spent, None, 0

    def _end_long(self, spent: Spent, unix_ns: int) -> bool:
        steps, before = self._long_steps, self._long_before
        is_idle = spent == before
        if not is_idle:
            max_ns = self._long_max_ns
            self.long.add(_moment(unix_ns, self._long_ns, spent, before, steps, max_ns))
        self._previous_steps, self._long_steps = steps, None
        self._long_before, self._long_max_ns = spent, 0
        self._long_ns = 0
        return is_idle and steps is None

    def moments(self) -> Iterator[Moment]:
        """Yield what happened, oldest first: the long moments of before the short ones, then these.

        None is missing in between, and nothing is in two of them.
        """
        short = list(self.short)
        begin_ns = short[0].end_unix_ns - short[0].duration_ns if short else 0
        # Both begin with a moment, but for how a clock goes meanwhile.
        begin_ns -= _LEEWAY_NS
        # Of the one in which the short ones begin, those are left out.
        since_ns = 0
        for moment in self.long:
            if not short or moment.end_unix_ns - moment.duration_ns < begin_ns:
                since_ns = moment.end_unix_ns
                yield moment
        yield from (moment for moment in short if moment.end_unix_ns > since_ns)

    def quantiles_ns(self) -> tuple[int, ...]:
        """Return the median and the 99th percentile of the last 30 to 60 s; 0 without messages."""
        self._settle()
        steps: array[int] | None = None
        for each in (self._steps, self._long_steps, self._previous_steps):
            if each is not None:
                steps = each if steps is None else merged(steps, each)
        return (0, 0) if steps is None else quantiles_ns(steps, 0.5, 0.99)

    def recent(self, now_unix_ns: int) -> tuple[Spent, float]:
        """Return what was spent in the last 10 s, and in how many seconds that was."""
        since_ns = now_unix_ns - RECENT_NS
        sums = [0] * len(Spent._fields)
        for moment in reversed(self.short):
            if moment.end_unix_ns <= since_ns:
                break
            # Those after now are of a clock that was set back.
            if moment.end_unix_ns <= now_unix_ns:
                for index, value in enumerate(moment[2:8]):
                    sums[index] += value
        seconds = min(RECENT_NS, max(now_unix_ns - self.since_unix_ns, 1)) / 1e9
        return Spent(*sums), seconds


def _moment(  # noqa: PLR0913 - all that is in one
    unix_ns: int,
    duration_ns: int,
    spent: Spent,
    before: Spent,
    steps: array[int] | None,
    max_ns: int,
) -> Moment:
    p50_ns, p99_ns = (0, 0) if steps is None else quantiles_ns(steps, 0.5, 0.99)
    return Moment(
        unix_ns,
        duration_ns,
        spent.messages - before.messages,
        spent.failures - before.failures,
        spent.compute_ns - before.compute_ns,
        spent.wait_ns - before.wait_ns,
        spent.queue_ns - before.queue_ns,
        spent.link_ns - before.link_ns,
        # In the step of the longest: it was no longer than that.
        min(p50_ns, max_ns),
        min(p99_ns, max_ns),
        max_ns,
    )
