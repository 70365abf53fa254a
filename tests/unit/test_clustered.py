"""What an actor of a cluster does without its node's lease: it waits, and answers nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.link import frames as link
from plexspaces_node.model import ArtifactKind
from plexspaces_node.node.applications.clustered import ActorLease, cut_off
from plexspaces_node.node.applications.intake import HOLD_S, Intake
from plexspaces_node.node.applications.messages import Messages
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.cluster.lease import LEASE_S, Lease
from plexspaces_node.node.machines.machine import AgentLimits
from plexspaces_node.node.machines.pending import Answered
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.settings import LimitsSection
from plexspaces_node.tasks import Leave

pytestmark = pytest.mark.virtual_time

SECOND_NS = 1_000_000_000


class Agent:
    """Answers a message when a test says so."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.left: list[str] = []
        self.asked: dict[str, Callable[[Answered | PlexSpacesError], None]] = {}

    def post(
        self,
        done: Callable[[Answered | PlexSpacesError], None],
        *,
        msg_type: str,
        payload: bytes,
        **_: Any,
    ) -> Leave:
        del payload
        self.got.append(msg_type)
        self.asked[msg_type] = done
        return partial(self.left.append, msg_type)

    def answer(self, msg_type: str, answer: Answered | PlexSpacesError | None = None) -> None:
        self.asked.pop(msg_type)(answer or (link.Reply(compute_ns=1), b"42"))


class World:
    """One actor that runs, on a node with a lease by the clock of the event loop."""

    def __init__(self) -> None:
        self.agent: Any = Agent()
        self.lease = Lease(self.now_s)
        own = ActorLease(self.lease)
        self.intake = Intake(partial(cut_off, "app"), AgentLimits("n", 1024, in_flight_limit=4))
        self.activity = Activity("app", Telemetry())
        self.directed = 0
        supervisor = SimpleNamespace(
            record=SimpleNamespace(kind=ArtifactKind.ACTOR),
            intake=self.intake,
            activity=self.activity,
            gate=Quotas().gate("app"),
            journal=SimpleNamespace(note=lambda level, text: None),
            lease=own,
            direct=self.direct,
        )
        self.own = own
        roster: Any = SimpleNamespace(named=lambda name: supervisor)
        self.messages = Messages(LimitsSection(), roster)
        self.lease.renew(self.now_s())
        self.direct()

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def direct(self) -> None:
        """As a supervisor does whose application runs."""
        self.directed += 1
        if self.own.is_held_or(self.direct):
            self.intake.open(self.agent)
        else:
            self.intake.hold()

    async def send(self, msg_type: str, timeout_s: float = 60.0) -> asyncio.Task[Any]:
        timeout_ns = int(timeout_s * SECOND_NS)
        sent = asyncio.ensure_future(self.messages.invoke("app", msg_type, b"12", timeout_ns))
        await asyncio.sleep(0)
        return sent

    def totals(self) -> tuple[int, int]:
        self.activity.settle()
        return self.activity.total.messages, self.activity.total.failures


@pytest.fixture
async def world() -> World:
    """An actor whose node holds the lease."""
    return World()


async def test_answer_when_the_lease_is_held_then_it_is_given_out_at_once(world: World) -> None:
    """As on a node alone."""
    sent = await world.send("1")
    world.agent.answer("1")
    assert (await sent).payload == b"42"
    assert world.totals() == (1, 0)


async def test_answer_when_the_lease_is_late_then_it_waits_for_it(world: World) -> None:
    """Nobody else has served meanwhile, so the answer is true."""
    sent = await world.send("1")
    await asyncio.sleep(LEASE_S + 1)
    world.agent.answer("1")
    await asyncio.sleep(1)
    assert not sent.done()
    world.lease.renew(world.now_s())
    assert (await sent).payload == b"42"
    assert world.totals() == (1, 0)


async def test_answer_when_the_lease_is_not_held_in_time_then_unavailable(world: World) -> None:
    """With the message's own time, and what to look at."""
    sent = await world.send("1", LEASE_S + 3)
    await asyncio.sleep(LEASE_S + 1)
    world.agent.answer("1")
    with pytest.raises(Unavailable, match=r"cut off from its cluster: it may have") as caught:
        await sent
    assert caught.value.hint == "plexspaces nodes"
    assert world.now_s() >= LEASE_S + 3
    world.lease.renew(world.now_s())


@pytest.mark.parametrize("is_back", [True, False])
async def test_answer_when_the_lease_was_taken_meanwhile_then_unavailable(
    world: World, is_back: bool
) -> None:
    """Another node may have answered otherwise, whether or not this one has it again."""
    early, late = await world.send("1"), await world.send("2")
    await asyncio.sleep(LEASE_S + 1)
    world.agent.answer("1")
    world.lease.end()
    if is_back:
        world.lease.renew(world.now_s())
    world.agent.answer("2")
    for sent in (early, late):
        with pytest.raises(Unavailable, match="cut off"):
            await sent


async def test_answer_when_it_is_an_error_of_the_node_then_it_waits_for_nothing(
    world: World,
) -> None:
    """It says nothing of the actor's state."""
    sent = await world.send("1")
    await asyncio.sleep(LEASE_S + 1)
    world.agent.answer("1", Unavailable("the VM has ended"))
    with pytest.raises(Unavailable, match="has ended"):
        await sent


async def test_sender_when_it_leaves_while_the_answer_waits_then_the_answer_is_counted(
    world: World,
) -> None:
    """The agent has nothing to forget any more; one that has not answered is told."""
    answered, unanswered = await world.send("1"), await world.send("2")
    await asyncio.sleep(LEASE_S + 1)
    world.agent.answer("1")
    for sent in (answered, unanswered):
        sent.cancel()
    await asyncio.wait([answered, unanswered])
    assert world.agent.left == ["2"]
    assert world.totals() == (1, 0)
    world.lease.renew(world.now_s())


async def test_message_when_the_lease_is_late_then_it_is_handed_over_when_it_is_held(
    world: World,
) -> None:
    """In the order in which they came; a state that may be old does nothing new."""
    await asyncio.sleep(LEASE_S + 1)
    first = await world.send("1")
    world.messages.tell("other", link.Tell(to="app", type="2"), b"12")
    third = await world.send("3")
    assert world.agent.got == []
    world.lease.renew(world.now_s())
    await asyncio.sleep(0.1)
    assert world.agent.got == ["1", "2", "3"]
    assert world.intake.waiting == 0
    for each in ("1", "2", "3"):
        world.agent.answer(each)
    await asyncio.gather(first, third)
    assert world.totals() == (3, 0)


async def test_message_when_the_lease_stays_away_then_unavailable_in_its_time(
    world: World,
) -> None:
    """It was not handled; a message waits no longer than for a start."""
    await asyncio.sleep(LEASE_S + 1)
    begin_s = world.now_s()
    with pytest.raises(Unavailable, match=r"cluster$"):
        await (await world.send("1", 2.0))
    assert world.now_s() - begin_s == pytest.approx(2.0, abs=0.01)
    with pytest.raises(Unavailable, match=r"cluster$"):
        await (await world.send("2"))
    assert world.now_s() - begin_s == pytest.approx(2.0 + HOLD_S, abs=0.01)
    assert world.agent.got == []


async def test_lease_when_it_is_late_again_and_again_then_it_is_waited_for_once_each_time(
    world: World,
) -> None:
    """However many messages come, one wait of the application tells it."""
    for _ in range(3):
        await asyncio.sleep(LEASE_S + 1)
        sent = [await world.send(str(each)) for each in range(3)]
        before = world.directed
        world.lease.renew(world.now_s())
        assert world.directed == before + 1
        await asyncio.sleep(0.1)
        for each in range(3):
            world.agent.answer(str(each))
        await asyncio.gather(*sent)
