"""One link on a clock that the tests move: nothing here takes real time.

The node's end is an `AgentClient`; the other does only what a test does.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from support.feeding import feed
from support.patience import PATIENCE
from support.sending import reply_of

from plexspaces_node.errors import DeadlineExceeded
from plexspaces_node.info import LogLine
from plexspaces_node.link import frames as link
from plexspaces_node.node.machines.agent_client import AgentClient, Kept
from plexspaces_node.node.machines.machine import SwitchedHostCalls
from plexspaces_node.node.machines.pending import Answered
from plexspaces_node.node.outgoing.call import Call, Piece, Request, Response
from plexspaces_node.node.telemetry.span import Span, Step

SECOND_NS = 1_000_000_000
MESSAGE_LIMIT = 1 << 20
PIECE_BYTES = 64 * 1024


class Selector(selectors.EpollSelector):
    """Finds what is ready and never waits: the clock moves on instead.

    Attributes:
        threads_s: how long threads get, of real time, to call before the clock moves on.
    """

    now = 0.0
    stopped = False
    threads_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.stopped:
            # What a wait returns that ran out while the process was stopped, whatever is ready.
            self.stopped = False
            return []
        ready = super().select(0)
        if self.threads_s and not ready and timeout != 0:
            ready = super().select(self.threads_s if timeout is not None else 5 * PATIENCE)
        assert ready or timeout is not None, "nothing will ever happen"
        if not ready and timeout:
            self.now += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where everything waits."""

    def __init__(self, *, threads_s: float = 0.0) -> None:
        self.clock = Selector()
        self.clock.threads_s = threads_s
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now

    def stop_process(self, seconds: float) -> None:
        """Let time pass in which this process does not run, as between SIGSTOP and SIGCONT."""
        self.clock.now += seconds
        self.clock.stopped = True


class Host(SwitchedHostCalls):
    """Keeps what an agent tells, and answers what it asks as a test says.

    Attributes:
        answers: what is done for a host call.
        causes: for which messages those were.
        steps: what was measured of them, and of HTTP requests.
        keeps: whether each part of a snapshot is acknowledged.
        fetches: makes the HTTP requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unclaimed_replies: list[link.Reply | None] = []
        self.causes: list[Span | None] = []
        self.steps: list[tuple[Span, Step]] = []
        self.lines: list[LogLine] = []
        self.parts: list[link.Snapshot] = []
        self.calls: list[link.HostCall] = []
        self.answers: Callable[[link.HostCall], Awaitable[bytes | None]] = nothing
        self.keeps = False
        self.fetches: Call = super().fetch

    def log(self, lines: Sequence[LogLine]) -> None:
        self.lines += lines

    def snapshot_part(self, part: link.Snapshot, body: link.Body, kept: Kept) -> None:
        self.parts.append(part)
        if self.keeps:
            kept(part.id, len(body))

    def late_reply(self, span: Span | None, reply: link.Reply | None, body: link.Body) -> None:
        del span, body
        self.unclaimed_replies.append(reply)

    async def answer(
        self, call: link.HostCall, body: link.Body, cause: Span | None = None
    ) -> bytes | None:
        self.causes.append(cause)
        self.calls.append(call)
        return await self.answers(call)

    def made(self, cause: Span, step: Step) -> None:
        self.steps.append((cause, step))

    def fetch(
        self, request: Request, body: AsyncIterator[Piece]
    ) -> AbstractAsyncContextManager[Response]:
        return self.fetches(request, body)


async def nothing(call: link.HostCall) -> bytes | None:
    """Answer a host call with nothing."""
    return None


class Case:
    """A client, and the other end of its link, which does only what the test does."""

    def __init__(self, client: AgentClient, agent: socket.socket, host: Host) -> None:
        self.client = client
        self.host = host
        self.agent = agent
        self.loop = asyncio.get_running_loop()
        self._taken: list[tuple[link.NodeFrame, link.Body]] = []
        self._frames = link.FrameReader.of_node(MESSAGE_LIMIT)

    async def dial_again(self) -> None:
        """Close the agent's end, connect anew and say hello."""
        path = self.agent.getpeername()
        self.agent.close()
        self.agent = socket.socket(socket.AF_UNIX)
        self.agent.setblocking(False)
        await self.loop.sock_connect(self.agent, path)
        self._frames = link.FrameReader.of_node(MESSAGE_LIMIT)
        await self.say(link.encode(link.Hello(generation=link.GENERATION, vm_id="vm")))
        assert isinstance(await self.take(), link.Welcome)

    def invoke(self, timeout_s: float, payload: bytes = b"") -> asyncio.Task[Answered]:
        """Send a message."""
        timeout_ns = int(timeout_s * SECOND_NS)
        return asyncio.create_task(
            reply_of(self.client, sender="s", msg_type="m", payload=payload, timeout_ns=timeout_ns)
        )

    async def take(self, *, pause_s: float = 0.0) -> link.NodeFrame:
        """Receive the next frame, with a pause after each piece."""
        return (await self.take_whole(pause_s=pause_s))[0]

    async def take_whole(self, *, pause_s: float = 0.0) -> tuple[link.NodeFrame, link.Body]:
        """Receive the next frame and its body, with a pause after each piece."""
        while not self._taken:
            self._taken += feed(self._frames, await self.loop.sock_recv(self.agent, PIECE_BYTES))
            if not self._taken:
                await asyncio.sleep(pause_s)
        return self._taken.pop(0)

    def reply(self, message: link.NodeFrame, payload: bytes = b"") -> bytes:
        """Return the bytes of the reply to a message."""
        assert isinstance(message, link.Invoke)
        return link.encode(link.Reply(id=message.id), payload)

    async def say(self, data: bytes) -> None:
        """Send bytes to the node."""
        await self.loop.sock_sendall(self.agent, data)

    def hold_answers(self, *kinds: type[link.HostCall]) -> asyncio.Event:
        """Have host calls of these kinds, all where none is named, wait until this is set."""
        done = asyncio.Event()

        async def when_done(call: link.HostCall) -> bytes:
            if not kinds or isinstance(call, kinds):
                await done.wait()
            return b""

        self.host.answers = when_done
        return done

    async def hear_stop(self) -> link.Stop:
        """Take what begins a goodbye, and show that the agent hears."""
        measure, stop = await self.take(), await self.take()
        assert isinstance(measure, link.Measure)
        assert isinstance(stop, link.Stop)
        await self.say(link.encode(link.Measured(id=measure.id)))
        return stop

    async def read_on(self) -> None:
        """Receive what the node sends, until cancelled, and look at none of it."""
        while await self.loop.sock_recv(self.agent, PIECE_BYTES):
            pass

    async def flood(self, data: bytes, seconds: float) -> int:
        """Say the same over and over, for so long; return how many times it was all sent."""
        said = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await self.say(data)
                    said += 1
        return said

    async def deaf_after(self, waiting: asyncio.Task[Answered]) -> float:
        """Wait until the agent counts as deaf; return how long that took."""
        begin = self.loop.time()
        with pytest.raises(DeadlineExceeded, match="no sign of life"):
            await waiting
        assert self.client.deaf.is_set()
        return self.loop.time() - begin


Run: TypeAlias = Callable[[Callable[[Case], Coroutine[Any, Any, None]]], None]
"""Runs a case: see the fixture of that name."""


async def _around(path: Path, case: Callable[[Case], Coroutine[Any, Any, None]]) -> None:
    host = Host()
    client = AgentClient("vm", host, node_id="n", message_limit=MESSAGE_LIMIT, in_flight_limit=8)
    client.link.listen(path)
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.setblocking(False)
            agent.connect(str(path))
            agent.send(link.encode(link.Hello(generation=link.GENERATION, vm_id="vm")))
            await client.link.hello()
            it = Case(client, agent, host)
            assert isinstance(await it.take(), link.Welcome)
            try:
                await case(it)
            finally:
                it.agent.close()
    finally:
        await client.close()


def run_case(directory: Path, case: Callable[[Case], Coroutine[Any, Any, None]]) -> None:
    """Run a case on a loop of its own, with its socket in a directory whose path is short."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(_around(directory / "link.sock", case))
