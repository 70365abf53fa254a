"""What each application did of late: its counts now less those at the begin of a window.

Counts of an application go on as long as there is its node, and what it was changed for must not be
advised forever. So a window begins with its version, and at most 10 minutes ago.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple
from weakref import WeakKeyDictionary

from plexspaces_node.model import DEFAULT_TENANT, split_name
from plexspaces_node.node.advisor import thresholds
from plexspaces_node.node.advisor.figures import AskFigures, Figures, TypeFigures
from plexspaces_node.node.telemetry.activity import Activity, AskActivity, TypeActivity
from plexspaces_node.node.telemetry.timeline import MOMENT_S, Spent

_NS_PER_S = 1_000_000_000


class _Mark(NamedTuple):
    """The counts of an application at a moment.

    Attributes:
        start_ns: when what ran then was started.
        types, asks: the counts of one after the other, in the order in which they were first seen,
            which stays.
    """

    unix_ns: int
    start_ns: int
    spent: Spent
    types: array[int]
    asks: array[int]


class Windows:
    """The windows of applications. `mark` each of them again and again, once in half a minute.

    Times are of the node's clock, in nanoseconds since the epoch.
    """

    def __init__(self) -> None:
        # The begin of the window, and the begin of the next one.
        self._marks: WeakKeyDictionary[Activity, tuple[_Mark, _Mark]] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Windows of {len(self._marks)} applications>"

    def mark(self, activity: Activity, unix_ns: int) -> None:
        """Look whether the window of an application has to begin anew."""
        activity.settle()
        known = self._marks.get(activity)
        if known is None:
            first = _Mark(
                activity.timeline.since_unix_ns, _start_ns(activity), Spent(), _none(), _none()
            )
            self._marks[activity] = first, first
        elif known[1].start_ns != _start_ns(activity) or unix_ns < known[1].unix_ns:
            # Another start, or a clock that was set back.
            now = _mark(activity, unix_ns)
            self._marks[activity] = now, now
        elif unix_ns - known[1].unix_ns >= thresholds.WINDOW_S * _NS_PER_S:
            self._marks[activity] = known[1], _mark(activity, unix_ns)

    def figures(self, activity: Activity, unix_ns: int) -> Figures:
        """Return what an application did in its window."""
        self.mark(activity, unix_ns)
        begin, _ = self._marks[activity]
        tenant = split_name(activity.name)[0]
        spent = _less(activity.spent, begin.spent)
        return Figures(
            activity.name,
            max(MOMENT_S, (unix_ns - begin.unix_ns) / _NS_PER_S),
            _active_s(activity, begin.unix_ns, spent.messages),
            spent,
            tuple(
                _type_figures(name, _since(_of_type(kind), begin.types, at))
                for at, (name, kind) in enumerate(activity.types.items())
            ),
            tuple(
                AskFigures(_full(tenant, to), *_since(_of_ask(ask), begin.asks, at))
                for at, (to, ask) in enumerate(activity.asks.items())
                if to
            ),
            activity.is_component,
        )


def _full(tenant: str, name: str) -> str:
    return name if tenant == DEFAULT_TENANT else f"{tenant}/{name}"


def _start_ns(activity: Activity) -> int:
    return activity.starts[-1].time_unix_ns if activity.starts else 0


def _mark(activity: Activity, unix_ns: int) -> _Mark:
    return _Mark(
        unix_ns,
        _start_ns(activity),
        activity.spent,
        array("q", chain.from_iterable(map(_of_type, activity.types.values()))),
        array("q", chain.from_iterable(map(_of_ask, activity.asks.values()))),
    )


def _none() -> array[int]:
    return array("q")


def _of_type(kind: TypeActivity) -> tuple[int, ...]:
    return (
        *(kind.messages, kind.failures),
        *(kind.compute_ns, kind.wait_ns, kind.queue_ns, kind.link_ns),
        *(kind.payload_bytes, kind.reply_bytes),
    )


def _of_ask(ask: AskActivity) -> tuple[int, ...]:
    return ask.answered, ask.total_ns, ask.compute_ns, ask.wait_ns, ask.queue_ns


def _less(now: Spent, before: Spent) -> Spent:
    return Spent(*(here - there for here, there in zip(now, before, strict=True)))


def _since(now: Sequence[int], before: array[int], at: int) -> list[int]:
    """Return counts less those before: the `at`-th there, or none if there are not so many."""
    begin = at * len(now)
    if begin >= len(before):
        return list(now)
    end = begin + len(now)
    return [here - there for here, there in zip(now, before[begin:end], strict=True)]


def _type_figures(name: str, counts: Sequence[int]) -> TypeFigures:
    *spent, payload_bytes, reply_bytes = counts
    return TypeFigures(name, Spent(*spent), payload_bytes, reply_bytes)


def _active_s(activity: Activity, since_unix_ns: int, messages: int) -> float:
    """Return in how many seconds there were messages since then, as far as moments tell."""
    moments = [one for one in activity.timeline.moments() if one.end_unix_ns > since_unix_ns]
    seconds = sum(one.duration_ns for one in moments) / _NS_PER_S
    if messages > sum(one.messages for one in moments):
        # The moment that goes on has some.
        seconds += MOMENT_S
    return seconds
