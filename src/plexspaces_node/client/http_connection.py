"""One connection to a node's HTTP port: a request at a time, and its response."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import httptools


class Response(NamedTuple):
    """A response as it came; the names of headers are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class ConnectionEnded(Exception):
    """The connection ended before the response was complete."""


class HttpConnection(asyncio.Protocol):
    """A connection that is kept for more requests.

    Attributes:
        is_usable: whether it can take another request.
        idle_since_s: when the last response was complete, by the clock of the event loop.
    """

    def __init__(self) -> None:
        """Set up; `loop.create_connection` opens it."""
        self.is_usable = True
        self.idle_since_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._response: asyncio.Future[Response] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []

    async def ask(self, head: bytes, body: bytes) -> Response:
        """Send a request and return the response; raises `ConnectionEnded`.

        If the caller is cancelled, the connection is closed, so that the node knows.
        """
        if not self.is_usable:
            raise ConnectionEnded
        self._response = self._loop.create_future()
        self._transport.writelines([head, body])
        try:
            return await self._response
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Close at once. Idempotent."""
        self.is_usable = False
        self._transport.abort()

    # ---- what the event loop calls -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_usable = False
        # They know each other.
        self._parser = None
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionEnded(str(exc or "it was closed")))

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._response.done() or self._parser is None:
            # Nothing was asked: this is no node.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # What follows a response that is complete takes nothing from it.
            if not self._response.done():
                self._response.set_exception(ConnectionEnded(f"not HTTP: {error}"))
            self.close()

    # ---- what the parser calls -----------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        assert self._response is not None
        self.idle_since_s = self._loop.time()
        self.is_usable = self._parser.should_keep_alive()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        response = Response(self._parser.get_status_code(), self._headers, body)
        self._headers, self._body = {}, []
        if not self._response.done():
            self._response.set_result(response)
