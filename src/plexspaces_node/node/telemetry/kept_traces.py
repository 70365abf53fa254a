"""The traces of one application that are kept.

Those of its last messages; of the last that a client asked for or that failed, which outlive them
on a busy application; and of its slowest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from plexspaces_node.node.telemetry.span import Span

SPANS = 20
"""How many spans are kept of the last messages, and as many of the slowest; at least one message's
each."""

ASKED_SPANS = 12
"""As many of those that were asked for, or failed."""

SLOWEST = 8
SLOW_NS = 3600 * 1_000_000_000
"""How long a slow message is remembered: one from the first minute does not stay forever."""


class KeptTraces:
    """Messages of one application, each with what it caused. Used on the event loop.

    Attributes:
        floor_ns: a message that lasts longer belongs to the slowest.
    """

    __slots__ = ("_asked", "_last", "_slowest", "floor_ns")

    def __init__(self) -> None:
        self.floor_ns = 0
        self._last: deque[Span] = deque()
        self._asked: deque[Span] = deque()
        # The slowest first.
        self._slowest: list[Span] = []

    def __repr__(self) -> str:
        counts = (len(self._last), len(self._asked), len(self._slowest))
        return "<KeptTraces {} last, {} asked for, {} slowest>".format(*counts)

    def add(self, span: Span) -> None:
        """Keep a message that was traced on purpose, or has failed, among the last."""
        is_asked = span.error is not None or (span.tree is not None and span.tree.is_asked)
        kept, most = (self._asked, ASKED_SPANS) if is_asked else (self._last, SPANS)
        kept.append(span)
        count = _spans(kept)
        while count > most and len(kept) > 1:
            count -= _size(kept.popleft())

    def add_slow(self, span: Span) -> None:
        """Keep a message that lasted longer than `floor_ns`, among the slowest."""
        slowest = self._slowest
        at = next((i for i, one in enumerate(slowest) if one.total_ns < span.total_ns), None)
        slowest.insert(len(slowest) if at is None else at, span)
        while len(slowest) > 1 and (len(slowest) > SLOWEST or _spans(slowest) > SPANS):
            slowest.pop()
        self._set_floor()

    def forget_old(self, now_ns: int) -> None:
        """Forget slow messages that are old, by the clock of the spans."""
        oldest_ns = now_ns - SLOW_NS
        if any(one.begin_ns < oldest_ns for one in self._slowest):
            self._slowest = [one for one in self._slowest if one.begin_ns >= oldest_ns]
            self._set_floor()

    def newest(self) -> Iterator[Span]:
        """Yield the last messages, the newest first."""
        yield from sorted((*self._last, *self._asked), key=lambda one: -one.begin_ns)

    def slowest(self) -> Iterator[Span]:
        """Yield the slowest messages, the slowest first."""
        yield from self._slowest

    def of(self, trace_id: int) -> Iterator[Span]:
        """Yield the messages of a trace, in the order of their beginnings."""
        kept = {id(one): one for one in (*self._last, *self._asked, *self._slowest)}
        found = [one for one in kept.values() if one.tree and one.tree.trace_id == trace_id]
        yield from sorted(found, key=lambda one: one.begin_ns)

    def _set_floor(self) -> None:
        is_full = len(self._slowest) >= SLOWEST or _spans(self._slowest) >= SPANS
        self.floor_ns = self._slowest[-1].total_ns if is_full else 0


def _spans(spans: deque[Span] | list[Span]) -> int:
    return sum(map(_size, spans))


def _size(span: Span) -> int:
    """Return how many spans a message and what it caused are."""
    children = span.children or ()
    return 1 + sum(_size(child) if isinstance(child, Span) else 1 for child in children)
