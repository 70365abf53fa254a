"""The node's end of the links: one `AgentClient` a machine.

Speaks `wire.link` on a unix socket, keeps many requests in flight, and hands what the actor asks
of the node to a `HostCalls`. Knows nothing of drivers, applications or SQL. A broken connection
fails what was in flight at once; an agent that dials again is talked to again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import time_ns
from typing import Any, Protocol, TypeVar

from plexspaces_node.errors import (
    ActorError,
    DeadlineExceeded,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import AgentFrame, Body
from plexspaces_node.model import MIB
from plexspaces_node.node.logs import LogRecord
from plexspaces_node.node.machines.connection import Connection
from plexspaces_node.node.machines.host_calls import Calls
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.node.machines.listener import Acceptor
from plexspaces_node.node.machines.pending import TICK_S, Answered, Message, Pending

IN_FLIGHT_BYTES = 64 * MIB
"""The most payload that may wait for one agent, or one message where that may be longer: the bound
on what a fast sender costs the node."""

RECONNECT_S = 10.0
"""How long an agent may be without a connection before its machine is replaced."""

REDIAL_S = 0.25
"""Between the loss of a link and the next attempt, where the node is the end that connects."""

GREETING_S = 5.0
"""For the hello on a connection. Where the agent is told of no event when the host comes, as at a
virtio port, it may miss one: of 120 boots on a loaded host one was seen to."""

HEARING_S = 2.0
"""For an agent that is to say goodbye to show that it hears at all."""

SNAPSHOT_S = 30.0
"""What an agent gives its actor for a snapshot, beside what it is told for its other steps."""

SEED_BYTES = 32
"""Of randomness that a guest is given: as much as its kernel needs to begin with."""

_SNAPSHOTS_AT_STOP = 2
"""That may still come: one that is at hand, and the last."""

LOG_LINES = 2048
"""The most lines in a frame: an agent sends half of that."""

STREAMS = {
    link.Log.STREAM_LOG: "log",
    link.Log.STREAM_STDOUT: "stdout",
    link.Log.STREAM_STDERR: "stderr",
    link.Log.STREAM_AGENT: "agent",
}
"""What an agent may say a line of the log comes from; the node's own stream is not its to use."""

LEVELS = {
    link.Log.LEVEL_TRACE: "trace",
    link.Log.LEVEL_DEBUG: "debug",
    link.Log.LEVEL_INFO: "info",
    link.Log.LEVEL_WARN: "warn",
    link.Log.LEVEL_ERROR: "error",
}

_OTHER_VERSION = "the guest image is of another version, rebuild it: plexspaces image build"


class StopRefused(WrongState):
    """The agent does not end, as its actor's state is not saved; the machine lives on."""


_Request = link.Load | link.Stop | link.Measure
_Answer = TypeVar("_Answer", link.Loaded, link.Stopped, link.Measured)


class Kept(Protocol):
    """Tells an agent how much of a snapshot is kept; see `AgentClient.kept`."""

    def __call__(
        self, snapshot_id: int, size: int, *, failure: PlexSpacesError | None = None
    ) -> None: ...


class HostCalls(Protocol):
    """What an actor may ask of its node, and what its agent tells; one a machine."""

    def log(self, lines: Sequence[LogRecord]) -> None:
        """Take lines of the log; must not block."""

    def snapshot_part(self, part: link.Snapshot, body: Body, kept: Kept) -> None:
        """Take a part of a snapshot; must not block.

        `kept` is called sooner or later, on the event loop. Parts come in order; a new connection
        begins again with the first part of a snapshot.
        """

    def unclaimed(self, reply: link.Reply | None, total_ns: int) -> None:
        """Count a reply whose message's sender has left, or None where none will come."""

    async def answer(self, call: link.HostCall, body: Body) -> Body | None:
        """Do what the actor asks; a raised platform or actor error becomes its answer.

        None where there is nothing to answer with, for a `Get` where there is no such key.
        """


def believed(claimed_ns: int, measured_ns: int) -> int:
    """Return the time an agent claims, held to what the node itself measured around it."""
    # What the link carries is never below 0.
    return claimed_ns if claimed_ns < measured_ns else measured_ns


class AgentClient:
    """The agent of one machine, as the node sees it.

    Everything runs on the event loop that it was made on; nothing here blocks it.
    """

    def __init__(  # noqa: PLR0913 - whose agent it is, and each bound by its name
        self,
        vm_id: str,
        host: HostCalls,
        *,
        node_id: str,
        message_limit: int,
        in_flight_limit: int,
        in_flight: InFlight | None = None,
    ) -> None:
        """Talk to nobody yet.

        `in_flight_limit` is of this agent's messages, in number; `in_flight` counts the payloads
        of all agents together.
        """
        self._vm_id = vm_id
        self._host = host
        self._node_id = node_id
        self._message_limit = message_limit
        self._in_flight_limit = in_flight_limit
        self._in_flight = in_flight or InFlight()
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._messages = Pending(
            lambda: self._connection,
            give_up=self._cancel,
            deaf=self._turned_out_deaf,
            unclaimed=host.unclaimed,
            emptied=self._wake_idle,
            in_flight=self._in_flight,
        )
        # Requests that are no messages, each with the kind of frame that answers it.
        self._requests: dict[int, tuple[asyncio.Future[Any], type[AgentFrame]]] = {}
        self._calls = Calls(host.answer)
        # As many as have come, and snapshots that have begun.
        self._parts = self._snapshots = 0
        self._idle: list[asyncio.Future[None]] = []
        self._connection: Connection | None = None
        # Those that have yet to say hello, each with the end of its time for that.
        self._ungreeted: dict[Connection, asyncio.TimerHandle] = {}
        self._lost_timer: asyncio.TimerHandle | None = None
        self._acceptor: Acceptor | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._hello: asyncio.Future[link.Hello] = self._loop.create_future()
        self.deaf = asyncio.Event()
        """Set when the agent did not answer in time, nor say that it could not."""
        self.left = False
        """Whether the agent has said that its actor begins anew in another machine."""

    def __repr__(self) -> str:
        connected = "connected" if self._connection else "not connected"
        return f"<AgentClient {self._vm_id} {connected}, {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """Requests sent and not yet answered, those included whose senders have left."""
        return len(self._messages) + len(self._requests)

    async def listen(self, path: Path) -> None:
        """Wait for the agent to dial; call before the machine starts. Replaces a stale socket."""
        self._acceptor = Acceptor(path, self._new_connection)

    def dial(self, path: Path) -> None:
        """Connect to an agent that is reached at a socket, and again whenever the link breaks."""
        self._dialling = self._loop.create_task(self._keep_dialled(str(path)))

    async def hello(self) -> link.Hello:
        """Wait for the agent's first word. Has no bound of its own: race it with the machine.

        Raises `WrongState` for an agent of another generation or of another machine.
        """
        return await asyncio.shield(self._hello)

    async def load(
        self, frame: link.Load, state: AsyncIterator[Body], timeout_s: float
    ) -> link.Loaded:
        """Have the agent load and start an application, from a state that comes in parts.

        Raises what the actor's `init` did wrong, what reading the state does, `DeadlineExceeded`
        or `Unavailable`.
        """
        begin_s = self._loop.time()
        connection = self._connected()
        try:
            async with asyncio.timeout(timeout_s):
                async for part in state:
                    connection.writing.send(link.State(), part)
                    await connection.writing.drain()
        except TimeoutError:
            raise self._late("loading", timeout_s) from None
        if connection is not self._connection:
            raise Unavailable(f"the link to {self._vm_id} broke")
        left_s = timeout_s - (self._loop.time() - begin_s)
        return await self._request(frame, link.Loaded, left_s, "loading")

    async def stop(self, timeout_s: float, *, save: bool = True) -> None:
        """Have the agent snapshot, shut its actor down and say goodbye.

        `timeout_s` is for each of its steps; one that is to `save` has as long for snapshots as it
        gives its actor: one may be at hand, and one follows. After the last part of these that
        arrived in time there is time for one more step. Raises `StopRefused` when the agent says
        that it cannot, `DeadlineExceeded` or `Unavailable`; the machine is then to be stopped
        without. An agent that does not hear at all gets `HEARING_S`.
        """
        hearing = asyncio.ensure_future(
            self._request(
                link.Measure(), link.Measured, min(HEARING_S, timeout_s), "a sign of life"
            )
        )
        stop = link.Stop(timeout_ns=int(timeout_s * 1e9))
        # Twice room and a snapshot, then keeping it, and the actor's last call: its word is first.
        within_s = 2 * SNAPSHOT_S + 5 * timeout_s if save else timeout_s
        stopping = asyncio.ensure_future(
            self._request(stop, link.Stopped, within_s, "stop", step_s=timeout_s if save else 0.0)
        )
        try:
            await asyncio.wait({hearing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done() and isinstance(error := hearing.exception(), DeadlineExceeded):
                self.deaf.set()
                raise error
            await stopping
        finally:
            hearing.cancel()
            stopping.cancel()
            await asyncio.gather(hearing, stopping, return_exceptions=True)

    async def measure(self, timeout_s: float) -> link.Measured:
        """Ask how much memory is in use inside.

        An agent that does not answer is not deaf for that. Raises `DeadlineExceeded`,
        `Unavailable`.
        """
        return await self._request(link.Measure(), link.Measured, timeout_s, "memory")

    def kept(self, snapshot_id: int, size: int, *, failure: PlexSpacesError | None = None) -> None:
        """Tell the agent how much of a snapshot is kept, or why it will not be.

        Nothing happens when the agent is not connected: it sends its snapshot anew when it is.
        """
        if self._connection is not None:
            frame = link.Kept(id=snapshot_id, bytes=size)
            if failure is not None:
                frame.failure.CopyFrom(link.failure_of(failure))
            self._connection.answer(frame)

    async def invoke(
        self, *, sender: str, msg_type: str, payload: Body, timeout_ns: int
    ) -> Answered:
        """Send a message and wait for its reply, in which an actor's failure lies.

        Cancelling takes the message out of the mailbox if it still waits there; an actor that has
        begun goes on. Either way it is answered, see `HostCalls.unclaimed`. Raises
        `ResourceExhausted` when too much is in flight, `DeadlineExceeded` when the agent is deaf
        and `Unavailable` when the link is or goes down.
        """
        message = self._post(sender, msg_type, payload, timeout_ns)
        try:
            return await message.future
        except asyncio.CancelledError:
            self._messages.left(message)
            raise

    def post(
        self, *, sender: str, msg_type: str, payload: Body, timeout_ns: int
    ) -> asyncio.Future[Answered]:
        """Send a message now, and return what will have its reply; raises as `invoke` does."""
        return self._post(sender, msg_type, payload, timeout_ns).future

    def _post(self, sender: str, msg_type: str, payload: Body, timeout_ns: int) -> Message:
        connection = self._connected()
        in_flight = self.in_flight
        if in_flight >= self._in_flight_limit:
            raise ResourceExhausted(
                f"too many messages in flight ({in_flight})",
                hint="send slower, or raise [limits] mailbox",
            )
        # What is not taken yet may be of messages that have ended.
        waiting_bytes = max(self._messages.bytes, connection.writing.backlog)
        if waiting_bytes > max(IN_FLIGHT_BYTES, self._message_limit):
            raise ResourceExhausted(
                f"too many messages in flight ({waiting_bytes} bytes)",
                hint=f"send slower: one application takes at most {IN_FLIGHT_BYTES // MIB} MiB, or "
                "one message, at a time",
            )
        self._in_flight.check(len(payload))
        message_id = next(self._ids)
        frame = link.Invoke(id=message_id, sender=sender, type=msg_type, timeout_ns=timeout_ns)
        end = connection.writing.send(frame, payload)
        return self._messages.add(message_id, size=len(payload), timeout_ns=timeout_ns, end=end)

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        while self.in_flight:
            waiting = self._loop.create_future()
            self._idle.append(waiting)
            await waiting

    async def close(self) -> None:
        """Drop the connection, stop listening and dialling, fail what is in flight. Idempotent."""
        if self._acceptor is not None:
            self._acceptor.close()
        if self._connection is not None:
            self._connection.close()
            self.lost(self._connection)
        self._messages.close()
        if self._lost_timer is not None:
            self._lost_timer.cancel()
        if not self._hello.done():
            self._hello.cancel()
        for connection in list(self._ungreeted):
            connection.close()
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        await self._calls.close()

    async def _request(
        self,
        frame: _Request,
        answer: type[_Answer],
        timeout_s: float,
        what: str,
        *,
        step_s: float = 0.0,
    ) -> _Answer:
        """Send a request and wait for its answer, for `step_s` more after parts of snapshots."""
        connection = self._connected()
        request_id = frame.id = next(self._ids)
        future: asyncio.Future[_Answer] = self._loop.create_future()
        self._requests[request_id] = (future, answer)
        connection.writing.send(frame)
        try:
            # The last tick is for what came while the node was stopped, and is yet to be read.
            left_s, most = timeout_s, self._snapshots + _SNAPSHOTS_AT_STOP
            while not future.done():
                parts = self._parts
                for part_s in (left_s - TICK_S, TICK_S):
                    if not future.done():
                        await asyncio.wait([future], timeout=part_s)
                more = step_s and parts != self._parts and self._snapshots <= most
                if not future.done() and not more:
                    raise self._late(what, timeout_s)
                left_s = step_s
            return future.result()
        finally:
            self._requests.pop(request_id, None)
            if not future.cancel():
                future.exception()  # else asyncio complains that nobody looked at it
            self._wake_idle()

    def _late(self, what: str, timeout_s: float) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{what}: the agent of {self._vm_id} did not answer within {timeout_s:g} s"
        )

    def _connected(self) -> Connection:
        if self._connection is None:
            raise Unavailable(f"the agent of {self._vm_id} is not connected")
        return self._connection

    def _cancel(self, message_id: int) -> None:
        if self._connection is not None:
            self._connection.writing.send(link.Cancel(id=message_id))

    def _wake_idle(self) -> None:
        if self._idle and not self.in_flight:
            idle, self._idle = self._idle, []
            for waiting in idle:
                if not waiting.done():
                    waiting.set_result(None)

    def _turned_out_deaf(self) -> None:
        """End everything at once: whatever waits would only find out the same."""
        self.deaf.set()
        now_s = self._loop.time()

        def error(message: Message) -> PlexSpacesError:
            if now_s < message.due_s:
                return Unavailable(f"the agent of {self._vm_id} does not answer", hint="try again")
            return DeadlineExceeded(
                f"no answer within {message.timeout_ns / 1e9:g} s and no sign of life: "
                "the machine is being replaced",
                hint="send it again when the application runs again",
            )

        self._messages.fail(error)
        if self._connection is not None:
            self._connection.close()
            self.lost(self._connection)

    # ---- connecting --------------------------------------------------------------------

    def _new_connection(self) -> Connection:
        return Connection(self, message_limit=self._message_limit)

    async def _keep_dialled(self, path: str) -> None:
        while not self.deaf.is_set():
            with contextlib.suppress(OSError):
                _, connection = await self._loop.create_unix_connection(self._new_connection, path)
                try:
                    await connection.gone.wait()
                finally:
                    connection.close()
            # Long enough for the agent to see that nobody is there, and so to say hello anew.
            await asyncio.sleep(REDIAL_S)

    def opened(self, connection: Connection) -> None:
        """Take note of a connection; it is closed when it says no hello."""
        if self.deaf.is_set():
            connection.close()
            return
        timer = self._loop.call_later(GREETING_S, connection.close)
        self._ungreeted[connection] = timer

    def _greet(self, connection: Connection, hello: link.Hello) -> None:
        refused, hint = "", None
        if hello.generation != link.GENERATION:
            refused, hint = f"generation {hello.generation}", _OTHER_VERSION
            refused += f", this node speaks {link.GENERATION}"
        elif hello.vm_id != self._vm_id and (hello.vm_id or self._dialling is None):
            refused = f"this link is for {self._vm_id}, not {link.cut(hello.vm_id, 64)}"
        welcome = link.Welcome(
            generation=link.GENERATION,
            node_id=self._node_id,
            message_limit=self._message_limit,
            refused=refused,
            time_unix_ns=time_ns(),
            seed=os.urandom(SEED_BYTES),
        )
        connection.writing.send(welcome)
        if refused:
            self._refuse(refused, hint)
            connection.end()
            return
        self._ungreeted.pop(connection).cancel()
        connection.greeted()
        before = self._connection
        if before is not None:
            # An agent dials again only after it gave up the connection before.
            self.lost(before)
            before.close()
        self._connection = connection
        if self._lost_timer is not None:
            self._lost_timer.cancel()
        if not self._hello.done():
            self._hello.set_result(hello)

    def _refuse(self, refused: str, hint: str | None) -> None:
        self._complain(f"the agent was refused: {refused}")
        if not self._hello.done():
            self._hello.set_exception(WrongState(f"the agent was refused: {refused}", hint=hint))

    # ---- what the connection calls: see connection.Receiver ----------------------------

    def received(self, connection: Connection, frame: AgentFrame, body: Body) -> None:
        """Take a frame of an agent."""
        if connection is not self._connection:
            if not isinstance(frame, link.Hello):
                raise link.LinkBroken("the first frame of a connection is a hello")
            self._greet(connection, frame)
        elif isinstance(frame, link.Reply):
            if not self._messages.settle(frame, body):
                connection.reading.unasked(1, frame, body)
        elif isinstance(frame, link.HostCall):
            connection.reading.unasked(1, frame, body)
            self._calls.take(connection, frame, body)
        elif isinstance(frame, link.Log):
            connection.reading.unasked(len(frame.lines), frame, body)
            self._host.log(_records(frame))
        elif isinstance(frame, link.Snapshot):
            connection.reading.unasked(1, frame, body)
            self._parts += 1
            self._snapshots += frame.offset == 0
            self._host.snapshot_part(frame, body, self.kept)
        elif isinstance(frame, link.Hello):
            raise link.LinkBroken("a second hello")
        elif isinstance(frame, link.Stopped) and not frame.id:
            self.left = True
        elif not self._answered(frame):
            connection.reading.unasked(1, frame, body)

    def took_answers(self, connection: Connection) -> None:
        """Go on with what the agent asked before."""
        del connection
        self._calls.go_on()

    def broken(self, connection: Connection, error: link.LinkBroken) -> None:
        """Say why a connection ends."""
        if isinstance(error, link.OtherGeneration) and connection in self._ungreeted:
            self._refuse(f"{error}, this node speaks {link.GENERATION}", _OTHER_VERSION)
        else:
            self._complain(f"the link is broken: {error}")

    def lost(self, connection: Connection) -> None:
        """End what waits for an agent that is not connected any more."""
        if timer := self._ungreeted.pop(connection, None):
            timer.cancel()
        if connection is not self._connection:
            return
        self._connection = None
        self._calls.lost(connection)
        self._lost_timer = self._loop.call_later(RECONNECT_S, self.deaf.set)
        broke = f"the link to {self._vm_id} broke"
        self._messages.fail(lambda message: Unavailable(broke))
        for future, _ in self._requests.values():
            if not future.done():
                future.set_exception(Unavailable(broke))

    def _answered(self, frame: link.Loaded | link.Stopped | link.Measured | link.Failed) -> bool:
        """Settle what was asked; False when it was not."""
        if frame.id in self._messages:
            raise link.LinkBroken(f"a {type(frame).__name__} where a Reply was due")
        future, answer = self._requests.get(frame.id, (None, None))
        if future is None or answer is None or future.done():
            return False
        if isinstance(frame, link.Failed):
            error = link.error_of(frame.failure)
            if answer is link.Stopped:
                error = StopRefused(error.message, hint=error.hint)
            elif isinstance(error, ActorError) and answer is not link.Loaded:
                # An actor fails while it starts, and in replies. Only a lying agent says so here.
                error = Unavailable(f"the agent of {self._vm_id} failed: {error.message}")
            future.set_exception(error)
        elif isinstance(frame, answer):
            future.set_result(frame)
        else:
            raise link.LinkBroken(f"a {type(frame).__name__} where a {answer.__name__} was due")
        return True

    def _complain(self, message: str) -> None:
        self._host.log([LogRecord(time_ns(), "node", "warn", message)])


def _records(frame: link.Log) -> list[LogRecord]:
    if len(frame.lines) > LOG_LINES:
        raise link.LinkBroken(f"{len(frame.lines)} lines in a frame, at most {LOG_LINES}")
    records = []
    for line in frame.lines:
        stream, level = STREAMS.get(line.stream), LEVELS.get(line.level)
        if stream is None or level is None:
            raise link.LinkBroken("a line of the log that no agent sends")
        records.append(LogRecord(line.time_unix_ns or time_ns(), stream, level, line.message))
    return records
