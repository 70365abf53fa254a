"""Which actor waits for which: those of this node, and those of others whose messages came here.

An actor handles one message at a time. So one that asks, and would have to wait for itself, waits
for its timeout: that is found out before. Used only on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plexspaces_node.errors import ActorFailed
from plexspaces_node.model import split_name

MOST_WAITING = 64
"""How many of those that wait for a message are told to another node."""


class _Wait:
    """That one actor waits for another."""

    __slots__ = ("on", "waiter")

    def __init__(self, waiter: str, on: str) -> None:
        self.waiter = waiter
        self.on = on


class Waits:
    """The waits of actors, by full names: one for each that is in `ask`."""

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}
        self._waiters: dict[str, dict[_Wait, None]] = {}

    def __repr__(self) -> str:
        return f"<Waits {len(self._waits)}>"

    def begin(self, waiter: str, on: str, *, named: str) -> Callable[[], None]:
        """Note that an actor waits for another, which it calls `named`, until that ends.

        Raises `ActorFailed` if that would wait for the actor itself.
        """
        if self._leads_to(on, (waiter,)):
            raise _cycle(split_name(waiter)[1], named)
        return self._add(waiter, on)

    def begin_told(self, waiting: Sequence[str], on: str) -> Callable[[], None]:
        """Note what another node says: that each waits for the one before it, the first for `on`.

        Raises as `begin` does.
        """
        if self._leads_to(on, waiting):
            raise _cycle(split_name(waiting[0])[1], split_name(on)[1])
        ends = []
        for waiter in waiting:
            # What is known of its own actors, a node knows better.
            if waiter not in self._waits:
                ends.append(self._add(waiter, on))
            on = waiter

        def end() -> None:
            for each in ends:
                each()

        return end

    def chain(self, waiter: str) -> tuple[str, ...]:
        """Return an actor that asks, and those that wait for it; of many some."""
        found = [waiter]
        for each in found:
            # What waits for the same one is left out: there is no order in which to tell it.
            wait = next(iter(self._waiters.get(each, ())), None)
            if wait is None or wait.waiter in found or len(found) >= MOST_WAITING:
                break
            found.append(wait.waiter)
        return tuple(found)

    def _leads_to(self, on: str, waiting: Sequence[str]) -> bool:
        """Return whether an actor waits, or one that it waits for does, for one of these."""
        seen = set[str]()
        while on not in waiting:
            wait = self._waits.get(on)
            if wait is None or on in seen:
                return False
            seen.add(on)
            on = wait.on
        return True

    def _add(self, waiter: str, on: str) -> Callable[[], None]:
        wait = _Wait(waiter, on)
        # An actor whose ask timed out may ask again: the later wait is the true one.
        if (before := self._waits.get(waiter)) is not None:
            self._forget(before)
        self._waits[waiter] = wait
        self._waiters.setdefault(on, {})[wait] = None

        def end() -> None:
            if self._waits.get(waiter) is wait:
                del self._waits[waiter]
            self._forget(wait)

        return end

    def _forget(self, wait: _Wait) -> None:
        waiters = self._waiters.get(wait.on)
        if waiters is not None:
            waiters.pop(wait, None)
            if not waiters:
                del self._waiters[wait.on]


def _cycle(local: str, to: str) -> ActorFailed:
    return ActorFailed(
        f"{local!r} asks {to!r}, which would wait for {local!r} itself", code="call-cycle"
    )
