"""How soon somebody unknown is told so: at once, unless very many are.

Refusing costs a node as much as a short message. So whoever sends many requests without a valid
token waits for each answer, and a connection that waits sends no more. Who has a valid token never
waits: it is known before. One pace for all of a node, because a flood can come from many addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

AT_ONCE = 100
"""How many are refused at once after a quiet second, and in each second of a flood."""

MOST_S = 2.0
"""The longest that an answer waits."""


class Pace:
    """Spaces refusals out. Used on one event loop."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # When the next refusal is due, by the clock.
        self._due_s = 0.0

    def __repr__(self) -> str:
        return f"<Pace of {AT_ONCE}/s>"

    def next_s(self) -> float:
        """Return how long the next refusal waits, in seconds; it counts as made."""
        now_s = self._clock()
        due_s = max(self._due_s, now_s - 1.0) + 1.0 / AT_ONCE
        self._due_s = min(due_s, now_s + MOST_S)
        return max(0.0, self._due_s - now_s)
