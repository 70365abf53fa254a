"""An application whose machine ends, whose host refuses, whose registry does not save."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.records import record_of
from support.standin import frames

from plexspaces_node.config import LimitsSection
from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.model import ApplicationState
from plexspaces_node.node import saving
from plexspaces_node.node.logs import ApplicationLog
from plexspaces_node.node.machines import AgentLimits
from plexspaces_node.node.restart import LONGEST_WAIT_S, MOST_IN_WINDOW
from plexspaces_node.node.supervisor import Supervisor, Surroundings
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Endpoint
from plexspaces_node.vm.fake import FakeDriver
from plexspaces_node.wire import link

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

    async def destroy(self, bundle: Bundle) -> None:
        if self.refusals:
            raise self.refusals.pop()
        await super().destroy(bundle)


class World:
    """A supervisor with a registry in memory, machines in memory, and time that does not pass."""

    def __init__(self, directory: Path) -> None:
        self.vms = directory / "vms"
        self.artifact = directory / "artifact"
        self.artifact.write_bytes(b"code")
        self.saved = b""
        self.refusal: Exception | None = None
        self.init_fails = False
        self.loaded: list[bytes] = []
        self.waits: list[float] = []
        self.driver = Driver(self)
        around: Any = SimpleNamespace(
            load_snapshot=self.load_snapshot, save_snapshot=self.save_snapshot, compile=self.compile
        )
        self.supervisor = Supervisor(
            record_of("app"),
            Surroundings(
                driver=self.driver,
                vms=self.vms,
                registry=around,
                artifacts=around,
                limits=LimitsSection(),
                agent_limits=AgentLimits("node", 1 << 20, in_flight_limit=8),
            ),
            around,
            ApplicationLog(directory / "app.log", 1 << 20),
            sleep=self.sleep,
        )

    async def compile(self, digest: str) -> SimpleNamespace:
        return SimpleNamespace(path=self.artifact, duration_ns=0, cached=True)

    async def load_snapshot(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(state=self.saved)

    async def save_snapshot(self, name: str, state: bytes, *, taken_ns: int) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.saved = state

    async def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        await asyncio.sleep(0)

    async def agent(self, endpoint: Endpoint, vm_id: str) -> None:
        async for frame, writer in frames(endpoint, vm_id):
            if isinstance(frame, link.Load) and self.init_fails:
                failure = link.LinkFailure("actor", "no", "init failed")
                writer.write(link.encode(link.Failed(frame.id, failure)))
            elif isinstance(frame, link.Load):
                self.loaded.append(frame.state)
                writer.write(link.encode(link.Loaded(frame.id, 1, 1)))
            elif isinstance(frame, link.Stop):
                writer.write(link.encode(link.Stopped(frame.id)))

    async def reach(self, state: ApplicationState, *, restarts: int = 0) -> None:
        """Wait until the application is so, after so many restarts at least."""
        async with asyncio.timeout(20):
            while self.supervisor.state is not state or self.supervisor.restarts < restarts:
                await asyncio.sleep(0.001)

    def bundles(self) -> list[str]:
        return [path.name for path in self.vms.iterdir()]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """An application that is stopped."""
    monkeypatch.setattr(saving, "SAVE_S", 0.01)
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
    world.supervisor.snapshot(b"new")
    world.driver.crash(world.driver.live[0])
    await world.reach(RUNNING, restarts=1)
    assert world.loaded == [b"", b"new"]


async def test_stop_when_the_state_is_not_saved_then_it_is_told_and_kept_for_the_next_start(
    world: World,
) -> None:
    """The machine is gone, the error says what is lost; nothing is while the node lives."""
    await world.supervisor.start()
    world.refusal = Unavailable("locked", hint="fuser registry.db")
    world.supervisor.snapshot(b"new")
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
    world.supervisor.snapshot(b"new")
    await world.supervisor.stop(0, save=False)
    assert world.supervisor.state is STOPPED
    assert len(asyncio.all_tasks()) == 1


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
    async with asyncio.timeout(20):
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
    monkeypatch.setattr(world.supervisor, "_ended", None)
    world.driver.crash(world.driver.live[0])
    await world.reach(FAILED)
    assert "internal error" in world.supervisor.last_error
    await world.supervisor.start()
    assert world.bundles() == world.driver.live
