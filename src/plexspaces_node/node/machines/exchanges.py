"""HTTP requests to a component: their bodies and those of the responses, as they come.

Knows no HTTP but heads and bodies; how far a body may be ahead of its receiver is in `windows`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from time import perf_counter_ns
from typing import NamedTuple, Self, TypeAlias

from plexspaces_node.errors import ActorTrapped, PlexSpacesError, Unavailable
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import Body, NodeFrame
from plexspaces_node.node.machines.connection import Connection
from plexspaces_node.node.machines.pending import Answered, Done, Message, Pending
from plexspaces_node.node.machines.windows import BodyBroken, ReceivedBody, SendWindow
from plexspaces_node.node.telemetry.span import Span
from plexspaces_node.tasks import cancel

Send: TypeAlias = Callable[[NodeFrame, Body], None]
"""Sends a frame, unless the connection is lost."""

SMALL_PART_BYTES = 4096
"""Parts of responses below this count among what an agent sends unasked."""


class Beginning(NamedTuple):
    """The beginning of a response: its head, not checked, and its body, None if that follows."""

    head: link.ResponseHead
    body: Body | None


def _nothing() -> None:
    pass


class Exchange:
    """One request to a component, from its head to the end of its response.

    Iterate over it for the body of a response that is not whole; then close it. One that is closed
    earlier ends the request: the component stops where it is. Used on the event loop.

    Attributes:
        waited_ns: how long the request waited for its application before.
        span: how it is measured, if somebody does.
        streamed_ns: how long a response that is not whole went on without the component computing,
            once the agent's last word is there: as long as its client wanted.
        uploaded_bytes, received_bytes: of the bodies so far, of what went or came in parts: after
            the head of the request, and before the agent's last word.
    """

    def __init__(
        self, send: Send, room: Callable[[], Awaitable[None]], replied: Done, *, sent: int
    ) -> None:
        """Follow a request of whose body `sent` bytes go with its head; `sent_as` must follow.

        `room` waits while too much waits for the agent to read it.
        `replied` is called with the agent's last word, which comes when the component has returned,
        or with an error; also if the exchange was closed before.
        """
        self.waited_ns = self.streamed_ns = 0
        self.uploaded_bytes = self.received_bytes = 0
        self.span: Span | None = None
        self._begun_ns = 0
        self._send = send
        self._room = room
        self._replied = replied
        self._loop = asyncio.get_running_loop()
        self._window = SendWindow(sent)
        self._upload: asyncio.Task[None] | None = None
        self._response: link.Response | None = None
        # From the beginning of a response that follows in parts.
        self._body: ReceivedBody | None = None
        self._is_complete = False
        self._answer: Answered | PlexSpacesError | None = None
        self._begun: Callable[[], None] = _nothing

    def sent_as(
        self,
        message: Message,
        *,
        leave: Callable[[], None],
        complete: Callable[[], None],
        over: Callable[[], object],
    ) -> None:
        """Hear which message it is; `leave` gives it up, `over` is called at the end.

        `complete` is called when only the agent's last word is due.
        """
        self._message = message
        self._leave = leave
        self._complete = complete
        self._over = over

    def __repr__(self) -> str:
        return f"<Exchange {self._message.id}, {self._body!r}>"

    @property
    def is_stream(self) -> bool:
        """Whether the response has begun and goes on."""
        return self._response is not None and not self._is_complete

    @property
    def times(self) -> link.Reply | link.Response | None:
        """How the time was spent so far, as the agent told last."""
        return self._answer[0] if isinstance(self._answer, tuple) else self._response

    def upload(self, pieces: AsyncIterator[bytes]) -> None:
        """Send the rest of the request's body in the background, until the exchange is closed."""

        def send(frame: NodeFrame, body: Body) -> None:
            self.uploaded_bytes += len(body)
            self._send(frame, body)

        work = _send_body(send, self._room, self._message, self._window, pieces)
        self._upload = self._loop.create_task(work)

    def when_begun(self, call: Callable[[], None]) -> None:
        """Call once the response has begun, which it has not; never if it is closed before."""
        self._begun = call

    def beginning(self) -> Beginning:
        """Return the beginning of a response that has begun.

        Raises the agent's error, and what `AgentClient.invoke` raises.
        """
        if self._response is not None:
            return Beginning(self._response.head, None)
        reply, body = _reply_of(self._answer)
        if not reply.HasField("response"):
            raise Unavailable("the agent answered without a response")
        return Beginning(reply.response, body)

    async def begin(self) -> Beginning:
        """Wait for the beginning of the response; raises what `beginning` raises."""
        if self._response is None and self._answer is None:
            begun = self._loop.create_future()
            self.when_begun(lambda: None if begun.done() else begun.set_result(None))
            await begun
        return self.beginning()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Body:
        """Return the next piece of the response's body; raises why it broke off."""
        if self._body is None:
            raise StopAsyncIteration
        try:
            return await anext(self._body)
        except BodyBroken:
            _reply_of(self._answer)
            message = "the response broke off"
            raise ActorTrapped(message, code="http-response-incomplete") from None

    def leave(self) -> None:
        """End the component unless its response is complete. Idempotent."""
        self._begun = _nothing
        if not self._is_complete:
            self._is_complete = True
            self._leave()
        self._over()

    async def aclose(self) -> None:
        """End the exchange: `leave`, and send no more of the request. Idempotent."""
        self.leave()
        if self._upload is not None:
            await cancel(self._upload)

    # ---- what the agent sends ----------------------------------------------------------

    def began(self, frame: link.Response, body: Body) -> None:
        """Take the beginning of the response; raises `LinkBroken` for a second one."""
        if self._body is not None:
            raise link.LinkBroken("a second response to one request")
        self._response = frame
        self._begun_ns = perf_counter_ns()
        self._body = ReceivedBody(
            lambda count: self._send(link.Window(id=frame.id, bytes=count), b"")
        )
        # From here on it takes as long as the client reads.
        self._message.is_stream = True
        self._take(self._body, body, last=frame.last)
        begun, self._begun = self._begun, _nothing
        begun()

    def part(self, frame: link.Part, body: Body) -> None:
        """Take a part of the response; raises `LinkBroken` for more than was allowed."""
        if self._body is None or not (body or frame.last):
            raise link.LinkBroken("a part of no body, or of no length")
        self._take(self._body, body, last=frame.last)

    def window(self, frame: link.Window) -> None:
        """Send more of the request from now on."""
        self._window.allow(frame.bytes)

    def cut(self, error: PlexSpacesError) -> None:
        """End the request; its client gets the error, also in the middle of a response."""
        if not self._is_complete:
            self._leave()
            self._end(error)

    def replied(self, answer: Answered | PlexSpacesError) -> None:
        """Take the agent's last word, or why none comes."""
        if self._response is not None and isinstance(answer, tuple):
            computed_ns = max(answer[0].compute_ns - self._response.compute_ns, 0)
            self.streamed_ns = max(perf_counter_ns() - self._begun_ns - computed_ns, 0)
        self._replied(answer)
        self._end(answer)

    def _end(self, answer: Answered | PlexSpacesError) -> None:
        # The first is why it ended; one that was cut still gets a reply.
        self._answer = self._answer or answer
        self._is_complete = True
        if self._body is not None:
            self._body.break_off()
        self._over()
        begun, self._begun = self._begun, _nothing
        begun()

    def _take(self, received: ReceivedBody, body: Body, *, last: bool) -> None:
        self.received_bytes += len(body)
        received.put(body, last=last)
        self._is_complete = last
        if last:
            self._complete()


async def _send_body(
    send: Send,
    room: Callable[[], Awaitable[None]],
    message: Message,
    window: SendWindow,
    pieces: AsyncIterator[bytes],
) -> None:
    loop = asyncio.get_running_loop()
    try:
        async for piece in pieces:
            rest = memoryview(piece)
            while rest:
                count = await window.take(len(rest))
                message.prolong(loop.time())
                send(link.Part(id=message.id), rest[:count])
                rest = rest[count:]
                await room()
    except BaseException as error:
        # A component that goes on reading would wait for the rest until its time is over.
        send(link.Part(id=message.id, aborted=True), b"")
        # Whatever happened to the client, who is told elsewhere.
        if not isinstance(error, Exception):
            raise
    else:
        send(link.Part(id=message.id, last=True), b"")


def _reply_of(answer: Answered | PlexSpacesError | None) -> Answered:
    """Return the agent's last word; raises an error that it tells."""
    if answer is None or isinstance(answer, PlexSpacesError):
        raise answer or Unavailable("the request was given up")
    if answer[0].HasField("failure"):
        raise link.error_of(answer[0].failure)
    return answer


class Exchanges:
    """The requests to one component whose responses somebody waits for. Used on the event loop."""

    def __init__(self) -> None:
        # By the ids of their messages.
        self._open: dict[int, Exchange] = {}

    def __repr__(self) -> str:
        return f"<Exchanges {len(self._open)}>"

    def add(self, exchange: Exchange, message: Message, messages: Pending) -> None:
        """Follow an exchange, whose message is among `messages`, until it is over."""
        self._open[message.id] = exchange
        exchange.sent_as(
            message,
            leave=partial(messages.end, message),
            complete=partial(messages.watch, message),
            over=partial(self._open.pop, message.id, None),
        )

    def take(
        self, connection: Connection, frame: link.Response | link.Part | link.Window, body: Body
    ) -> None:
        """Handle a frame of the agent; raises `LinkBroken`."""
        exchange = self._open.get(frame.id)
        if exchange is None:
            # Its client has left, and the agent does not know yet. It is part of no window.
            connection.reading.unasked(1, frame, body)
            return
        if len(body) < SMALL_PART_BYTES or isinstance(frame, link.Response):
            # Each is kept until it is taken.
            connection.reading.unasked(1, frame, b"")
        if isinstance(frame, link.Response):
            exchange.began(frame, body)
        elif isinstance(frame, link.Part):
            exchange.part(frame, body)
        else:
            exchange.window(frame)

    def cut(self, *, streams_only: bool = False) -> None:
        """End all of them.

        With `streams_only`, end those alone whose response has begun: it could go on forever.
        """
        cut = [each for each in self._open.values() if each.is_stream or not streams_only]
        for exchange in cut:
            exchange.cut(Unavailable("the application is being stopped or replaced"))
