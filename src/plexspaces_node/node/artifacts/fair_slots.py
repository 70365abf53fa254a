"""Slots that are too few for all, given in turn, so that nobody's many requests delay others.

Waiting requests are distinguished by group, such as a tenant, and in it by owner, such as a
client's connection. Does not know what a slot is for.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

_Group: TypeAlias = "OrderedDict[str, deque[asyncio.Future[None]]]"
"""The waiting requests of each owner."""


class Turns:
    """A number of slots. Used only on the event loop.

    The next free slot goes to the longest-waiting request of the owner whose turn it is in the
    group whose turn it is: each waiting group gets one, then each another, and in a group likewise
    each owner. No owner has more than its share.
    """

    def __init__(self, places: int, *, share: int | None = None) -> None:
        """Create this many slots, of which one owner gets at most `share`, by default all."""
        self._free = places
        self._share = places if share is None else share
        self._taken: Counter[str] = Counter()
        # The group whose turn it is comes first, and in it the owner whose turn it is.
        self._waiting: OrderedDict[str, _Group] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Turns {self._free} free, {self.waiting} wait>"

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(len(turns) for group in self._waiting.values() for turns in group.values())

    def are_for(self, owner: str) -> bool:
        """Return whether an owner waits only for others: no slot is free, and it is due one."""
        return not self._free and self._may(owner)

    @asynccontextmanager
    async def place(self, owner: str, group: str = "") -> AsyncIterator[None]:
        """Wait for a slot, and have it in the body."""
        await self._enter(owner, group)
        try:
            yield
        finally:
            self._leave(owner)

    async def _enter(self, owner: str, group: str) -> None:
        # Whoever waits now could not have had it: nobody is overtaken.
        if self._free and self._may(owner):
            self._take(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, OrderedDict()).setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(owner)
            else:
                self._forget(owner, group, turn)
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
        # Each time the owners of one group after the other, for a group whose turn it is may wait
        # for its own share alone.
        while self._free and self._pass_on_one():
            pass

    def _pass_on_one(self) -> bool:
        for group, owners in self._waiting.items():
            for owner in owners:
                if self._may(owner):
                    turn = self._next(owner, group)
                    if turn is not None:
                        self._take(owner)
                        turn.set_result(None)
                    return True
        return False

    def _next(self, owner: str, group: str) -> asyncio.Future[None] | None:
        """Remove an owner's longest-waiting request from its queue; others are next."""
        owners = self._waiting[group]
        turns = owners[owner]
        turn = turns.popleft()
        # Cancelled together with the one that leaves now, and not resumed yet to remove itself.
        while turn.done() and turns:
            turn = turns.popleft()
        if turns:
            owners.move_to_end(owner)
        else:
            del owners[owner]
        if owners:
            self._waiting.move_to_end(group)
        else:
            del self._waiting[group]
        return None if turn.done() else turn

    def _forget(self, owner: str, group: str, turn: asyncio.Future[None]) -> None:
        owners = self._waiting.get(group, OrderedDict())
        turns = owners.get(owner)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del owners[owner]
                if not owners:
                    del self._waiting[group]
