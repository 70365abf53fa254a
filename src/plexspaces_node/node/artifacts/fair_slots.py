"""Slots that are too few for all, given in turn, so that nobody's many requests delay others.

Waiting requests are distinguished by owner, such as a client's connection. Does not know what a
slot is for.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A number of slots. Used only on the event loop.

    The next free slot goes to the longest-waiting request of the owner whose turn it is: each
    waiting owner gets one, then each another. No owner has more than its share.
    """

    def __init__(self, places: int, *, share: int | None = None) -> None:
        """Create this many slots, of which one owner gets at most `share`, by default all."""
        self._free = places
        self._share = places if share is None else share
        self._taken: Counter[str] = Counter()
        # The owner whose turn it is comes first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Turns {self._free} free, {self.waiting} wait>"

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(map(len, self._waiting.values()))

    def are_for(self, owner: str) -> bool:
        """Return whether an owner waits only for others: no slot is free, and it is due one."""
        return not self._free and self._may(owner)

    @asynccontextmanager
    async def place(self, owner: str) -> AsyncIterator[None]:
        """Wait for a slot, and have it in the body."""
        await self._enter(owner)
        try:
            yield
        finally:
            self._leave(owner)

    async def _enter(self, owner: str) -> None:
        # Whoever waits now could not have had it: nobody is overtaken.
        if self._free and self._may(owner):
            self._take(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(owner)
            else:
                self._forget(owner, turn)
            raise

    def _may(self, owner: str) -> bool:
        return self._taken[owner] < self._share

    def _take(self, owner: str) -> None:
        self._free -= 1
        self._taken[owner] += 1

    def _leave(self, owner: str) -> None:
        self._free += 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        self._pass_on()

    def _pass_on(self) -> None:
        for owner in list(self._waiting):
            if not self._free:
                return
            if self._may(owner):
                turn = self._next(owner)
                if turn is not None:
                    self._take(owner)
                    turn.set_result(None)

    def _next(self, owner: str) -> asyncio.Future[None] | None:
        """Remove an owner's longest-waiting request from its queue; others are next."""
        turns = self._waiting[owner]
        turn = turns.popleft()
        # Cancelled together with the one that leaves now, and not resumed yet to remove itself.
        while turn.done() and turns:
            turn = turns.popleft()
        if turns:
            self._waiting.move_to_end(owner)
        else:
            del self._waiting[owner]
        return None if turn.done() else turn

    def _forget(self, owner: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(owner)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[owner]
