"""Replies that come in pieces; what fails at once fails before the head of the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Self

from plexspaces_node.node.api.boundary import known_error
from plexspaces_node.node.http.problem import members_of
from plexspaces_node.node.http.transcode import line, to_json
from plexspaces_node.tasks import cancel


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
            members = {"error": members_of(known_error(error))}
        return line(members)
