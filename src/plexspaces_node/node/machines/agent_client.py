"""The node's end of the links: one `AgentClient` per VM.

Loads and stops an application, keeps many messages in flight, and passes the actor's requests to a
`HostCalls`. Knows nothing of drivers, applications or SQL. A broken connection fails everything in
flight at once; an agent that connects again is used again: see `agent_link`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from time import time_ns
from typing import Protocol, TypeAlias

from plexspaces_node.errors import (
    DeadlineExceeded,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
)
from plexspaces_node.info import LogLine
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import AgentFrame, Body, NodeFrame
from plexspaces_node.model import MIB
from plexspaces_node.node.machines.agent_link import AgentLink
from plexspaces_node.node.machines.connection import Connection
from plexspaces_node.node.machines.exchanges import Exchange, Exchanges
from plexspaces_node.node.machines.fetches import Fetches
from plexspaces_node.node.machines.host_calls import Calls
from plexspaces_node.node.machines.in_flight import InFlight, TenantShare
from plexspaces_node.node.machines.log_lines import lines_of
from plexspaces_node.node.machines.pending import Done, Message, Pending
from plexspaces_node.node.machines.requests import Requests, late
from plexspaces_node.node.machines.requests import StopRefused as StopRefused
from plexspaces_node.node.machines.traffic import Traffic
from plexspaces_node.node.outgoing.call import Piece, Request, Response
from plexspaces_node.node.telemetry.span import Span, Step
from plexspaces_node.tasks import Leave, cancel

IN_FLIGHT_BYTES = 64 * MIB
"""The limit of payloads that wait for one agent, or one message if that can be longer: it limits
what a fast sender costs the node."""

HEARING_S = 2.0
"""How long an agent that is asked to stop has to show that it is alive."""

SNAPSHOT_S = 30.0
"""How long an agent gives its actor for a snapshot, besides the timeout of its other steps."""


Kept: TypeAlias = Callable[[int, int], None]
"""Called with a snapshot and how many of its bytes are saved; see `AgentClient.kept`."""


class HostCalls(Protocol):
    """What an actor can ask of its node, and what its agent reports; one per VM."""

    def log(self, lines: Sequence[LogLine]) -> None:
        """Accept log lines; must not block."""

    def snapshot_part(self, part: link.Snapshot, body: Body, kept: Kept) -> None:
        """Accept a part of a snapshot; must not block.

        `kept` is called sooner or later, on the event loop. Parts come in order; a new connection
        begins again with the first part of a snapshot.
        """

    def late_reply(self, span: Span | None, reply: link.Reply | None, body: Body) -> None:
        """Count a reply to a message whose sender has left, or None if none will come.

        `span` is what the message was posted with.
        """

    def made(self, cause: Span, step: Step) -> None:
        """Hear of a step of a message, such as a call of the store, that has ended."""

    def link_changed(self) -> None:
        """React to that the agent `takes_messages` now, or does not any more; must not block."""

    async def answer(
        self, call: link.HostCall, body: Body, cause: Span | None = None
    ) -> Body | None:
        """Do what the actor asks; a raised platform or actor error becomes its answer.

        `cause` is the message that it does this for, if it is known.

        Returns None if the answer has no content, or for a `Get` of a missing key.
        """

    def fetch(
        self, request: Request, body: AsyncIterator[Piece]
    ) -> AbstractAsyncContextManager[Response]:
        """Make the application's HTTP request; see `outgoing.call.Call`."""


def plausible_ns(reported_ns: int, measured_ns: int) -> int:
    """Return a time that an agent reports, limited to what the node itself measured around it."""
    # Numbers on the link are never below 0.
    return reported_ns if reported_ns < measured_ns else measured_ns


class AgentClient:
    """The agent of one VM, as the node sees it.

    Everything runs on the event loop that created it; nothing here blocks it.
    """

    def __init__(  # noqa: PLR0913 - whose agent it is, and each bound by its name
        self,
        vm_id: str,
        host: HostCalls,
        *,
        node_id: str,
        message_limit: int,
        in_flight_limit: int,
        in_flight: InFlight | TenantShare | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        """Set up without a connection.

        `in_flight_limit` is the number of this agent's messages; `in_flight` counts the payloads of
        all agents together, and `traffic` the bytes of their links.
        """
        self.vm_id = vm_id
        self._host = host
        self._message_limit = message_limit
        self._in_flight_limit = in_flight_limit
        self._in_flight = in_flight or InFlight()
        self._ids = itertools.count(1)
        self._since_ns = time_ns()
        self._calls = Calls(host.answer, host.made)
        self._fetches = Fetches(
            host.fetch, lambda frame: self._messages.span_of(frame.invoke), host.made
        )
        self._idle: list[asyncio.Future[None]] = []
        self.exchanges = Exchanges()
        """The HTTP requests whose responses somebody waits for."""
        self.link = AgentLink(
            vm_id,
            node_id=node_id,
            message_limit=message_limit,
            received=self._received,
            took_answers=self._calls.go_on,
            lost=self._lost,
            back=host.link_changed,
            log=host.log,
            traffic=traffic,
        )
        self._requests = Requests(
            vm_id, self._ids, connected=self.link.connected, emptied=self._wake_idle
        )
        self._messages = Pending(
            lambda: self.link.connection,
            give_up=self._cancel,
            deaf=self._turned_out_deaf,
            late_reply=host.late_reply,
            emptied=self._wake_idle,
            in_flight=self._in_flight,
        )
        self.deaf = self.link.deaf
        """Set if the agent did not answer in time, not even with an error."""
        self.left = False
        """Whether the agent has said that its actor starts again in another VM."""

    def __repr__(self) -> str:
        return f"<AgentClient {self.link!r} {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """Requests sent and not yet answered, including those whose senders have left."""
        return len(self._messages) + len(self._requests)

    @property
    def takes_messages(self) -> bool:
        """Whether it is connected, and its actor does not leave for another VM."""
        return self.link.connection is not None and not self.left

    async def load(
        self, frame: link.Load, state: AsyncIterator[Body], timeout_s: float
    ) -> link.Loaded:
        """Make the agent load and start an application, from a state that comes in parts.

        Raises errors of the actor's `init` and of reading the state, `DeadlineExceeded` or
        `Unavailable`.
        """
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        connection = self.link.connected()
        try:
            async with asyncio.timeout(timeout_s):
                async for part in state:
                    connection.writing.send(link.State(), part)
                    await connection.writing.drain()
        except TimeoutError:
            raise late(self.vm_id, "loading", timeout_s) from None
        if connection is not self.link.connection:
            raise Unavailable(f"the link to {self.vm_id} broke")
        left_s = timeout_s - (loop.time() - begin_s)
        return await self._requests.send(frame, link.Loaded, left_s, "loading")

    async def stop(self, timeout_s: float, *, save: bool = True) -> None:
        """Make the agent take a snapshot, shut its actor down and exit.

        `timeout_s` is for each of its steps. If it has to `save`, snapshots get as long as it gives
        its actor: one may be in progress, and one follows. After the last part of these that
        arrived in time there is time for one more step. Raises `StopRefused` if the agent says that
        it cannot, `DeadlineExceeded` or `Unavailable`; then the VM has to be stopped without the
        agent. An agent that does not react at all gets `HEARING_S`.
        """
        send, hearing_s = self._requests.send, min(HEARING_S, timeout_s)
        hearing = asyncio.ensure_future(
            send(link.Measure(), link.Measured, hearing_s, "a sign of life")
        )
        stop = link.Stop(timeout_ns=int(timeout_s * 1e9))
        # Twice room and a snapshot, then saving it, and the actor's last call: its answer comes
        # first.
        within_s = 2 * SNAPSHOT_S + 5 * timeout_s if save else timeout_s
        stopping = asyncio.ensure_future(
            send(stop, link.Stopped, within_s, "stop", step_s=timeout_s if save else 0.0)
        )
        try:
            await asyncio.wait({hearing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done() and isinstance(error := hearing.exception(), DeadlineExceeded):
                self.deaf.set()
                raise error
            await stopping
        finally:
            await cancel(hearing, stopping)

    async def measure(self, timeout_s: float) -> link.Measured:
        """Ask how much memory is in use inside.

        An agent that does not answer this is not considered deaf. Raises `DeadlineExceeded`,
        `Unavailable`.
        """
        return await self._requests.send(link.Measure(), link.Measured, timeout_s, "memory")

    def kept(self, snapshot_id: int, size: int) -> None:
        """Tell the agent how much of a snapshot is saved.

        Does nothing if the agent is not connected: it sends its snapshot again when it is.
        """
        if (connection := self.link.connection) is not None:
            connection.answer(link.Kept(id=snapshot_id, bytes=size))

    def post(  # noqa: PLR0913 - all of a message
        self,
        done: Done,
        *,
        sender: str,
        msg_type: str,
        payload: Body,
        timeout_ns: int,
        span: Span | None = None,
    ) -> Leave:
        """Send a message; `done` is called with its reply, maybe of a failure, or with an error.

        Never before this returns, nor after the returned function was called: that removes the
        message from the mailbox if it still waits there, but an actor that has started it
        continues, and its reply is a `HostCalls.late_reply`. The errors are `DeadlineExceeded` if
        the agent is deaf and `Unavailable` if the link goes down. Raises `ResourceExhausted` if too
        much is in flight and `Unavailable` if the link is down.
        """
        message = self._post(done, sender, msg_type, payload, timeout_ns, span)
        return partial(self._messages.left, message)

    def exchange(
        self,
        head: link.RequestHead,
        body: Body,
        timeout_ns: int,
        replied: Done,
        *,
        span: Span | None = None,
    ) -> Exchange:
        """Send an HTTP request; `body` is all of its body, or the first part if `head.more`.

        The part has at most `WINDOW_BYTES`. `replied` is called as by `post`, when the component
        has returned. `timeout_ns` is how long it may take until its response begins, beginning
        again with each part of the request. Raises what `post` raises.
        """
        exchange = Exchange(self._send, self._room, replied, sent=len(body) if head.more else 0)
        exchange.span = span
        message = self._post(exchange.replied, "", "", body, timeout_ns, span, request=head)
        self.exchanges.add(exchange, message, self._messages)
        return exchange

    def _post(  # noqa: PLR0913 - all of a message
        self,
        done: Done,
        sender: str,
        msg_type: str,
        payload: Body,
        timeout_ns: int,
        span: Span | None,
        request: link.RequestHead | None = None,
    ) -> Message:
        writing = self.link.connected().writing
        in_flight = self.in_flight
        if in_flight >= self._in_flight_limit:
            raise ResourceExhausted(
                f"too many messages in flight ({in_flight})",
                hint="send more slowly, or raise [limits] mailbox",
            )
        # What has not been accepted yet may belong to messages that have ended.
        waiting_bytes = max(self._messages.bytes, writing.backlog)
        if waiting_bytes > max(IN_FLIGHT_BYTES, self._message_limit):
            raise ResourceExhausted(
                f"too many messages in flight ({waiting_bytes} bytes)",
                hint="send more slowly: one application can have at most "
                f"{IN_FLIGHT_BYTES // MIB} MiB, or one message, at a time",
            )
        self._in_flight.check(len(payload), held=self._messages.bytes)
        message_id = next(self._ids)
        frame = link.Invoke(
            id=message_id, sender=sender, type=msg_type, timeout_ns=timeout_ns, request=request
        )
        if span is not None:
            span.vm_id = self.vm_id
            if span.tree is not None:
                frame.traceparent = span.traceparent
        end = writing.send_soon(frame, payload)
        return self._messages.add(
            message_id, done, size=len(payload), timeout_ns=timeout_ns, end=end, span=span
        )

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        while self.in_flight:
            waiting = asyncio.get_running_loop().create_future()
            self._idle.append(waiting)
            await waiting

    async def close(self) -> None:
        """Close the link and fail everything in flight. Idempotent."""
        self._messages.close()
        await self.link.close()
        await self._calls.close()
        await self._fetches.close()

    def _send(self, frame: NodeFrame, body: Body) -> None:
        if (connection := self.link.connection) is not None:
            connection.writing.send(frame, body)

    async def _room(self) -> None:
        if (connection := self.link.connection) is not None:
            await connection.writing.room()

    def _cancel(self, message_id: int) -> None:
        if (connection := self.link.connection) is not None:
            connection.writing.send(link.Cancel(id=message_id))

    def _wake_idle(self) -> None:
        if self._idle and not self.in_flight:
            idle, self._idle = self._idle, []
            for waiting in idle:
                if not waiting.done():
                    waiting.set_result(None)

    def _turned_out_deaf(self) -> None:
        """End everything at once: all that wait would only notice the same later."""
        self.deaf.set()
        now_s = asyncio.get_running_loop().time()

        def error(message: Message) -> PlexSpacesError:
            if now_s < message.due_s:
                return Unavailable(f"the agent of {self.vm_id} does not answer", hint="try again")
            return DeadlineExceeded(
                f"no answer within {message.timeout_ns / 1e9:g} s and no sign of life: "
                "the VM is being replaced",
                hint="send it again when the application runs again",
            )

        self._messages.fail(error)
        self.link.drop()

    # ---- what the link calls -------------------------------------------------------------

    def _received(self, connection: Connection, frame: AgentFrame, body: Body) -> None:
        """Handle a frame of the agent, which was greeted."""
        if isinstance(frame, link.Reply):
            if not self._messages.settle(frame, body):
                connection.reading.unasked(1, frame, body)
        elif isinstance(frame, link.HostCall):
            connection.reading.unasked(1, frame, body)
            self._calls.take(connection, frame, body, self._messages.span_of(frame.invoke))
        elif isinstance(frame, link.Log):
            connection.reading.unasked(len(frame.lines), frame, body)
            self._host.log(lines_of(frame, since_ns=self._since_ns, now_ns=time_ns()))
        elif isinstance(frame, link.Snapshot):
            connection.reading.unasked(1, frame, body)
            self._requests.part_came(first=frame.offset == 0)
            self._host.snapshot_part(frame, body, self.kept)
        elif isinstance(frame, link.Hello):
            raise link.LinkBroken("a second hello")
        elif isinstance(frame, link.Stopped) and not frame.id:
            connection.reading.unasked(1, frame, body)
            if not self.left:
                self.left = True
                self._host.link_changed()
        elif isinstance(frame, link.Fetch | link.Abandon) or (
            isinstance(frame, link.Part | link.Window) and frame.of_fetch
        ):
            self._fetches.take(connection, frame, body)
        elif isinstance(frame, link.Response | link.Part | link.Window):
            self.exchanges.take(connection, frame, body)
        elif frame.id in self._messages:
            raise link.LinkBroken(f"a {type(frame).__name__} where a Reply was due")
        elif not self._requests.settle(frame):
            connection.reading.unasked(1, frame, body)

    def _lost(self, connection: Connection) -> None:
        """End what waits for an agent that is no longer connected."""
        self._calls.lost(connection)
        self._fetches.lost(connection)
        broke = f"the link to {self.vm_id} broke"
        self._messages.fail(lambda message: Unavailable(broke))
        self._requests.fail(broke)
        self._host.link_changed()
