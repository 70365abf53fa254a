"""A deploy that replaces: what the next version keeps, and what remains when it does not start."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.actors import Init, probe
from support.nodes import builder, node_process, reached
from support.patience import patient
from support.traces import agents_of, assert_nothing_left, bundles_of, ended

from plexspaces_node import NodeClient, VmConfig
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import (
    ActorFailed,
    ActorTrapped,
    AlreadyExists,
    InvalidArgument,
    PlexSpacesError,
    Unavailable,
    WrongState,
)
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import ApplicationSpec, ApplicationState
from plexspaces_node.node.applications.requests import DeployRequest
from plexspaces_node.node.artifacts.store import ArtifactStore, Compiled
from plexspaces_node.node.machines.machine import Machine
from plexspaces_node.node.registry.registry import ApplicationRecord, Registry
from plexspaces_node.node.timeouts import Timeouts

ONE = (1).to_bytes(4, "little")
TWO = (2).to_bytes(4, "little")
REPLACE = DeployOptions(replace=True)
SIZE = VmConfig(1, 200)
ENV = {"GREETING": "hello"}
FIRST = DeployOptions(vcpus=SIZE.vcpus, memory_mib=SIZE.memory_mib, env=ENV)


def next_version(init: Init = Init.WELL) -> bytes:
    """Return the probe as another artifact: with a section that says nothing."""
    return probe(init) + b"\x00\x03\x02v2"


def row(data_dir: Path, column: str) -> str:
    """Return what the registry has of the application."""
    with closing(sqlite3.connect(data_dir / "registry.db")) as opened:
        [[value]] = opened.execute(f"SELECT {column} FROM applications").fetchall()
    return str(value)


def environment(data_dir: Path) -> object:
    """Return the application's variables as the registry has them."""
    return json.loads(row(data_dir, "env"))


def begun(client: NodeClient, phase: str) -> tuple[asyncio.Task[ApplicationInfo], asyncio.Event]:
    """Begin to replace by a version that never starts; the event tells that the phase has begun."""
    began = asyncio.Event()
    deploy = client.deploy(
        "one",
        next_version(Init.LOOP),
        options=REPLACE,
        on_progress=lambda p: began.set() if p.phase == phase else None,
    )
    return asyncio.create_task(deploy), began


@contextmanager
def held(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """Have another program hold the registry when a replacing comes to its row; tells that."""
    waits, replace_application = asyncio.Event(), Registry.replace_application
    with closing(sqlite3.connect(data_dir / "registry.db", isolation_level=None)) as other:

        async def hold_and_replace(self: Registry, record: ApplicationRecord) -> None:
            other.execute("BEGIN IMMEDIATE")
            waits.set()
            await replace_application(self, record)

        monkeypatch.setattr(Registry, "replace_application", hold_and_replace)
        yield waits


async def counted(client: NodeClient) -> bytes:
    """Return the application's counter after one more message."""
    return (await client.invoke("one", type="c")).payload


async def test_replaced_application_keeps_state_store_log_size_and_environment(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """It is the same application with other code; one machine, and the old artifact is unused."""
    before = await client.deploy("one", probe_wasm, options=FIRST)
    assert await counted(client) == ONE
    await client.invoke("one", b"key", type="p")
    await client.invoke("one", b"a line", type="o")
    wish = replace(REPLACE, version="2.0.0")
    after = await client.deploy("one", next_version(), options=wish)
    assert (after.id, after.version, after.vm_config) == (before.id, "2.0.0", SIZE)
    assert after.digest != before.digest
    assert after.state is ApplicationState.RUNNING
    parts = after.timings
    phases = (parts.upload_ns, parts.compile_ns, parts.vm_ns, parts.load_ns, parts.init_ns)
    assert all(phases)
    assert sum(phases) <= parts.total_ns
    assert await counted(client) == TWO
    assert (await client.invoke("one", b"key", type="g")).payload == b"key"
    assert "a line" in [line.message async for line in client.logs("one")]
    assert len(agents_of(data_dir)) == len(bundles_of(data_dir)) == 1
    assert (await client.inspect("one")).digest == after.digest


async def test_size_and_environment_that_are_said_take_the_place_of_those_before(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """What is said counts as in any deploy."""
    await client.deploy("one", probe_wasm, options=FIRST)
    assert environment(data_dir) == ENV
    await client.deploy("one", next_version(), options=REPLACE)
    assert environment(data_dir) == ENV
    wish = replace(REPLACE, memory_mib=220, env={"OTHER": "1"})
    after = await client.deploy("one", probe_wasm, options=wish)
    assert after.vm_config == VmConfig(1, 220)
    assert environment(data_dir) == {"OTHER": "1"}


async def test_without_an_application_of_the_name_it_is_a_deploy_like_any(
    client: NodeClient, probe_wasm: Path
) -> None:
    """The same command serves the first time and every time after."""
    await client.deploy("one", probe_wasm, options=REPLACE)
    assert await counted(client) == ONE


async def test_name_in_use_is_refused_with_the_way_to_replace_it(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Nobody replaces unasked, and whoever means to is told how."""
    await client.deploy("one", probe_wasm)
    with pytest.raises(AlreadyExists) as caught:
        await client.deploy("one", next_version())
    assert "--replace" in str(caught.value.hint)


@pytest.mark.parametrize("init", [Init.ERROR, Init.TRAP])
@pytest.mark.parametrize("state", [ApplicationState.RUNNING, ApplicationState.STOPPED])
async def test_when_the_next_version_does_not_start_the_one_before_is_as_it_was(
    client: NodeClient, probe_wasm: Path, data_dir: Path, init: Init, state: ApplicationState
) -> None:
    """It runs again with all it had; one that was stopped stays so."""
    before = await client.deploy("one", probe_wasm, options=FIRST)
    assert await counted(client) == ONE
    if state is ApplicationState.STOPPED:
        await client.stop("one")
    with pytest.raises((ActorFailed, ActorTrapped)) as caught:
        await client.deploy("one", next_version(init), options=REPLACE)
    assert "the previous version " in str(caught.value.hint)
    found = await reached(client, "one", state)
    assert (found.digest, found.id) == (before.digest, before.id)
    assert found.vm_config == SIZE
    await client.start("one")
    assert await counted(client) == TWO
    assert len(agents_of(data_dir)) == len(bundles_of(data_dir)) == 1


async def test_artifact_that_cannot_run_does_not_even_stop_the_one_before(
    client: NodeClient, probe_wasm: Path
) -> None:
    """What can be known before is known before."""
    before = await client.deploy("one", probe_wasm)
    with pytest.raises(InvalidArgument):
        await client.deploy("one", b"\0asm\x01\0\0\0", options=REPLACE)
    found = await client.inspect("one")
    assert (found.vm and found.vm.id) == (before.vm and before.vm.id)
    assert found.state is ApplicationState.RUNNING


async def test_stopped_application_runs_when_it_was_replaced(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Deployed means that a message can be answered."""
    await client.deploy("one", probe_wasm)
    assert await counted(client) == ONE
    await client.stop("one")
    await client.deploy("one", next_version(), options=REPLACE)
    assert await counted(client) == TWO


@pytest.mark.parametrize("phase", ["stop", "vm", "load"])
async def test_when_the_client_goes_away_the_one_before_runs_again(
    client: NodeClient, probe_wasm: Path, phase: str
) -> None:
    """A replacing that is cancelled is undone, whatever it has come to."""
    before = await client.deploy("one", probe_wasm)
    assert await counted(client) == ONE
    deploy, began = begun(client, phase)
    await began.wait()
    deploy.cancel()
    await asyncio.gather(deploy, return_exceptions=True)
    assert await counted(client) == TWO
    assert (await client.inspect("one")).digest == before.digest


async def test_when_the_registry_refuses_the_version_before_is_as_it_was(
    data_dir: Path, probe_wasm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next version answers nobody before it is the application's: there is nothing to undo."""
    impatient = builder(data_dir).with_timeouts(Timeouts(registry_busy_s=0.5))
    async with impatient.build() as node, NodeClient(node.address) as client:
        before = await client.deploy("one", probe_wasm)
        assert await counted(client) == ONE
        with held(data_dir, monkeypatch) as waits:
            deploy = asyncio.create_task(client.deploy("one", next_version(), options=REPLACE))
            await waits.wait()
            waiting = asyncio.create_task(counted(client))
            with pytest.raises(PlexSpacesError, match="another program is using"):
                await deploy
        assert await waiting == TWO
        assert (await client.inspect("one")).digest == before.digest
        assert len(agents_of(data_dir)) == len(bundles_of(data_dir)) == 1


async def test_when_the_client_goes_away_as_the_row_is_written_then_all_agree_on_the_version(
    probe_wasm: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs is what the registry has, and its artifact is held."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        before = await client.deploy("one", probe_wasm)
        with held(data_dir, monkeypatch) as waits:
            deploy = asyncio.create_task(client.deploy("one", next_version(), options=REPLACE))
            await waits.wait()
            deploy.cancel()
            await asyncio.gather(deploy, return_exceptions=True)
        async with asyncio.timeout(patient(30)):
            while row(data_dir, "digest") == before.digest:
                await asyncio.sleep(0.01)
        found = await client.inspect("one")
        assert found.state is ApplicationState.RUNNING
        assert row(data_dir, "digest") == found.digest
        await client.undeploy("one")
        await client.deploy("one", next_version())
        assert await counted(client) == ONE


async def test_when_the_client_goes_away_amid_the_goodbye_no_state_is_lost(
    data_dir: Path, probe_wasm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version before hands over its last state to the end, and goes on from it."""
    stop, deploys = Machine.stop, list[asyncio.Task[ApplicationInfo]]()

    async def leave_and_stop(
        self: Machine, timeout_s: float, *, force: bool = False, save: bool = True
    ) -> str:
        deploys[0].cancel()
        await asyncio.sleep(0)
        return await stop(self, timeout_s, force=force, save=save)

    unhurried = builder(data_dir).with_setting("limits.snapshot_interval_s", 600.0)
    async with unhurried.build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        assert await counted(client) == ONE
        there = await client.deploy("two", next_version())
        request = DeployRequest(ApplicationSpec("one", there.digest), replace=True)
        deployer = node.applications.deployer
        with monkeypatch.context() as patched:
            patched.setattr(Machine, "stop", leave_and_stop)
            deploys.append(asyncio.create_task(deployer.deploy(request, lambda _phase: None)))
            [error] = await asyncio.gather(*deploys, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError)
        await reached(client, "one")
        assert await counted(client) == TWO


async def test_when_the_state_cannot_be_saved_the_version_before_runs_on(
    data_dir: Path, probe_wasm: Path
) -> None:
    """It is not even stopped, and the error says why; its artifact and its name are as before."""
    build = builder(data_dir).with_setting("limits.snapshot_interval_s", 600.0)
    async with build.build() as node, NodeClient(node.address) as client:
        before = await client.deploy("one", probe_wasm)
        await client.invoke("one", type="n")
        with pytest.raises(
            WrongState, match="'one' keeps running because its state cannot be"
        ) as caught:
            await client.deploy("one", next_version(), options=REPLACE)
        assert "plexspaces stop one --force" in (caught.value.hint or "")
        found = await client.inspect("one")
        assert (found.state, found.digest) == (ApplicationState.RUNNING, before.digest)
        assert (found.vm and found.vm.id) == (before.vm and before.vm.id)
        # The instance that could not hand its state over is gone: the next stop is in good order.
        assert await counted(client) == ONE
        after = await client.deploy("one", next_version(), options=REPLACE)
        assert after.digest != before.digest
        assert await counted(client) == TWO


async def test_request_of_another_application_does_not_even_stop_the_one_before(
    client: NodeClient, probe_wasm: Path
) -> None:
    """What can be known before is known before."""
    await client.deploy("two", probe_wasm, options=DeployOptions(request_id="r-1"))
    before = await client.deploy("one", probe_wasm)
    with pytest.raises(AlreadyExists, match="'r-1' has deployed application 'two'"):
        await client.deploy("one", next_version(), options=replace(REPLACE, request_id="r-1"))
    found = await client.inspect("one")
    assert (found.vm and found.vm.id) == (before.vm and before.vm.id)


async def test_shutdown_amid_a_replacing_leaves_the_version_before_to_the_next_start(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Nothing is started that would only be stopped; the client is told."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        before = await client.deploy("one", probe_wasm)
        assert await counted(client) == ONE
        deploy, began = begun(client, "load")
        await began.wait()
        assert await node.drain()
        with pytest.raises(Unavailable):
            await deploy
    assert_nothing_left(data_dir)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        assert (await reached(client, "one")).digest == before.digest
        assert await counted(client) == TWO


async def test_same_request_replaces_once(client: NodeClient, probe_wasm: Path) -> None:
    """A replacing whose answer was lost is asked for again, and changes nothing."""
    await client.deploy("one", probe_wasm)
    wish = replace(REPLACE, request_id="r-2")
    first = await client.deploy("one", next_version(), options=wish)
    again = await client.deploy("one", next_version(), options=wish)
    assert (again.vm and again.vm.id) == (first.vm and first.vm.id)


async def test_node_started_again_has_the_version_that_was_acknowledged(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Also after kill -9 at once."""
    with node_process(data_dir) as (process, address):
        async with NodeClient(address) as client:
            await client.deploy("one", probe_wasm)
            assert await counted(client) == ONE
            after = await client.deploy("one", next_version(), options=REPLACE)
            process.kill()
            process.wait(10)
    await ended(data_dir)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        assert (await reached(client, "one")).digest == after.digest
        assert await counted(client) == TWO


async def test_artifact_is_compiled_once_for_a_deploy_and_for_a_replacing(
    client: NodeClient, probe_wasm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start takes what the deploy has compiled, and the times are those of that."""
    compiled: list[Compiled] = []
    compile_ = ArtifactStore.compile

    async def counted_compile(self: ArtifactStore, *args: Any, **options: Any) -> Compiled:
        compiled.append(await compile_(self, *args, **options))
        return compiled[-1]

    monkeypatch.setattr(ArtifactStore, "compile", counted_compile)
    for wasm in (probe_wasm, next_version()):
        info = await client.deploy("one", wasm, options=REPLACE)
        [once] = compiled
        assert (info.timings.compile_ns, info.timings.compile_cached) == (once.duration_ns, False)
        compiled.clear()
