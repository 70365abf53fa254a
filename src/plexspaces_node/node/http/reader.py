"""Reads requests from the bytes of one connection, within bounds of size and time.

httptools parses; conflicting lengths, bare line feeds and the like are its refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import Any

import httptools

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.artifacts.upload import LEAST_BYTES_PER_S
from plexspaces_node.node.http.message import BodyStream, Headers, Request
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.share import Share

HEAD_BYTES = 32 * 1024
"""The longest head of a request."""

HEAD_S = 10.0
"""In which the head of a request must have come."""

BODY_S = 30.0
"""How long a body may come more slowly than `LEAST_BYTES_PER_S`."""

SLICE_BYTES = 16 * 1024
"""Parsed at a time: so many more requests than may wait are held at most."""

HEADERS = 100
"""The most headers of a request."""

HEADER_BYTES = 64
"""What a header costs besides its text."""

COUNTED_BYTES = 64 * 1024
"""A body from this length on counts among what the node holds, also before it is complete."""


KEPT_BYTES = 2048
"""The longest head that is kept, in case that the next request has the same."""

_END = b"\r\n\r\n"
_UNKEPT = (b"transfer-encoding", b"expect", b"upgrade")


class RequestReader:
    """Turns bytes into requests.

    Attributes:
        due_s: when the client is too slow, by the clock of the event loop; infinite between
            requests, and while nothing is read by the node's own choice.
        fault: why nothing more is read, None while all is well.
        refused: as much as has come of the request that `fault` is about.
        is_last: whether the client wants the connection closed after what it has sent.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        transport: asyncio.ReadTransport,
        *,
        body_limit: Callable[[Request], int],
        on_request: Callable[[Request], None],
        proceed: Callable[[], None],
        share: Share,
        clock: Callable[[], float],
    ) -> None:
        """Call `on_request` for each request: once it is complete, or has begun to stream.

        `body_limit` returns how long the body of a request may be, -1 for one that streams.
        `proceed` is called for a client that waits to be told to send its body. Long bodies are
        counted in `share` until their requests are released. `clock` returns seconds.
        """
        self.due_s = inf
        self.fault: HttpFault | None = None
        self.refused = Request(b"", b"", [])
        self.is_last = False
        self._body_limit = body_limit
        self._on_request = on_request
        self._share = share
        self._proceed = proceed
        self._clock = clock
        self._transport = transport
        self._parser: Any = httptools.HttpRequestParser(self)
        self._request: Request | None = None
        self._target = b""
        self._headers: Headers = []
        self._in_head = False
        self._head_bytes = 0
        # Of a head, or behind a body, that the parser has and has not reported.
        self._silent_bytes = 0
        self._is_paused = False
        # Came in one read with what made it pause.
        self._rest = b""
        self._body: bytes | bytearray = b""
        self._since_s = self._patience_s = 0.0
        self._limit = 0
        self._counted = 0
        # The parser says that a request is complete of which the body is still to come.
        self._is_upgrade = False
        # The last request that came whole, in one read, with nothing else; for the next one.
        self._kept: _Kept | None = None
        # While a read is parsed that may be one: those that are complete in it.
        self._complete: list[Request] | None = None

    def __repr__(self) -> str:
        return f"<RequestReader {self._request!r}, fault {self.fault}>"

    @property
    def is_between(self) -> bool:
        """Whether no part of a further request has come."""
        return self._request is None and not self._in_head

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read for a while, not even that the client has left."""
        return self._is_paused

    def feed(self, data: bytes) -> None:
        """Take bytes; what is wrong with them is in `fault` then."""
        if self._is_paused:
            self._rest += data
            return
        kept = self._kept
        if kept is not None and self.is_between and self.fault is None and not self.is_last:
            request = kept.again(data)
            if request is not None:
                self._on_request(request)
                return
        complete: list[Request] = []
        self._complete = complete if len(data) <= SLICE_BYTES and self.is_between else None
        at = 0
        while at < len(data) and self.fault is None and not self.is_last:
            if self._is_paused:
                self._rest = data[at:]
                return
            self._parse(data[at : at + SLICE_BYTES])
            at += SLICE_BYTES
        self._complete, self._kept = None, None
        if len(complete) == 1 and self.is_between and self.fault is None and not self.is_last:
            self._kept = _Kept.of(complete[0], data)

    def _parse(self, part: bytes) -> None:
        rest = None
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            rest = part[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, HttpFault):
                raise
            self.fail(error.__context__)
        except httptools.HttpParserError as error:
            # What comes after the last request is nobody's.
            if not self.is_last:
                self.fail(HttpFault(400, f"Malformed request: {error}"))
        else:
            if not self.is_between:
                self._silent_bytes += len(part)
                if self._silent_bytes > HEAD_BYTES + SLICE_BYTES:
                    self.fail(_long_head())
        if rest is None:
            return
        if self._request is None:
            self.is_last = True
        else:
            self._read_body_of(self._request)
            self._parse(rest)

    def _read_body_of(self, request: Request) -> None:
        """Begin anew with the body of a request that asked for another protocol, and gets none.

        The parser is done with it after its head. Java's own client asks with every first request.
        """
        self._parser = httptools.HttpRequestParser(
            SimpleNamespace(
                on_header=self.on_header,
                on_body=self.on_body,
                on_message_complete=self.on_message_complete,
            )
        )
        framing = (b"content-length", b"transfer-encoding")
        lines = [b"%b: %b\r\n" % each for each in request.headers if each[0] in framing]
        # So that nothing behind the body is read.
        lines.append(b"connection: close\r\n")
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lines))

    def pause(self) -> None:
        """Read nothing for a while; the client is not the one who is slow."""
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
            self._patience_s -= self._clock() - self._since_s
        self.due_s = inf

    def resume(self) -> None:
        """Read on. Idempotent."""
        if not self._is_paused:
            return
        self._is_paused = False
        if not self.is_between:
            self._wait(HEAD_S if self._in_head else self._patience_s)
        rest, self._rest = self._rest, b""
        self.feed(rest)
        if not self._is_paused:
            self._transport.resume_reading()

    def expire(self) -> None:
        """Refuse a client that is too slow."""
        what = "head" if self._in_head else "body"
        self.fail(HttpFault(408, f"The {what} of the request did not come in time"))

    def fail(self, fault: HttpFault) -> None:
        """Read no more."""
        self.fault = fault
        method = self._parser.get_method() if self._target else b""
        self.refused = self._request or Request(method, b"", self._headers)
        self.close()

    def close(self) -> None:
        """Forget a request of which only a part has come. Idempotent."""
        self.due_s = inf
        self._in_head = False
        self._body = self._rest = b""
        if self._counted:
            self._share.remove(self._counted)
            self._counted = 0
        request, self._request = self._request, None
        if request is not None and request.stream is not None:
            left = ConnectionError("the client left in the middle of the body")
            request.stream.break_off(self.fault or left)

    # ---- called by the parser ----------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = self._silent_bytes = 0
        self._target = b""
        self._headers = []
        self._wait(HEAD_S)

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._head_bytes += len(url)
        if self._head_bytes > HEAD_BYTES:
            raise _long_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += HEADER_BYTES + len(name) + len(value)
        if self._head_bytes > HEAD_BYTES:
            raise _long_head()
        # Behind a body, in trailers, nobody reads them.
        if self._in_head:
            self._headers.append((name.lower(), value))
            if len(self._headers) > HEADERS:
                raise HttpFault(431, f"The request has more than {HEADERS} headers")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._wait(BODY_S)
        request = Request(self._parser.get_method(), self._target, self._headers)
        request.keep_alive = self._parser.should_keep_alive()
        version = self._parser.get_http_version()
        request.is_http_1_0 = version == "1.0"
        self._request = request
        if version not in ("1.1", "1.0"):
            raise HttpFault(505, f"HTTP/{version} is not spoken here", hint="HTTP/1.1")
        _settle_host(request)
        self._limit = self._body_limit(request)
        length = request.header(b"content-length")
        if self._parser.should_upgrade():
            # Nothing can follow it; see `_read_body_of`.
            request.keep_alive = False
            self._is_upgrade = (
                length not in (None, b"0") or request.header(b"transfer-encoding") is not None
            )
        if length is None:
            _check_coding(request)
        elif int(length) > self._limit >= 0:
            raise _long_body(int(length), self._limit)
        expected = request.header(b"expect")
        if expected and expected.lower() == b"100-continue" and not request.is_http_1_0:
            self._proceed()
        if self._limit < 0:
            request.stream = BodyStream(self.pause, self.resume)
            self._on_request(request)

    def on_body(self, body: bytes) -> None:
        patience_s = self._patience_s - (self._clock() - self._since_s)
        self._wait(min(BODY_S, patience_s + len(body) / LEAST_BYTES_PER_S))
        self._silent_bytes = 0
        request = self._request
        if request is not None and request.stream is not None:
            request.stream.feed(body)
            return
        if request is not None and request.refusal is not None:
            # Nobody looks at it: many of them, waiting for their turn, would fill the memory.
            return
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body
        if len(self._body) > self._limit:
            raise _long_body(len(self._body), self._limit)
        if len(self._body) > COUNTED_BYTES:
            self._count()

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            self._is_upgrade = False
            return
        request, self._request = self._request, None
        self.due_s = inf
        if request is None:
            return
        self.is_last = not request.keep_alive
        if request.stream is not None:
            request.stream.end()
            return
        request.body, self._body = self._body, b""
        if self._complete is not None:
            self._complete.append(request)
        if self._counted:
            request.released = partial(self._share.remove, self._counted)
            self._counted = 0
        self._on_request(request)

    # ---- bounds ------------------------------------------------------------------------

    def _wait(self, patience_s: float) -> None:
        self._since_s = self._clock()
        self._patience_s = patience_s
        self.due_s = inf if self._is_paused else self._since_s + patience_s

    def _count(self) -> None:
        more = len(self._body) - self._counted
        try:
            self._share.grow(self._counted, more)
        except ResourceExhausted as error:
            raise HttpFault(429, error.message, hint=error.hint or "") from error
        self._counted += more


class _Kept:
    """The head of a request that was all that came in a read: clients send the same again.

    The same bytes have the same meaning, if the parser is at the beginning of a request. Whether
    its sender may send it, the handler asks again; how long its body may be, was asked for this.
    """

    __slots__ = ("_head", "_request", "_size")

    def __init__(self, head: bytes, size: int, request: Request) -> None:
        self._head = head
        self._size = size
        # Never answered itself.
        self._request = request

    @classmethod
    def of(cls, request: Request, data: bytes) -> _Kept | None:
        """Keep a request that came as `data`; None if another may not be read by its head."""
        head_bytes = data.find(_END, 0, KEPT_BYTES) + len(_END)
        if (
            head_bytes < len(_END)
            or request.stream is not None
            or request.is_http_1_0
            or request.refusal is not None
            or request.body != data[head_bytes:]
            or any(request.header(name) is not None for name in _UNKEPT)
        ):
            return None
        return cls(data[:head_bytes], len(data), request.again())

    def again(self, data: bytes) -> Request | None:
        """Return the request that `data` is, if it has this head and as long a body; else None."""
        if len(data) != self._size or not data.startswith(self._head):
            return None
        request = self._request.again()
        request.body = data[len(self._head) :]
        return request


def _settle_host(request: Request) -> None:
    """Take the host of an absolute target for the header's; raises `HttpFault` for not one host."""
    if request.path[:1] != b"/" and request.path[:7].lower() == b"http://":
        host, slash, path = request.path[7:].partition(b"/")
        request.path = slash + path or b"/"
        request.headers = [each for each in request.headers if each[0] != b"host"]
        request.headers.append((b"host", host))
    hosts = [name for name, _ in request.headers].count(b"host")
    if hosts > 1 or (hosts == 0 and not request.is_http_1_0):
        raise HttpFault(400, f"The request has {hosts} Host headers, and must have one")


def _check_coding(request: Request) -> None:
    """Raise `HttpFault` for a body in any coding but chunks, or in chunks from an HTTP/1.0 client.

    Whoever is in between, and does not know the coding either, could find its end elsewhere.
    """
    coding = request.header(b"transfer-encoding")
    if coding is None:
        return
    if request.is_http_1_0:
        raise HttpFault(400, "HTTP/1.0 has no Transfer-Encoding")
    if coding.lower() != b"chunked":
        raise HttpFault(
            501, f"The transfer coding {coding.decode('latin-1')!r} is not known", hint="chunked"
        )


def _long_head() -> HttpFault:
    return HttpFault(431, f"The request headers exceed {HEAD_BYTES} bytes")


def _long_body(size: int, limit: int) -> HttpFault:
    return HttpFault(
        413,
        f"The body has at least {size} bytes; the limit is {limit}",
        hint="send it in parts, or raise [limits] message_bytes",
    )
