"""A node whose machines are Firecracker's, from a deploy to no trace.

Needs Firecracker, KVM and a guest image: run when `--drivers` names firecracker or
firecracker-jailed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.firecracker import FirecrackerHarness
from support.machines import TIMEOUT_S
from support.nodes import builder
from support.traces import agents_of, assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorTrapped
from plexspaces_node.model import MIB, ApplicationState, VmState
from plexspaces_node.node.timeouts import Timeouts

ONE, TWO = (1).to_bytes(4, "little"), (2).to_bytes(4, "little")
KINDS = ("firecracker", "firecracker-jailed")
SMALL = DeployOptions(memory_mib=128)


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[NodeClient]:
    """A node on the Firecracker driver, where it is named."""
    kind: str = request.param
    if kind not in request.config.getoption("--drivers").split(","):
        pytest.skip(f"boots machines: name it with --drivers={kind}")
    trials = data_dir.parent
    harness, health = await FirecrackerHarness.probed(trials, jailed=kind == KINDS[1])
    assert health.ok, f"--drivers names {kind}, but: {health.reason} (hint: {health.hint})"
    timeouts = Timeouts(first_hello_s=TIMEOUT_S)
    build = builder(data_dir).with_driver(harness.driver).with_timeouts(timeouts)
    async with build.build() as node, NodeClient(node.address) as client:
        yield client
    assert_nothing_left(data_dir)


async def test_life_of_an_application_in_its_microvm(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """Deploy, invoke, trap, stop, start, undeploy: all as on any other level."""
    # With a message of 1 MiB it needs more than the least.
    info = await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=256))
    assert info.vm is not None
    assert (info.vm.state, info.vm.isolation) == (VmState.RUNNING, "firecracker")
    assert info.vm.rss_bytes > 30 * MIB
    assert (await client.invoke("one", b"hi", type="e")).payload == b"hi"
    large = os.urandom(MIB)
    assert (await client.invoke("one", large, type="e")).payload == large
    with pytest.raises(ActorTrapped):
        await client.invoke("one", type="t")
    # After the trap, which may cost what was counted since the last snapshot.
    assert (await client.invoke("one", type="c")).payload == ONE
    await client.stop("one")
    assert_nothing_left(data_dir)
    await client.start("one")
    assert (await client.invoke("one", type="c")).payload == TWO
    await client.undeploy("one")
    assert_nothing_left(data_dir)


async def test_microvm_that_is_killed_is_replaced(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """Another machine takes over, with the state of the last snapshot."""
    await client.deploy("one", probe_wasm, options=SMALL)
    [before] = agents_of(data_dir)
    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            info = await client.inspect("one")
            if info.state is ApplicationState.RUNNING and info.restarts == 1:
                break
            await asyncio.sleep(0.05)
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert before not in agents_of(data_dir)
