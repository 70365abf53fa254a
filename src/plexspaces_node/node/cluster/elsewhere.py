"""Messages to applications on other nodes, with the results and errors of those that are here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter_ns
from urllib.parse import quote

from plexspaces_node.client.http_reply import TIMES, TRACE, error_of, parse_times
from plexspaces_node.errors import (
    ActorError,
    Internal,
    InvalidArgument,
    PlexSpacesError,
)
from plexspaces_node.info import MessageTimings
from plexspaces_node.link.frames import Body
from plexspaces_node.model import MIB, split_name
from plexspaces_node.node.applications.elsewhere import Message
from plexspaces_node.node.applications.outcome import Cause, Done, Outcome
from plexspaces_node.node.cluster.caller import (
    CALLER,
    HOP,
    SENDER,
    TELL,
    TO,
    WAITING,
    application_identity,
    caller_text,
    waiting_text,
)
from plexspaces_node.node.cluster.hop import Hop
from plexspaces_node.node.cluster.peer_connection import Headers
from plexspaces_node.node.cluster.peers import Peers
from plexspaces_node.node.cluster.routes import Routes
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.node.telemetry.span import Kind, Span
from plexspaces_node.tasks import Leave
from plexspaces_node.trace_context import HEADER, parse, write

_OK, _ACCEPTED = 200, 202

_MORE_BYTES = MIB
"""How much longer than a reply a response is at most: an error has its output in base64 too."""


class OtherNodes:
    """The other nodes of a cluster; an `applications.elsewhere.Elsewhere`.

    Attributes:
        most_bytes: how long a response to a message is at most.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        routes: Routes,
        peers: Peers,
        *,
        is_here: Callable[[str], bool],
        post_here: Callable[[Message, Done], Leave],
        in_flight: InFlight,
        message_bytes: int,
    ) -> None:
        """`is_here` and `post_here` are for an application that has come to this node meanwhile.

        Payloads count in `in_flight`; replies are at most `message_bytes` long.
        """
        self.routes = routes
        self.peers = peers
        self.is_here = is_here
        self.post_here = post_here
        self.in_flight = in_flight
        # Of an error, the output twice, once in base64.
        self.most_bytes = 3 * message_bytes + _MORE_BYTES

    def __repr__(self) -> str:
        return f"<OtherNodes by {self.peers!r}>"

    def knows(self, name: str) -> bool:
        return self.routes.may_have(name)

    def has_left(self, name: str) -> bool:
        return self.routes.has_left(name)

    def is_public(self, name: str) -> bool:
        return self.routes.is_public(name)

    def is_component(self, name: str) -> bool:
        return self.routes.is_component(name)

    def hop(
        self, name: str, head: bytes, body: Body, timeout_s: float, *, is_head: bool = False
    ) -> Hop:
        """Return a request to an application, to be started."""
        return Hop(
            self.routes,
            self.peers,
            self.is_here,
            name=name,
            head=head,
            body=body,
            timeout_s=timeout_s,
            is_head=is_head,
        )

    def post(self, message: Message, done: Done) -> Leave:
        self.in_flight.check(len(message.payload))
        sending = _Sending(self, message, done)
        self.in_flight.add(len(message.payload))
        sending.start()
        return sending.leave


class _Sending:
    """A message to another node; a `hop.Taker`."""

    __slots__ = (
        "_begin_ns",
        "_body",
        "_done",
        "_headers",
        "_hop",
        "_is_over",
        "_left",
        "_message",
        "_nodes",
        "_size",
        "_status",
    )

    def __init__(self, nodes: OtherNodes, message: Message, done: Done) -> None:
        self._begin_ns = perf_counter_ns()
        self._nodes = nodes
        self._message = message
        self._done = done
        self._status = 0
        self._headers: Mapping[bytes, bytes] = {}
        self._body = bytearray()
        self._size = len(message.payload)
        self._is_over = False
        self._left: Leave | None = None
        timeout_s = message.timeout_ns / 1e9
        self._hop = nodes.hop(message.name, _head_of(message), message.payload, timeout_s)

    def start(self) -> None:
        self._hop.start(self)

    def leave(self) -> None:
        """Want no outcome any more. Idempotent."""
        self._end()
        self._hop.leave()
        left, self._left = self._left, None
        if left is not None:
            left()

    def proceed(self) -> None:
        pass

    def begun(self, status: int, headers: Headers) -> None:
        self._status = status
        self._headers = dict(headers)

    def came(self, piece: bytes) -> None:
        self._body += piece
        if len(self._body) > self._nodes.most_bytes:
            self._hop.leave()
            self.failed(Internal("another node answers with more than any reply has"))

    def ended(self) -> None:
        if not self._is_over:
            self._end()
            self._done(self._outcome())

    def failed(self, error: PlexSpacesError) -> None:
        if not self._is_over:
            self._end()
            self._done(error)

    def here(self) -> None:
        """Send it here: the application has come to this node meanwhile."""
        self._end()
        try:
            self._left = self._nodes.post_here(self._message, self._done)
        except PlexSpacesError as error:
            self._done(error)

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._nodes.in_flight.remove(self._size)

    def _outcome(self) -> Outcome | PlexSpacesError:
        timings = self._timings()
        if self._status in (_OK, _ACCEPTED):
            return Outcome(self._body, None, timings, self._span())
        error = error_of(self._status, bytes(self._body))
        if not isinstance(error, ActorError):
            return error
        output, error.output = error.output, b""
        return Outcome(output, error, timings, self._span())

    def _timings(self) -> MessageTimings:
        """Return the times as of a message that is handled here; the hop is coordination."""
        total_ns = perf_counter_ns() - self._begin_ns
        told = parse_times(self._headers.get(TIMES, b"")) or MessageTimings(0, 0, 0, 0)
        return hop_times(told, total_ns, self._hop.waited_ns)

    def _span(self) -> Span | None:
        """Return what tells the trace that the message belongs to on its node."""
        text = self._headers.get(TRACE)
        context = None if text is None else parse(text.decode("latin-1"))
        if context is None:
            return None
        span = Span(self._message.name, Kind.MESSAGE, "", self._size, self._begin_ns)
        span.join(context)
        span.span_id = context.span_id
        return span


def hop_times(told: MessageTimings, total_ns: int, waited_ns: int) -> MessageTimings:
    """Return the times of a message as its first node sees them.

    `told` are those of the other node; `waited_ns` is how long it waited for a node, and counts as
    queue, as waiting for the application does. Together they are never more than the whole.
    """
    compute_ns = min(told.compute_ns, total_ns)
    wait_ns = min(told.wait_ns, total_ns - compute_ns)
    queue_ns = min(told.queue_ns + waited_ns, total_ns - compute_ns - wait_ns)
    return MessageTimings(total_ns, compute_ns, wait_ns, queue_ns)


def _head_of(message: Message) -> bytes:
    """Return the head of the request that carries a message."""
    try:
        # Without its slashes, too: it is one part of the path.
        msg_type = quote(message.type, safe="")
    except UnicodeEncodeError as error:
        raise InvalidArgument("the message's type is not Unicode") from error
    name = "/".join(split_name(message.name))
    prefix = "/apps/" + name.replace("/", "%2F")
    caller = message.caller or application_identity(message.sender)
    lines = [
        f"POST {prefix}/{msg_type} HTTP/1.1",
        "host: localhost",
        "plexspaces-client: 1",
        f"{HOP}: 1",
        f"{CALLER}: {caller_text(caller).decode('ascii')}",
        f"{TO}: {name} {prefix}",
        f"prefer: wait={message.timeout_ns / 1e9:.6f}",
        f"content-length: {len(message.payload)}",
    ]
    if message.sender:
        lines.append(f"{SENDER}: {message.sender}")
    if message.waiting:
        lines.append(f"{WAITING}: {waiting_text(message.waiting)}")
    if message.is_told:
        lines.append(f"{TELL}: 1")
    if trace := _traceparent(message.cause):
        lines.append(f"{HEADER}: {trace}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("ascii")


def _traceparent(cause: Cause) -> str:
    if cause is None:
        return ""
    if isinstance(cause, Span):
        cause.identify()
        return cause.traceparent
    return write(cause.trace_id, cause.span_id, is_sampled=cause.is_sampled)
