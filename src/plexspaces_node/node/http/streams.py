"""Replies that come in pieces; what fails at once fails before the head of the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self, cast

from plexspaces_node.node.api.boundary import known_error
from plexspaces_node.node.http.problem import members_of
from plexspaces_node.node.http.transcode import line, to_json
from plexspaces_node.tasks import cancel

HEARTBEAT_S = 15.0
"""How long a stream of events says nothing before it says that it is still there."""

_HEARTBEAT = b":\n\n"


class Chunks:
    """The chunks of a console; an error ends the connection."""

    def __init__(self, messages: AsyncGenerator[Any, None]) -> None:
        """Take over `messages`, which `aclose` closes."""
        self._messages = messages
        self._first: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._messages!r}>"

    async def begin(self) -> None:
        """Wait for the first piece and keep it; raises what it fails with."""
        await asyncio.wait([self._start()])
        self._check()

    async def begin_soon(self) -> None:
        """Raise what the first piece fails with at once, but do not wait for it."""
        self._start()
        await asyncio.sleep(0)
        self._check()

    async def aclose(self) -> None:
        """End the stream. Idempotent."""
        if self._first is not None:
            await cancel(self._first)
        await self._messages.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return bytes((await self._message()).chunk)

    async def _message(self) -> Any:
        """Return the next message; raises `StopAsyncIteration` after the last one."""
        first, self._first = self._first, None
        message = await (first or self._take())
        if message is None:
            raise StopAsyncIteration
        return message

    async def _take(self) -> Any:
        return await anext(self._messages, None)

    def _start(self) -> asyncio.Task[Any]:
        self._first = asyncio.create_task(self._take())
        return self._first

    def _check(self) -> None:
        if self._first is not None and self._first.done():
            self._first.result()


class Lines(Chunks):
    """Messages as JSON, one a line; an error is the last line, under the name `error`."""

    async def __anext__(self) -> bytes:
        try:
            members = to_json(await self._message())
        except StopAsyncIteration:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary
            return self._failed(members_of(known_error(error)))
        return self._told(members)

    def _told(self, members: dict[str, Any]) -> bytes:
        return line(members)

    def _failed(self, members: dict[str, Any]) -> bytes:
        return line({"error": members})


class Events(Lines):
    """Messages as server-sent events, each with its JSON as data; an error is an `error` event.

    JSON has no line ends of its own, so that nothing in a message can begin another event.
    """

    def __init__(
        self, messages: AsyncGenerator[Any, None], *, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        super().__init__(messages)
        self._heartbeat_s = heartbeat_s

    async def __anext__(self) -> bytes:
        # A wait that ends does not end what it waits for.
        await asyncio.wait([self._first or self._start()], timeout=self._heartbeat_s)
        if self._first is not None and not self._first.done():
            return _HEARTBEAT
        return await super().__anext__()

    def _told(self, members: dict[str, Any]) -> bytes:
        return b"data: %b\n" % line(members)

    def _failed(self, members: dict[str, Any]) -> bytes:
        return b"event: error\ndata: %b\n" % line(members)


class Counted:
    """A stream that counts as a call until it is closed."""

    def __init__(self, pieces: Any, closed: Callable[[], None]) -> None:
        """Take over `pieces`, an iterator that can be closed; `closed` is called once."""
        self._pieces = pieces
        self._closed: Callable[[], None] | None = closed

    def __repr__(self) -> str:
        return f"<Counted {self._pieces!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return cast(bytes, await anext(self._pieces))

    async def aclose(self) -> None:
        """Close the stream. Idempotent."""
        try:
            await self._pieces.aclose()
        finally:
            closed, self._closed = self._closed, None
            if closed is not None:
                closed()
