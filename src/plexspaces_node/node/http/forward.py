"""Requests to components on other nodes: passed on as they came, and so are the responses.

Only what is of a connection is left out. A body goes on as it comes, both ways, no faster than
whoever reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter_ns
from typing import Any, Self

from plexspaces_node.client.http_reply import TIMES, parse_times
from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.info import MessageTimings
from plexspaces_node.link.frames import Body
from plexspaces_node.model import split_name
from plexspaces_node.node.cluster.caller import CALLER, HEADERS, HOP, TO, caller_text
from plexspaces_node.node.cluster.elsewhere import OtherNodes, hop_times
from plexspaces_node.node.cluster.hop import Hop
from plexspaces_node.node.http.components import OF_CONNECTION, Answer, Done
from plexspaces_node.node.http.message import BodyStream, Headers, Request, Response
from plexspaces_node.node.http.writer import SHORT_BYTES, has_body
from plexspaces_node.node.outgoing.headers import named_by_connection
from plexspaces_node.tasks import Leave, called_back

_DROPPED = OF_CONNECTION | HEADERS
# Where the body ends this node says itself: a client may name that header one of its connection.
_OWN = _DROPPED | {b"content-length"}
_DROPPED_OF_RESPONSE = _DROPPED | {b"date", b"content-length"}


class _CameHere(Unavailable):
    """An application has come to this node, and nothing of a request was sent to another one."""


def post(  # noqa: PLR0913 - a request, and who waits for its response
    nodes: OtherNodes,
    name: str,
    prefix: bytes,
    request: Request,
    timeout_ns: int,
    done: Done,
    here: Callable[[], Leave],
) -> Leave:
    """Pass on a request whose body has come; as `components.post`.

    If its application has come to this node meanwhile, `here` is called instead of `done`.
    """
    nodes.in_flight.check(len(request.body))
    return _Passing(nodes, name, prefix, request, timeout_ns, done, here).start(request.body)


async def answer(  # noqa: PLR0913 - a request, and what answers it
    nodes: OtherNodes,
    name: str,
    prefix: bytes,
    request: Request,
    timeout_ns: int,
    here: Callable[[], Awaitable[Answer]],
) -> Answer:
    """Pass on a request whose body may come later; as `components.answer`.

    If its application has come to this node meanwhile, returns what `here` does.
    """

    def begin(done: Done) -> Leave:
        def came_here() -> Leave:
            raise _CameHere(f"application {name!r} is on this node")

        if request.stream is None:
            return post(nodes, name, prefix, request, timeout_ns, done, came_here)
        passing = _Passing(nodes, name, prefix, request, timeout_ns, done, came_here)
        return passing.start(b"")

    try:
        return await called_back(begin)
    except _CameHere:
        return await here()


class _Passing:
    """A request on its way, and its response back; a `hop.Taker`."""

    def __init__(  # noqa: PLR0913 - all of a request
        self,
        nodes: OtherNodes,
        name: str,
        prefix: bytes,
        request: Request,
        timeout_ns: int,
        done: Done,
        here: Callable[[], Leave],
    ) -> None:
        self._begin_ns = perf_counter_ns()
        self._nodes, self._request, self._done, self._here = nodes, request, done, here
        self._name, self._prefix, self._timeout_s = name, prefix, timeout_ns / 1e9
        self._status, self._headers = 0, Headers()
        self._timings = MessageTimings(0, 0, 0, 0)
        self._size = 0
        # Until the response has begun, or is complete if it is short.
        self._waits = True
        self._stream: BodyStream | None = None
        self._body = bytearray()
        self._upload: asyncio.Task[None] | None = None
        self._left: Leave | None = None
        self._hop: Hop

    def start(self, body: Body) -> Leave:
        nodes, request = self._nodes, self._request
        head = _head_of(self._name, self._prefix, request)
        self._hop = nodes.hop(
            self._name, head, body, self._timeout_s, is_head=request.method == b"HEAD"
        )
        self._size = len(body)
        nodes.in_flight.add(self._size)
        # It is counted here from now on.
        request.release()
        self._hop.start(self)
        return self.leave

    def leave(self) -> None:
        """Want nothing any more. Idempotent."""
        self._uncount()
        self._waits = False
        if self._upload is not None:
            self._upload.cancel()
        self._hop.leave()
        left, self._left = self._left, None
        if left is not None:
            left()

    def proceed(self) -> None:
        if self._request.stream is not None and self._upload is None:
            loop = asyncio.get_running_loop()
            self._upload = loop.create_task(self._send(self._request.stream))

    def begun(self, status: int, headers: Headers) -> None:
        self._uncount()
        length = next((value for name, value in headers if name == b"content-length"), None)
        self._status = status
        self._headers = self._told(headers)
        is_bodiless = self._request.method == b"HEAD" or not has_body(status)
        if is_bodiless or (length is not None and int(length) <= SHORT_BYTES):
            if is_bodiless and length is not None:
                self._headers.append((b"content-length", length))
            return
        connection = self._hop.connection
        assert connection is not None
        self._stream = BodyStream(connection.pause, connection.resume)
        size = None if length is None else int(length)
        self._answer(Response(status, self._headers, _Pieces(self._stream, self), length=size))

    def came(self, piece: bytes) -> None:
        if self._stream is not None:
            self._stream.feed(piece)
        else:
            self._body += piece

    def ended(self) -> None:
        self._end_upload()
        if self._stream is not None:
            self._stream.end()
        elif self._waits:
            body: Body = self._body
            length = None
            for at, (name, value) in enumerate(self._headers):
                if name == b"content-length":
                    # Of a body that is not there.
                    length = int(value)
                    del self._headers[at]
                    break
            self._answer(Response(self._status, self._headers, body, length=length))

    def failed(self, error: PlexSpacesError) -> None:
        self._end_upload()
        self._uncount()
        if self._stream is not None:
            self._stream.break_off(error)
        elif self._waits:
            self._waits = False
            self._done(error)

    def here(self) -> None:
        """Have this node answer: the application has come here, and nothing was sent."""
        if self._upload is not None:
            told = f"application {self._name!r} has just moved to this node"
            self.failed(Unavailable(told, hint="try again"))
            return
        self._uncount()
        self._waits = False
        try:
            self._left = self._here()
        except Exception as error:  # noqa: BLE001 - the boundary: whoever waits, not the registry
            self._done(error)

    def _answer(self, response: Response) -> None:
        self._waits = False
        self._done((response, self._timings))

    def _told(self, headers: Headers) -> Headers:
        """Return what the client is told of a response; keep its times."""
        dropped = _DROPPED_OF_RESPONSE | named_by_connection(headers)
        told = [each for each in headers if each[0] not in dropped]
        found = MessageTimings(0, 0, 0, 0)
        # The node's own is the last one.
        for at in range(len(told) - 1, -1, -1):
            if told[at][0] == TIMES and (times := parse_times(told[at][1])) is not None:
                found = times
                del told[at]
                break
        total_ns = perf_counter_ns() - self._begin_ns
        self._timings = hop_times(found, total_ns, self._hop.waited_ns)
        return told

    async def _send(self, stream: BodyStream) -> None:
        """Send the body as it comes."""
        is_chunked = self._request.header(b"content-length") is None
        connection = self._hop.connection
        assert connection is not None
        try:
            async for piece in stream:
                if is_chunked:
                    connection.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                else:
                    connection.write(piece)
                await connection.drain()
            if is_chunked:
                connection.write(b"0\r\n\r\n")
        except Exception as error:  # noqa: BLE001 - the client left in the middle, or was too slow
            self._hop.leave()
            self._upload = None
            told = f"the request's body ended early: {error}"
            self.failed(Unavailable(told, hint="send all of it"))

    def _end_upload(self) -> None:
        if self._upload is not None:
            self._upload.cancel()
            self._upload = None

    def _uncount(self) -> None:
        size, self._size = self._size, 0
        self._nodes.in_flight.remove(size)


class _Pieces:
    """The body of a response that comes in pieces; closing it ends the request."""

    def __init__(self, stream: BodyStream, passing: _Passing) -> None:
        self._pieces: AsyncIterator[bytes] = aiter(stream)
        self._passing = passing

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Take no more. Idempotent."""
        self._passing.leave()
        closing: Any = self._pieces
        await closing.aclose()


def _head_of(name: str, prefix: bytes, request: Request) -> bytes:
    """Return the head of a request as another node gets it."""
    target = request.path + b"?" + request.query if request.query else request.path
    caller = caller_text(
        request.identity, peer=request.peer, scheme=request.scheme, is_local=request.is_local
    )
    full = "/".join(split_name(name)).encode()
    lines = [
        b"%b %b HTTP/1.1\r\n" % (request.method, target),
        b"%b: 1\r\n%b: %b\r\n" % (HOP.encode(), CALLER.encode(), caller),
        b"%b: %b %b\r\n" % (TO.encode(), full, prefix),
    ]
    dropped = _OWN
    if request.header(b"connection") is not None:
        dropped = dropped | named_by_connection(request.headers)
    has_host = False
    for header, value in request.headers:
        if header not in dropped:
            has_host = has_host or header == b"host"
            lines.append(b"%b: %b\r\n" % (header, value))
    if not has_host:
        # HTTP/1.0 knows none.
        lines.append(b"host: localhost\r\n")
    if request.stream is not None:
        length = request.header(b"content-length")
        if length is None:
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            lines.append(b"content-length: %d\r\n" % int(length))
        # So that nothing of the body is sent to a node that does not want it.
        lines.append(b"expect: 100-continue\r\n")
    elif request.body or request.header(b"content-length") is not None:
        lines.append(b"content-length: %d\r\n" % len(request.body))
    lines.append(b"\r\n")
    return b"".join(lines)
