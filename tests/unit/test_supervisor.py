"""An application whose machine ends, whose host refuses, whose registry does not save."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_driver import FakeDriver, FakeVm
from support.patience import patient
from support.records import record_of
from support.sending import reply_of
from support.standin import frames

from plexspaces_node.errors import (
    ActorFailed,
    DeadlineExceeded,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from plexspaces_node.link import frames as link
from plexspaces_node.model import ApplicationState, ArtifactKind
from plexspaces_node.node.applications import state_saver as saving
from plexspaces_node.node.applications.clustered import Clustered
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.intake import HOLD_S, Place
from plexspaces_node.node.applications.received_states import StateMemory
from plexspaces_node.node.applications.restart import LONGEST_WAIT_S, MOST_IN_WINDOW
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.cluster.lease import Lease
from plexspaces_node.node.logs import ApplicationLog
from plexspaces_node.node.machines.agent_client import AgentClient, StopRefused
from plexspaces_node.node.machines.machine import STOP_GRACE_S, AgentLimits
from plexspaces_node.node.metrics import families
from plexspaces_node.node.registry.snapshots import SnapshotRecord
from plexspaces_node.node.secrets.cipher import SecretUnusable
from plexspaces_node.settings import LimitsSection
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Endpoint, VmExit

RUNNING, FAILED, RESTARTING, STOPPING, STOPPED = (
    ApplicationState.RUNNING,
    ApplicationState.FAILED,
    ApplicationState.RESTARTING,
    ApplicationState.STOPPING,
    ApplicationState.STOPPED,
)


class Driver(FakeDriver):
    """Also refuses to remove machines, as often as it is told."""

    def __init__(self, world: World) -> None:
        super().__init__(world.agent)
        self.refusals: list[Exception] = []

    async def destroy(self, bundle: Bundle, *, ended: bool = False) -> None:
        if self.refusals:
            raise self.refusals.pop()
        await super().destroy(bundle, ended=ended)


LEAVE = b"leave"
"""A message for which an agent says that its actor begins anew elsewhere."""


def unheard(snapshot_id: int, size: int) -> None:
    """Acknowledge a part to an agent that does not listen."""


def part_of(state: bytes, begin: int) -> bytes:
    """Return the frame with the part of a state that begins there."""
    body = state[begin : begin + link.PART_BYTES]
    last = begin + len(body) == len(state)
    return link.encode(link.Snapshot(id=1, offset=begin, last=last), body)


class World:
    """A supervisor with a registry in memory, machines in memory, and time that does not pass."""

    def __init__(self, directory: Path) -> None:
        self.vms = directory / "vms"
        self.artifact = directory / "artifact"
        self.artifact.write_bytes(b"code")
        self.saved = b""
        self.parts: dict[tuple[int, int], link.Body] = {}
        self.refusal: Exception | None = None
        self.init_fails = False
        self.secret_fault: SecretUnusable | None = None
        self.at_stop = b""
        self.refused: link.Failure | None = None
        self.loaded: list[bytes] = []
        self.env: dict[str, str] = {}
        self.waits: list[float] = []
        self.at_first_wait: Callable[[], None] = lambda: None
        self.driver = Driver(self)
        around: Any = SimpleNamespace(
            add_to_snapshot=self.add_to_snapshot,
            save_snapshot=self.save_snapshot,
            load_snapshot=self.load_snapshot,
            read_part=self.read_part,
            compile=self.compile,
            check_usable=self.check_usable,
            values_of=self.values_of,
        )
        self.around = around
        self.node = NodeContext(
            driver=self.driver,
            vms=self.vms,
            logs=directory,
            registry=around,
            artifacts=around,
            limits=LimitsSection(),
            agent_limits=AgentLimits("node", 1 << 20, in_flight_limit=8),
            grace_s=10.0,
            secrets=around,
            states=StateMemory(patience_s=0.01),
        )
        self.supervisor = Supervisor(
            record_of("app"),
            self.node,
            around,
            ApplicationLog(directory / "app.log", 1 << 20),
            sleep=self.sleep,
        )

    async def compile(self, digest: str) -> SimpleNamespace:
        return SimpleNamespace(
            path=self.artifact, duration_ns=0, cached=True, report=SimpleNamespace(memory_bytes=0)
        )

    async def check_usable(self, application: str, secrets: Mapping[str, str]) -> None:
        if self.secret_fault:
            raise self.secret_fault

    async def values_of(self, application: str, secrets: Mapping[str, str]) -> dict[str, str]:
        return {variable: f"value of {name}" for variable, name in secrets.items()}

    async def load_snapshot(self, name: str) -> SnapshotRecord:
        return SnapshotRecord(1, len(self.saved))

    async def read_part(self, name: str, taken_ns: int, begin: int) -> link.Body:
        if taken_ns == 1:
            return self.saved[begin : begin + link.PART_BYTES]
        return self.parts[taken_ns, begin]

    async def add_to_snapshot(self, name: str, taken_ns: int, parts: saving.Parts) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.parts |= {(taken_ns, begin): body for begin, body in parts}

    async def save_snapshot(self, name: str, record: SnapshotRecord, parts: saving.Parts) -> bool:
        await self.add_to_snapshot(name, record.taken_ns, parts)
        mine = [self.parts[key] for key in sorted(self.parts) if key[0] == record.taken_ns]
        self.saved = b"".join(mine)
        return True

    async def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        if len(self.waits) == 1:
            self.at_first_wait()
        await asyncio.sleep(0)

    async def agent(self, endpoint: Endpoint, vm_id: str) -> None:
        state = b""
        async for frame, body, writer in frames(endpoint, vm_id):
            if isinstance(frame, link.State):
                state += body
            elif isinstance(frame, link.Load) and self.init_fails:
                failure = link.failure_of(ActorFailed("init failed", code="no"))
                writer.write(link.encode(link.Failed(id=frame.id, failure=failure)))
            elif isinstance(frame, link.Load):
                self.loaded.append(state)
                self.env = dict(frame.env)
                writer.write(link.encode(link.Loaded(id=frame.id, load_ns=1, init_ns=1)))
            elif isinstance(frame, link.Invoke) and body == LEAVE:
                writer.write(link.encode(link.Stopped()))
            elif isinstance(frame, link.Stop) and self.refused:
                writer.write(link.encode(link.Failed(id=frame.id, failure=self.refused)))
            elif isinstance(frame, link.Stop) and self.at_stop:
                stop_id = frame.id
                writer.write(part_of(self.at_stop, 0))
            elif isinstance(frame, link.Kept) and frame.bytes < len(self.at_stop):
                writer.write(part_of(self.at_stop, frame.bytes))
            elif isinstance(frame, link.Kept) and self.at_stop:
                writer.write(link.encode(link.Stopped(id=stop_id)))
            elif isinstance(frame, link.Stop):
                writer.write(link.encode(link.Stopped(id=frame.id)))

    async def log(self) -> list[str]:
        """Return what the application's log says."""
        return [record.message for record in await self.supervisor.journal.read(0)]

    async def reach(self, state: ApplicationState, *, restarts: int = 0) -> None:
        """Wait until the application is so, after so many restarts at least."""
        async with asyncio.timeout(patient(20)):
            while self.supervisor.state is not state or self.supervisor.restarts < restarts:
                await asyncio.sleep(0.001)

    def taking(self) -> AgentClient:
        """Return the agent that takes messages now."""
        assert self.supervisor.intake.agent is not None
        return self.supervisor.intake.agent

    def bundles(self) -> list[str]:
        return [path.name for path in self.vms.iterdir()]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """An application that is stopped."""
    # Not tmp_path: a unix socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="px-"))
    world = World(directory)
    yield world
    await world.supervisor.abort()
    await world.supervisor.journal.close()
    shutil.rmtree(directory)


async def test_restart_when_the_registry_lacks_the_newest_state_then_it_is_loaded(
    world: World,
) -> None:
    """What waits to be saved is newer than what the registry has, and is what counts."""
    await world.supervisor.start()
    world.saved, world.refusal = b"old", Unavailable("locked")
    world.supervisor.host.snapshot_part(link.Snapshot(id=1, last=True), b"new", unheard)
    world.driver.crash(world.driver.live[0])
    await world.reach(RUNNING, restarts=1)
    assert world.loaded == [b"", b"new"]


async def test_stop_when_the_state_is_not_saved_then_it_is_told_and_kept_for_the_next_start(
    world: World,
) -> None:
    """The machine is gone, the error says what is lost; nothing is while the node lives."""
    await world.supervisor.start()
    world.refusal = Unavailable("locked", hint="fuser registry.db")
    world.supervisor.host.snapshot_part(link.Snapshot(id=1, last=True), b"new", unheard)
    with pytest.raises(Unavailable, match="lost") as caught:
        await world.supervisor.stop(0)
    assert (caught.value.hint or "").startswith("fuser registry.db")
    assert world.supervisor.state is STOPPED
    assert (world.driver.live, world.bundles()) == ([], [])
    with pytest.raises(Unavailable, match="lost"):
        await world.supervisor.stop(0)
    await world.supervisor.start()
    assert world.loaded == [b"", b"new"]
    world.refusal = None
    await world.supervisor.stop(10)
    assert world.saved == b"new"


async def test_stop_when_nobody_wants_the_state_then_a_refusing_registry_is_no_obstacle(
    world: World,
) -> None:
    """What is to be removed is not first saved."""
    await world.supervisor.start()
    world.refusal = Unavailable("locked")
    world.supervisor.host.snapshot_part(link.Snapshot(id=1, last=True), b"new", unheard)
    await world.supervisor.stop(0, save=False)
    assert world.supervisor.state is STOPPED
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("size", [1, link.PART_BYTES, 3 * link.PART_BYTES + 5])
async def test_start_when_a_state_was_saved_then_the_actor_gets_all_of_it(
    world: World, size: int
) -> None:
    """However many parts it has, from the registry and from the machine before."""
    world.saved = bytes(range(251)) * (size // 251) + bytes(size % 251)
    world.at_stop = world.saved[::-1]
    await world.supervisor.start()
    assert world.loaded == [world.saved]
    expected = world.at_stop
    await world.supervisor.stop(10)
    assert world.saved == expected
    await world.supervisor.start()
    assert world.loaded[1] == expected


async def test_start_when_it_has_secrets_then_their_values_are_variables(world: World) -> None:
    """Beside the others; the record has their names only."""
    world.supervisor.record = record_of("app", env={"A": "1"}, secrets={"DB": "db"})
    await world.supervisor.start()
    assert world.env == {"A": "1", "DB": "value of db"}
    assert "value of" not in repr(world.supervisor.record)


async def test_start_when_values_are_too_long_together_then_failed(world: World) -> None:
    """Each may be 64 KiB long, all of them 128 KiB with the other variables."""
    env = {"A": "x" * (128 * 1024 - 14), "B": ""}
    world.supervisor.record = record_of("app", env=env, secrets={"DB": "db"})
    with pytest.raises(SecretUnusable, match="exceed the limit"):
        await world.supervisor.start()
    assert (world.supervisor.state, world.bundles()) == (FAILED, [])


async def test_restart_when_a_secret_cannot_be_used_then_failed_at_once_with_the_reason(
    world: World,
) -> None:
    """Trying again would not help: a user has to bring the key, and start it then."""
    await world.supervisor.start()
    world.secret_fault = SecretUnusable("the key is not there")
    world.driver.crash(world.driver.live[0])
    await world.reach(FAILED)
    assert world.supervisor.restarts == 1
    assert "the key is not there" in world.supervisor.last_error
    assert (world.driver.live, world.bundles()) == ([], [])
    world.secret_fault = None
    await world.supervisor.start()
    assert world.supervisor.state is RUNNING


async def test_recovery_when_a_secret_cannot_be_used_then_failed_with_the_reason_alone(
    world: World,
) -> None:
    """A node without its key starts, and says of each application what is missing."""
    world.secret_fault = SecretUnusable("the key is not there")
    world.supervisor.start_later()
    await world.reach(FAILED)
    assert world.supervisor.last_error == "the key is not there"
    assert world.waits == []


CANNOT = link.failure_of(
    WrongState("its state has 300 MiB, its memory 256", hint="plexspaces deploy … --memory 512")
)


async def test_stop_when_the_agent_cannot_hand_the_state_over_then_the_application_runs_on(
    world: World,
) -> None:
    """The error says why, what helps, and how to give it up; nothing is lost but by that."""
    await world.supervisor.start()
    [machine] = world.driver.live
    world.refused = CANNOT
    for _ in range(2):
        with pytest.raises(
            StopRefused, match=r"'app' keeps running.*its state has 300 MiB"
        ) as caught:
            await world.supervisor.stop(10)
        assert "--memory 512" in (caught.value.hint or "")
        assert "plexspaces stop app --force" in (caught.value.hint or "")
        assert (world.supervisor.state, world.driver.live) == (RUNNING, [machine])
        assert world.supervisor.intake.agent is not None
    # It is looked after as before.
    world.driver.crash(machine)
    await world.reach(RUNNING, restarts=1)
    lost = await world.supervisor.stop(10, force=True)
    assert "its state has 300 MiB" in lost
    assert "lost" in lost
    assert (world.supervisor.state, world.supervisor.last_error) == (STOPPED, lost)
    assert (world.driver.live, world.bundles()) == ([], [])
    assert lost in await world.log()
    await world.supervisor.start()
    assert world.supervisor.last_error == ""


async def test_stop_when_the_registry_is_why_the_state_cannot_be_handed_over_then_it_is_named(
    world: World,
) -> None:
    """What an agent cannot know, the node does."""
    await world.supervisor.start()
    world.refused = link.failure_of(Unavailable("the node did not keep it"))
    world.refusal = ResourceExhausted("no space left for registry.db", hint="df -h /data")
    world.supervisor.host.snapshot_part(link.Snapshot(id=1, last=True), b"new", unheard)
    while not world.waits:
        await asyncio.sleep(0)
    with pytest.raises(StopRefused, match=r"did not keep it \(no space left") as caught:
        await world.supervisor.stop(0)
    assert (caught.value.hint or "").startswith("df -h /data; or discard")
    # What the node has is not lost by force either.
    world.refused, world.refusal = None, None
    assert await world.supervisor.stop(10) == ""
    assert world.saved == b"new"


async def test_undeploy_when_the_state_cannot_be_handed_over_then_it_is_no_obstacle(
    world: World,
) -> None:
    """Who wants it gone is not asked about its state."""
    await world.supervisor.start()
    world.refused = CANNOT
    await world.supervisor.stop(10, save=False)
    assert (world.supervisor.state, world.bundles()) == (STOPPED, [])


async def test_stop_when_a_component_answers_beyond_the_grace_then_its_client_hears_why(
    world: World,
) -> None:
    """It has no state to wait for; that the link broke would tell nobody anything."""
    world.supervisor.record = replace(world.supervisor.record, kind=ArtifactKind.HTTP_COMPONENT)
    await world.supervisor.start()
    head = link.RequestHead(method="GET", path="/")
    exchange = world.taking().exchange(head, b"", 10**9, lambda answer: None)
    await world.supervisor.stop(0)
    with pytest.raises(Unavailable, match="being stopped or replaced"):
        await exchange.begin()


async def test_stop_when_a_message_runs_on_beyond_the_grace_then_the_application_runs_on(
    world: World,
) -> None:
    """What it changed before that message is not lost unless somebody says so; then it is told."""
    await world.supervisor.start()
    busy = asyncio.ensure_future(reply_of(world.taking()))
    await asyncio.sleep(0)
    with pytest.raises(
        StopRefused, match=r"keeps running.*after the grace period of 0 s"
    ) as caught:
        await world.supervisor.stop(0)
    assert (caught.value.hint or "").startswith("wait until it is done; or discard")
    assert (world.supervisor.state, busy.done()) == (RUNNING, False)
    lost = await world.supervisor.stop(0, force=True)
    assert lost.startswith(
        "a message was still running after the grace period of 0 s: changes since"
    )
    assert (world.supervisor.state, world.supervisor.last_error) == (STOPPED, lost)
    with pytest.raises(Unavailable):
        await busy
    assert lost in await world.log()


async def test_machine_when_it_sends_a_part_that_no_agent_sends_then_its_link_breaks(
    world: World,
) -> None:
    """The application is as it was, and its log says why."""
    await world.supervisor.start()
    whole = bytes(link.PART_BYTES)
    most = world.supervisor.record.vm_config.memory_mib - world.driver.capabilities.overhead_mib
    for number in range(most):
        world.supervisor.host.snapshot_part(
            link.Snapshot(id=1, offset=number << 20), whole, unheard
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(link.LinkBroken, match="of its memory"):
        world.supervisor.host.snapshot_part(link.Snapshot(id=1, offset=most << 20), whole, unheard)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("cannot remove"),
        OSError("input/output error"),
        RuntimeError("can't start new thread"),
        MemoryError(),
    ],
)
async def test_machine_that_cannot_be_removed_when_it_ended_then_the_next_one_runs(
    world: World, error: Exception
) -> None:
    """The application goes on, and what was left is removed before its next start or stop."""
    await world.supervisor.start()
    world.driver.refusals = [error] * 2
    world.driver.crash(world.driver.live[0])
    await world.reach(RUNNING, restarts=1)
    assert len(world.bundles()) == 2
    world.driver.crash(world.driver.live[-1])
    await world.reach(RUNNING, restarts=2)
    assert len(world.bundles()) == 1
    await world.supervisor.stop(10)
    assert world.bundles() == []


async def test_stop_when_an_earlier_machine_cannot_be_removed_then_it_says_so_until_it_can(
    world: World,
) -> None:
    """A stop that says it is done has left nothing, and one that failed can be repeated."""
    await world.supervisor.start()
    world.driver.refusals = [Unavailable("cannot remove")] * 2
    world.driver.crash(world.driver.live[0])
    await world.reach(RUNNING, restarts=1)
    [machine] = world.driver.live
    world.driver.refusals = [Unavailable("cannot remove")] * 2
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot remove"):
            await world.supervisor.stop(10)
        assert world.supervisor.state is STOPPING
    assert machine not in world.driver.live
    await world.supervisor.stop(10)
    assert world.supervisor.state is STOPPED
    assert world.bundles() == []


async def test_start_that_fails_when_its_machine_cannot_be_removed_then_the_next_start_does_it(
    world: World,
) -> None:
    """A bundle whose machine never ran is not forgotten either."""
    world.driver.fail_at("spawn")
    world.driver.refusals = [Unavailable("cannot remove")]
    with pytest.raises(PlexSpacesError):
        await world.supervisor.start()
    assert len(world.bundles()) == 1
    await world.supervisor.start()
    assert world.bundles() == world.driver.live


async def test_host_that_cannot_make_a_machine_when_it_can_again_then_the_application_runs(
    world: World,
) -> None:
    """A full disk is no fault of the application: it is tried for ever, and the reason is told."""
    often = 5 * MOST_IN_WINDOW
    world.driver.fail_at("spawn", times=often)
    told = set()
    world.supervisor.start_later()
    async with asyncio.timeout(patient(20)):
        while world.supervisor.state is not RUNNING:
            assert world.supervisor.state is not FAILED
            if world.supervisor.state is RESTARTING:
                told.add("told to fail at spawn" in world.supervisor.last_error)
            await asyncio.sleep(0)
    assert len(world.waits) == often
    assert world.waits[-1] == max(world.waits) == LONGEST_WAIT_S
    assert (told, world.supervisor.last_error) == ({True}, "")
    assert world.bundles() == world.driver.live


async def test_application_that_cannot_start_when_it_failed_too_often_then_it_is_given_up(
    world: World,
) -> None:
    """A failing init is the application's own fault, whatever the host refuses in between."""
    world.init_fails = True
    world.driver.fail_at("spawn", times=3)
    world.supervisor.start_later()
    await world.reach(FAILED)
    assert len(world.waits) == MOST_IN_WINDOW + 3
    assert "init failed" in world.supervisor.last_error
    assert (world.driver.live, world.bundles()) == ([], [])


async def test_start_when_a_defect_ended_the_keeper_then_the_machine_before_is_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even what should not happen leaves no second machine of an application."""
    await world.supervisor.start()
    monkeypatch.setattr(world.supervisor.journal, "note", None)
    world.driver.crash(world.driver.live[0])
    await world.reach(FAILED)
    assert "internal error" in world.supervisor.last_error
    await world.supervisor.start()
    assert world.bundles() == world.driver.live


async def test_machine_that_ends_because_a_long_state_is_the_nodes_counts_for_no_fault(
    world: World,
) -> None:
    """A trap costs such an actor its machine; it is not given up for that, however often."""
    await world.supervisor.start()
    for number in range(1, 30):
        agent = world.taking()
        message = asyncio.ensure_future(reply_of(agent, payload=LEAVE))
        while not agent.left:
            await asyncio.sleep(0)
        world.driver.crash(world.driver.live[0])
        await world.reach(RUNNING, restarts=number)
        with pytest.raises(Unavailable):
            await message
    assert world.supervisor.state is RUNNING
    assert max(world.waits) < 1.0


async def test_machine_whose_agent_is_deaf_is_ended_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would not hear that it is asked to end; one in good order is asked."""
    graces = []
    stop = FakeVm.stop

    async def stopped(vm: FakeVm, grace_s: float) -> VmExit:
        graces.append(grace_s)
        return await stop(vm, grace_s)

    monkeypatch.setattr(FakeVm, "stop", stopped)
    await world.supervisor.start()
    with pytest.raises(DeadlineExceeded, match="no sign of life"):
        await reply_of(world.taking(), timeout_ns=1000)
    await world.reach(RUNNING, restarts=1)
    assert graces[0] == 0
    graces.clear()
    await world.supervisor.stop(1.0)
    assert graces[0] == STOP_GRACE_S


async def test_message_that_comes_while_the_vm_is_restarted_is_for_the_next_one(
    world: World,
) -> None:
    """From the moment the link is lost, which is before it is known why."""
    supervisor = world.supervisor
    await supervisor.start()
    first = supervisor.intake.agent
    assert first is not None
    first.link.drop()
    assert supervisor.intake.agent is None
    place = supervisor.intake.join(1, 60_000_000_000)
    world.driver.crash(world.driver.live[0])
    async with asyncio.timeout(patient(20)):
        second = await place.turn
    supervisor.intake.leave(place)
    assert second is supervisor.intake.agent
    assert second is not first
    assert supervisor.state is RUNNING


async def test_message_does_not_wait_for_an_application_that_will_not_come_soon(
    world: World,
) -> None:
    """One that waits gets its error when the next attempt is known to be too late for it."""
    supervisor = world.supervisor
    await supervisor.start()
    world.driver.fail_at("spawn", times=12)
    places: list[Place] = []
    world.at_first_wait = lambda: places.append(supervisor.intake.join(1, 60_000_000_000))
    world.driver.crash(world.driver.live[0])
    await world.reach(RUNNING, restarts=1)
    [place] = places
    with pytest.raises(Unavailable, match=r"Restarting: VM .* did not start"):
        await place.turn
    supervisor.intake.leave(place)
    assert max(world.waits) > HOLD_S
    assert supervisor.intake.agent is not None


async def test_message_that_waits_ends_when_the_application_is_stopped_or_fails(
    world: World,
) -> None:
    """Only while it is being replaced, what comes next is another version."""
    supervisor = world.supervisor
    supervisor.replacing = True
    supervisor.direct()
    await supervisor.start()
    place = supervisor.intake.join(1, 60_000_000_000)
    await supervisor.stop(0)
    world.init_fails = True
    with pytest.raises(ActorFailed):
        await supervisor.start()
    assert not place.turn.done()
    supervisor.replacing = False
    supervisor.direct()
    with pytest.raises(WrongState, match="'app' is Failed"):
        await place.turn
    supervisor.intake.leave(place)


# ---- what is kept of starts ------------------------------------------------------------------


async def test_restarts_are_counted_by_the_reason_for_which_each_vm_ended(world: World) -> None:
    """And each start is kept, with the cause of the one before."""
    activity = world.supervisor.activity
    await world.supervisor.start(reason="deploy")
    world.driver.crash(world.driver.live[0])
    await world.reach(RUNNING, restarts=1)
    with pytest.raises(DeadlineExceeded):
        await reply_of(world.taking(), timeout_ns=1000)
    await world.reach(RUNNING, restarts=2)
    agent = world.taking()
    message = asyncio.ensure_future(reply_of(agent, payload=LEAVE))
    while not agent.left:
        await asyncio.sleep(0)
    world.driver.crash(world.driver.live[0])
    await world.reach(RUNNING, restarts=3)
    with pytest.raises(Unavailable):
        await message
    world.driver.fail_at("spawn", times=1)
    world.driver.crash(world.driver.live[0])
    await world.reach(RUNNING, restarts=5)
    assert activity.restarts == {
        "vm_ended": 2,
        "unresponsive": 1,
        "actor_left": 1,
        "start_failed": 1,
    }
    assert set(activity.restarts) == set(families.REASONS)
    assert [start.reason for start in activity.starts] == ["deploy", *["restart"] * 5]
    assert [bool(start.error) for start in activity.starts] == [*[False] * 4, True, False]
    assert activity.starts[0].cause == ""
    assert all(" ended: " in start.cause for start in list(activity.starts)[1:5])
    assert activity.starts[5].cause == activity.starts[4].error


async def test_start_that_is_cancelled_is_kept_as_one_that_failed(world: World) -> None:
    """In words: whoever deployed it has left, or somebody stopped it meanwhile."""
    starting = asyncio.ensure_future(world.supervisor.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    [start] = world.supervisor.activity.starts
    assert (start.reason, start.error) == ("start", "it was cancelled")


def with_lease(world: World, kind: ArtifactKind) -> tuple[Supervisor, Lease]:
    """Return the application as one of a cluster, of another kind, and its node's lease."""
    lease, around = Lease(asyncio.get_running_loop().time), world.around
    clustered = Clustered(store=around, lease=lease)
    record = replace(record_of("app"), kind=kind)
    node = replace(world.node, clustered=clustered)
    world.supervisor = Supervisor(record, node, around, world.supervisor.journal, sleep=world.sleep)
    return world.supervisor, lease


def refused(supervisor: Supervisor) -> str:
    """Return what a message is told that has waited in vain."""
    place = supervisor.intake.join(1, 10**12)
    supervisor.intake.refuse()
    error = place.turn.exception()
    supervisor.intake.leave(place)
    return str(error)


async def test_actor_of_a_cluster_when_there_is_no_lease_then_messages_wait_for_it(
    world: World,
) -> None:
    """It may be started before; it serves nothing until then."""
    supervisor, lease = with_lease(world, ArtifactKind.ACTOR)
    await supervisor.start()
    assert supervisor.intake.agent is None
    place = supervisor.intake.join(1, 10**12)
    lease.renew(asyncio.get_running_loop().time())
    assert await place.turn is not None
    supervisor.intake.leave(place)
    assert supervisor.intake.agent is not None
    lease.end()
    supervisor.direct()
    assert "cut off" in refused(supervisor)


async def test_command_of_a_cluster_when_there_is_no_lease_then_it_serves(world: World) -> None:
    """What has no state answers nothing that another node has made untrue."""
    supervisor, _ = with_lease(world, ArtifactKind.COMMAND)
    await supervisor.start()
    assert supervisor.lease is None
    assert supervisor.intake.agent is not None


async def test_application_when_its_cluster_expects_it_then_messages_wait_for_its_start(
    world: World,
) -> None:
    """They are not told that it is stopped: the cluster is about to place it."""
    supervisor, lease = with_lease(world, ArtifactKind.ACTOR)
    lease.renew(asyncio.get_running_loop().time())
    supervisor.expected = True
    supervisor.direct()
    place = supervisor.intake.join(1, 10**12)
    supervisor.expected = False
    await supervisor.start()
    await place.turn
    supervisor.intake.leave(place)
    await supervisor.stop(10)
    supervisor.expected = True
    supervisor.direct()
    assert "its cluster places it" in refused(supervisor)
