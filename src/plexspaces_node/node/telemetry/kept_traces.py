"""The traces of one application that are kept: of its last traced messages, and of its slowest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from plexspaces_node.node.telemetry.span import Span

SPANS = 20
"""How many spans are kept of the last messages, and as many of the slowest; at least one message's
each."""

SLOWEST = 8
SLOW_NS = 3600 * 1_000_000_000
"""How long a slow message is remembered: one from the first minute does not stay forever."""


class KeptTraces:
    """Messages of one application, each with what it caused. Used on the event loop.

    Attributes:
        floor_ns: a message that lasts longer belongs to the slowest.
    """

    __slots__ = ("_last", "_slowest", "floor_ns")

    def __init__(self) -> None:
        self.floor_ns = 0
        self._last: deque[Span] = deque()
        # The slowest first.
        self._slowest: list[Span] = []

    def __repr__(self) -> str:
        return f"<KeptTraces {len(self._last)} last, {len(self._slowest)} slowest>"

    def add(self, span: Span) -> None:
        """Keep a message that was traced on purpose, among the last."""
        self._last.append(span)
        count = _spans(self._last)
        while count > SPANS and len(self._last) > 1:
            count -= _size(self._last.popleft())

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
        yield from reversed(self._last)

    def slowest(self) -> Iterator[Span]:
        """Yield the slowest messages, the slowest first."""
        yield from self._slowest

    def of(self, trace_id: int) -> Iterator[Span]:
        """Yield the messages of a trace, in the order of their beginnings."""
        kept = {id(one): one for one in (*self._last, *self._slowest)}
        found = [one for one in kept.values() if one.tree and one.tree.trace_id == trace_id]
        yield from sorted(found, key=lambda one: one.begin_ns)

    def _set_floor(self) -> None:
        is_full = len(self._slowest) >= SLOWEST or _spans(self._slowest) >= SPANS
        self.floor_ns = self._slowest[-1].total_ns if is_full else 0


def _spans(spans: deque[Span] | list[Span]) -> int:
    return sum(map(_size, spans))


def _size(span: Span) -> int:
    """Return how many spans a message and what it caused are, at most those of its tree."""
    return 1 if span.children is None or span.tree is None else span.tree.spans
