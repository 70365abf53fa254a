"""Writes responses to one connection, no faster than the client reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from math import inf
from typing import Any, cast

from plexspaces_node.link.frames import Body
from plexspaces_node.node.http.message import Request, Response

STALL_S = 30.0
"""How long a client may take nothing of a response."""

PIECE_BYTES = 256 * 1024
"""Of a long body that are handed to the transport at a time, which copies what it keeps."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

SHORT_BYTES = 64 * 1024
"""A body up to this is copied behind its head: a call of the kernel costs more."""

_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_WITHOUT_BODY = (204, 304)


class ResponseWriter:
    """The way out of a connection.

    Attributes:
        due_s: when the client counts as stalled, infinite while it reads.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.due_s = inf
        self._transport = transport
        self._loop = loop
        self._drained: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<ResponseWriter {self._transport.get_write_buffer_size()} bytes to be read>"

    def pause(self) -> None:
        """Hear that the client does not read."""
        self._drained = self._loop.create_future()
        self.due_s = self._loop.time() + STALL_S

    def resume(self) -> None:
        """Hear that the client reads again, or is gone."""
        self.due_s = inf
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def write(self, data: Body) -> None:
        """Write bytes; on a connection that is gone they are lost."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    @property
    def is_paused(self) -> bool:
        """Whether the client has to read before more is written."""
        return self._drained is not None

    def send(self, request: Request, response: Response, *, date: bytes) -> None:
        """Write a response with a short body."""
        head, body = _head_of(response, date), cast(bytes, response.body)
        self.write(head if request.method == b"HEAD" else head + body)

    async def send_long(self, request: Request, response: Response, *, date: bytes) -> None:
        """Write a response that has its length, and return when most of it is on its way."""
        await self._drain()
        self.write(_head_of(response, date))
        if request.method != b"HEAD":
            view = memoryview(cast(bytes, response.body))
            for at in range(0, len(view), PIECE_BYTES):
                await self._drain()
                self.write(view[at : at + PIECE_BYTES])
        await self._drain()

    async def send_stream(self, request: Request, response: Response, *, date: bytes) -> None:
        """Write a response whose body comes in pieces; in HTTP 1.0 its end is the connection's.

        Closes the iterator. Raises `ConnectionError` for a body that is not as long as was said.
        """
        async with aclosing(cast(Any, response.body)) as pieces:
            await self._drain()
            length = response.length
            is_chunked = length is None and not request.is_http_1_0 and has_body(response.status)
            if is_chunked:
                response.headers.append((b"transfer-encoding", b"chunked"))
            self.write(_head_of(response, date))
            if request.method == b"HEAD" or not has_body(response.status):
                return
            sent = 0
            async for piece in cast(AsyncIterator[Body], pieces):
                if self._transport.is_closing():
                    return
                if not piece:
                    continue
                sent += len(piece)
                if length is not None and sent > length:
                    break
                if is_chunked:
                    self._transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                else:
                    self.write(piece)
                await self._drain()
            if length is not None and sent != length:
                raise ConnectionError(f"a body of {sent} bytes where {length} were told")
        if is_chunked:
            self.write(b"0\r\n\r\n")

    async def _drain(self) -> None:
        while self._drained is not None:
            # Each wait begins its time anew, for some of it was read.
            await self._drained


def has_body(status: int) -> bool:
    """Return whether a response with this status can have a body."""
    return status not in _WITHOUT_BODY


def _head_of(response: Response, date: bytes) -> bytes:
    line = _LINES.get(response.status) or b"HTTP/1.1 %d \r\n" % response.status
    lines = [line, date]
    length = response.length
    if length is None and not response.is_stream:
        length = len(cast(bytes, response.body))
    if length is not None and has_body(response.status):
        lines.append(b"content-length: %d\r\n" % length)
    for name, value in response.headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
