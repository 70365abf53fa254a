"""Ends calls that last once what their caller has proved themselves with is revoked or expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from plexspaces_node.errors import Unauthenticated
from plexspaces_node.node.access.gate import Gate
from plexspaces_node.node.access.identity import Identity

_T = TypeVar("_T")


class _Watched:
    """The task that a call is handled in; cancelled at the end of its caller's proof."""

    def __init__(self, gate: Gate, identity: Identity) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self.ended = False
        # Whether the task waits for what it is cancelled in, and not for gRPC.
        self.is_inside = True
        self.unwatch = gate.watch(identity, self._end)

    def _end(self) -> None:
        self.ended = True
        if self.is_inside:
            self._task.cancel()

    def error(self) -> Unauthenticated:
        self._task.uncancel()
        return _ended()


async def replied(gate: Gate, identity: Identity, reply: Awaitable[_T]) -> _T:
    """Return a reply that may take long; raises `Unauthenticated` once the caller's proof ends."""
    watched = _Watched(gate, identity)
    try:
        return await reply
    except asyncio.CancelledError:
        if watched.ended:
            raise watched.error() from None
        raise
    finally:
        watched.unwatch()


async def streamed(
    gate: Gate, identity: Identity, replies: AsyncGenerator[Any, None]
) -> AsyncGenerator[Any, None]:
    """Yield replies, and close them at the end; raises `Unauthenticated` as `replied` does.

    While a client does not read nothing is sent to it, and it is told when it does.
    """
    watched = _Watched(gate, identity)
    try:
        async with aclosing(replies):
            while True:
                watched.is_inside = True
                try:
                    reply = await anext(replies)
                except StopAsyncIteration:
                    return
                finally:
                    watched.is_inside = False
                if watched.ended:
                    raise _ended()
                yield reply
    except asyncio.CancelledError:
        if watched.ended:
            raise watched.error() from None
        raise
    finally:
        watched.unwatch()


def _ended() -> Unauthenticated:
    return Unauthenticated(
        "the token is revoked or has expired since this began",
        hint="plexspaces login, with another one",
    )
