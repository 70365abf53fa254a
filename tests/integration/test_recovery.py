"""What a node finds again after it ended, in good order or by kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.nodes import builder, node_process, reached
from support.traces import agents_of, assert_nothing_left, bundles_of, ended

from plexspaces_node import NodeClient
from plexspaces_node.client import Progress
from plexspaces_node.errors import (
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    WrongState,
)
from plexspaces_node.model import ApplicationState, VmConfig
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.node import Node
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.vmm import identity_state, marks_of
from plexspaces_node.vm.process.driver import ProcessDriver
from plexspaces_node.vm.qemu.driver import QemuDriver

TWO = (2).to_bytes(4, "little")


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
        assert node.recovered == ("one",)
        await reached(client, "one")
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
    await ended(data_dir)
    assert len(bundles_of(data_dir)) == 1
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await reached(client, "one")
        assert (await client.invoke("one", b"key", type="g")).payload == b"key"
        assert len(bundles_of(data_dir)) == len(agents_of(data_dir)) == 1
        await client.undeploy("one")
        assert_nothing_left(data_dir)


@pytest.mark.parametrize("phase", ["upload", "compile", "vm", "load"])
async def test_kill_9_at_any_phase_of_a_deploy_leaves_nothing_behind_after_the_next_start(
    data_dir: Path, probe_wasm: Path, phase: str
) -> None:
    """An unacknowledged deploy is there whole or not at all, and the name can be deployed.

    The last phase takes a few milliseconds: it may be done before the kill, and is then there.
    """
    acknowledged = False
    with node_process(data_dir) as (process, address):

        def kill(progress: Progress) -> None:
            if progress.phase == phase:
                process.kill()

        async with NodeClient(address) as client:
            with suppress(PlexSpacesError):
                await client.deploy("one", probe_wasm, on_progress=kill)
                acknowledged = True
        process.wait(10)
    await ended(data_dir)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        assert node.recovered or not acknowledged
        if node.recovered:
            await reached(client, "one")
            await client.undeploy("one")
        assert_nothing_left(data_dir)
        await client.deploy("one", probe_wasm)
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"


@contextmanager
def _left_machine(data_dir: Path, *, found_by: str) -> Iterator[subprocess.Popen[bytes]]:
    """What a killed node left: a process, and a bundle by which a driver finds it."""
    bundle = Bundle.create(data_dir / "vms", "vm-left", VmConfig())
    marks = marks_of(bundle) if found_by == "marks" else ()
    command = [sys.executable, "-c", "import time; time.sleep(600)", *marks]
    with subprocess.Popen(command, start_new_session=True) as process:
        identity = procfs.identify(process.pid)
        assert identity is not None
        if found_by != "marks":
            versions = {d.name: d.handle_version for d in (QemuDriver, ProcessDriver)}
            state = identity_state(identity)
            bundle.write_handle(VmHandle(found_by, versions[found_by], bundle.vm_id, state))
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("found_by", ["marks", "qemu", "process"])
async def test_start_that_fails_has_ended_the_machines_of_the_node_before(
    data_dir: Path, found_by: str
) -> None:
    """No machine runs on, or keeps the memory that a trial wants, for lack of a level to run at."""
    async with builder(data_dir).build():
        pass
    with _left_machine(data_dir, found_by=found_by) as left:
        build = builder(data_dir).with_isolation("firecracker")
        build.with_setting("firecracker.binary_path", str(data_dir / "none"))
        with pytest.raises(Unsupported):
            async with build.build():
                pytest.fail("a level without its program")
        assert left.wait(10) == -signal.SIGKILL
    async with builder(data_dir).build():
        assert_nothing_left(data_dir)


async def test_state_that_cannot_be_saved_when_its_application_ends_then_that_is_told(
    data_dir: Path,
    probe_wasm: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full disk costs no state while the node lives; a stop and a shutdown say what it costs."""

    async def refuse(*_: object, **__: object) -> None:
        raise ResourceExhausted("no space left", hint="df -h /data")

    quick = builder(data_dir).with_setting("node.grace_s", 0.5)
    async with quick.build() as node, NodeClient(node.address) as client:
        for name in ("one", "two", "three"):
            await client.deploy(name, probe_wasm)
        with monkeypatch.context() as full:
            full.setattr(Registry, "save_snapshot", refuse)
            for name in ("one", "two", "three"):
                await client.invoke(name, type="c")
            with pytest.raises(Unavailable, match=r"'one' .*lost.*no space left") as caught:
                await client.stop("one")
            assert "df -h /data" in (caught.value.hint or "")
            assert (await client.inspect("one")).state is ApplicationState.STOPPED
            await client.undeploy("two")
            assert len(bundles_of(data_dir)) == len(agents_of(data_dir)) == 1
        await client.start("one")
        assert (await client.invoke("one", type="c")).payload == TWO
        monkeypatch.setattr(Registry, "save_snapshot", refuse)
    assert "'one' has ended, but its last state was not saved" in caplog.text
    assert_nothing_left(data_dir)


async def test_drain_when_an_application_cannot_be_stopped_then_it_tells(
    node: Node, client: NodeClient, probe_wasm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends a node learns that not all of it ended well; the rest ended all the same."""
    await client.deploy("one", probe_wasm)
    with monkeypatch.context() as patch:

        async def stop(supervisor: Supervisor, grace_s: float, *, force: bool) -> str:
            raise Unavailable("the disk is full")

        patch.setattr(Supervisor, "stop", stop)
        assert not await node.drain()
    await node.abort()


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
