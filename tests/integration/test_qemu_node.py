"""A node whose machines are QEMU's: what a user does, and what goes wrong with a real machine.

Needs QEMU and a guest image: run when `--drivers` names qemu.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import time_ns

import pytest
from support.actors import ACTORS, Init, http_component, probe, routed
from support.machines import QemuHarness
from support.nodes import builder, node_process
from support.patience import patient
from support.raw_http import Caller
from support.traces import agents_of, assert_nothing_left, bundles_of

from plexspaces_node import NodeClient, VmConfig
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorFailed, ActorTrapped, DeadlineExceeded, Unavailable
from plexspaces_node.model import MIB, ApplicationState, VmState
from plexspaces_node.node.node import Node
from plexspaces_node.toolchains.wasm.assembly import assemble
from plexspaces_node.toolchains.wasm.wrap import wrap
from plexspaces_node.vm.qemu.qmp import connect_qmp

ONE, TWO = (1).to_bytes(4, "little"), (2).to_bytes(4, "little")
CLOCK_NS = 500_000_000
BOOT_S = patient(90)
"""For a machine to come back on a host that does other things too."""


@pytest.fixture
async def node(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path: Path
) -> AsyncIterator[Node]:
    """A node on the QEMU driver, where it is named."""
    harness = await _named(request, tmp_path)
    build = builder(data_dir).with_driver(harness.driver)
    async with build.with_setting("http.address", "127.0.0.1:0").build() as node:
        yield node
    assert_nothing_left(data_dir)


async def _named(request: pytest.FixtureRequest, root: Path) -> QemuHarness:
    if "qemu" not in request.config.getoption("--drivers").split(","):
        pytest.skip("boots machines: name it with --drivers=qemu")
    harness, health = await QemuHarness.probed(root)
    assert health.ok, f"--drivers names qemu, but: {health.reason} (hint: {health.hint})"
    return harness


async def _running(client: NodeClient, name: str, *, restarts: int) -> str:
    """Wait until an application runs after so many restarts; return its machine's id."""
    async with asyncio.timeout(BOOT_S):
        while True:
            info = await client.inspect(name)
            if info.state is ApplicationState.RUNNING and info.restarts == restarts and info.vm:
                return info.vm.id
            await asyncio.sleep(0.05)


async def test_life_of_an_application_in_its_machine(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """Deploy, invoke, store, list, stop, start, undeploy: all as on any other level."""
    info = await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=256))
    assert info.vm is not None
    assert (info.vm.state, info.vm.isolation) == (VmState.RUNNING, "qemu")
    assert info.vm.rss_bytes > 30 * MIB
    assert (await client.invoke("one", b"hi", type="e")).payload == b"hi"
    large = os.urandom(1024 * 1024)
    assert (await client.invoke("one", large, type="e")).payload == large
    await client.invoke("one", b"key", type="p")
    replies = await asyncio.gather(*(client.invoke("one", b"x", type="e") for _ in range(50)))
    assert {reply.payload for reply in replies} == {b"x"}
    with pytest.raises(ActorTrapped):
        await client.invoke("one", type="t")
    with pytest.raises(DeadlineExceeded, match="interrupted"):
        await client.invoke("one", type="l", timeout_s=0.5)
    # After the traps, which may cost what was counted since the last snapshot.
    assert (await client.invoke("one", type="c")).payload == ONE
    await client.stop("one")
    assert_nothing_left(data_dir)
    await client.start("one")
    assert (await client.invoke("one", b"key", type="g")).payload == b"key"
    assert (await client.invoke("one", type="c")).payload == TWO
    await client.undeploy("one")
    assert_nothing_left(data_dir)


async def test_command_and_actor_talk_each_from_its_own_machine(
    client: NodeClient, probe_wasm: Path, command_wasm: Path
) -> None:
    """An empty machine takes an application, and two machines reach each other by the node."""
    started = await client.start_vm("vm-mine", vm_config=VmConfig(1, 128))
    assert started.vm_ns > 0
    options = DeployOptions(vm_id="vm-mine")
    info = await client.deploy("cat", command_wasm, options=options)
    assert info.vm is not None
    assert info.vm.id == "vm-mine"
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=128))
    assert (await client.invoke("one", routed("cat", "e", b"hello"), type="a")).payload == b"hello"


async def test_http_component_is_replaced_while_requests_come(
    client: NodeClient, http: Caller, tmp_path: Path
) -> None:
    """It answers from its machine; a request that comes in between waits for the next one."""
    wasm = tmp_path / "hello.wasm"
    wasm.write_bytes(http_component())
    await client.deploy("hello", wasm)

    async def get() -> bytes:
        answer = await http.send("GET", "/apps/hello/")
        assert answer.status == 200
        return answer.body

    assert await get() == b"hello"
    replacing = asyncio.create_task(
        client.deploy("hello", wasm, options=DeployOptions(replace=True))
    )
    while not replacing.done():
        assert await get() == b"hello"
    await replacing
    assert (await client.inspect("hello")).counters.failures == 0


async def test_init_that_fails_fails_the_deploy_and_leaves_nothing(
    client: NodeClient, tmp_path: Path, data_dir: Path
) -> None:
    """The actor's own words come out of the machine, which is then gone."""
    wasm = tmp_path / "bad.wasm"
    wasm.write_bytes(probe(Init.ERROR))
    with pytest.raises(ActorFailed, match="init said no"):
        await client.deploy("one", wasm, options=DeployOptions(memory_mib=128))
    assert_nothing_left(data_dir)


async def test_copies_of_one_machine_draw_their_own_randomness_and_have_the_right_time(
    client: NodeClient, tmp_path: Path
) -> None:
    """Three applications whose machines were one until their nodes' welcome."""
    wasm = tmp_path / "system.wasm"
    wasm.write_bytes(wrap(assemble((ACTORS / "preview1.wat").read_text())))
    drawn = set()
    for name in ("one", "two", "three"):
        await client.deploy(name, wasm, options=DeployOptions(memory_mib=128))
        drawn.add((await client.invoke(name, type="r")).payload[:13])
        begin = time_ns()
        told = (await client.invoke(name, bytes(1), type="c")).payload
        assert begin - CLOCK_NS < int.from_bytes(told, "little") < time_ns() + CLOCK_NS
        console = b"".join([part async for part in client.vm_console(name)])
        assert console.startswith(b"-- a copy of the machine that booted at")
    assert len(drawn) == 3


async def test_machine_that_dies_is_replaced_whatever_it_dies_of(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """Killed with a message in flight, or reset from inside: another machine takes over."""
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=128))
    await client.invoke("one", type="c")
    await client.stop("one")
    await client.start("one")
    running = asyncio.create_task(client.invoke("one", type="l", timeout_s=60))
    async with asyncio.timeout(patient(20)):
        while (await client.inspect("one")).counters.in_flight == 0:
            await asyncio.sleep(0)
        os.kill(agents_of(data_dir)[0], signal.SIGKILL)
        with pytest.raises(Unavailable):
            await running
    second = await _running(client, "one", restarts=1)
    assert (await client.invoke("one", type="c")).payload == TWO
    async with connect_qmp(data_dir / "vms" / second / "qmp.sock") as control:
        await control.execute("system_reset")
    third = await _running(client, "one", restarts=2)
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert bundles_of(data_dir) == [third]


async def test_machine_that_is_frozen_is_replaced(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """A guest that goes silent is noticed by a message's deadline."""
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=128))
    [frozen] = agents_of(data_dir)
    os.kill(frozen, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded, match="sign of life"):
        await client.invoke("one", type="e", timeout_s=0.2)
    await _running(client, "one", restarts=1)
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert frozen not in agents_of(data_dir)


async def test_link_that_breaks_is_mended_and_the_application_lives_on(
    client: NodeClient, node: Node, probe_wasm: Path, data_dir: Path
) -> None:
    """A connection lost between node and guest costs no machine and no state."""
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=128))
    await client.invoke("one", type="c")
    before = bundles_of(data_dir)
    agent = node.applications.roster.named("one").intake.agent
    assert agent is not None
    connection = agent.link.connection
    assert connection is not None
    connection.close()
    async with asyncio.timeout(patient(20)):
        while agent.link.connection in (None, connection):
            await asyncio.sleep(0.01)
    assert (await client.invoke("one", type="c")).payload == TWO
    assert bundles_of(data_dir) == before


@pytest.mark.parametrize("level", ["qemu", "process"])
async def test_machines_of_a_killed_node_are_ended_by_the_next(
    request: pytest.FixtureRequest,
    data_dir: Path,
    tmp_path: Path,
    probe_wasm: Path,
    level: str,
) -> None:
    """They outlive their node, and the next one ends them, though it makes others."""
    harness = await _named(request, tmp_path)
    with node_process(data_dir, isolation="qemu") as (process, address):
        async with NodeClient(address) as client:
            await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=128))
        [before] = agents_of(data_dir)
        process.kill()
        process.wait(10)
    assert agents_of(data_dir) == [before]
    build = builder(data_dir)
    if level == "qemu":
        build.with_driver(harness.driver)
    async with build.build() as node, NodeClient(node.address) as client:
        assert node.recovered == ("one",)
        await _running(client, "one", restarts=0)
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"
        assert before not in agents_of(data_dir)
    assert_nothing_left(data_dir)
