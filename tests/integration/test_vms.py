"""Looking at machines of a real node: what runs, what it costs, what it said."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import aclosing
from pathlib import Path

import pytest
from support.fake_driver import FakeDriver
from support.machines import QemuHarness
from support.nodes import builder
from support.patience import patient
from support.standin import hello
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient, VmConfig
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import NotFound
from plexspaces_node.model import MIB, VmState
from plexspaces_node.node.node import Node
from plexspaces_node.programs import AGENT
from plexspaces_node.vm.bundle import Bundle


async def test_vms_when_listed_then_every_machine_with_what_it_costs(
    client: NodeClient, probe_wasm: Path
) -> None:
    """With an application by its name, then the empty ones; a node without any lists none."""
    assert await client.list_vms() == ()
    await client.start_vm("vm-spare", vm_config=VmConfig(1, 128))
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=256))
    used, spare = await client.list_vms()
    assert (used.application, used.state, used.config) == ("one", VmState.RUNNING, VmConfig(1, 256))
    assert (spare.application, spare.state, spare.id) == ("", VmState.EMPTY, "vm-spare")
    for vm in (used, spare):
        assert vm.isolation == "process"
        assert vm.rss_bytes > MIB
        assert vm.cpu_ns > 0
        assert 0 < vm.uptime_ns < 60 * 10**9
    await client.undeploy("one")
    assert [vm.id for vm in await client.list_vms()] == ["vm-spare"]


async def test_vm_when_inspected_then_its_process_its_steps_and_its_memory(
    client: NodeClient, probe_wasm: Path
) -> None:
    """At process isolation the memory is the agent's own, against the limit it was given."""
    await client.deploy("one", probe_wasm, options=DeployOptions(memory_mib=256))
    found = await client.inspect_vm("one")
    assert (await client.inspect_vm(found.vm.id)).pid == found.pid
    assert Path(f"/proc/{found.pid}").is_dir()
    assert Path(found.console).is_file()
    assert [step.name for step in found.steps] == ["start", "hello", "attach", "load", "init"]
    assert all(step.duration_ns > 0 for step in found.steps)
    memory = found.memory
    assert memory is not None, found.memory_unknown
    assert not memory.guest
    assert 256 * MIB < memory.total_bytes < 1024 * MIB
    assert MIB < memory.used_bytes < memory.total_bytes
    assert memory.available_bytes == memory.total_bytes - memory.used_bytes


async def test_vm_when_its_actor_computes_then_its_agent_answers_all_the_same(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Whoever looks at a busy machine does not wait for its actor, nor disturbs it."""
    await client.deploy("one", probe_wasm)
    looping = asyncio.ensure_future(client.invoke("one", type="l", timeout_s=1.0))
    try:
        found = await client.inspect_vm("one")
        assert found.memory is not None, found.memory_unknown
    finally:
        await asyncio.gather(looping, return_exceptions=True)
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"


async def test_vm_when_its_agent_is_frozen_then_the_reason_comes_within_the_bound(
    client: NodeClient, probe_wasm: Path, data_dir: Path
) -> None:
    """A silent agent costs a second and the number; it is not replaced for that."""
    await client.deploy("one", probe_wasm)
    vm = (await client.inspect_vm("one")).vm
    agents = _agents(vm.id)
    for pid in agents:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(patient(5)):
            found = await client.inspect_vm("one")
    finally:
        for pid in agents:
            os.kill(pid, signal.SIGCONT)
    assert found.memory is None
    assert "did not answer within 1 s" in found.memory_unknown
    assert found.vm.rss_bytes > 0
    assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert (await client.inspect_vm("one")).vm.id == vm.id


async def test_vm_when_it_is_not_there_then_not_found_says_where_to_look(
    client: NodeClient, probe_wasm: Path
) -> None:
    """A name nobody has, and an application that rests."""
    with pytest.raises(NotFound) as caught:
        await client.inspect_vm("nobody")
    assert caught.value.hint == "plexspaces vms list"
    with pytest.raises(NotFound):
        [chunk async for chunk in client.vm_console("nobody", follow=True)]
    await client.deploy("one", probe_wasm)
    await client.stop("one")
    with pytest.raises(NotFound, match="'one' is Stopped and has no VM") as caught:
        await client.inspect_vm("one")
    assert caught.value.hint == "plexspaces start --name one"


async def test_console_when_read_then_it_is_what_the_process_wrote(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Past and present of it, and the follower is let go when the machine is gone."""
    await client.deploy("one", probe_wasm)
    log = Path((await client.inspect_vm("one")).console)
    assert await _console(client, "one") == b""
    log.write_bytes(b"\x1b[31mone\ntwo\n" + b"x" * 100_000)
    assert await _console(client, "one") == b"\x1b[31mone\ntwo\n" + b"x" * 100_000
    assert await _console(client, "one", tail=2) == b"two\n" + b"x" * 100_000
    async with (
        asyncio.timeout(patient(20)),
        aclosing(client.vm_console("one", follow=True, tail=2)) as chunks,
    ):
        assert (await anext(chunks)).startswith(b"two\n")
        await client.undeploy("one")
        assert b"".join([chunk async for chunk in chunks]).strip(b"x") == b""


async def test_console_when_its_reader_goes_away_then_no_descriptor_is_left(
    node: Node, client: NodeClient, probe_wasm: Path
) -> None:
    """A follower that is interrupted frees its place and its file."""
    await client.deploy("one", probe_wasm)
    log = (await client.inspect_vm("one")).console
    Path(log).write_bytes(b"line\n")
    for _ in range(40):
        async with aclosing(client.vm_console("one", follow=True)) as chunks:
            assert await anext(chunks) == b"line\n"
    async with asyncio.timeout(patient(10)):
        while any(log == os.readlink(fd) for fd in _descriptors()):
            await asyncio.sleep(0.02)


async def test_console_when_a_bundle_is_all_that_is_left_then_it_is_still_read(
    client: NodeClient, data_dir: Path
) -> None:
    """Of a machine that is starting, or that could not be removed, the last words can be had."""
    bundle = Bundle.create(data_dir / "vms", "vm-dead", VmConfig(1, 128), application="gone")
    bundle.console_log.write_bytes(b"Kernel panic\n")
    try:
        for name in ("vm-dead", "gone"):
            assert await _console(client, name) == b"Kernel panic\n"
        [vm] = await client.list_vms()
        assert (vm.id, vm.application, vm.state) == ("vm-dead", "gone", VmState.STARTING)
        found = await client.inspect_vm("gone")
        assert (found.pid, found.steps, found.memory) == (0, (), None)
        assert found.memory_unknown == "its agent is not ready"
    finally:
        bundle.remove()


async def test_vm_when_it_has_no_process_and_its_agent_tells_nothing_then_it_is_shown_so(
    data_dir: Path,
) -> None:
    """What is not known is not made up: memory, process and console are missing, with a reason."""

    async def silent_agent(endpoint: object, vm_id: str) -> None:
        path = getattr(endpoint, "path")  # noqa: B009
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(hello(vm_id))
            await reader.read()
        finally:
            writer.close()

    build = builder(data_dir).with_driver(FakeDriver(silent_agent)).build()
    async with build as node, NodeClient(node.address) as client:
        await client.start_vm("vm-mute")
        found = await client.inspect_vm("vm-mute")
        assert found.memory is None
        assert "memory: the agent of vm-mute did not answer" in found.memory_unknown
        assert found.pid == 0
        with pytest.raises(NotFound, match="vm-mute has no console log"):
            await _console(client, "vm-mute")


async def test_guest_when_looked_at_then_its_memory_and_its_boot_log(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path: Path, probe_wasm: Path
) -> None:
    """A real machine: memory of the whole guest, a console, and a hung boot that can be watched.

    Needs QEMU and a current guest image: run when `--drivers` names qemu.
    """
    if "qemu" not in request.config.getoption("--drivers").split(","):
        pytest.skip("boots a machine: name it with --drivers=qemu")
    harness, health = await QemuHarness.probed(tmp_path)
    assert health.ok, f"--drivers names qemu, but: {health.reason} (hint: {health.hint})"
    build = builder(data_dir).with_driver(harness.driver).build()
    async with build as node, NodeClient(node.address) as client:
        starting = asyncio.create_task(client.start_vm("vm-boot", vm_config=VmConfig(1, 256)))
        async with asyncio.timeout(patient(60)):
            while not (seen := await client.list_vms()):
                await asyncio.sleep(0.02)
            assert [(vm.id, vm.state) for vm in seen] == [("vm-boot", VmState.STARTING)]
            while not (await client.inspect_vm("vm-boot")).pid:
                await asyncio.sleep(0.02)
        await starting
        await client.deploy("one", probe_wasm, options=DeployOptions(vm_id="vm-boot"))
        found = await client.inspect_vm("one")
        assert Path(f"/proc/{found.pid}").is_dir()
        assert found.vm.rss_bytes > 30 * MIB
        memory = found.memory
        assert memory is not None, found.memory_unknown
        assert memory.guest
        assert 200 * MIB < memory.total_bytes <= 256 * MIB
        assert 20 * MIB < memory.used_bytes < 120 * MIB
        assert memory.used_bytes + memory.available_bytes == memory.total_bytes
        # The kernel's own words, with its clock before them.
        assert re.search(rb"^\[ +\d+\.\d{6}\] \w", await _console(client, "one"), re.MULTILINE)
    assert_nothing_left(data_dir)


async def _console(client: NodeClient, name: str, *, tail: int = 0) -> bytes:
    return b"".join([chunk async for chunk in client.vm_console(name, tail=tail)])


def _agents(vm_id: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if vm_id.encode() in arguments and arguments[0].endswith(AGENT.encode()):
                found.append(int(entry.name))
    return found


def _descriptors() -> list[str]:
    return [str(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
