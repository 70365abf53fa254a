"""QEMU's command line and what holds it, as data; and the driver where QEMU or KVM is missing."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from plexspaces_node.errors import NotFound, Unavailable, Unsupported, VmStartFailed
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Driver, LinkEnd
from plexspaces_node.vm.host import tsc
from plexspaces_node.vm.host.users import FIRST_UID, LAST_UID, knows, uid_of
from plexspaces_node.vm.image import GuestImage
from plexspaces_node.vm.qemu import sandbox as qemu_walls
from plexspaces_node.vm.qemu.command import (
    Accelerator,
    Descriptors,
    Emulator,
    Files,
    Walls,
    artifact_node,
    filled_slot,
    held_command,
    kernel_arguments,
    qemu_command,
)
from plexspaces_node.vm.qemu.driver import QemuDriver
from plexspaces_node.vm.qemu.sandbox import check_group_may_open, check_kvm, walls_of

TCG = Emulator("/usr/bin/qemu-system-x86_64", Accelerator.TCG, 2_500_000)
KVM = Emulator("/usr/bin/qemu-system-x86_64", Accelerator.KVM)
MARKS = ("vm-1", "/data/vms/vm-1/link.sock")
OPEN = Descriptors(*Files(5, kernel=3, initrd=4), link=6, control=7)
COPY = Descriptors(*Files(5, memory=8), link=6, control=7)
WALLS = Walls("/usr/bin/prlimit", "/usr/bin/setpriv", "/usr/bin/env")


def command(emulator: Emulator = TCG, descriptors: Descriptors = OPEN) -> list[str]:
    return qemu_command(emulator, VmConfig(2, 192), MARKS, descriptors=descriptors)


def values(argv: list[str], flag: str) -> list[str]:
    return [argv[place + 1] for place, word in enumerate(argv) if word == flag]


def no_image() -> GuestImage:
    raise NotFound("no guest image in /nowhere", hint="build it with: plexspaces image build")


class TestCommand:
    def test_machine_has_the_size_asked_for_and_nothing_by_default(self) -> None:
        """Memory and CPUs are the application's; no device comes that was not named."""
        argv = command()
        assert (values(argv, "-m"), values(argv, "-smp")) == (["192"], ["2"])
        assert {"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-S"} <= set(argv)
        assert [one.partition(",")[0] for one in values(argv, "-device")] == [
            "virtio-serial-device",
            "virtserialport",
            "virtio-blk-device",
            "virtio-blk-device",
        ]
        assert not {"-netdev", "-net", "-nic", "-virtfs", "-fsdev", "-usb"} & set(argv)

    def test_machine_when_emulated_gets_a_cpu_that_python_and_emulation_like(self) -> None:
        """RDRAND is there for Python's start, and the slow `rep movs` is not advertised."""
        argv = command(TCG)
        assert values(argv, "-accel") == ["tcg,tb-size=64"]
        assert values(argv, "-cpu") == ["max,-erms,-fsrm"]

    def test_machine_under_kvm_gets_the_hosts_cpu(self) -> None:
        """Nothing is emulated that the CPU can do."""
        argv = command(KVM)
        assert (values(argv, "-accel"), values(argv, "-cpu")) == (["kvm"], ["host"])

    def test_seccomp_is_on_and_denies_all_it_can(self) -> None:
        """A QEMU that was taken over can start nothing and gain nothing."""
        assert values(command(), "-sandbox") == [
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
        ]

    def test_files_and_sockets_are_descriptors_and_none_a_path(self) -> None:
        """The process may be a user to whom the node's directories are closed."""
        argv = command()
        assert values(argv, "-kernel") == ["/proc/self/fd/3"]
        assert values(argv, "-initrd") == ["/proc/self/fd/4"]
        assert values(argv, "-add-fd") == ["fd=5,set=1"]
        chardevs = values(argv, "-chardev")
        assert "socket,id=link,fd=6,server=on,wait=off" in chardevs
        assert "socket,id=control,fd=7,server=on,wait=off" in chardevs
        assert not any("path=" in word or "/data/" in word for word in argv if word not in MARKS)

    def test_marks_are_whole_arguments(self) -> None:
        """What a node looks for to find a machine without a handle is there."""
        assert values(command(), "-name") == list(MARKS)

    def test_drives_are_read_only_the_root_first(self) -> None:
        """No guest writes to what all share, nor to its artifact."""
        argv = command()
        nodes = [json.loads(text) for text in values(argv, "-blockdev")]
        assert [node["node-name"] for node in nodes] == ["root", "empty", "slot"]
        assert all(node["read-only"] is True for node in nodes)
        drives = [one for one in values(argv, "-device") if one.startswith("virtio-blk")]
        assert drives == ["virtio-blk-device,drive=root", "virtio-blk-device,drive=slot"]

    def test_copy_has_the_devices_of_what_it_copies_and_waits_for_its_state(self) -> None:
        """It boots nothing, and what it writes to the memory is its own."""
        argv, booted = command(descriptors=COPY), command(descriptors=OPEN._replace(memory=8))
        for flag in ("-device", "-blockdev", "-cpu", "-M", "-m", "-smp", "-global"):
            assert values(argv, flag) == values(booted, flag)
        assert not {"-kernel", "-initrd", "-append"} & set(argv)
        assert values(argv, "-incoming") == ["defer"]
        file = "memory-backend-file,id=memory,size=192M,mem-path=/proc/self/fd/8,share="
        assert values(argv, "-object") == [f"{file}off"]
        assert values(booted, "-object") == [f"{file}on"]
        assert "-incoming" not in booted

    def test_machine_that_is_not_to_be_copied_has_memory_of_its_own(self) -> None:
        """No file below it, and so the host's large pages."""
        argv = command()
        assert "-object" not in argv
        assert "memory-backend" not in values(argv, "-M")[0]

    def test_slot_when_filled_is_the_same_node_with_the_artifact_below(self) -> None:
        """A reopen may change what lies below and nothing else."""
        before = json.loads(values(command(), "-blockdev")[2])
        assert filled_slot() == before | {"file": artifact_node()["node-name"]}
        assert artifact_node()["filename"] == "/dev/fdset/2"
        assert artifact_node()["read-only"] is True


class TestKernelArguments:
    def test_kernel_is_told_its_link_and_not_which_machine_it_is(self) -> None:
        """The agent finds its port on the kernel's command line; what boots may be copied."""
        words = kernel_arguments(KVM, template=False).split()
        assert not any(word.startswith("plexspaces.vm") for word in words)
        assert "plexspaces.link=virtio-serial:vport0p1" in words
        assert "nr=1" in values(command(), "-device")[1]

    def test_kernel_is_told_that_its_machine_will_be_copied(self) -> None:
        """What its agent does ahead then is of no use to a machine that boots alone."""
        for memory, told in ((None, False), (9, True)):
            argv = command(descriptors=OPEN._replace(memory=memory))
            assert ("plexspaces.template" in values(argv, "-append")[0].split()) is told

    def test_kernel_when_emulated_need_not_measure_its_timers(self) -> None:
        """What hangs at random on a loaded host is told and not measured."""
        words = kernel_arguments(TCG, template=False).split()
        assert {"tsc_early_khz=2500000", "tsc=reliable", "no_timer_check"} <= set(words)
        unknown = kernel_arguments(replace(TCG, tsc_khz=None), template=False)
        assert "tsc_early_khz" not in unknown

    def test_kernel_under_kvm_keeps_its_mitigations_and_measures(self) -> None:
        """The shortcuts of emulation are none for a kernel on a real CPU."""
        words = kernel_arguments(KVM, template=False)
        assert not {"mitigations", "tsc", "no_timer_check"} & {
            word.partition("=")[0] for word in words.split()
        }

    def test_guest_that_panics_ends_its_machine(self) -> None:
        """A panic is a reset, and a reset is the end."""
        assert {"panic=-1", "reboot=t"} <= set(kernel_arguments(TCG, template=False).split())
        assert "-no-reboot" in command()


class TestWalls:
    def test_chain_without_privileges_limits_and_forbids_new_ones(self) -> None:
        """The whole vector, so that any change of it is a change of this test."""
        assert held_command(WALLS, ["qemu", "-S"]) == [
            "/usr/bin/prlimit",
            "--nofile=256",
            "--core=0",
            "--fsize=4194304",
            "--",
            "/usr/bin/setpriv",
            "--no-new-privs",
            "--",
            "/usr/bin/env",
            "--ignore-signal=XFSZ",
            "--",
            "qemu",
            "-S",
        ]

    def test_chain_under_root_leaves_the_network_and_becomes_another_user(self) -> None:
        """Namespaces first, while that is allowed; then user, capabilities and privileges go."""
        unshare = ("/usr/bin/unshare", "--net", "--ipc", "--uts", "--")
        root = replace(WALLS, unshare=unshare, drop_capabilities=True, own_user=True)
        argv = held_command(walls_of(root, Bundle(Path("/data/vms/vm-1")), kvm=False), ["qemu"])
        assert tuple(argv[:5]) == unshare
        uid = str(uid_of(Bundle(Path("/data/vms/vm-1"))))
        begin = argv.index("/usr/bin/setpriv")
        assert argv[begin + 1 : argv.index("/usr/bin/env")] == [
            "--reuid",
            uid,
            "--regid",
            uid,
            "--clear-groups",
            "--bounding-set",
            "-all",
            "--inh-caps",
            "-all",
            "--no-new-privs",
            "--",
        ]

    def test_user_of_a_machine_is_its_own_and_always_the_same(self) -> None:
        """Two machines are two users, of a range that belongs to nobody."""
        users = {uid_of(Bundle(Path(f"/data/vms/vm-{number}"))) for number in range(200)}
        assert len(users) == 200
        assert all(FIRST_UID <= uid <= LAST_UID for uid in users)
        assert uid_of(Bundle(Path("/data/vms/vm-7"))) == uid_of(Bundle(Path("/data/vms/vm-7")))

    def test_user_stays_where_there_is_no_other(self) -> None:
        """A node that is not root, or in a container with few users, changes none."""
        assert walls_of(WALLS, Bundle(Path("/data/vms/vm-1")), kvm=False) == WALLS

    @pytest.mark.parametrize(
        ("text", "exists"), [("0 0 4294967295\n", True), ("0 100000 65536\n", False), ("", False)]
    )
    def test_users_of_a_container_are_read_from_its_map(self, text: str, exists: bool) -> None:
        """Only a user that the namespace knows can be become."""
        assert knows(text, FIRST_UID) is exists


class TestKvm:
    def test_kvm_when_missing_says_how_to_get_it(self, tmp_path: Path) -> None:
        """A machine without virtualisation is told where to switch it on."""
        with pytest.raises(Unavailable, match="there is no") as caught:
            check_kvm(tmp_path / "kvm", own_user=False)
        assert "modprobe kvm" in (caught.value.hint or "")

    def test_kvm_when_it_is_no_device_says_so(self, tmp_path: Path) -> None:
        """A file in its place, made by a wrong mount, is told."""
        (tmp_path / "kvm").touch()
        with pytest.raises(Unavailable, match="cannot create a virtual machine"):
            check_kvm(tmp_path / "kvm", own_user=False)

    def test_kvm_closed_to_the_users_of_machines_names_the_group(self, tmp_path: Path) -> None:
        """Root may open it; what runs as another user needs the device's group, and no more."""
        device = tmp_path / "kvm"
        device.touch(mode=0o600)
        with pytest.raises(Unavailable, match="no group has access to") as caught:
            check_group_may_open(device)
        assert caught.value.hint == f"chgrp kvm {device} && chmod 660 {device}"


class TestDriver:
    async def test_probe_without_an_image_says_how_to_make_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is started where there is nothing to boot."""
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        program = tmp_path / "qemu-system-x86_64"
        program.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        health = await QemuDriver(no_image).probe()
        assert not health.ok
        assert health.reason == "no guest image in /nowhere"
        assert health.hint == "build it with: plexspaces image build"

    async def test_probe_without_qemu_names_its_package(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A host without QEMU is told what to install."""
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setenv("PATH", "/nonexistent")
        health = await QemuDriver(no_image).probe()
        assert not health.ok
        assert health.hint == "apt-get install qemu-system-x86"

    def test_qemu_on_another_machine_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The microvm machine exists on x86-64 alone."""
        monkeypatch.setattr(platform, "machine", lambda: "riscv64")
        with pytest.raises(Unsupported, match="riscv64"):
            qemu_walls.find_qemu()

    async def test_start_where_the_probe_fails_names_the_step_and_leaves_nothing(
        self, tmp_path: Path
    ) -> None:
        """A start does what the probe does first."""
        bundle = Bundle.create(tmp_path, "vm-1", VmConfig(1, 128))
        driver = QemuDriver(no_image)
        with pytest.raises(VmStartFailed) as caught:
            await driver.start(bundle.config, bundle)
        assert caught.value.step == "validate"
        assert [path.name for path in bundle.path.iterdir()] == ["config.json"]
        await driver.destroy(bundle)
        assert not bundle.path.exists()

    def test_driver_before_its_probe_states_its_bounds(self) -> None:
        """What can be asked is known without a boot."""
        driver = QemuDriver(no_image)
        assert isinstance(driver, Driver)
        assert driver.name == "qemu"
        able = driver.capabilities
        assert able.link is LinkEnd.NODE_DIALS
        assert able.overhead_mib < able.min_memory_mib < able.max_memory_mib


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 has the counter")
def test_rate_of_the_hosts_counter_is_measured_alike_twice() -> None:
    """Two measurements agree within a part in a thousand, and are a CPU's."""
    one, other = tsc.host_tsc_khz(), tsc.host_tsc_khz()
    assert one is not None
    assert other is not None
    assert 500_000 < one < 10_000_000
    assert abs(one - other) < one / 1000
