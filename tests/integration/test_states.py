"""States of any size: saved in parts, found again, and told of where they cannot be saved."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from support.nodes import builder, node_process, reached
from support.patience import patient
from support.traces import assert_nothing_left, ended

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorFailed, ActorTrapped, ResourceExhausted, WrongState
from plexspaces_node.model import MIB, ApplicationState
from plexspaces_node.node.applications.received_states import HELD_BYTES
from plexspaces_node.node.applications.restart import MOST_IN_WINDOW
from plexspaces_node.node.registry.registry import Registry

LARGE = DeployOptions(memory_mib=512)


def size(number: int) -> bytes:
    """Return a length as the probe reads it."""
    return number.to_bytes(4, "little")


async def counter(client: NodeClient) -> int:
    """Count up, and return how often that was done."""
    return int.from_bytes((await client.invoke("one", type="c", timeout_s=60)).payload, "little")


@pytest.mark.parametrize("length", [100, MIB, 2 * MIB + 200_000, 3 * MIB, 40 * MIB, 340 * MIB])
async def test_state_when_the_application_is_stopped_then_it_is_found_again(
    client: NodeClient, data_dir: Path, probe_wasm: Path, length: int
) -> None:
    """Whatever it was acknowledged is there; the probe looks whether both ends are of one state."""
    await client.deploy("one", probe_wasm, options=LARGE)
    await client.invoke("one", size(length), type="b", timeout_s=60)
    for expected in (2, 3):
        assert await counter(client) == 2 * expected - 2
        stopped = await client.stop("one")
        assert (stopped.state, stopped.last_error) == (ApplicationState.STOPPED, "")
        await client.start("one")
        assert await counter(client) == 2 * expected - 1
    with closing(sqlite3.connect(data_dir / "registry.db")) as registry:
        [[saved]] = registry.execute("SELECT size_bytes FROM snapshots").fetchall()
    assert saved == length
    await client.undeploy("one")
    with closing(sqlite3.connect(data_dir / "registry.db")) as registry:
        async with asyncio.timeout(patient(30)):  # in the background
            while registry.execute("SELECT COUNT(*) FROM snapshot_parts").fetchone()[0]:
                await asyncio.sleep(0.001)
    assert_nothing_left(data_dir)


async def test_state_when_it_shrinks_then_what_it_was_goes(
    client: NodeClient, data_dir: Path, probe_wasm: Path
) -> None:
    """What is on disk of a state that was replaced is no more than its next one."""
    await client.deploy("one", probe_wasm, options=LARGE)
    await client.invoke("one", size(40 * MIB), type="b")
    await client.stop("one")
    await client.start("one")
    await client.invoke("one", size(100), type="b")
    await client.stop("one")
    with closing(sqlite3.connect(data_dir / "registry.db")) as registry:
        assert registry.execute("SELECT COUNT(*) FROM snapshot_parts").fetchall() == [(1,)]


async def test_state_when_its_node_is_killed_amid_a_snapshot_then_the_one_before_counts(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Half a state is none; it is not in the way of the next one."""
    with node_process(data_dir) as (process, address):
        async with NodeClient(address) as client:
            await client.deploy("one", probe_wasm, options=LARGE)
            assert await counter(client) == 1
            await client.stop("one")
            await client.start("one")
            await client.invoke("one", size(300 * MIB), type="b", timeout_s=60)
            with closing(sqlite3.connect(data_dir / "registry.db")) as registry:
                while registry.execute("SELECT COUNT(*) FROM snapshot_parts").fetchone()[0] < 3:
                    await asyncio.sleep(0.001)
            process.kill()
            process.wait(10)
    await ended(data_dir)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await reached(client, "one")
        assert await counter(client) == 2
        await client.stop("one")
        with closing(sqlite3.connect(data_dir / "registry.db")) as registry:
            assert registry.execute("SELECT COUNT(*) FROM snapshot_parts").fetchall() == [(1,)]


@pytest.fixture
async def seldom(data_dir: Path) -> AsyncIterator[NodeClient]:
    """A client of a node whose actors are snapshotted when they are stopped, and not before."""
    build = builder(data_dir).with_setting("limits.snapshot_interval_s", 600.0)
    async with build.build() as node, NodeClient(node.address) as client:
        yield client


async def saved_once(client: NodeClient, wasm: Path) -> None:
    """Deploy the probe, and have its counter saved as 1."""
    await client.deploy("one", wasm)
    assert await counter(client) == 1
    await client.stop("one")
    await client.start("one")


async def test_stop_when_the_state_cannot_be_handed_over_then_the_application_runs_on(
    seldom: NodeClient, probe_wasm: Path
) -> None:
    """The error says why and what helps; what is lost is what its instance had not handed over."""
    await saved_once(seldom, probe_wasm)
    await seldom.invoke("one", type="n")
    with pytest.raises(
        WrongState, match="'one' keeps running because its state cannot be saved"
    ) as caught:
        await seldom.stop("one")
    assert "plexspaces stop one --force" in (caught.value.hint or "")
    assert (await seldom.inspect("one")).state is ApplicationState.RUNNING
    assert await counter(seldom) == 2
    assert (await seldom.stop("one")).last_error == ""


async def test_stop_when_it_is_forced_then_what_is_lost_is_told(
    seldom: NodeClient, probe_wasm: Path
) -> None:
    """In the answer and in the log; what was saved before is what the next start has."""
    await saved_once(seldom, probe_wasm)
    await seldom.invoke("one", type="n")
    stopped = await seldom.stop("one", force=True)
    assert stopped.state is ApplicationState.STOPPED
    assert "since the last snapshot are lost" in stopped.last_error
    assert stopped.last_error in [line.message async for line in seldom.logs("one")]
    await seldom.start("one")
    assert (await seldom.inspect("one")).last_error == ""
    assert await counter(seldom) == 2


async def test_trap_when_the_state_is_too_long_to_be_held_twice_then_another_machine_has_it(
    client: NodeClient, probe_wasm: Path
) -> None:
    """The machine that the actor lost its instance in ends; nothing of what was saved is lost."""
    await client.deploy("one", probe_wasm, options=LARGE)
    await client.invoke("one", size(100 * MIB), type="b", timeout_s=60)
    await client.stop("one")
    await client.start("one")
    with pytest.raises(ActorTrapped):
        await client.invoke("one", type="t")
    async with asyncio.timeout(patient(30)):
        while (await client.inspect("one")).restarts < 1:
            await asyncio.sleep(0.01)
    await reached(client, "one")
    assert await counter(client) == 2
    assert "another VM" in "".join([line.message async for line in client.logs("one")])


async def test_traps_when_each_costs_a_machine_then_the_application_is_not_given_up(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Whoever can send a message that traps could put it out of service otherwise."""
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=128))
    await client.invoke("one", size(20 * MIB), type="b", timeout_s=60)
    await client.stop("one")
    await client.start("one")
    for traps in range(1, MOST_IN_WINDOW + 3):
        with pytest.raises(ActorTrapped):
            await client.invoke("one", type="t")
        async with asyncio.timeout(patient(30)):
            while (await client.inspect("one")).restarts < traps:
                await asyncio.sleep(0.01)
        await reached(client, "one")
    assert await counter(client) == 2


async def test_message_when_it_makes_the_state_one_that_cannot_be_saved_then_it_says_so(
    seldom: NodeClient, probe_wasm: Path
) -> None:
    """Its sender is told, and not a stop much later."""
    await saved_once(seldom, probe_wasm)
    with pytest.raises(ActorFailed, match="cannot be saved"):
        await seldom.invoke("one", size(150 * MIB), type="n", timeout_s=60)
    assert await counter(seldom) == 2
    assert (await seldom.stop("one")).last_error == ""


async def test_drain_when_a_state_cannot_be_handed_over_then_it_tells_what_is_lost(
    data_dir: Path, probe_wasm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that ends cannot have its applications run on; it does not end as if all was well."""
    build = builder(data_dir).with_setting("limits.snapshot_interval_s", 600.0)
    async with build.build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.deploy("two", probe_wasm)
        await client.invoke("one", type="n")
        assert not await node.drain()
    assert "application 'one'" in caplog.text
    assert "since the last snapshot are lost" in caplog.text
    assert "'two'" not in caplog.text


async def test_stop_when_the_registry_refuses_a_state_over_the_room_then_it_is_named(
    data_dir: Path, probe_wasm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost: the application runs on, and once there is room its state is saved."""

    async def refuse(*_: object, **__: object) -> None:
        raise ResourceExhausted("no space left", hint="df -h /data")

    quick = builder(data_dir).with_setting("node.grace_s", 0.5)
    async with quick.build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm, options=LARGE)
        with monkeypatch.context() as full:
            full.setattr(Registry, "save_snapshot", refuse)
            full.setattr(Registry, "add_to_snapshot", refuse)
            await client.invoke("one", size(HELD_BYTES + 20 * MIB), type="b", timeout_s=60)
            with pytest.raises(WrongState, match=r"'one' keeps running.*no space left") as caught:
                await client.stop("one")
            assert (caught.value.hint or "").startswith("df -h /data; or discard")
        assert await counter(client) == 2
        assert (await client.stop("one")).state is ApplicationState.STOPPED
        await client.start("one")
        assert await counter(client) == 3
