"""A request and a response of HTTP, as the door sees them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.info import MessageTimings
from plexspaces_node.link.frames import Body
from plexspaces_node.node.access.identity import NOBODY, Identity

Headers: TypeAlias = list[tuple[bytes, bytes]]

BUFFER_BYTES = 256 * 1024
"""Of a streamed body that nobody has taken yet; past it nothing more is read."""


_JOINED_BYTES = 4096
"""Shorter pieces that wait are joined: each costs more memory than its bytes, and a turn."""


class BodyStream:
    """The body of a request, as it comes. One consumer iterates over it."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """`pause` and `resume` stop and continue reading from the client."""
        self._pause = pause
        self._resume = resume
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._is_paused = self._ended = False
        self._fault: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<BodyStream {self._buffered} bytes buffered>"

    @property
    def is_complete(self) -> bool:
        """Whether all of the body has come."""
        return self._ended and self._fault is None

    @property
    def is_over(self) -> bool:
        """Whether all of it has been taken, too."""
        return self.is_complete and not self._pieces

    def taken(self, most: int) -> bytes:
        """Take what has come, at most this many bytes."""
        taken = bytearray()
        while self._pieces and len(taken) < most:
            piece = self._pieces.popleft()
            room = most - len(taken)
            taken += piece[:room]
            if len(piece) > room:
                self._pieces.appendleft(piece[room:])
        self._took(len(taken))
        return bytes(taken)

    def feed(self, piece: bytes) -> None:
        """Take a piece from the client."""
        if self._pieces and len(self._pieces[-1]) + len(piece) <= _JOINED_BYTES:
            self._pieces[-1] += piece
        else:
            self._pieces.append(piece)
        self._buffered += len(piece)
        if self._buffered > BUFFER_BYTES and not self._is_paused:
            self._is_paused = True
            self._pause()
        self._wake()

    def end(self) -> None:
        """Say that all of it has come."""
        self._ended = True
        # What follows is another request, which nobody may read for whoever takes this body.
        self._go_on()
        self._wake()

    def break_off(self, fault: Exception) -> None:
        """Say that the rest will not come; the consumer gets `fault`."""
        if not self._ended:
            self._fault = fault
            self._ended = True
            self._wake()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._took(len(piece))
                yield piece
            if self._fault is not None:
                raise self._fault
            if self._ended:
                return
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def _took(self, size: int) -> None:
        self._buffered -= size
        if self._buffered <= BUFFER_BYTES and not self._ended:
            self._go_on()

    def _go_on(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._resume()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Seen:
    """What a connection has brought last, so that it is not looked at each time.

    Attributes:
        authorization: the header, b"" for none yet.
        identity: whose token that is.
        named: what the application that it sent to last was called, "" for none yet.
        name: its full name.
        let_in: who was let in to it; the object, for another token may be of the same name.
        passed: what the last message that was passed on to another node was; `passed_for`, who
            sent it; `passed_head`, the head that it was passed on with.
    """

    __slots__ = (
        "authorization",
        "identity",
        "let_in",
        "name",
        "named",
        "passed",
        "passed_for",
        "passed_head",
    )

    def __init__(self) -> None:
        self.authorization = b""
        self.identity = NOBODY
        self.named = self.name = ""
        self.let_in: Identity | None = None
        self.passed: tuple[object, ...] = ()
        self.passed_for: Identity | None = None
        self.passed_head = b""


class Request:
    """A request of which the head has come.

    Attributes:
        path: as it was sent, still percent-encoded, without the query.
        headers: names in lower case, in the order sent; not changed after the first `header`.
        body: all of it, b"" until it has come or when it is streamed.
        stream: the body as it comes, None for one that is collected first.
        is_http_1_0: whether the client knows no chunks.
        released: called by the first `release`.
        peer: the client's address, for turns and logs.
        certificate: the name in the client's certificate, "" without one.
        is_local: whether it came by a unix socket of the node.
        scheme: `https` if it came over TLS, else `http`.
        identity: who sends it, once that is known.
        seen: what its connection has brought before, None if that is not kept.
        refusal: why it is not let in, once that is known.
        entered: to which application it is, None for the node, and how its paths begin; once it is
            let in.
    """

    __slots__ = (
        "_first",
        "body",
        "certificate",
        "entered",
        "headers",
        "identity",
        "is_http_1_0",
        "is_local",
        "keep_alive",
        "method",
        "path",
        "peer",
        "query",
        "refusal",
        "released",
        "scheme",
        "seen",
        "stream",
    )

    def __init__(self, method: bytes, target: bytes, headers: Headers) -> None:
        self.method = method
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        self._first: dict[bytes, bytes] | None = None
        self.body: Body = b""
        self.stream: BodyStream | None = None
        self.keep_alive = True
        self.is_http_1_0 = False
        self.released: Callable[[], None] | None = None
        self.peer = ""
        self.certificate = ""
        self.is_local = False
        self.scheme = "http"
        self.identity = NOBODY
        self.seen: Seen | None = None
        self.refusal: PlexSpacesError | None = None
        self.entered: tuple[str | None, bytes] | None = None

    def __repr__(self) -> str:
        return f"<Request {self.method!r} {self.path!r}>"

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, None without; `name` is in lower case."""
        if self._first is None:
            # The first of a name is the last one in reverse, which is the one that stays.
            self._first = dict(reversed(self.headers))
        return self._first.get(name)

    def again(self) -> Request:
        """Return another request with the same head, by the same connection; without a body."""
        again = Request(self.method, self.path, self.headers)
        again.query, again._first = self.query, self._first
        again.peer, again.certificate = self.peer, self.certificate
        again.is_local, again.scheme, again.seen = self.is_local, self.scheme, self.seen
        return again

    def release(self) -> None:
        """Say that somebody else counts the body now, or that it is done with. Idempotent."""
        released, self.released = self.released, None
        if released is not None:
            released()


class Response:
    """A response; its body is complete, or comes in pieces as they are made.

    Attributes:
        is_stream: whether the body comes in pieces.
        length: of the body if that is known, and is not that of `body`.
    """

    __slots__ = ("body", "headers", "is_stream", "length", "status")

    def __init__(
        self,
        status: int,
        headers: Headers,
        body: Body | AsyncIterator[Body] = b"",
        *,
        length: int | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.length = length
        self.is_stream = not isinstance(body, bytes | bytearray | memoryview)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def server_timing(timings: MessageTimings) -> tuple[bytes, bytes]:
    """Return the header that tells where the time of a message went, in milliseconds."""
    compute, wait, queue = timings.compute_ns, timings.wait_ns, timings.queue_ns
    # By the agent's clock and the node's: together they may be a little more than the whole.
    rest = max(timings.total_ns - compute - wait - queue, 0)
    return (
        b"server-timing",
        # As text, which is formatted faster than bytes are.
        (
            "compute;dur=%.6f, wait;dur=%.6f, queue;dur=%.6f, coordination;dur=%.6f"  # noqa: UP031
            % (compute / 1e6, wait / 1e6, queue / 1e6, rest / 1e6)
        ).encode(),
    )
