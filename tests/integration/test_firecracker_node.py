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
def kind(request: pytest.FixtureRequest) -> str:
    """Each way to run Firecracker, where it is named."""
    kind: str = request.param
    if kind not in request.config.getoption("--drivers").split(","):
        pytest.skip(f"boots machines: name it with --drivers={kind}")
    return kind


@pytest.fixture
async def client(kind: str, data_dir: Path) -> AsyncIterator[NodeClient]:
    """A node on the Firecracker driver."""
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


def walls_of(pid: int) -> dict[str, str]:
    """What a process has of its own, if it is jailed."""
    status = dict(line.split(":\t", 1) for line in _lines(pid, "status") if ":\t" in line)
    root = Path(f"/proc/{pid}/root").stat()
    return {
        "user": status["Uid"],
        "root": f"{root.st_dev}:{root.st_ino}",
        "processes": str(Path(f"/proc/{pid}/ns/pid").readlink()),
        "cgroup": _lines(pid, "cgroup")[-1],
    }


def _lines(pid: int, file: str) -> list[str]:
    return Path(f"/proc/{pid}/{file}").read_text().splitlines()


async def test_tenants_when_they_deploy_the_same_then_in_microvms_of_their_own(
    client: NodeClient, kind: str, probe_wasm: Path
) -> None:
    """Another process, state, and, in a jail, another user, root, PID namespace and cgroup."""
    names = ("shop/one", "rival/one")
    for name in names:
        await client.deploy(name, probe_wasm, options=SMALL)
    for name, counted in (("shop/one", ONE), ("shop/one", TWO), ("rival/one", ONE)):
        assert (await client.invoke(name, type="c")).payload == counted
    first, second = [(await client.inspect_vm(name)).pid for name in names]
    assert first != second
    if kind == KINDS[1]:
        own = {os.getpid(), first, second}
        for wall in walls_of(first):
            assert len({walls_of(pid)[wall] for pid in own}) == 3, wall
