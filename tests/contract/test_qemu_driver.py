"""What only the QEMU driver promises: how QEMU is held, and what a guest that fails is told by.

Needs QEMU and a guest image: run when `--drivers` names qemu.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.machines import SMALL, TIMEOUT_S, QemuHarness, qemu_driver
from support.qemu import leave_unread

from plexspaces_node.errors import VmStartFailed
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.drive import make_drive
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.image import INITRD, KERNEL, ROOTFS, GuestImage
from plexspaces_node.vm.qemu.driver import QemuDriver
from plexspaces_node.vm.qemu.qmp import connect_qmp
from plexspaces_node.vm.qemu.timeouts import Timeouts

UNHEARD_OF = VmConfig(1, 131)
"""A size of which there is no template, so that the machine has to boot."""


@pytest.fixture
async def machines(request: pytest.FixtureRequest, root: Path) -> QemuHarness:
    """The QEMU driver, where it is named."""
    if "qemu" not in request.config.getoption("--drivers").split(","):
        pytest.skip("boots machines: name it with --drivers=qemu")
    harness, health = await QemuHarness.probed(root)
    assert health.ok, f"--drivers names qemu, but: {health.reason} (hint: {health.hint})"
    return harness


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_qemu_holds_nothing_of_the_node(machines: QemuHarness) -> None:
    """No capability, no new privileges, seccomp; under root another user and no network."""
    async with machines.machine() as machine:
        pid = int(machine.vm.handle.state["pid"])
        status = status_of(pid)
        assert (int(status["CapEff"], 16), int(status["CapBnd"], 16) * (os.geteuid() == 0)) == (
            0,
            0,
        )
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert sorted(filter(None, environment)) == [b"LANG=C.UTF-8", b"PATH=/usr/bin:/bin"]
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max core file size        0" in limits
        if os.geteuid() == 0:
            assert int(status["Uid"].split()[0]) != 0
            assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


async def test_files_of_qemu_are_its_own_machines(machines: QemuHarness) -> None:
    """Of the node's files it has the root, its console and its sockets; it boots no kernel."""
    async with machines.machine() as machine:
        pid = int(machine.vm.handle.state["pid"])
        opened = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        files = {Path(name).name for name in opened if name.startswith("/") and "/dev/" not in name}
        assert files == {ROOTFS, "console.log", "memfd:plexspaces-memory (deleted)"}


async def test_guest_that_resets_has_ended_and_is_told_from_a_stop(machines: QemuHarness) -> None:
    """A reset, which is what a panic is too, ends the machine; nobody asked for it."""
    async with machines.machine() as machine, asyncio.timeout(TIMEOUT_S):
        async with connect_qmp(machine.bundle.path / "qmp.sock") as control:
            await control.execute("system_reset")
        ended = await machine.vm.wait()
        assert ended.status == 0
        assert ended.reason.startswith("the guest ended")
        assert machines.rests(machine.bundle) == [str(machine.bundle.path)]


async def test_client_that_leaves_unread_what_it_was_told_ends_no_machine(
    machines: QemuHarness,
) -> None:
    """QEMU's answers and events that nobody stays for are no fault of the machine's."""
    async with machines.machine() as machine, asyncio.timeout(TIMEOUT_S):
        await leave_unread(machine.bundle.path / "qmp.sock")
        async with connect_qmp(machine.bundle.path / "qmp.sock") as control:
            assert (await control.execute("query-status"))["running"]


async def test_machine_that_is_frozen_is_stopped_within_the_grace(machines: QemuHarness) -> None:
    """A QEMU that does not answer SIGTERM is killed."""
    async with machines.machine() as machine, asyncio.timeout(TIMEOUT_S):
        os.kill(int(machine.vm.handle.state["pid"]), 19)
        ended = await machine.vm.stop(0.05)
        assert ended.reason == "killed while stopping"


async def test_stale_sockets_in_the_bundle_are_no_obstacle(machines: QemuHarness) -> None:
    """What an attempt before left where the sockets will be is replaced."""
    bundle = machines.bundle()
    bundle.link_socket.touch()
    vm = await machines.driver.start(SMALL, bundle)
    assert bundle.link_socket.is_socket()
    await vm.stop(0)
    await machines.driver.destroy(bundle)
    assert machines.rests(bundle) == []


async def test_more_memory_than_the_host_has_free_is_refused(
    machines: QemuHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is not driven into swapping; the error says what there is."""
    monkeypatch.setattr(procfs, "available_memory_mib", lambda: 150)
    bundle = machines.bundle()
    with pytest.raises(VmStartFailed, match="has 150 MiB available") as caught:
        await machines.driver.start(VmConfig(1, 200), bundle)
    assert caught.value.step == "validate"
    assert machines.rests(bundle) == [str(bundle.path)]
    await machines.driver.destroy(bundle)


async def test_image_whose_root_is_empty_fails_the_probe_with_the_guests_words(
    machines: QemuHarness, tmp_path: Path
) -> None:
    """A guest that panics before its agent speaks is told by step and console, at once."""
    sound = machines.driver._image()  # type: ignore[attr-defined]
    (tmp_path / KERNEL).symlink_to(sound.kernel)
    (tmp_path / INITRD).symlink_to(sound.initrd)
    (tmp_path / "nothing").write_bytes(b"")
    make_drive(tmp_path / "nothing", tmp_path / ROOTFS)
    made_of: dict[str, str] = {}
    image = GuestImage.seal(tmp_path, generation=1, min_memory_mib=128, made_of=made_of)
    health = await QemuDriver(lambda: image).probe()
    assert not health.ok
    assert "before its agent opened the link" in health.reason
    assert "opened the link: plexspaces: /dev" in health.reason
    assert health.hint == "plexspaces image verify"


async def test_guest_whose_agent_says_nothing_fails_the_start_at_its_boot(
    machines: QemuHarness,
) -> None:
    """A boot that hangs ends with its bound, and nothing of it is left."""
    driver = qemu_driver(Timeouts(first_boot_s=0.01, boot_s=0.01))
    bundle = machines.bundle(UNHEARD_OF)
    with pytest.raises(VmStartFailed, match=r"within 0\.01 s") as caught:
        await driver.start(UNHEARD_OF, bundle)
    assert caught.value.step == "boot"
    assert machines.rests(bundle) == [str(bundle.path)]
    assert not bundle.link_socket.exists()
    await machines.driver.destroy(bundle)
