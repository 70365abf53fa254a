"""What a node finds again after it ended, in good order or by kill -9."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.nodes import builder, node_process
from support.traces import agents_of, assert_nothing_left, bundles_of

from plexspaces_node import NodeClient
from plexspaces_node.client import Progress
from plexspaces_node.errors import PlexSpacesError, Unavailable, WrongState
from plexspaces_node.model import ApplicationState

TWO = (2).to_bytes(4, "little")


async def _running(client: NodeClient, name: str) -> None:
    async with asyncio.timeout(30):
        while (await client.inspect(name)).state is not ApplicationState.RUNNING:
            await asyncio.sleep(0.01)


async def _gone(data_dir: Path) -> None:
    async with asyncio.timeout(20):
        while agents_of(data_dir):
            await asyncio.sleep(0.01)


async def test_node_started_again_has_its_applications_and_their_state(
    data_dir: Path, probe_wasm: Path
) -> None:
    """What ran when a node was shut down runs again, from where it was; what was stopped is not."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.deploy("two", probe_wasm)
        await client.invoke("one", type="c")
        await client.stop("two")
    assert_nothing_left(data_dir)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        assert node.recovered == ("one", "two")
        await _running(client, "one")
        assert (await client.invoke("one", type="c")).payload == TWO
        assert (await client.inspect("two")).state is ApplicationState.STOPPED


async def test_kill_9_of_a_node_takes_its_machines_along_and_loses_no_deploy(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Machines die with their node; after the next start every acknowledged deploy runs."""
    with node_process(data_dir) as (process, address):
        async with NodeClient(address) as client:
            await client.deploy("one", probe_wasm)
            await client.invoke("one", b"key", type="p")
            assert len(agents_of(data_dir)) == 1
            process.kill()
            process.wait(10)
    await _gone(data_dir)
    assert len(bundles_of(data_dir)) == 1
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await _running(client, "one")
        assert (await client.invoke("one", b"key", type="g")).payload == b"key"
        assert len(bundles_of(data_dir)) == len(agents_of(data_dir)) == 1
        await client.undeploy("one")
        assert_nothing_left(data_dir)


@pytest.mark.parametrize("phase", ["upload", "compile", "vm", "load"])
async def test_kill_9_at_any_phase_of_a_deploy_leaves_nothing_behind_after_the_next_start(
    data_dir: Path, probe_wasm: Path, phase: str
) -> None:
    """An unacknowledged deploy is there whole or not at all, and the name can be deployed."""
    with node_process(data_dir) as (process, address):

        def kill(progress: Progress) -> None:
            if progress.phase == phase:
                process.kill()

        async with NodeClient(address) as client:
            with pytest.raises(PlexSpacesError):
                await client.deploy("one", probe_wasm, on_progress=kill)
        process.wait(10)
    await _gone(data_dir)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        if node.recovered:
            await _running(client, "one")
            await client.undeploy("one")
        assert_nothing_left(data_dir)
        await client.deploy("one", probe_wasm)
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"


async def test_second_node_on_a_data_directory_is_refused(data_dir: Path) -> None:
    """A data directory has one node at a time; the error names the holder."""
    async with builder(data_dir).build():
        with pytest.raises(WrongState, match="node-test"):
            async with builder(data_dir).build():
                pytest.fail("two nodes on one directory")


async def test_port_in_use_is_refused_and_leaves_the_directory_free(data_dir: Path) -> None:
    """A node that cannot listen says so, names the address, and holds nothing."""
    async with builder(data_dir).build() as node:
        other = data_dir.with_name("other")
        with pytest.raises(Unavailable, match=node.address):
            async with builder(other).with_address(node.address).build():
                pytest.fail("two nodes on one port")
    async with builder(other).build():
        pass


@pytest.mark.parametrize(("before", "told"), [("qemu", True), ("process", False), ("", False)])
async def test_node_that_brings_applications_back_at_a_weaker_level_says_so(
    data_dir: Path,
    probe_wasm: Path,
    caplog: pytest.LogCaptureFixture,
    before: str,
    told: bool,
) -> None:
    """Who left the flag out learns that his applications are held by less than they were."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
    assert (data_dir / "isolation").read_text() == "process\n"
    (data_dir / "isolation").write_text(before)
    async with builder(data_dir).build() as node:
        assert node.recovered == ("one",)
    words = "isolation level process is weaker than qemu"
    assert (words in caplog.text) is told
