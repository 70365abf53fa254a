"""Messages by HTTP to applications on other nodes: the other node's response is the client's.

It is of the same product, and writes what this node would: it is neither read nor written again,
but for how long the message took.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import TypeAlias

from plexspaces_node.client.http_reply import TIMES, parse_times
from plexspaces_node.errors import Internal, PlexSpacesError
from plexspaces_node.model import split_name
from plexspaces_node.node.cluster.caller import CALLER, HEADERS, HOP, TO, caller_text
from plexspaces_node.node.cluster.elsewhere import OtherNodes, hop_times
from plexspaces_node.node.cluster.hop import Hop
from plexspaces_node.node.http.components import OF_CONNECTION
from plexspaces_node.node.http.message import Headers, Request, Response, server_timing
from plexspaces_node.node.http.problem import of_error, of_exception
from plexspaces_node.tasks import Leave

Replied: TypeAlias = Callable[[Response], None]

CLIENT, TRACE = b"plexspaces-client", b"traceparent"
_DROPPED = OF_CONNECTION | HEADERS | {b"date", b"content-length"}


def post(  # noqa: PLR0913 - a message, and who waits for its response
    nodes: OtherNodes,
    name: str,
    prefix: bytes,
    request: Request,
    timeout_ns: int,
    replied: Replied,
    here: Callable[[], Leave],
) -> Leave:
    """Send a message to the node that has its application.

    `replied` is called with the response; never before this returns, nor after the returned
    function was called. `here` is called instead to send it on this node, if its application has
    come here meanwhile.
    """
    size = len(request.body)
    nodes.in_flight.check(size)
    head = _head_of(name, prefix, request, timeout_ns)
    passing = _Passing(nodes, request, replied, here)
    nodes.in_flight.add(size)
    hop = passing.hop = nodes.hop(name, head, request.body, timeout_ns / 1e9)
    hop.start(passing)
    return passing.leave


class _Passing:
    """A message on its way, and its response; a `hop.Taker`."""

    __slots__ = (
        "_begin_ns",
        "_body",
        "_headers",
        "_here",
        "_is_over",
        "_left",
        "_nodes",
        "_replied",
        "_request",
        "_size",
        "_status",
        "_times",
        "hop",
    )

    def __init__(
        self,
        nodes: OtherNodes,
        request: Request,
        replied: Replied,
        here: Callable[[], Leave],
    ) -> None:
        self._begin_ns = perf_counter_ns()
        self._nodes, self._size = nodes, len(request.body)
        self._request, self._replied, self._here = request, replied, here
        self._status, self._times = 0, b""
        self._headers: Headers = []
        self._body: bytes | bytearray = b""
        self._is_over = False
        self._left: Leave | None = None
        self.hop: Hop

    def leave(self) -> None:
        """Want no response any more. Idempotent."""
        self._end()
        self.hop.leave()
        left, self._left = self._left, None
        if left is not None:
            left()

    def proceed(self) -> None:
        pass

    def begun(self, status: int, headers: Headers) -> None:
        self._status = status
        told = self._headers
        for each in headers:
            name = each[0]
            if name == TIMES:
                self._times = each[1]
            elif name not in _DROPPED:
                told.append(each)

    def came(self, piece: bytes) -> None:
        if not self._body:
            self._body = piece
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += piece
        if len(self._body) > self._nodes.most_bytes:
            self.hop.leave()
            self.failed(Internal("another node answers with more than any reply has"))

    def ended(self) -> None:
        if self._is_over:
            return
        self._end()
        told = parse_times(self._times)
        if told is not None:
            # The hop is coordination.
            total_ns = perf_counter_ns() - self._begin_ns
            self._headers.append(server_timing(hop_times(told, total_ns, self.hop.waited_ns)))
        self._replied(Response(self._status, self._headers, self._body))

    def failed(self, error: PlexSpacesError) -> None:
        if not self._is_over:
            self._end()
            by_client = self._request.header(CLIENT) is not None
            self._replied(of_error(error, by_client=by_client))

    def here(self) -> None:
        self._end()
        try:
            self._left = self._here()
        except Exception as error:  # noqa: BLE001 - the boundary: whoever waits, not the registry
            by_client = self._request.header(CLIENT) is not None
            self._replied(of_exception(error, by_client=by_client))

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._nodes.in_flight.remove(self._size)


def _head_of(name: str, prefix: bytes, request: Request, timeout_ns: int) -> bytes:
    """Return the head that carries a message: that of the one before, if it is the same."""
    seen, identity, trace = request.seen, request.identity, request.header(TRACE)
    by_client, size = request.header(CLIENT) is not None, len(request.body)
    key = (name, prefix, request.path, timeout_ns, by_client, size, trace)
    if seen is not None and seen.passed_for is identity and seen.passed == key:
        return seen.passed_head
    full = "/".join(split_name(name)).encode()
    lines = [
        b"POST %b HTTP/1.1\r\nhost: localhost\r\n" % request.path,
        b"%b: 1\r\n%b: %b\r\n" % (HOP.encode(), CALLER.encode(), caller_text(identity)),
        b"%b: %b %b\r\n" % (TO.encode(), full, prefix),
        b"prefer: wait=%.6f\r\ncontent-length: %d\r\n" % (timeout_ns / 1e9, size),
    ]
    if by_client:
        lines.append(b"%b: 1\r\n" % CLIENT)
    if trace is not None:
        lines.append(b"%b: %b\r\n" % (TRACE, trace))
    lines.append(b"\r\n")
    head = b"".join(lines)
    if seen is not None:
        seen.passed, seen.passed_for, seen.passed_head = key, identity, head
    return head
