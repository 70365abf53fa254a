"""The node's end of the links: one `AgentClient` a machine.

Speaks `wire.link` on a unix socket, keeps many requests in flight, and hands what the actor asks
of the node to a `HostCalls`. Knows nothing of drivers, applications or SQL. A broken connection
fails what was in flight at once; the agent dials again and the next request goes through.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import sys
import termios
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from time import time_ns
from typing import Any, Protocol, TypeAlias, TypeVar

from plexspaces_node.errors import (
    ActorError,
    DeadlineExceeded,
    Internal,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from plexspaces_node.model import MAX_MESSAGE_LIMIT_BYTES, MIB
from plexspaces_node.wire import link
from plexspaces_node.wire.link import FromAgent, FromNode

_log = logging.getLogger(__name__)

SILENCE_NS = 1_000_000_000
"""How long past a message's deadline, or the last sign of life after it, an agent may stay silent
before it counts as deaf."""

TICKS = 4
"""In so many parts a silence is heard out, each timed from the end of the one before: a node that
was itself stopped misses one of them, and in the others hears what was said meanwhile."""

IN_FLIGHT_BYTES = 64 * MIB
"""The most payload that may wait for one agent: the bound on what a fast sender costs the node."""

HOST_CALLS = 64
"""The most an agent may ask at once. Its actor waits for each answer, so an honest one asks one."""

RECONNECT_S = 10.0
"""How long an agent may be without a connection before its machine is replaced."""

STREAMS = frozenset({"log", "stdout", "stderr", "agent"})
"""What an agent may say a line of the log comes from; the node's own stream is not its to use."""

REDIAL_S = 0.25
"""Between the loss of a link and the next attempt, where the node is the end that connects."""
GREETING_S = 5.0
"""For the hello on a connection that the node made. Where the agent is told of no event when the
host comes, as at a virtio port, it may miss one: of 120 boots on a loaded host one was seen to."""

SEED_BYTES = 32
"""Of randomness that a guest is given: as much as its kernel needs to begin with."""

_Signs: TypeAlias = tuple[int, int, int]
"""Of life: which message is the oldest, what the agent has yet to take, what came of a frame."""

_F = TypeVar("_F", bound=link.Frame)


class HostCalls(Protocol):
    """What an actor may ask of its node, and what its agent tells; one a machine."""

    def log(self, frame: link.Log) -> None:
        """Take a line of the log; must not block."""

    def snapshot(self, state: bytes) -> None:
        """Take a snapshot; must not block."""

    def unclaimed(self, reply: link.Reply | None, total_ns: int) -> None:
        """Count a reply whose message's sender has left, or None where none will come."""

    async def answer(self, request: link.Ask | link.Tell | link.Get | link.Put) -> bytes | None:
        """Do what the actor asks; a raised platform or actor error becomes its answer."""


class _Connection(asyncio.Protocol):
    """One connection of an agent, from its hello to its end."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._buffer = link.FrameBuffer(link.frame_limit(MAX_MESSAGE_LIMIT_BYTES))
        self._sent = 0
        self.unfinished = 0
        """Bytes that came since the last whole frame."""
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.unfinished += len(data)
        try:
            for body in self._buffer.feed(data):
                self.unfinished = 0
                self._client._received(self, link.decode_from_agent(body))
        except link.LinkBroken as error:
            self._client._complain(f"the link is broken: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._client._lost(self)

    def send(self, frame: FromNode) -> int:
        """Send a frame; return where it ends, for `untaken`, or 0 if it was taken at once."""
        assert self.transport is not None
        data = link.encode(frame)
        self._sent += len(data)
        self.transport.write(data)
        return self._sent if self.transport.get_write_buffer_size() else 0

    def untaken(self, end: int) -> int:
        """Return how many bytes up to this end the agent's side has yet to take, roughly if any."""
        if not end:
            return 0
        assert self.transport is not None
        # The socket is written again only when most of it was read: what is read of it counts too.
        socket = self.transport.get_extra_info("socket")
        unread = int.from_bytes(fcntl.ioctl(socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        waiting = self.transport.get_write_buffer_size() + unread
        return max(0, end - self._sent + waiting)

    def end(self) -> None:
        """Close once what was sent has arrived."""
        if self.transport is not None:
            self.transport.close()

    def close(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()


def _tick_s() -> float:
    return SILENCE_NS / TICKS / 1e9


def believed(claimed_ns: int, measured_ns: int) -> int:
    """Return the time an agent claims, held to what the node itself measured around it."""
    return min(max(0, claimed_ns), measured_ns)


class AgentClient:
    """The agent of one machine, as the node sees it.

    Everything runs on the event loop that called `open`; nothing here blocks it.
    """

    def __init__(
        self,
        vm_id: str,
        host: HostCalls,
        *,
        node_id: str,
        message_limit: int,
        in_flight_limit: int,
    ) -> None:
        self._vm_id = vm_id
        self._host = host
        self._node_id = node_id
        self._message_limit = message_limit
        self._in_flight_limit = in_flight_limit
        self._ids = itertools.count(1)
        # In the order sent, each with the kind of frame that answers it.
        self._pending: dict[int, tuple[asyncio.Future[Any], type[link.Frame]]] = {}
        self._lost_timer: asyncio.TimerHandle | None = None
        self._bytes = 0
        self._connection: _Connection | None = None
        self._server: asyncio.Server | None = None
        self._hello: asyncio.Future[link.Hello] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._path: Path | None = None
        self._dialling: asyncio.Task[None] | None = None
        self.deaf = asyncio.Event()
        """Set when the agent did not answer in time, nor say that it could not."""

    def __repr__(self) -> str:
        connected = "connected" if self._connection else "not connected"
        return f"<AgentClient {self._vm_id} {connected}, {len(self._pending)} in flight>"

    @property
    def in_flight(self) -> int:
        """Requests sent and not yet answered, those included whose senders have left."""
        return len(self._pending)

    async def listen(self, path: Path) -> None:
        """Wait for the agent to dial; call before the machine starts. Replaces a stale socket."""
        loop = asyncio.get_running_loop()
        # asyncio removes a stale socket in the way, and nothing that is not a socket.
        # Made without a pause in which a cancelled caller would leave a server that nobody knows.
        self._server = await loop.create_unix_server(
            lambda: _Connection(self), str(path), start_serving=False
        )
        self._path = path
        path.chmod(0o600)
        await self._server.start_serving()

    def dial(self, path: Path) -> None:
        """Connect to an agent that is reached at a socket, and again whenever the link breaks."""
        loop = asyncio.get_running_loop()
        self._dialling = loop.create_task(self._keep_dialled(str(path)))

    async def hello(self) -> link.Hello:
        """Wait for the agent's first word. Has no bound of its own: race it with the machine.

        Raises `WrongState` for an agent of another generation or of another machine.
        """
        return await asyncio.shield(self._hello)

    async def load(self, frame: Callable[[int], link.Load], timeout_s: float) -> link.Loaded:
        """Have the agent load and start an application.

        Raises what the actor's `init` did wrong, `DeadlineExceeded` or `Unavailable`.
        """
        return await self._request(frame, link.Loaded, timeout_s, "loading")

    async def stop(self, timeout_s: float) -> None:
        """Have the agent snapshot, shut its actor down and say goodbye.

        Raises `DeadlineExceeded` or `Unavailable`; the machine is then to be stopped without.
        """
        timeout_ns = int(timeout_s * 1e9)
        await self._request(lambda id: link.Stop(id, timeout_ns), link.Stopped, timeout_s, "stop")

    async def measure(self, timeout_s: float) -> link.Measured:
        """Ask how much memory is in use inside.

        An agent that does not answer is not deaf for that. With more than `SILENCE_NS` a message
        that waits behind could no longer tell that it is. Raises `DeadlineExceeded`, `Unavailable`.
        """
        return await self._request(link.Measure, link.Measured, timeout_s, "memory")

    async def invoke(
        self, *, sender: str, msg_type: str, payload: bytes, timeout_ns: int
    ) -> link.Reply:
        """Send a message and wait for its reply, in which an actor's failure lies.

        Cancelling takes the message out of the mailbox if it still waits there; an actor that has
        begun goes on. Either way it is answered, see `HostCalls.unclaimed`. Raises
        `ResourceExhausted` when too much is in flight, `DeadlineExceeded` when the agent is deaf
        and `Unavailable` when the link is or goes down.
        """
        return await self.post(
            sender=sender, msg_type=msg_type, payload=payload, timeout_ns=timeout_ns
        )

    def post(
        self, *, sender: str, msg_type: str, payload: bytes, timeout_ns: int
    ) -> Coroutine[Any, Any, link.Reply]:
        """Send a message now, and return what waits for its reply; raises as `invoke` does."""
        connection = self._connected()
        if len(self._pending) >= self._in_flight_limit or self._bytes > IN_FLIGHT_BYTES:
            raise ResourceExhausted(
                f"{len(self._pending)} messages are on their way already",
                hint="send slower, or raise [limits] mailbox",
            )
        request_id = next(self._ids)
        future = self._expect(request_id, link.Reply)
        end = connection.send(link.Invoke(request_id, sender, msg_type, payload, timeout_ns))
        self._bytes += len(payload)
        return self._reply(request_id, future, len(payload), timeout_ns, end)

    async def _reply(
        self, request_id: int, future: asyncio.Future[Any], size: int, timeout_ns: int, end: int
    ) -> link.Reply:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        first_s, left = begin_s + timeout_ns / 1e9, TICKS
        if end:
            # Not taken at once: watched from now on, since its time begins when it is.
            first_s, left = begin_s, TICKS + timeout_ns * TICKS // SILENCE_NS
        watch = (request_id, timeout_ns, end, left, None)
        timer = loop.call_at(first_s + _tick_s(), self._watch, *watch)

        def settle(_: object = None) -> None:
            timer.cancel()
            self._bytes -= size
            self._pending.pop(request_id, None)

        try:
            # Shielded: the agent answers a message whose sender left all the same, and is at it.
            reply: link.Reply = await asyncio.shield(future)
            return reply
        except asyncio.CancelledError:
            if self._connection is not None and not future.done():
                self._connection.send(link.Cancel(request_id))
            future.add_done_callback(partial(self._unclaimed, begin_s))
            raise
        finally:
            if future.done():
                settle()
            else:
                future.add_done_callback(settle)

    def _unclaimed(self, begin_s: float, future: asyncio.Future[link.Reply]) -> None:
        reply = future.result() if future.exception() is None else None
        total_ns = int((future.get_loop().time() - begin_s) * 1e9)
        self._host.unclaimed(reply, total_ns)

    def _watch(
        self, request_id: int, timeout_ns: int, end: int, left: int, before: _Signs | None
    ) -> None:
        """Look for signs of life each tick; give the message up when `left` ticks had none."""
        future, _ = self._pending.get(request_id, (None, None))
        connection = self._connection
        if future is None or future.done() or connection is None:
            return
        loop, rest = asyncio.get_running_loop(), connection.untaken(end)
        if end and not rest:
            # It was just taken: from here on like one that was taken when it was sent.
            delay_s = timeout_ns / 1e9 + _tick_s()
            loop.call_later(delay_s, self._watch, request_id, timeout_ns, 0, TICKS, None)
            return
        signs = (next(iter(self._pending)), rest, connection.unfinished)
        if signs != before:
            left = max(left, TICKS)
        if left > 1:
            loop.call_later(_tick_s(), self._watch, request_id, timeout_ns, end, left - 1, signs)
        else:
            self._give_up(request_id, future, timeout_ns)

    def _give_up(self, request_id: int, future: asyncio.Future[Any], timeout_ns: int) -> None:
        if request_id != next(iter(self._pending)):
            # It waits behind a message that has more time: nothing is wrong with the machine.
            if self._connection is not None:
                self._connection.send(link.Cancel(request_id))
            future.set_exception(
                DeadlineExceeded(
                    f"the message's {timeout_ns / 1e9:g} s ran out while others were handled",
                    hint="give it more time, or send slower",
                )
            )
            return
        self.deaf.set()
        future.set_exception(
            DeadlineExceeded(
                f"no answer within {timeout_ns / 1e9:g} s, nor a sign of life: "
                "the machine is replaced",
                hint="an actor that sleeps or waits outside WebAssembly cannot be interrupted",
            )
        )

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        while self._pending:
            await asyncio.wait([future for future, _ in self._pending.values()])

    async def close(self) -> None:
        """Drop the connection, stop listening and dialling, fail what is in flight. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._connection is not None:
            self._connection.close()
            self._lost(self._connection)
        if self._lost_timer is not None:
            self._lost_timer.cancel()
        if not self._hello.done():
            self._hello.cancel()
        tasks = [*self._tasks, *([self._dialling] if self._dialling else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    async def _request(
        self, frame: Callable[[int], FromNode], answer: type[_F], timeout_s: float, what: str
    ) -> _F:
        connection = self._connected()
        request_id = next(self._ids)
        future = self._expect(request_id, answer)
        connection.send(frame(request_id))
        try:
            # The last tick is for what came while the node was stopped, and is yet to be read.
            for part_s in (timeout_s - _tick_s(), _tick_s()):
                if not future.done():
                    await asyncio.wait([future], timeout=part_s)
            if not future.done():
                raise DeadlineExceeded(
                    f"{what}: the agent of {self._vm_id} did not answer within {timeout_s:g} s"
                )
            answered: _F = future.result()
            return answered
        finally:
            self._pending.pop(request_id, None)
            if not future.cancel():
                future.exception()  # else asyncio complains that nobody looked at it

    def _connected(self) -> _Connection:
        if self._connection is None:
            raise Unavailable(f"the agent of {self._vm_id} is not connected")
        return self._connection

    def _expect(self, request_id: int, answer: type[link.Frame]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (future, answer)
        return future

    async def _keep_dialled(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), path)
                timer = loop.call_later(GREETING_S, self._close_ungreeted, connection)
                try:
                    await connection.lost.wait()
                finally:
                    timer.cancel()
                    connection.close()
            # Long enough for the agent to see that nobody is there, and so to say hello anew.
            await asyncio.sleep(REDIAL_S)

    def _close_ungreeted(self, connection: _Connection) -> None:
        if connection is not self._connection:
            connection.close()

    # ---- what the connection calls -----------------------------------------------------

    def _received(self, connection: _Connection, frame: FromAgent) -> None:
        if connection is not self._connection and not isinstance(frame, link.Hello):
            raise link.LinkBroken("the first frame of a connection is a hello")
        match frame:
            case link.Reply() | link.Loaded() | link.Stopped() | link.Measured():
                self._settle(frame.id, frame)
            case link.Failed():
                self._fail(frame.id, link.error_of(frame.failure))
            case link.Log() if frame.stream in STREAMS:
                self._host.log(frame)
            case link.State() if len(frame.state) <= link.STATE_LIMIT_BYTES:
                self._host.snapshot(frame.state)
            case link.Log() | link.State():
                raise link.LinkBroken(f"a {type(frame).__name__} that no agent sends")
            case link.Hello():
                self._greet(connection, frame)
            case link.Ask() | link.Tell() | link.Get() | link.Put():
                if len(self._tasks) >= HOST_CALLS:
                    raise link.LinkBroken(f"more than {HOST_CALLS} host calls at once")
                task = asyncio.get_running_loop().create_task(self._answer(connection, frame))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _greet(self, connection: _Connection, hello: link.Hello) -> None:
        refused = ""
        if hello.generation != link.GENERATION:
            refused = f"generation {hello.generation}, this node speaks {link.GENERATION}"
        elif hello.vm_id != self._vm_id and (hello.vm_id or self._dialling is None):
            refused = f"this link is for {self._vm_id}, not {hello.vm_id}"
        welcome = link.Welcome(
            link.GENERATION,
            self._node_id,
            self._message_limit,
            refused,
            time_ns=time_ns(),
            seed=os.urandom(SEED_BYTES),
        )
        connection.send(welcome)
        if refused:
            self._complain(f"the agent was refused: {refused}")
            if not self._hello.done():
                self._hello.set_exception(WrongState(f"the agent was refused: {refused}"))
            connection.end()
            return
        before = self._connection
        if before is not None and before is not connection:
            # An agent dials again only after it gave up the connection before.
            self._lost(before)
            before.close()
        self._connection = connection
        if self._lost_timer is not None:
            self._lost_timer.cancel()
        if not self._hello.done():
            self._hello.set_result(hello)

    async def _answer(
        self, connection: _Connection, request: link.Ask | link.Tell | link.Get | link.Put
    ) -> None:
        payload, failure = None, None
        try:
            payload = await self._host.answer(request)
        except (PlexSpacesError, ActorError) as error:
            failure = link.failure_of(error)
        except Exception as error:  # noqa: BLE001 - the actor waits: whatever it is, it must hear
            _log.error("a host call failed by a defect", exc_info=error)
            failure = link.failure_of(Internal(f"internal error: {error!r}"))
        connection.send(link.Answer(request.id, payload, failure))

    def _settle(self, request_id: int, frame: FromAgent) -> None:
        future, answer = self._pending.get(request_id, (None, link.Frame))
        if future is None or future.done():
            return
        if not isinstance(frame, answer):
            raise link.LinkBroken(f"a {type(frame).__name__} where a {answer.__name__} was due")
        future.set_result(frame)

    def _fail(self, request_id: int, error: Exception) -> None:
        future, answer = self._pending.get(request_id, (None, None))
        if isinstance(error, ActorError) and answer is not link.Loaded:
            # An actor fails while it starts, and in replies. Elsewhere only a lying agent says so.
            error = Unavailable(f"the agent of {self._vm_id} failed: {error.message}")
        if future is not None and not future.done():
            future.set_exception(error)

    def _lost(self, connection: _Connection) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        loop = asyncio.get_running_loop()
        self._lost_timer = loop.call_later(RECONNECT_S, self.deaf.set)
        for request_id in list(self._pending):
            self._fail(request_id, Unavailable(f"the link to {self._vm_id} broke"))

    def _complain(self, message: str) -> None:
        self._host.log(link.Log("node", "warn", message, 0))
