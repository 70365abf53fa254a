"""Counts of durations: in fine steps for quantiles, and in the buckets that Prometheus scrapes."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import MutableSequence, Sequence
from itertools import accumulate
from operator import add

_STEPS = 8
"""Steps in each power of two: a quantile is within 1/16 of the measured duration."""

_OCTAVE_BITS = 4
SLOTS = (40 - _OCTAVE_BITS) * _STEPS + 2 * _STEPS
"""The fine steps; what is over the last one, from 18 minutes, counts in it."""

BOUNDS_S = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""The upper bounds of the buckets, in seconds; one more has no bound."""

BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS_S)


def _middle_ns(slot: int) -> int:
    shift = slot // _STEPS - 1
    if shift <= 0:
        return slot
    return ((slot - shift * _STEPS) << shift) + (1 << shift) // 2


_STEP_BOUNDS_NS = tuple(
    ((slot % _STEPS + _STEPS + 1) << (slot // _STEPS - 1)) - 1 if slot >= 2 * _STEPS else slot
    for slot in range(SLOTS)
)
"""The longest duration of each fine step."""


def count_all(
    durations_ns: Sequence[int], bounds_ns: Sequence[int], counts: MutableSequence[int]
) -> None:
    """Count sorted durations, at least one, by the first of these bounds that is not below them.

    With a few comparisons for each bound between the shortest and the longest of them, and not for
    each duration. What is over the last bound counts in the last place.
    """
    first = bisect_left(bounds_ns, durations_ns[0])
    last = min(bisect_left(bounds_ns, durations_ns[-1]), len(counts) - 1)
    before = 0
    for place in range(first, last):
        end = bisect_right(durations_ns, bounds_ns[place], before)
        counts[place] += end - before
        before = end
    counts[last] += len(durations_ns) - before


def new_steps() -> array[int]:
    """Return counts of durations by their fine step, all 0."""
    return array("I", bytes(4 * SLOTS))


def count_steps(durations_ns: Sequence[int], steps: array[int]) -> None:
    """Count sorted durations, at least one, by their fine step."""
    count_all(durations_ns, _STEP_BOUNDS_NS, steps)


def merged(first: array[int], second: array[int]) -> array[int]:
    """Return the counts of both."""
    return array("I", map(add, first, second))


def quantiles_ns(steps: array[int], *wanted: float) -> tuple[int, ...]:
    """Return a duration for each wanted quantile, from 0 to 1; all 0 if nothing was counted."""
    below = list(accumulate(steps))
    count = below[-1]
    if not count:
        return (0,) * len(wanted)
    return tuple(_middle_ns(bisect_left(below, max(1.0, each * count))) for each in wanted)


class Buckets:
    """Counts of durations in buckets, since the node started.

    Attributes:
        counts: one for each of `BOUNDS_NS`, and one for what is longer.
        exemplars: for a bucket the last traced message in it: its trace, its duration, and when it
            ended, in nanoseconds since the epoch.
    """

    __slots__ = ("counts", "exemplars", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_NS) + 1)
        self.sum_ns = 0
        self.exemplars: dict[int, tuple[int, int, int]] = {}

    def __repr__(self) -> str:
        return f"<Buckets of {sum(self.counts)} durations>"

    def add(self, duration_ns: int) -> None:
        """Count a duration."""
        self.add_all((duration_ns,))

    def add_all(self, durations_ns: Sequence[int]) -> None:
        """Count sorted durations, at least one."""
        count_all(durations_ns, BOUNDS_NS, self.counts)
        self.sum_ns += sum(durations_ns)

    def show(self, duration_ns: int, trace_id: int, unix_ns: int) -> None:
        """Keep a traced message, which is counted, as the example of its bucket."""
        self.exemplars[bisect_left(BOUNDS_NS, duration_ns)] = (trace_id, duration_ns, unix_ns)
