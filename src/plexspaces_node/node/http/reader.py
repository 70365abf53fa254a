"""Reads requests from the bytes of one connection, within bounds of size and time.

httptools parses; conflicting lengths, bare line feeds and the like are its refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import httptools

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.http.message import BodyStream, Headers, Request
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.machines.in_flight import InFlight

HEAD_BYTES = 32 * 1024
"""The longest head of a request."""

HEAD_S = 10.0
"""In which the head of a request must have come."""

BODY_S = 30.0
"""The longest pause in a body that comes."""

COUNTED_BYTES = 64 * 1024
"""A body from this length on counts among what the node holds, also before it is complete."""


class RequestReader:
    """Turns bytes into requests.

    Attributes:
        due_s: when the client is too slow, by the clock of the event loop; infinite between
            requests, and while nothing is read by the node's own choice.
        fault: why nothing more is read, None while all is well.
        is_last: whether the client wants the connection closed after what it has sent.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        transport: asyncio.ReadTransport,
        *,
        body_limit: Callable[[Request], int],
        on_request: Callable[[Request], None],
        proceed: Callable[[], None],
        in_flight: InFlight,
        clock: Callable[[], float],
    ) -> None:
        """Call `on_request` for each request: once it is complete, or has begun to stream.

        `body_limit` returns how long the body of a request may be, -1 for one that streams.
        `proceed` is called for a client that waits to be told to send its body. `clock` returns
        seconds.
        """
        self.due_s = inf
        self.fault: HttpFault | None = None
        self.is_last = False
        self._body_limit = body_limit
        self._on_request = on_request
        self._in_flight = in_flight
        self._proceed = proceed
        self._clock = clock
        self._transport = transport
        self._parser: Any = httptools.HttpRequestParser(self)
        self._request: Request | None = None
        self._target = b""
        self._headers: Headers = []
        self._in_head = False
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._limit = 0
        self._counted = 0

    def __repr__(self) -> str:
        return f"<RequestReader {self._request!r}, fault {self.fault}>"

    @property
    def is_between(self) -> bool:
        """Whether no part of a further request has come."""
        return self._request is None and not self._in_head

    @property
    def is_http_1_0(self) -> bool:
        """Whether the newest request is of HTTP 1.0, which has no chunks."""
        return bool(self._parser.get_http_version() == "1.0")

    def feed(self, data: bytes) -> None:
        """Take bytes; what is wrong with them is in `fault` then."""
        if self.fault is not None or self.is_last:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.is_last = True
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, HttpFault):
                raise
            self.fail(error.__context__)
        except httptools.HttpParserError as error:
            self.fail(HttpFault(400, f"Malformed request: {error}"))
        else:
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    self.fail(_long_head())

    def pause(self) -> None:
        """Read nothing for a while; the client is not the one who is slow."""
        self._transport.pause_reading()
        self.due_s = inf

    def resume(self) -> None:
        """Read on. Idempotent."""
        self._transport.resume_reading()
        if not self.is_between:
            self.due_s = self._clock() + BODY_S

    def expire(self) -> None:
        """Refuse a client that is too slow."""
        what = "head" if self._in_head else "body"
        self.fail(HttpFault(408, f"The {what} of the request did not come in time"))

    def fail(self, fault: HttpFault) -> None:
        """Read no more."""
        self.fault = fault
        self.close()

    def close(self) -> None:
        """Forget a request of which only a part has come. Idempotent."""
        self.due_s = inf
        self._in_head = False
        self._body.clear()
        self._uncount()
        request, self._request = self._request, None
        if request is not None and request.stream is not None:
            request.stream.break_off()

    # ---- called by the parser ----------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._target = b""
        self._headers = []
        self.due_s = self._clock() + HEAD_S

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES:
            raise _long_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.due_s = self._clock() + BODY_S
        request = Request(self._parser.get_method(), self._target, self._headers)
        request.keep_alive = self._parser.should_keep_alive()
        self._request = request
        self._limit = self._body_limit(request)
        length = request.header(b"content-length")
        if length is not None and int(length) > self._limit >= 0:
            raise _long_body(int(length), self._limit)
        if (request.header(b"expect") or b"").lower() == b"100-continue":
            self._proceed()
        if self._limit < 0:
            request.stream = BodyStream(self.pause, self.resume)
            self._on_request(request)

    def on_body(self, body: bytes) -> None:
        self.due_s = self._clock() + BODY_S
        request = self._request
        if request is not None and request.stream is not None:
            request.stream.feed(body)
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._limit:
            raise _long_body(self._body_bytes, self._limit)
        if self._body_bytes > COUNTED_BYTES:
            self._count()

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        self.due_s = inf
        if request is None:
            return
        self.is_last = not request.keep_alive
        if request.stream is not None:
            request.stream.end()
            return
        if self._body:
            request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body.clear()
            self._body_bytes = 0
        self._uncount()
        self._on_request(request)

    # ---- memory ------------------------------------------------------------------------

    def _count(self) -> None:
        more = self._body_bytes - self._counted
        try:
            self._in_flight.check(more)
        except ResourceExhausted as error:
            raise HttpFault(429, error.message, hint=error.hint or "") from error
        self._in_flight.add(more)
        self._counted += more

    def _uncount(self) -> None:
        if self._counted:
            self._in_flight.remove(self._counted)
            self._counted = 0


def _long_head() -> HttpFault:
    return HttpFault(431, f"The head of the request has more than {HEAD_BYTES} bytes")


def _long_body(size: int, limit: int) -> HttpFault:
    return HttpFault(
        413,
        f"The body has {size} bytes or more, and the limit is {limit}",
        hint="send it in parts, or raise [limits] message_bytes",
    )
