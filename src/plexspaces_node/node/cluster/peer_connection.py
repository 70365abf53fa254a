"""One connection to another node: a request at a time, whose response is told as it comes.

Nothing waits in a task: a short message costs no more than a write and a read.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias

import httptools

from plexspaces_node.link.frames import Body

Headers: TypeAlias = list[tuple[bytes, bytes]]

HEAD_BYTES = 128 * 1024
"""The longest head of a response: that of an application, and what its node adds."""

MOST_HEADERS = 400
"""The most headers of a response."""

_STATUSES = {
    f"HTTP/1.1 {status.value} {status.phrase}".encode(): status.value
    for status in HTTPStatus
    if status >= HTTPStatus.OK and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
}
"""By first lines, those of responses that can have a body."""

_OF_NODES = frozenset(
    {
        b"content-length",
        b"content-type",
        b"date",
        b"plexspaces-not-here",
        b"retry-after",
        b"server-timing",
        b"traceresponse",
        b"x-content-type-options",
    }
)
"""The headers of a node's answers to messages."""

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SHORT_HEAD_BYTES = 2048
_LENGTH_DIGITS = 9

_CONTINUE, _LAST_INTERIM = 100, 199


class Taker(Protocol):
    """Takes a response. Nothing is called after `ended` or `broke`."""

    def proceed(self) -> None:
        """Hear that the body of the request may be sent, which the request asked for."""

    def begun(self, status: int, headers: Headers) -> None:
        """Take the head; names are in lower case."""

    def came(self, piece: bytes) -> None:
        """Take a piece of the body."""

    def ended(self) -> None:
        """Hear that the response is complete."""

    def broke(self, why: str) -> None:
        """Hear that the rest of it will not come."""


class PeerConnection(asyncio.Protocol):
    """A connection that is kept for more requests.

    Attributes:
        node: whose it is.
        is_usable: whether it can take another request.
        idle_since_s: when the last response was complete, by the clock of the event loop.
    """

    def __init__(self, node: str) -> None:
        """Set up; `loop.create_connection` opens it."""
        self.node = node
        self.is_usable = True
        self._loop = asyncio.get_running_loop()
        self.idle_since_s = self._loop.time()
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._taker: Taker | None = None
        # Whose response is complete, while what came with it is looked at.
        self._complete_for: Taker | None = None
        self._is_head = False
        self._headers: Headers = []
        # Of a head that is not complete; what is told of a chunk counts as one too.
        self._head_bytes = 0
        # Whether the parser has begun with a response.
        self._is_amidst = self._is_interim = False
        self._drained: asyncio.Future[None] | None = None
        self._is_paused = False

    def __repr__(self) -> str:
        return f"<PeerConnection to {self.node}, {'idle' if self._taker is None else 'busy'}>"

    def send(self, head: bytes, body: Body, taker: Taker, *, is_head: bool = False) -> None:
        """Send a request, whose response `taker` gets; the one before must have ended.

        `is_head` is whether its method is HEAD, of which the response has no body.
        """
        self._taker, self._is_head = taker, is_head
        if not body:
            self._transport.write(head)
        elif len(body) <= HEAD_BYTES:
            # One record of TLS, and one call of the kernel.
            self._transport.write(head + body)
        else:
            self._transport.writelines([head, body])

    def write(self, piece: Body) -> None:
        """Send a part of the request's body."""
        if not self._transport.is_closing():
            self._transport.write(piece)

    async def drain(self) -> None:
        """Wait until the other node has read most of what was written, or the connection ends."""
        while self._drained is not None:
            await asyncio.shield(self._drained)

    def pause(self) -> None:
        """Read nothing for a while. Idempotent."""
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on. Idempotent."""
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def leave(self) -> None:
        """Want no response any more: the connection is closed, so that the other node knows.

        Nothing is called any more. Idempotent.
        """
        self._taker = None
        self.close()

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
        self.resume_writing()
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.broke(str(exc or "it was closed"))

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is None or self._parser is None:
            # Nothing was asked: this is no node.
            self.close()
            return
        is_first = not (self._is_amidst or self._is_head)
        # As most come. Of all that is not what a node writes the parser finds out what it is.
        whole = whole_response(data) if is_first and len(data) <= HEAD_BYTES else None
        if whole is not None:
            status, headers, body = whole
            taker.begun(status, headers)
            if body and self._taker is not None:
                taker.came(body)
            self.idle_since_s = self._loop.time()
            self._complete_for, self._taker = self._taker, None
        else:
            self._is_amidst = True
            self._head_bytes += len(data)
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                cause = error.__context__
                self._fail(f"not HTTP: {cause if isinstance(cause, _TooMuch) else error}")
                return
        taker, self._complete_for = self._complete_for, None
        if taker is not None:
            # Not before all that came with it is looked at: who hears it may send the next
            # request, whose response that is not.
            taker.ended()
        elif self._head_bytes > HEAD_BYTES:
            self._fail(f"a head of more than {HEAD_BYTES} bytes")

    # ---- what the parser calls -----------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete_for is not None:
            raise _TooMuch("more than was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))
        if len(self._headers) > MOST_HEADERS:
            raise _TooMuch(f"more than {MOST_HEADERS} headers")

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        self._head_bytes = 0
        status = self._parser.get_status_code()
        self._is_interim = status <= _LAST_INTERIM
        taker = self._taker
        if taker is None:
            return
        if self._is_interim:
            if status == _CONTINUE:
                taker.proceed()
            return
        taker.begun(status, headers)
        if self._is_head:
            self.on_message_complete()
            # It would wait for a body.
            self._parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self.on_message_begin()
        if self._taker is not None:
            self._taker.came(body)

    def on_message_complete(self) -> None:
        if self._is_interim:
            return
        self._complete_for, self._taker = self._taker, None
        self._headers = []
        self._head_bytes = 0
        self._is_amidst = False
        self.idle_since_s = self._loop.time()
        self.is_usable = self.is_usable and self._parser.should_keep_alive()

    def _fail(self, why: str) -> None:
        """Read no more; a response that is complete is given."""
        self.is_usable = False
        complete, self._complete_for = self._complete_for, None
        taker, self._taker = self._taker, None
        if complete is not None:
            complete.ended()
        if taker is not None:
            taker.broke(why)
        self.close()


def whole_response(data: bytes) -> tuple[int, Headers, bytes] | None:
    """Return the status, headers and body of bytes that are a response of a node, and whole.

    None for what is anything else, or more or less than one: for the parser.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    status = _STATUSES.get(first)
    ends = len(lines)
    if not end or status is None or len(head) > _SHORT_HEAD_BYTES or _CONTROL.search(head):
        return None
    if head.count(b"\n") != ends or head.count(b"\r") != ends:
        return None
    headers: Headers = []
    length = None
    for line in lines:
        name, _, value = line.partition(b": ")
        if name not in _OF_NODES:
            return None
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _LENGTH_DIGITS:
                return None
            length = int(value)
        headers.append((name, value))
    return None if length != len(body) else (status, headers, body)


class _TooMuch(Exception):
    """A response has more than is taken."""
