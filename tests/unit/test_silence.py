"""When an agent counts as deaf, on a clock that the tests move: nothing here takes real time."""

from __future__ import annotations

import asyncio

import pytest
from support.link_case import PIECE_BYTES, SECOND_NS, Case, Loop, Run

from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.link import frames as link
from plexspaces_node.node.machines import pending
from plexspaces_node.node.machines.agent_client import HEARING_S, SNAPSHOT_S
from plexspaces_node.node.machines.machine import MEASURE_TIMEOUT_S
from plexspaces_node.node.machines.pending import Answered

SILENCE_S = pending.SILENCE_NS / 1e9
TICK_S = pending.TICK_S
LARGE = bytes(1 << 20)
"""More than a socket holds."""
CHATTER = link.Log(
    lines=[
        link.Log.Line(stream=link.Log.STREAM_LOG, level=link.Log.LEVEL_INFO, message="still here")
    ]
)


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
        assert (await waiting)[1] == payload
        assert not it.client.deaf.is_set()

    run(case)


def test_goodbye_when_the_node_was_stopped_past_its_time_then_it_is_heard(run: Run) -> None:
    """The same of what is no message: a stop that was answered was one in good order."""

    async def case(it: Case) -> None:
        stopping = asyncio.create_task(it.client.stop(1.0))
        assert isinstance(await it.take(), link.Measure)
        stop = await it.take()
        assert isinstance(stop, link.Stop)
        it.agent.send(link.encode(link.Stopped(id=stop.id)))
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


def test_message_behind_others_that_are_taken_slowly_ends_at_its_own_time(run: Run) -> None:
    """Its agent has not seen it, and is busy: the message ends, and nothing else."""

    async def case(it: Case) -> None:
        begin = it.loop.time()
        before, behind = it.invoke(60.0, LARGE), it.invoke(1.0)
        taking = asyncio.create_task(it.take(pause_s=0.5 * SILENCE_S))
        with pytest.raises(DeadlineExceeded, match="while others were handled"):
            await behind
        assert it.loop.time() - begin == pytest.approx(1.0 + SILENCE_S, abs=TICK_S)
        await it.say(it.reply(await taking))
        await before
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
        assert (await waiting)[1] == LARGE
        waiting = it.invoke(0.1)
        await it.say(it.reply(await it.take(), LARGE)[:PIECE_BYTES])
        assert await it.deaf_after(waiting) <= 0.1 + SILENCE_S + TICK_S

    run(case)


def test_agent_that_says_other_things_is_deaf_all_the_same(run: Run) -> None:
    """An actor that hangs in the host is found out, though its agent refuses what comes after."""

    async def case(it: Case) -> None:
        async def chatter() -> None:
            while True:
                await it.say(link.encode(CHATTER))
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


async def leave(task: asyncio.Task[Answered]) -> None:
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
        [reply] = it.host.unclaimed_replies
        assert isinstance(reply, link.Reply)

    run(case)


def test_reply_when_it_comes_as_its_sender_leaves_then_the_agent_has_answered(run: Run) -> None:
    """Neither waits for the other in the moment between; the sender was called, and counts it."""

    async def case(it: Case) -> None:
        left = it.invoke(60.0)
        message = await it.take()
        left.cancel()
        connection = it.client.link.connection
        assert connection is not None
        reply = it.reply(message)
        connection.get_buffer(-1)[: len(reply)] = reply
        connection.buffer_updated(len(reply))
        await asyncio.gather(left, return_exceptions=True)
        await it.client.idle()
        assert it.client.in_flight == 0
        assert it.host.unclaimed_replies == []

    run(case)


def test_reply_when_sender_and_agent_left_then_it_counts_as_none(run: Run) -> None:
    """A message that nobody answers and nobody waits for is not in flight for ever."""

    async def case(it: Case) -> None:
        left = it.invoke(60.0)
        await it.take()
        await leave(left)
        it.agent.close()
        await it.client.idle()
        assert it.host.unclaimed_replies == [None]

    run(case)


def test_agent_that_is_frozen_is_found_out_once_for_all_messages(run: Run) -> None:
    """Those behind do not each wait a silence more; one that has time left may be sent again."""

    async def case(it: Case) -> None:
        begin = it.loop.time()
        waiting = [it.invoke(2.0) for _ in range(6)]
        patient = it.invoke(60.0)
        await it.take()
        results = await asyncio.gather(*waiting, patient, return_exceptions=True)
        assert it.loop.time() - begin == pytest.approx(2.0 + SILENCE_S)
        assert [type(result) for result in results] == [DeadlineExceeded] * 6 + [Unavailable]
        with pytest.raises(Unavailable, match="not connected"):
            await it.invoke(1.0)

    run(case)


def test_agent_that_is_frozen_gets_no_time_to_say_goodbye(run: Run) -> None:
    """Whether it hears at all is found out in a moment; what it has to do may take longer."""

    async def case(it: Case) -> None:
        begin = it.loop.time()
        with pytest.raises(DeadlineExceeded, match="a sign of life"):
            await it.client.stop(60.0)
        assert it.loop.time() - begin == pytest.approx(HEARING_S)
        assert it.client.deaf.is_set()

    run(case)


def test_agent_that_is_long_at_its_goodbye_has_its_whole_time(run: Run) -> None:
    """One that hears is waited for."""

    async def case(it: Case) -> None:
        stopping = asyncio.create_task(it.client.stop(60.0))
        stop = await it.hear_stop()
        await asyncio.sleep(59.0)
        await it.say(link.encode(link.Stopped(id=stop.id)))
        await stopping

    run(case)


def test_agent_that_snapshots_at_its_goodbye_has_the_time_it_gives_its_actor(run: Run) -> None:
    """One snapshot may be at hand, another follows; a goodbye without has no such time."""

    async def case(it: Case) -> None:
        stopping = asyncio.create_task(it.client.stop(5.0))
        stop = await it.hear_stop()
        assert stop.timeout_ns == 5 * 10**9
        await asyncio.sleep(2 * SNAPSHOT_S + 10.0)
        await it.say(link.encode(link.Stopped(id=stop.id)))
        await stopping
        begin = it.loop.time()
        stopping = asyncio.create_task(it.client.stop(5.0, save=False))
        measure = await it.take()
        assert isinstance(measure, link.Measure)
        await it.say(link.encode(link.Measured(id=measure.id)))
        with pytest.raises(DeadlineExceeded, match="stop"):
            await stopping
        assert it.loop.time() - begin == pytest.approx(5.0)

    run(case)


@pytest.mark.parametrize(("step", "pause_s", "most"), [(0, 4.0, 30), (1, 4.0, 40), (1, 6.0, 30)])
def test_goodbye_of_an_agent_that_only_snapshots_ends(
    run: Run, step: int, pause_s: float, most: int
) -> None:
    """Two snapshots may still come, each part of them in time; then it is over."""

    async def case(it: Case) -> None:
        begin, parts = it.loop.time(), 0
        stopping = asyncio.create_task(it.client.stop(5.0))
        await it.hear_stop()
        reading = asyncio.create_task(it.read_on())
        while not stopping.done():
            await it.say(link.encode(link.Snapshot(id=1, offset=step * parts)))
            parts += 1
            # As many as a state of its memory has; then it says no more.
            await asyncio.sleep(pause_s if parts < most else 1000.0)
        reading.cancel()
        with pytest.raises(DeadlineExceeded, match="stop"):
            await stopping
        assert (parts == most) is (step == 1 and pause_s < 5.0)
        if not step or pause_s > 5.0:
            assert it.loop.time() - begin < 2 * SNAPSHOT_S + 25.0 + 15.0

    run(case)


def test_reply_behind_more_than_the_node_reads_at_once_is_no_silence(run: Run) -> None:
    """Who has said more than the node wants to hear for the moment has not said nothing."""

    async def case(it: Case) -> None:
        waiting = it.invoke(0.1)
        reply = it.reply(await it.take())
        line = CHATTER.lines[0]
        flood = link.encode(link.Log(lines=[line] * 1000)) * 15
        await asyncio.gather(it.say(flood + reply), waiting)
        assert it.loop.time() > 0.1 + 2 * SILENCE_S
        assert len(it.host.lines) == 15_000

    run(case)


def test_reply_that_is_not_taken_breaks_no_link(run: Run) -> None:
    """A defect of whoever waits for one message is no matter of the others."""

    async def case(it: Case) -> None:
        told: list[object] = []
        it.loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

        def fail(_: object) -> None:
            raise ValueError("a defect")

        it.client.post(fail, sender="", msg_type="m", payload=b"", timeout_ns=SECOND_NS)
        first, waiting = await it.take(), it.invoke(1.0)
        await it.say(it.reply(first) + it.reply(await it.take(), b"second"))
        assert (await waiting)[1] == b"second"
        assert [str(error) for error in told] == ["a defect"]

    run(case)
