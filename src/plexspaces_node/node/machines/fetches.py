"""The HTTP requests of one agent's application: from its `Fetch` to the end of the response.

Converts frames to the terms of `outgoing` and back, with flow control in both directions. A correct
agent can be slow; one that sends more than it may breaks its link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter_ns

from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import Body
from plexspaces_node.node.machines.connection import Connection
from plexspaces_node.node.machines.host_calls import Made
from plexspaces_node.node.machines.windows import BodyBroken, ReceivedBody, SendWindow
from plexspaces_node.node.outgoing.call import Call, CallFailed, Code, Request, Response
from plexspaces_node.node.telemetry.span import Kind, Span, Step
from plexspaces_node.tasks import cancel
from plexspaces_node.trace_context import HEADER, write

_log = logging.getLogger(__name__)

MOST_FETCHES = 64
"""The maximum number of an agent's requests at once; another one fails."""


class Fetches:
    """The requests of one agent. Used on the event loop."""

    def __init__(
        self, call: Call, cause_of: Callable[[link.Fetch], Span | None], made: Made
    ) -> None:
        """`call` makes each of them; `cause_of` returns the message that it is made for."""
        self._call = call
        self._cause_of = cause_of
        self._made = made
        self._running: dict[tuple[Connection, int], _Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def take(self, connection: Connection, frame: link.HttpFrame, body: Body) -> None:
        """Handle a frame of a request; raises `LinkBroken`."""
        key = connection, frame.id
        if isinstance(frame, link.Fetch):
            connection.reading.unasked(1, frame, body)
            self._begin(connection, frame, body)
            return
        # What comes after the end is part of no window, so its bytes count too.
        known = self._running.get(key)
        connection.reading.unasked(1, frame, b"" if known else body)
        if known is None:
            return
        if isinstance(frame, link.Part):
            known.body.put(body, last=frame.last, aborted=frame.aborted)
        elif isinstance(frame, link.Window):
            known.window.allow(frame.bytes)
        elif isinstance(frame, link.Abandon):
            self._forget(key)

    def lost(self, connection: Connection) -> None:
        """End the requests of this connection."""
        for key in [key for key in self._running if key[0] is connection]:
            self._forget(key)

    async def close(self) -> None:
        """End all of them. Idempotent."""
        self._running.clear()
        await cancel(*self._tasks)

    def _begin(self, connection: Connection, frame: link.Fetch, body: Body) -> None:
        key = connection, frame.id
        if key in self._running:
            raise link.LinkBroken(f"a second Fetch {frame.id}")
        if len(self._tasks) >= MOST_FETCHES:
            failed = CallFailed(
                Code.CONNECTION_LIMIT_REACHED,
                f"{MOST_FETCHES} HTTP requests of this application are in progress",
                hint="send fewer at the same time",
            )
            _answer(connection, frame.id, failed)
            return
        fetch = _Fetch(connection, frame, body, self._cause_of(frame))
        task = asyncio.get_running_loop().create_task(fetch.run(self._call, self._made))
        fetch.task = task
        self._running[key] = fetch
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._done(key, task))

    def _forget(self, key: tuple[Connection, int]) -> None:
        self._running.pop(key).task.cancel()

    def _done(self, key: tuple[Connection, int], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # A forgotten one may have a successor of the same id.
        if (known := self._running.get(key)) is not None and known.task is task:
            del self._running[key]


class _Fetch:
    """One request.

    Attributes:
        body: of the request.
        window: how much of the response the agent accepts.
        task: what makes the call, once it is there.
    """

    task: asyncio.Task[None]

    def __init__(
        self, connection: Connection, frame: link.Fetch, body: Body, cause: Span | None
    ) -> None:
        self._connection = connection
        self._id = frame.id
        head = frame.head
        self._cause = cause
        self._step = None if cause is None else _step_of(head, cause)
        self._request = Request(
            method=head.method,
            scheme=head.scheme,
            authority=head.authority,
            path=head.path,
            headers=_headers_of(head, cause, self._step),
            length=None if head.more else len(body),
            timeout_s=frame.timeout_ns / 1e9,
        )
        self.window = SendWindow()
        self.body = ReceivedBody(self._allow)
        self.body.put(body, last=not head.more)

    def _allow(self, count: int) -> None:
        # As an answer: an agent that does not read what it is sent is not read from either.
        self._connection.answer(link.Window(id=self._id, of_fetch=True, bytes=count))

    async def run(self, call: Call, made: Made) -> None:
        """Make the call and pass its response on, or say why not; then tell that it was `made`."""
        begun = False
        failed = ("cancelled", "the application gave it up")
        try:
            async with call(self._request, self.body) as response:
                piece, whole = response.at_hand()
                begun = True
                await self._pass_on(response, piece, whole=whole)
            failed = ("", "")
        except (CallFailed, BodyBroken) as error:
            failed = _told(error)
            if begun:
                self._abort()
            elif isinstance(error, CallFailed):
                _answer(self._connection, self._id, error)
            else:
                broken = CallFailed(Code.PROTOCOL_ERROR, "the body of the request broke off")
                _answer(self._connection, self._id, broken)
        except Exception as error:  # noqa: BLE001 - the guest waits: it must hear of it
            _log.error("internal error in an HTTP request of an application", exc_info=error)
            fault = CallFailed(Code.INTERNAL_ERROR, f"internal error of the node: {error!r}")
            failed = _told(fault)
            if begun:
                self._abort()
            else:
                _answer(self._connection, self._id, fault)
        finally:
            if self._step is not None and self._cause is not None:
                self._step.end(perf_counter_ns(), failed)
                made(self._cause, self._step)

    async def _pass_on(self, response: Response, piece: bytes, *, whole: bool) -> None:
        head = link.ResponseHead(
            status=response.status,
            headers=[
                link.Header(name=name.decode("latin-1"), value=value)
                for name, value in response.headers
            ],
        )
        first = await self.window.take(len(piece)) if piece else 0
        last = whole and first == len(piece)
        await self._send(link.Response(id=self._id, head=head, last=last), piece[:first])
        rest = memoryview(piece)[first:]
        while not last:
            if not rest and not whole:
                rest = memoryview(await response.more())
                whole = not rest
            count = await self.window.take(len(rest)) if rest else 0
            last = whole and count == len(rest)
            await self._send(link.Part(id=self._id, of_fetch=True, last=last), rest[:count])
            rest = rest[count:]

    async def _send(self, frame: link.Response | link.Part, body: Body) -> None:
        writing = self._connection.writing
        writing.send(frame, body)
        await writing.room()

    def _abort(self) -> None:
        self._connection.writing.send(link.Part(id=self._id, of_fetch=True, aborted=True))


def _step_of(head: link.RequestHead, cause: Span) -> Step | None:
    """Begin to measure a request for a message, which has ids from now on; None if it has many."""
    step = Step(Kind.FETCH, f"{head.method} {head.authority}", perf_counter_ns())
    return step if cause.cause(step) else None


def _headers_of(
    head: link.RequestHead, cause: Span | None, step: Step | None
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request, with its place in its trace unless it has one of its own."""
    headers = [(header.name.encode(), header.value) for header in head.headers]
    own = HEADER.encode()
    if cause is None or cause.tree is None or any(name == own for name, _ in headers):
        return headers
    tree = cause.tree
    # Of a step that is not kept nobody will hear.
    span_id = cause.span_id if step is None else step.span_id
    return [*headers, (own, write(tree.trace_id, span_id, is_sampled=tree.is_sampled).encode())]


def _told(error: CallFailed | BodyBroken) -> tuple[str, str]:
    if isinstance(error, CallFailed):
        return error.code, error.message
    return "http-response-incomplete", "a body broke off"


def _answer(connection: Connection, fetch_id: int, failed: CallFailed) -> None:
    failure = link.Failure(
        origin=link.Failure.ORIGIN_ACTOR,
        code=failed.code,
        message=failed.message,
        hint=failed.hint,
    )
    connection.answer(link.Answer(id=fetch_id, failure=failure))
