"""How much an agent may say: a slow or hostile one is stopped, and nothing of it is kept.

On a clock that the tests move: an agent sends as fast as the node reads, in no time.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from support.link_case import MESSAGE_LIMIT, Case, Run

from plexspaces_node.errors import ActorFailed
from plexspaces_node.link import frames as link
from plexspaces_node.node.machines import host_calls as calls
from plexspaces_node.node.machines.connection import AGENT_HEAD_BYTES, ANSWER_BYTES
from plexspaces_node.node.machines.host_calls import HOST_CALLS, HOST_CALLS_BYTES
from plexspaces_node.node.machines.log_lines import LOG_LINES
from plexspaces_node.node.machines.reading import (
    BURST_S,
    HEAD_BYTES,
    UNASKED_BYTES_PER_S,
    UNASKED_PER_S,
)
from plexspaces_node.node.machines.writing import ANSWERS_BYTES, SEND_BUFFER_BYTES

VALUE = bytes(256 * 1024)
READ_AT_ONCE = 16 * 1024
"""What of an agent's frames is handled after it was decided to read no more."""
GET = link.Get(id=1, key="k")
LINE = link.Log.Line(stream=link.Log.STREAM_LOG, level=link.Log.LEVEL_INFO, message="line")


def a_connection(it: Case) -> bool:
    """Tell whether the agent is still connected."""
    return it.client.link.connection is not None


@pytest.mark.parametrize("seconds", [10, 100])
def test_agent_that_does_not_read_its_answers_is_not_read_from(run: Run, seconds: int) -> None:
    """Sixteen kilobytes of requests cost no more than a few answers, however long it goes on."""

    async def case(it: Case) -> None:
        async def value(call: link.HostCall) -> bytes:
            return VALUE

        it.host.answers = value
        said = await it.flood(link.encode(GET) * 100, seconds)
        # Beyond what may lie here, what the kernel took, which is twice what it was asked to.
        most = ANSWERS_BYTES + 2 * SEND_BUFFER_BYTES + 3 * len(VALUE)
        assert len(it.host.calls) * len(VALUE) <= most
        assert said * 100 * len(link.encode(GET)) < 1 << 20
        assert a_connection(it)
        # Once it reads again, it gets what it asked for.
        for _ in range(50):
            answer, body = await it.take_whole()
            assert isinstance(answer, link.Answer)
            assert (answer.found, len(body)) == (True, len(VALUE))

    run(case)


@pytest.mark.parametrize(
    "frame",
    [
        link.Tell(id=1, to="other", type="t"),
        link.Delete(id=1, key="k"),
        link.Ask(id=1, to="nobody", type="t"),
        link.Snapshot(id=1, last=True),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_agent_that_does_not_read_small_answers_is_not_read_from_either(
    run: Run, frame: link.AgentFrame
) -> None:
    """An answer without a body is memory too."""

    async def case(it: Case) -> None:
        async def refuse(call: link.HostCall) -> None:
            raise ActorFailed("no " * 1000, code="none")

        if isinstance(frame, link.Ask):
            it.host.answers = refuse
        it.host.keeps = True
        await it.flood(link.encode(frame) * 100, 100)
        connection = it.client.link.connection
        assert connection is not None
        assert connection.answers.is_full
        # And what was read with the last that was allowed.
        most = ANSWERS_BYTES / ANSWER_BYTES + READ_AT_ONCE / len(link.encode(frame))
        assert 0 < len(connection.writing) <= most

    run(case)


def test_agent_that_asks_with_much_is_not_read_from(run: Run) -> None:
    """What host calls carry counts as they do."""

    async def case(it: Case) -> None:
        done = it.hold_answers()
        put = link.encode(link.Put(id=1, key="k"), bytes(MESSAGE_LIMIT))
        said = await it.flood(put, 1000.0)
        assert said <= HOST_CALLS_BYTES / MESSAGE_LIMIT + 2
        done.set()
        for _ in range(said):
            assert isinstance(await it.take(), link.Answer)

    run(case)


def test_agent_that_dials_again_is_read_from_once_what_it_asked_before_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came by the connection before still counts, and holds the new one no longer."""
    monkeypatch.setattr(calls, "HOST_CALLS_BYTES", MESSAGE_LIMIT - 1)

    async def case(it: Case) -> None:
        done = it.hold_answers(link.Put)
        put = link.encode(link.Put(id=1, key="k"), bytes(MESSAGE_LIMIT))
        await it.say(put)
        await it.dial_again()
        await it.say(link.encode(link.Tell(id=2, to="other", type="t")))
        assert isinstance(await it.take(), link.Answer)
        done.set()
        await it.say(link.encode(link.Tell(id=3, to="other", type="t")))
        assert isinstance(await it.take(), link.Answer)

    run(case)


def test_answers_come_to_an_agent_that_is_slow_to_read(run: Run) -> None:
    """All of them, in the order in which the store was asked."""

    async def case(it: Case) -> None:
        async def value(call: link.HostCall) -> bytes:
            return VALUE

        it.host.answers = value
        await it.say(b"".join(link.encode(link.Get(id=id, key="k")) for id in range(40)))
        for id in range(40):
            answer, body = await it.take_whole(pause_s=0.5)
            assert isinstance(answer, link.Answer)
            assert (answer.id, body) == (id, VALUE)

    run(case)


def test_agent_that_asks_more_than_is_done_waits(run: Run) -> None:
    """So many host calls are on their way, the others lie in the agent's own memory."""

    async def case(it: Case) -> None:
        done = it.hold_answers()
        ask = link.encode(link.Ask(id=1, to="other", type="t"))
        said = await it.flood(ask * 100, 10.0)
        assert len(it.host.calls) == HOST_CALLS
        assert len(it.client._calls) <= HOST_CALLS + READ_AT_ONCE / len(ask)
        done.set()
        for _ in range(100 * said):
            assert isinstance(await it.take(), link.Answer)

    run(case)


@pytest.mark.parametrize(
    "frame",
    [
        link.Log(lines=[LINE]),
        link.Log(lines=[LINE] * 100),
        link.Reply(id=2**60),
        link.Measured(id=2**60),
        link.Failed(id=2**60),
        link.Stopped(),
        link.Response(id=2**60, last=True),
        link.Window(id=2**60, bytes=1),
        link.Abandon(id=2**60),
        link.Ask(id=1, to="other", type="t"),
        link.Tell(id=1, to="other", type="t"),
        link.Delete(id=1, key="k"),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_agent_that_says_too_much_unasked_is_read_from_at_a_pace(
    run: Run, frame: link.AgentFrame
) -> None:
    """A neighbour's time is not spent on it: so many lines and frames a second are taken."""

    async def case(it: Case) -> None:
        each = len(frame.lines) if isinstance(frame, link.Log) else 1
        data = link.encode(frame)
        reading = asyncio.create_task(it.read_on())
        said = await it.flood(data, 10.0) * each
        reading.cancel()
        most = UNASKED_PER_S * (10.0 + BURST_S)
        # The rest lies in the socket, and in what was read with the last that were allowed.
        lies = (READ_AT_ONCE + (1 << 20)) / len(data) * each
        assert 0.9 * most < said < most + lies
        if isinstance(frame, link.Log):
            assert 0.9 * most < len(it.host.lines) <= most + READ_AT_ONCE / len(data) * each + each
        assert a_connection(it)

    run(case)


def test_agent_that_says_long_things_unasked_is_read_from_at_a_slower_pace(run: Run) -> None:
    """A head is parsed, and perhaps kept: a long one counts for several."""

    async def case(it: Case) -> None:
        line = link.Log.Line(stream=link.Log.STREAM_LOG, level=LINE.level, message="l" * 64_000)
        said = await it.flood(link.encode(link.Log(lines=[line])), 10.0)
        most = UNASKED_PER_S * (10.0 + BURST_S) / (64_000 / HEAD_BYTES)
        assert 0.9 * most < said < 1.2 * most + (1 << 20) / 64_000

    run(case)


def test_asks_of_a_connection_that_is_lost_are_given_up(run: Run) -> None:
    """Nobody is there to hear the answer; whom it asked is left in peace."""

    async def case(it: Case) -> None:
        given_up = asyncio.Event()

        async def never(call: link.HostCall) -> bytes:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                given_up.set()
                raise
            return b""

        it.host.answers = never
        await it.say(link.encode(link.Ask(id=1, to="other", type="t")))
        await it.dial_again()
        async with asyncio.timeout(10):
            await given_up.wait()
        assert len(it.client._calls) == 0

    run(case)


def test_agent_that_sends_much_unasked_is_read_from_at_a_pace(run: Run) -> None:
    """Bytes count as frames do."""

    async def case(it: Case) -> None:
        part = link.encode(link.Snapshot(id=1, last=True), bytes(link.PART_BYTES))
        said = await it.flood(part, 4.0)
        most = UNASKED_BYTES_PER_S * (4.0 + BURST_S) / link.PART_BYTES
        assert 0.9 * most < said <= most + 2
        assert len(it.host.parts) == pytest.approx(said, abs=1)

    run(case)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (link.encode(link.Hello(generation=link.GENERATION, vm_id="vm")), "a second hello"),
        (link.encode(link.Log(lines=[LINE] * (LOG_LINES + 1))), "lines in a frame"),
        (link.encode(link.Log(lines=[link.Log.Line(message="of no stream")])), "no agent sends"),
        (link.head_of(link.Put(id=1, key="k" * AGENT_HEAD_BYTES), 0), "a head of"),
        (b"\xff" * 8, "a head of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_agent_that_says_what_none_says_is_cut_off(run: Run, data: bytes, why: str) -> None:
    """It is told in the application's log, once, and what it sends afterwards is not read."""

    async def case(it: Case) -> None:
        await it.say(data)
        # Reset when some of it was not even read.
        with contextlib.suppress(ConnectionResetError):
            assert await it.loop.sock_recv(it.agent, 1) == b""
        assert not a_connection(it)
        [line] = it.host.lines
        assert (line.stream, line.level) == ("node", "warn")
        assert why in line.message

    run(case)


def test_wrong_answer_breaks_the_link(run: Run) -> None:
    """A message is answered by a reply, and nothing else."""

    async def case(it: Case) -> None:
        waiting = it.invoke(1.0)
        message = await it.take()
        assert isinstance(message, link.Invoke)
        await it.say(link.encode(link.Stopped(id=message.id)))
        with pytest.raises(Exception, match="broke"):
            await waiting

    run(case)
