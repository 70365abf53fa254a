"""One timer for all requests to other nodes: one of its own costs each more than being watched."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Protocol

LEAST_S = 0.01
"""The time between two looks, however many requests end one after the other."""


class Due(Protocol):
    """Something that ends at a time."""

    @property
    def due_s(self) -> float:
        """When, by the clock of the event loop."""

    def expire(self) -> None:
        """Hear that it is over."""


class Deadlines:
    """What is due some time. Used on one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._all: dict[Due, None] = {}
        # Set for the earliest; those that are over meanwhile are not looked at.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf

    def __repr__(self) -> str:
        return f"<Deadlines of {len(self._all)}>"

    def add(self, due: Due) -> None:
        """Have something expire at its time, unless it is removed before."""
        self._all[due] = None
        if due.due_s < self._timer_s:
            self._set_timer(due.due_s)

    def remove(self, due: Due) -> None:
        """Forget something. Idempotent."""
        self._all.pop(due, None)

    def close(self) -> None:
        """Let nothing expire any more. Idempotent."""
        self._all.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_s = None, inf

    def _set_timer(self, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when_s, self._look)
        self._timer_s = when_s

    def _look(self) -> None:
        self._timer, self._timer_s = None, inf
        now_s = self._loop.time()
        next_s = inf
        for each in self._all:
            if each.due_s <= now_s:
                # Each by itself, for one may end another.
                self._loop.call_soon(self._expire, each)
            else:
                next_s = min(next_s, each.due_s)
        if next_s < inf:
            self._set_timer(max(next_s, now_s + LEAST_S))

    def _expire(self, due: Due) -> None:
        if due in self._all:
            del self._all[due]
            due.expire()
