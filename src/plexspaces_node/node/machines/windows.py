"""How far a sender of an HTTP body may be ahead of its receiver; see link.proto, HTTP.

Used on the event loop; only what is `async` waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import WINDOW_BYTES, Body

ALLOW_BYTES = WINDOW_BYTES // 2
"""A receiver allows more when this much has been taken."""

_JOINED_BYTES = 4096
"""Shorter parts that wait are joined: each costs more memory than its bytes."""


class BodyBroken(Exception):
    """The sender says that the rest of its body will not come."""


class ReceivedBody:
    """A body that an agent sends, as an iterator of its parts; holds at most one window of it."""

    def __init__(self, allow: Callable[[int], None]) -> None:
        """`allow` tells the agent how many bytes more it may send."""
        self._allow = allow
        self._parts: deque[Body] = deque()
        self._left = WINDOW_BYTES
        self._taken = 0
        self._ended = self._broken = False
        self._arrived = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ReceivedBody {len(self._parts)} parts, {'ended' if self._ended else 'open'}>"

    def put(self, part: Body, *, last: bool, aborted: bool = False) -> None:
        """Take a part; raises `LinkBroken` for one that is too much, or that follows the last."""
        if self._ended:
            raise link.LinkBroken("a part of a body after its last one")
        self._left -= len(part)
        if self._left < 0:
            raise link.LinkBroken(f"{-self._left} bytes of a body more than allowed")
        if len(part):
            self._keep(part)
        self._ended, self._broken = last or aborted, aborted
        self._arrived.set()

    def break_off(self) -> None:
        """Hear that the rest will not come; does nothing if all of it has."""
        if not self._ended:
            self._ended = self._broken = True
            self._arrived.set()

    def _keep(self, part: Body) -> None:
        if self._parts and len(self._parts[-1]) + len(part) <= _JOINED_BYTES:
            self._parts[-1] = bytes(self._parts[-1]) + part
        else:
            self._parts.append(part)

    def __aiter__(self) -> ReceivedBody:
        return self

    async def __anext__(self) -> Body:
        """Return the next part; raises `BodyBroken` after the last one of a body that broke off."""
        while not self._parts:
            if self._broken:
                raise BodyBroken
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        part = self._parts.popleft()
        self._taken += len(part)
        if self._taken >= ALLOW_BYTES and not self._ended:
            taken, self._taken = self._taken, 0
            self._left += taken
            self._allow(taken)
        return part


class SendWindow:
    """How many bytes of a body an agent still accepts. One sender waits for it at a time."""

    def __init__(self, sent: int = 0) -> None:
        """Begin with a window, of which `sent` bytes were sent with the head."""
        self._left = WINDOW_BYTES - sent
        self._more = asyncio.Event()

    def __repr__(self) -> str:
        return f"<SendWindow {self._left} bytes>"

    def allow(self, count: int) -> None:
        """Accept this many more."""
        self._left += count
        self._more.set()

    async def take(self, wanted: int) -> int:
        """Return how many of the wanted bytes may be sent now: at least one, at most a window."""
        while not self._left:
            self._more.clear()
            await self._more.wait()
        count = min(wanted, self._left, WINDOW_BYTES)
        self._left -= count
        return count
