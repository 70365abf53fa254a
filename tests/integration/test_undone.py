"""Deploys and undeploys that the registry refuses, and what of them the next start finds."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.actors import Init, probe
from support.fake_driver import FakeDriver
from support.nodes import builder, node_process, reached
from support.patience import patient
from support.standin import frames
from support.traces import assert_nothing_left, bundles_of

from plexspaces_node import NodeBuilder, NodeClient
from plexspaces_node.client import Progress
from plexspaces_node.errors import AlreadyExists, NotFound, PlexSpacesError, Unavailable, WrongState
from plexspaces_node.link import frames as link
from plexspaces_node.model import ApplicationState
from plexspaces_node.node.timeouts import Timeouts
from plexspaces_node.vm.driver import Endpoint

TWO = (2).to_bytes(4, "little")


def impatient(data_dir: Path) -> NodeBuilder:
    """A builder of nodes that give up soon what another program holds."""
    return builder(data_dir).with_timeouts(Timeouts(registry_busy_s=0.01))


def _held(data_dir: Path) -> sqlite3.Connection:
    """Hold the registry as another program does, until the connection is closed."""
    connection = sqlite3.connect(data_dir / "registry.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def _rows(data_dir: Path) -> list[str]:
    with closing(sqlite3.connect(data_dir / "registry.db")) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM applications")]


class _Agent:
    """Holds the registry when it is told to load, and answers only while `answers`."""

    def __init__(self, data_dir: Path, *, answers: bool) -> None:
        self.loading = asyncio.Event()
        self.held: sqlite3.Connection | None = None
        self._data_dir = data_dir
        self._answers = answers

    async def __call__(self, endpoint: Endpoint, vm_id: str) -> None:
        async for frame, _, writer in frames(endpoint, vm_id):
            if isinstance(frame, link.Load):
                if not self.loading.is_set():
                    self.held = _held(self._data_dir)
                self.loading.set()
                if self._answers:
                    writer.write(link.encode(link.Loaded(id=frame.id, load_ns=1, init_ns=1)))

    def let_go(self) -> None:
        """Give the registry back, and answer from now on."""
        assert self.held is not None
        self.held.close()
        self._answers = True


@contextmanager
def _giving_back(agent: _Agent) -> Iterator[None]:
    try:
        yield
    finally:
        if agent.held is not None:
            agent.held.close()


async def test_undeploy_that_the_registry_refuses_can_be_repeated(
    data_dir: Path, probe_wasm: Path
) -> None:
    """It is Stopped and says why; nothing of it is lost, its name stays taken, and it can go."""
    async with impatient(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.invoke("one", type="c")
        with closing(_held(data_dir)), pytest.raises(Unavailable, match="another program"):
            await client.undeploy("one")
        [one] = (await client.list()).applications
        assert one.state is ApplicationState.STOPPED
        assert "undeploy failed: another program" in one.last_error
        with pytest.raises(AlreadyExists):
            await client.deploy("one", probe_wasm)
        assert (await client.start("one")).last_error == ""
        assert (await client.invoke("one", type="c")).payload == TWO
        await client.undeploy("one")
        assert (await client.list()).applications == ()
        assert _rows(data_dir) == []
        assert_nothing_left(data_dir)


@pytest.mark.parametrize("cancelled", [False, True], ids=["refused", "cancelled"])
@pytest.mark.parametrize("again", ["at once", "after a restart"])
async def test_deploy_that_cannot_be_undone_is_no_application(
    data_dir: Path, probe_wasm: Path, cancelled: bool, again: str
) -> None:
    """A row that the registry would not let go is seen by nobody and is in nobody's way."""
    agent = _Agent(data_dir, answers=not cancelled)
    build = impatient(data_dir).with_driver(FakeDriver(agent))
    with _giving_back(agent):
        async with build.build() as node, NodeClient(node.address) as client:
            deploy = asyncio.create_task(client.deploy("one", probe_wasm))
            await agent.loading.wait()
            if cancelled:
                deploy.cancel()
            [outcome] = await asyncio.gather(deploy, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError if cancelled else Unavailable)
            async with asyncio.timeout(patient(20)):
                while bundles_of(data_dir) or (await client.list()).applications:
                    await asyncio.sleep(0.001)
            with pytest.raises(NotFound):
                await client.undeploy("one")
            assert _rows(data_dir) == ["one"]
            agent.let_go()
            if again == "at once":
                await client.deploy("one", probe_wasm)
                assert _rows(data_dir) == ["one"]
                await client.undeploy("one")
    async with build.build() as node:
        assert node.recovered == ()
        assert _rows(data_dir) == []
        assert_nothing_left(data_dir)


async def test_kill_9_before_a_deploy_is_done_leaves_no_application(
    data_dir: Path, tmp_path: Path
) -> None:
    """Nobody was told of it, so the next start does not bring it to life."""
    wasm = tmp_path / "loop.wasm"
    wasm.write_bytes(probe(Init.LOOP))
    with node_process(data_dir) as (process, address):

        def kill(progress: Progress) -> None:
            if progress.phase == "load":
                process.kill()

        async with NodeClient(address) as client:
            with pytest.raises(PlexSpacesError):
                await client.deploy("one", wasm, on_progress=kill)
        process.wait(10)
    assert _rows(data_dir) == ["one"]
    async with impatient(data_dir).build() as node:
        assert node.recovered == ()
        assert _rows(data_dir) == []
        assert_nothing_left(data_dir)


async def test_application_whose_row_cannot_be_read_fails_alone(
    data_dir: Path, probe_wasm: Path
) -> None:
    """The node comes up, the others run; it says why, starts for nobody, and can be removed."""
    async with impatient(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.deploy("two", probe_wasm)
    with closing(sqlite3.connect(data_dir / "registry.db", isolation_level=None)) as connection:
        connection.execute("UPDATE applications SET language = 'zig' WHERE name = 'two'")
    async with impatient(data_dir).build() as node, NodeClient(node.address) as client:
        assert node.recovered == ("one",)
        two = await client.inspect("two")
        assert two.state is ApplicationState.FAILED
        assert "cannot be read: 'zig'" in two.last_error
        for act in (client.start, client.stop):
            with pytest.raises(WrongState, match="zig") as caught:
                await act("two")
            assert "undeploy --name two" in (caught.value.hint or "")
        with pytest.raises(AlreadyExists):
            await client.deploy("two", probe_wasm)
        await client.undeploy("two")
        await client.deploy("two", probe_wasm)
        await reached(client, "one")


async def test_node_whose_registry_was_lost_says_so_and_shows_no_lines_of_before(
    data_dir: Path, probe_wasm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It removes nothing by itself; a new application has no log of an old one."""
    async with impatient(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
    assert "the registry is new" not in caplog.text
    (data_dir / "registry.db").unlink()
    (data_dir / "logs" / "one.log").write_text("of before\n")
    async with impatient(data_dir).build() as node, NodeClient(node.address) as client:
        assert node.recovered == ()
        assert (data_dir / "logs" / "one.log").read_text() == "of before\n"
        await client.deploy("one", probe_wasm)
        assert [line async for line in client.logs("one")] == []
    assert f"the registry is new, but {data_dir} has artifacts or logs" in caplog.text
