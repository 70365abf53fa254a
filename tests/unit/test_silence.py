"""When an agent counts as deaf, on a clock that the tests move: nothing here takes real time."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from plexspaces_node.errors import DeadlineExceeded
from plexspaces_node.node import agents
from plexspaces_node.node.agents import AgentClient
from plexspaces_node.node.machines import MEASURE_TIMEOUT_S, SwitchedHostCalls
from plexspaces_node.wire import link

SECOND_NS = 1_000_000_000
SILENCE_S = agents.SILENCE_NS / 1e9
TICK_S = SILENCE_S / agents.TICKS
LARGE = bytes(1 << 20)
"""More than a socket holds."""
PIECE_BYTES = 64 * 1024


class Selector(selectors.EpollSelector):
    """Finds what is ready and never waits: the clock moves on instead."""

    now = 0.0
    stopped = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.stopped:
            # What a wait returns that ran out while the process was stopped, whatever is ready.
            self.stopped = False
            return []
        ready = super().select(0)
        assert ready or timeout is not None, "nothing will ever happen"
        if not ready and timeout:
            self.now += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where everything waits."""

    def __init__(self) -> None:
        self.clock = Selector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now

    def stop_process(self, seconds: float) -> None:
        """Let time pass in which this process does not run, as between SIGSTOP and SIGCONT."""
        self.clock.now += seconds
        self.clock.stopped = True


class Host(SwitchedHostCalls):
    """Keeps what nobody claimed."""

    def __init__(self) -> None:
        super().__init__()
        self.unclaimed_replies: list[tuple[link.Reply | None, int]] = []

    def unclaimed(self, reply: link.Reply | None, total_ns: int) -> None:
        self.unclaimed_replies.append((reply, total_ns))


class Case:
    """A client, and the other end of its link, which does only what the test does."""

    def __init__(self, client: AgentClient, agent: socket.socket, host: Host) -> None:
        self.client = client
        self.host = host
        self.agent = agent
        self.loop = asyncio.get_running_loop()
        self._frames = link.FrameBuffer(link.frame_limit(len(LARGE)))

    def invoke(self, timeout_s: float, payload: bytes = b"") -> asyncio.Task[link.Reply]:
        """Send a message."""
        return asyncio.create_task(
            self.client.invoke(
                sender="s", msg_type="m", payload=payload, timeout_ns=int(timeout_s * SECOND_NS)
            )
        )

    async def take(self, *, pause_s: float = 0.0) -> link.FromNode:
        """Receive the next frame, with a pause after each piece."""
        while True:
            bodies = self._frames.feed(await self.loop.sock_recv(self.agent, PIECE_BYTES))
            if bodies:
                return link.decode_from_node(bodies[0])
            await asyncio.sleep(pause_s)

    def reply(self, message: link.FromNode, payload: bytes = b"") -> bytes:
        """Return the bytes of the reply to a message."""
        assert isinstance(message, link.Invoke)
        return link.encode(link.Reply(message.id, payload, None, 0, 0, 0))

    async def say(self, data: bytes) -> None:
        """Send bytes to the node."""
        await self.loop.sock_sendall(self.agent, data)

    async def deaf_after(self, waiting: asyncio.Task[link.Reply]) -> float:
        """Wait until the agent counts as deaf; return how long that took."""
        begin = self.loop.time()
        with pytest.raises(DeadlineExceeded, match="nor a sign of life"):
            await waiting
        assert self.client.deaf.is_set()
        return self.loop.time() - begin


Run = Callable[[Callable[[Case], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run(short_dir: Path) -> Run:
    """Run a case on a loop of its own."""

    async def around(case: Callable[[Case], Coroutine[Any, Any, None]]) -> None:
        host = Host()
        client = AgentClient("vm", host, node_id="n", message_limit=1 << 20, in_flight_limit=8)
        path = short_dir / "link.sock"
        await client.listen(path)
        try:
            with socket.socket(socket.AF_UNIX) as agent:
                agent.setblocking(False)
                agent.connect(str(path))
                agent.send(link.encode(link.Hello(link.GENERATION, "vm", "wasmtime")))
                await client.hello()
                it = Case(client, agent, host)
                assert isinstance(await it.take(), link.Welcome)
                await case(it)
        finally:
            await client.close()

    def run(case: Callable[[Case], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(around(case))

    return run


@pytest.mark.parametrize("payload", [b"", LARGE], ids=["small", "large"])
def test_reply_when_the_node_was_stopped_past_the_deadline_then_it_is_heard(
    run: Run, payload: bytes
) -> None:
    """A node that did not run was not there to hear: it listens before it judges."""

    async def case(it: Case) -> None:
        waiting = it.invoke(1.0)
        reply = it.reply(await it.take(), payload)
        sent = it.agent.send(reply)
        assert isinstance(it.loop, Loop)
        it.loop.stop_process(3.0)
        await it.say(reply[sent:])
        assert (await waiting).payload == payload
        assert not it.client.deaf.is_set()

    run(case)


def test_goodbye_when_the_node_was_stopped_past_its_time_then_it_is_heard(run: Run) -> None:
    """The same of what is no message: a stop that was answered was one in good order."""

    async def case(it: Case) -> None:
        stopping = asyncio.create_task(it.client.stop(1.0))
        stop = await it.take()
        assert isinstance(stop, link.Stop)
        it.agent.send(link.encode(link.Stopped(stop.id)))
        assert isinstance(it.loop, Loop)
        it.loop.stop_process(3.0)
        await stopping

    run(case)


@pytest.mark.parametrize("payload", [b"", LARGE], ids=["small", "large"])
def test_agent_that_is_frozen_is_deaf_a_silence_past_the_deadline(run: Run, payload: bytes) -> None:
    """The bound holds for a message that it could not even take."""

    async def case(it: Case) -> None:
        assert await it.deaf_after(it.invoke(2.0, payload)) == pytest.approx(2.0 + SILENCE_S)

    run(case)


def test_agent_that_freezes_once_it_took_a_large_message_is_deaf_in_the_same_time(
    run: Run,
) -> None:
    """That the message was taken is noticed within a tick, and its time counts from there."""

    async def case(it: Case) -> None:
        waiting = it.invoke(2.0, LARGE)
        await it.take()
        assert await it.deaf_after(waiting) == pytest.approx(2.0 + SILENCE_S + TICK_S)

    run(case)


def test_large_message_that_is_taken_slowly_has_its_whole_time_from_then_on(run: Run) -> None:
    """Who is busy receiving is not silent, however short the deadline."""

    async def case(it: Case) -> None:
        begin = it.loop.time()
        waiting = it.invoke(1.5, LARGE)
        message = await it.take(pause_s=0.5 * SILENCE_S)
        assert it.loop.time() - begin > 1.5 + 3 * SILENCE_S
        await asyncio.sleep(1.4)
        await it.say(it.reply(message))
        await waiting
        assert not it.client.deaf.is_set()

    run(case)


def test_agent_that_freezes_while_it_takes_a_large_message_is_deaf_a_silence_later(
    run: Run,
) -> None:
    """The last piece that it took was its last sign of life."""

    async def case(it: Case) -> None:
        waiting = it.invoke(0.1, LARGE)
        for _ in range(6):
            await it.loop.sock_recv(it.agent, PIECE_BYTES)
            await asyncio.sleep(0.5 * SILENCE_S)
        assert not waiting.done()
        assert 0 < await it.deaf_after(waiting) <= SILENCE_S

    run(case)


def test_large_reply_that_comes_slowly_is_waited_for_as_long_as_it_comes(run: Run) -> None:
    """A reply on its way is no silence; one that stops half-way is."""

    async def case(it: Case) -> None:
        waiting = it.invoke(0.1)
        reply = it.reply(await it.take(), LARGE)
        for at in range(0, len(reply), PIECE_BYTES):
            await asyncio.sleep(0.5 * SILENCE_S)
            await it.say(reply[at : at + PIECE_BYTES])
        assert (await waiting).payload == LARGE
        waiting = it.invoke(0.1)
        await it.say(it.reply(await it.take(), LARGE)[:PIECE_BYTES])
        assert await it.deaf_after(waiting) <= 0.1 + SILENCE_S + TICK_S

    run(case)


def test_agent_that_says_other_things_is_deaf_all_the_same(run: Run) -> None:
    """An actor that hangs in the host is found out, though its agent refuses what comes after."""

    async def case(it: Case) -> None:
        async def chatter() -> None:
            while True:
                await it.say(link.encode(link.Log("log", "info", "still here", 0)))
                await asyncio.sleep(0.1)

        waiting = it.invoke(1.0)
        await it.take()
        chattering = asyncio.create_task(chatter())
        assert await it.deaf_after(waiting) == pytest.approx(1.0 + SILENCE_S)
        chattering.cancel()

    run(case)


def test_agent_that_is_frozen_while_its_memory_is_asked_for_is_deaf_all_the_same(run: Run) -> None:
    """Asking for a number ends before the message behind it is given up."""

    async def case(it: Case) -> None:
        asking = asyncio.create_task(it.client.measure(MEASURE_TIMEOUT_S))
        await it.take()
        assert await it.deaf_after(it.invoke(0.1)) < 0.1 + 2 * SILENCE_S
        with pytest.raises(DeadlineExceeded, match="memory"):
            await asking

    run(case)


async def leave(task: asyncio.Task[link.Reply]) -> None:
    """Have whoever sent a message go away."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_message_behind_one_whose_sender_left_ends_alone(run: Run) -> None:
    """The actor is at what nobody waits for, as long as that had time; no longer."""

    async def case(it: Case) -> None:
        left = it.invoke(60.0)
        await it.take()
        await leave(left)
        with pytest.raises(DeadlineExceeded, match="while others were handled"):
            await it.invoke(1.0)
        assert not it.client.deaf.is_set()
        await it.client.deaf.wait()
        assert it.loop.time() == pytest.approx(60.0 + SILENCE_S)

    run(case)


def test_reply_when_its_sender_left_then_it_is_in_flight_until_it_comes_and_counts(
    run: Run,
) -> None:
    """What an actor does for nobody is done all the same, and takes its time."""

    async def case(it: Case) -> None:
        left = it.invoke(60.0, b"payload")
        message = await it.take()
        await leave(left)
        assert isinstance(await it.take(), link.Cancel)
        assert it.client.in_flight == 1
        await asyncio.sleep(5.0)
        await it.say(it.reply(message))
        await it.client.idle()
        assert it.client.in_flight == 0
        [(reply, total_ns)] = it.host.unclaimed_replies
        assert isinstance(reply, link.Reply)
        assert total_ns == pytest.approx(5 * SECOND_NS)

    run(case)


def test_reply_when_it_comes_as_its_sender_leaves_then_the_agent_has_answered(run: Run) -> None:
    """Neither waits for the other in the moment between."""

    async def case(it: Case) -> None:
        left = it.invoke(60.0)
        message = await it.take()
        left.cancel()
        connection = it.client._connection
        assert connection is not None
        connection.data_received(it.reply(message))
        await asyncio.gather(left, return_exceptions=True)
        await it.client.idle()
        assert it.client.in_flight == 0
        assert len(it.host.unclaimed_replies) == 1

    run(case)


def test_reply_when_sender_and_agent_left_then_it_counts_as_none(run: Run) -> None:
    """A message that nobody answers and nobody waits for is not in flight for ever."""

    async def case(it: Case) -> None:
        left = it.invoke(60.0)
        await it.take()
        await leave(left)
        it.agent.close()
        await it.client.idle()
        assert [reply for reply, _ in it.host.unclaimed_replies] == [None]

    run(case)
