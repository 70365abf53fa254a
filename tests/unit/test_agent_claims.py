"""What an agent claims is believed only as far as the node can check it, whoever holds the agent.

An agent speaks for the application of its link alone, and its times, its memory and its errors are
what they could be. How much it may say, and how fast, is in test_flow, test_fetches, test_exchanges
and test_saving; who it may say it is in test_greeting.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.link_case import Case, Host, Run
from support.patience import patient
from support.sending import reply_of

from plexspaces_node.errors import PLATFORM_ERRORS, Internal, PlexSpacesError
from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB
from plexspaces_node.node.applications.message_times import timings_of
from plexspaces_node.node.applications.restart import LONGEST_LEAVE_WAIT_S, WINDOW_S, Failures
from plexspaces_node.node.machines.agent_client import AgentClient
from plexspaces_node.node.machines.log_lines import lines_of
from plexspaces_node.node.machines.machine import plausible_memory

ANY_NS = st.integers(0, 2**64 - 1)


@given(said=ANY_NS, since=st.integers(1, 2**62), later=st.integers(0, 2**61))
def test_line_when_its_time_cannot_be_then_it_is_within_the_life_of_its_vm(
    said: int, since: int, later: int
) -> None:
    """Neither before the VM was started nor after the node heard of it."""
    line = link.Log.Line(
        stream=link.Log.STREAM_LOG, level=link.Log.LEVEL_INFO, message="m", time_unix_ns=said
    )
    now = since + later
    (kept,) = lines_of(link.Log(lines=[line]), since_ns=since, now_ns=now)
    assert since <= kept.time_unix_ns <= now
    if since <= said <= now:
        assert kept.time_unix_ns == said


def test_line_when_it_has_no_time_then_it_is_of_now() -> None:
    """As of an agent whose guest has no clock yet."""
    line = link.Log.Line(stream=link.Log.STREAM_LOG, level=link.Log.LEVEL_INFO, message="m")
    (kept,) = lines_of(link.Log(lines=[line]), since_ns=5, now_ns=9)
    assert kept.time_unix_ns == 9


@pytest.mark.parametrize("trace_id", ["", "0af7651916cd43dd8448eb211c80319c"])
def test_line_when_it_names_a_trace_then_it_is_kept(trace_id: str) -> None:
    """An agent that knows of none, as of a guest image of before, names none."""
    line = link.Log.Line(
        stream=link.Log.STREAM_LOG, level=link.Log.LEVEL_INFO, message="m", trace_id=trace_id
    )
    (kept,) = lines_of(link.Log(lines=[line]), since_ns=5, now_ns=9)
    assert kept.trace_id == trace_id


@pytest.mark.parametrize(
    "trace_id",
    [
        *("0af7651916cd43dd8448eb211c80319", "0AF7651916CD43DD8448EB211C80319C", "0" * 33),
        *("0af7651916cd43dd8448eb211c80319c\n", "٠" * 32, "<b>" + "0" * 29, "\n" * 32),
    ],
)
def test_line_when_its_trace_is_none_then_the_link_is_broken(trace_id: str) -> None:
    """No agent sends it: it reads the id from a header that it has checked."""
    line = link.Log.Line(
        stream=link.Log.STREAM_LOG, level=link.Log.LEVEL_INFO, message="m", trace_id=trace_id
    )
    with pytest.raises(link.LinkBroken, match="trace"):
        lines_of(link.Log(lines=[line]), since_ns=5, now_ns=9)


@given(compute=ANY_NS, wait=ANY_NS, queue=ANY_NS, total=st.integers(0, 2**40), waited=ANY_NS)
def test_times_when_claimed_then_together_they_are_no_longer_than_the_message_took(
    compute: int, wait: int, queue: int, total: int, waited: int
) -> None:
    """What the node measured is the bound of each, and of their sum."""
    claimed = link.Reply(compute_ns=compute, wait_ns=wait, queue_ns=queue)
    found = timings_of(claimed, total, min(waited, total))
    assert min(found.compute_ns, found.wait_ns, found.queue_ns) >= 0
    assert found.compute_ns + found.wait_ns + found.queue_ns <= found.total_ns == total


def test_times_when_they_can_be_then_they_are_believed() -> None:
    """Those of an honest agent are not changed."""
    found = timings_of(link.Reply(compute_ns=50, wait_ns=30, queue_ns=5), 100, 10)
    assert (found.compute_ns, found.wait_ns, found.queue_ns) == (50, 30, 15)


@given(total=ANY_NS, used=ANY_NS, available=ANY_NS, guest=st.booleans())
def test_memory_when_claimed_then_no_more_than_the_vm_can_have(
    total: int, used: int, available: int, guest: bool
) -> None:
    """A listing shows nothing that is impossible."""
    said = link.Measured(guest=guest, total_bytes=total, used_bytes=used, available_bytes=available)
    found = plausible_memory(said, 256)
    assert max(found.total_bytes, found.used_bytes, found.available_bytes) <= (256 + 288) * MIB
    if found.total_bytes:
        assert max(found.used_bytes, found.available_bytes) <= found.total_bytes


@pytest.mark.parametrize("cls", PLATFORM_ERRORS)
def test_error_when_an_agent_has_no_reason_for_it_then_it_is_internal(
    cls: type[PlexSpacesError],
) -> None:
    """Above all none that asks a user for a token, or says that a name is free or taken."""
    said = link.Failure(origin=link.Failure.ORIGIN_PLATFORM, code=cls.code, message="m")
    assert type(link.error_of(said)) is (cls if cls.code in link.AGENT_ERRORS else Internal)


def test_errors_of_agents_when_listed_then_none_is_about_rights() -> None:
    """Nor about names: those the node decides alone."""
    rest = {error.code for error in PLATFORM_ERRORS} - link.AGENT_ERRORS
    assert {"unauthenticated", "permission_denied", "not_found", "already_exists"} <= rest


def test_agent_when_it_says_again_that_it_leaves_then_nothing_more_is_done(run: Run) -> None:
    """Each time would make the node look again at all messages that wait."""

    async def case(it: Case) -> None:
        changes: list[bool] = []
        it.host.link_changed = lambda: changes.append(it.client.left)  # type: ignore[method-assign]
        await it.say(link.encode(link.Stopped()) * 100)
        # What came before is handled when this is answered.
        measuring = asyncio.create_task(it.client.measure(1.0))
        measure = await it.take()
        assert isinstance(measure, link.Measure)
        await it.say(link.encode(link.Measured(id=measure.id)))
        await measuring
        assert changes == [True]
        assert not it.client.takes_messages

    run(case)


def test_leaving_when_an_agent_always_does_then_its_restarts_are_seldom() -> None:
    """It is no failure, so it is never given up; but the host is not kept busy with starts."""
    failures, now_s, starts = Failures(), 0.0, 0
    while now_s < WINDOW_S:
        failures.leave(now_s)
        wait_s = failures.wait_s(now_s)
        failures.recovered()
        assert wait_s is not None
        now_s += wait_s
        starts += 1
    assert starts <= WINDOW_S / LONGEST_LEAVE_WAIT_S + 5
    assert len(failures) == 0


def test_leaving_when_long_ago_then_the_next_one_is_quick() -> None:
    """An actor whose state became too long once is back in a tenth of a second."""
    failures = Failures()
    for _ in range(20):
        failures.leave(0.0)
    failures.leave(WINDOW_S + 1)
    assert failures.wait_s(WINDOW_S + 1) == 0.1


async def test_frames_when_they_are_for_messages_of_another_application_then_they_reach_none(
    tmp_path: Path,
) -> None:
    """A message is known by its link and its id: an agent cannot answer for a neighbour."""
    clients, agents, hosts = [], [], (Host(), Host())
    loop = asyncio.get_running_loop()
    try:
        for name, host in zip(("evil", "honest"), hosts, strict=True):
            client = AgentClient(name, host, node_id="n", message_limit=1 << 20, in_flight_limit=9)
            client.link.listen(tmp_path / name)
            clients.append(client)
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / name))
            agents.append((reader, writer))
            writer.write(link.encode(link.Hello(generation=link.GENERATION, vm_id=name)))
            await client.link.hello()
        waiting = loop.create_task(reply_of(clients[1], payload=b"secret"))
        await asyncio.sleep(0)
        for number in range(1, 10):
            for frame in (
                link.Reply(id=number),
                link.Failed(id=number),
                link.Response(id=number, last=True),
                link.Part(id=number, last=True),
                link.Window(id=number, bytes=1),
                link.Abandon(id=number),
            ):
                agents[0][1].write(link.encode(frame))
        # All of that is handled when this line is there.
        line = link.Log.Line(stream=link.Log.STREAM_LOG, level=link.Log.LEVEL_INFO, message="m")
        agents[0][1].write(link.encode(link.Log(lines=[line])))
        async with asyncio.timeout(patient(10)):
            while not hosts[0].lines:
                await asyncio.sleep(0.001)
        assert not waiting.done()
        agents[1][1].write(link.encode(link.Reply(id=1), b"mine"))
        assert (await waiting)[1] == b"mine"
    finally:
        for client in clients:
            await client.close()
        for _, writer in agents:
            writer.close()
