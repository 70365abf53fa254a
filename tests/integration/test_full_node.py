"""A node that has all it takes: what comes at once is counted, and what is refused says why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest
from support.actors import Init, probe
from support.nodes import builder, reached
from support.patience import patient
from support.traces import bundles_of

from plexspaces_node import NodeClient, VmConfig
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorFailed, DeadlineExceeded, ResourceExhausted
from plexspaces_node.model import ApplicationState


async def refusals(*acts: Awaitable[object]) -> list[ResourceExhausted]:
    """Do all at once; return what was refused for lack of room, and raise what else went wrong."""
    refused = []
    for end in await asyncio.gather(*acts, return_exceptions=True):
        if isinstance(end, ResourceExhausted):
            refused.append(end)
        elif isinstance(end, BaseException):
            raise end
    return refused


async def test_deploys_at_once_are_refused_past_the_bound(data_dir: Path, probe_wasm: Path) -> None:
    """Twenty at once are no more than twenty one after the other, and a failure gives room back."""
    build = builder(data_dir).with_setting("limits.applications", 3).build()
    async with build as node, NodeClient(node.address) as client:
        with pytest.raises(ActorFailed):
            await client.deploy("fails", probe(Init.ERROR))
        await client.deploy("there", probe_wasm)
        refused = await refusals(*(client.deploy(f"a{i}", probe_wasm) for i in range(20)))
        assert len(refused) == 18
        assert "[limits] applications" in (refused[0].hint or "")
        listing = await client.list()
        assert len(listing.applications) == 3
        assert len(bundles_of(data_dir)) == 3
        await client.undeploy(listing.applications[0].name)
        await client.deploy("later", probe_wasm)


async def test_empty_vms_at_once_are_refused_past_the_bound(data_dir: Path) -> None:
    """Empty machines are bounded in number."""
    build = builder(data_dir).with_setting("limits.empty_vms", 2).build()
    async with build as node, NodeClient(node.address) as client:
        refused = await refusals(*(client.start_vm(f"v{i}") for i in range(6)))
        assert len(refused) == 4
        assert "[limits] empty_vms" in (refused[0].hint or "")
        assert len((await client.list()).empty_vms) == 2


async def test_memory_of_all_machines_is_bounded(data_dir: Path, probe_wasm: Path) -> None:
    """What is stopped takes none; what is over the bound is refused and stays as it was."""
    build = builder(data_dir).with_setting("limits.memory_mib", 400).build()
    async with build as node, NodeClient(node.address) as client:
        half = DeployOptions(memory_mib=200)
        await client.deploy("one", probe_wasm, options=half)
        await client.start_vm("spare", vm_config=VmConfig(1, 200))
        with pytest.raises(ResourceExhausted, match="MiB more would exceed this node") as caught:
            await client.deploy("two", probe_wasm, options=half)
        assert "[limits] memory_mib" in (caught.value.hint or "")
        await client.stop("one")
        await client.deploy("two", probe_wasm, options=half)
        with pytest.raises(ResourceExhausted, match="MiB more would exceed this node"):
            await client.start("one")
        assert (await client.inspect("one")).state is ApplicationState.STOPPED
        into = DeployOptions(memory_mib=200, vm_id="spare")
        await client.deploy("three", probe_wasm, options=into)


async def test_what_was_deployed_starts_again_whatever_the_bound_is_now(
    data_dir: Path, probe_wasm: Path
) -> None:
    """A bound that was lowered refuses what is new, and breaks no promise."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        for name in ("one", "two"):
            await client.deploy(name, probe_wasm)
    build = (
        builder(data_dir)
        .with_setting("limits.memory_mib", 1)
        .with_setting("limits.applications", 1)
        .build()
    )
    async with build as node, NodeClient(node.address) as client:
        for name in ("one", "two"):
            await reached(client, name)
        with pytest.raises(ResourceExhausted):
            await client.deploy("three", probe_wasm)
        await client.deploy("two", probe_wasm, options=DeployOptions(replace=True))


async def test_messages_of_all_applications_share_one_bound(
    data_dir: Path, probe_wasm: Path
) -> None:
    """Many busy applications do not take the host's memory: the bound that struck is named."""
    build = builder(data_dir).with_setting("limits.in_flight_bytes", 1_000_000).build()
    long = b"x" * 700_000
    async with build as node, NodeClient(node.address) as client:
        for name in ("busy", "other"):
            await client.deploy(name, probe_wasm)
        busy = asyncio.create_task(client.invoke("busy", type="l", timeout_s=patient(4.0)))
        waits = asyncio.create_task(client.invoke("busy", long, type="e", timeout_s=patient(30.0)))
        async with asyncio.timeout(patient(20)):
            while (await client.inspect("busy")).counters.in_flight < 2:
                await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="in flight on this node") as caught:
            await client.invoke("other", long, type="e")
        assert "[limits] in_flight_bytes" in (caught.value.hint or "")
        assert (await client.invoke("other", b"short", type="e")).payload == b"short"
        with pytest.raises(DeadlineExceeded):
            await busy
        assert (await waits).payload == long
        assert (await client.invoke("other", long, type="e")).payload == long


async def test_messages_when_an_application_holds_much_then_as_much_is_left_for_others(
    data_dir: Path, probe_wasm: Path
) -> None:
    """The memory of all does not go to whoever takes it first."""
    build = builder(data_dir).with_setting("limits.in_flight_bytes", 1_000_000).build()
    long = b"x" * 300_000
    async with build as node, NodeClient(node.address) as client:
        for name in ("busy", "other"):
            await client.deploy(name, probe_wasm)
        busy = asyncio.create_task(client.invoke("busy", type="l", timeout_s=patient(4.0)))
        waits = asyncio.create_task(client.invoke("busy", long, type="e", timeout_s=patient(30.0)))
        async with asyncio.timeout(patient(20)):
            while (await client.inspect("busy")).counters.in_flight < 2:
                await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="in flight on this node"):
            await client.invoke("busy", long, type="e")
        assert (await client.invoke("other", long, type="e")).payload == long
        with pytest.raises(DeadlineExceeded):
            await busy
        assert (await waits).payload == long
