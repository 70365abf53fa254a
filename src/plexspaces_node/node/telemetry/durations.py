"""Counts of durations: in fine steps for quantiles, and in the buckets that Prometheus scrapes."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate
from operator import add

_STEPS = 8
"""Steps in each power of two: a quantile is within 1/16 of the measured duration."""

_OCTAVE_BITS = 4
_LONGEST_NS = 2**40 - 1
"""Longer ones, from 18 minutes, count as this."""

SLOTS = (40 - _OCTAVE_BITS) * _STEPS + 2 * _STEPS

BOUNDS_S = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""The upper bounds of the buckets, in seconds; one more has no bound."""

BOUNDS_NS = tuple(round(bound * 1e9) for bound in BOUNDS_S)


def slot_of(duration_ns: int) -> int:
    """Return the index of the fine step that a duration, not below 0, is in."""
    if duration_ns > _LONGEST_NS:
        duration_ns = _LONGEST_NS
    shift = duration_ns.bit_length() - _OCTAVE_BITS
    return duration_ns if shift <= 0 else shift * _STEPS + (duration_ns >> shift)


def _middle_ns(slot: int) -> int:
    shift = slot // _STEPS - 1
    if shift <= 0:
        return slot
    return ((slot - shift * _STEPS) << shift) + (1 << shift) // 2


def new_steps() -> array[int]:
    """Return counts of durations by their fine step, all 0."""
    return array("I", bytes(4 * SLOTS))


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
        self.counts[bisect_left(BOUNDS_NS, duration_ns)] += 1
        self.sum_ns += duration_ns

    def show(self, duration_ns: int, trace_id: int, unix_ns: int) -> None:
        """Keep a traced message, which is counted, as the example of its bucket."""
        self.exemplars[bisect_left(BOUNDS_NS, duration_ns)] = (trace_id, duration_ns, unix_ns)
