"""What goes wrong with a machine, as the node sees it: the step, the console, the bound, the rests.

QEMU and Firecracker are stand-ins here, so that every step can fail, hang or die on every host.
Each start goes through `start_machine`, as the node's own do: what it leaves, the node leaves.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TypeAlias

import pytest
from support import fake_firecracker
from support.firecracker import ELF_HEAD, FakeFirecrackerHarness
from support.machines import SMALL, Harness, ProcessHarness
from support.patience import patient
from support.qemu import FakeQemuHarness, hello_in_hex, leave_unread
from support.sending import reply_of
from support.small_disk import run_on_small_disk

from plexspaces_node.errors import DeadlineExceeded, PlexSpacesError, Unavailable, VmStartFailed
from plexspaces_node.node.machines.machine import AgentLimits, Machine, start_machine
from plexspaces_node.node.timeouts import Timeouts
from plexspaces_node.vm.drive import DRIVE
from plexspaces_node.vm.driver import Driver, LinkEnd
from plexspaces_node.vm.firecracker import jailer
from plexspaces_node.vm.firecracker.driver import FirecrackerDriver
from plexspaces_node.vm.firecracker.host import FirecrackerHost
from plexspaces_node.vm.firecracker.jailer import CONSOLE_LIMIT_BYTES, Cgroups, Programs
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.vmm import trial_bundle
from plexspaces_node.vm.image import INITRD, KERNEL, ROOTFS
from plexspaces_node.vm.process.driver import ProcessDriver
from plexspaces_node.vm.qemu import driver as qemu
from plexspaces_node.vm.qemu.qmp import connect_qmp

LIMITS = AgentLimits("node-test", message_limit=1 << 20, in_flight_limit=16)
HURRIED = replace(LIMITS, timeouts=Timeouts(first_hello_s=patient(2), hello_s=patient(2)))
"""For agents that say nothing."""
BOUND_S = patient(40.0)
"""For a start to fail, the bounds of its steps shortened; a loaded host included."""

VmmHarness: TypeAlias = FakeQemuHarness | FakeFirecrackerHarness
VMMS = ("qemu", "firecracker")
ALL = (*VMMS, "process")


def harness_of(kind: str, root: Path, scratch: Path) -> Harness:
    """Make the harness of a driver over its stand-in."""
    if kind == "qemu":
        return FakeQemuHarness(root, scratch)
    if kind == "firecracker":
        return FakeFirecrackerHarness(root, scratch)
    return ProcessHarness(root)


def well(harness: Harness, *options: str) -> Driver:
    """Make a driver whose machines work, or would but for `options` of the stand-in."""
    if isinstance(harness, FakeQemuHarness):
        return harness.ready(*options)
    if isinstance(harness, FakeFirecrackerHarness):
        return harness.ready("--hello", hello_in_hex(fake_firecracker.NOBODY.decode()), *options)
    assert isinstance(harness, ProcessHarness)
    return ProcessDriver()


@pytest.fixture(params=VMMS)
def vmm(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> VmmHarness:
    """QEMU and Firecracker in turn."""
    harness = harness_of(request.param, root, tmp_path)
    assert isinstance(harness, FakeQemuHarness | FakeFirecrackerHarness)
    return harness


@pytest.fixture(params=(FakeQemuHarness, FakeFirecrackerHarness))
def hurried_vmm(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> VmmHarness:
    """QEMU and Firecracker in turn, whose drivers give up soon what hangs."""
    harness: VmmHarness = request.param.hurried(root, tmp_path)
    return harness


@pytest.fixture(params=ALL)
def any_level(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Harness:
    """Each level in turn."""
    return harness_of(request.param, root, tmp_path)


async def start_fails(
    harness: Harness,
    driver: Driver,
    *,
    step: str,
    words: str,
    console: bool = True,
    limits: AgentLimits = LIMITS,
) -> VmStartFailed:
    """Start a machine, which must fail as said, in time, and leave nothing; return the error."""
    bundle = harness.bundle()
    begin, before = monotonic(), asyncio.all_tasks()
    with pytest.raises(VmStartFailed, match=words) as failed:
        await start_machine(driver, bundle, limits)
    assert monotonic() - begin < BOUND_S
    assert failed.value.step == step
    assert failed.value.hint
    assert (str(bundle.console_log) in failed.value.message) is console
    assert harness.rests(bundle) == []
    assert list(harness.root.iterdir()) == []
    assert asyncio.all_tasks() <= before
    return failed.value


@asynccontextmanager
async def running(
    harness: Harness, driver: Driver, limits: AgentLimits = LIMITS
) -> AsyncIterator[Machine]:
    """Start a machine as a node does; afterwards nothing of it may be left."""
    bundle = harness.bundle()
    machine = await start_machine(driver, bundle, limits)
    try:
        yield machine
    finally:
        async with asyncio.timeout(BOUND_S):
            await machine.destroy()
    assert harness.rests(bundle) == []


def pid_of(machine: Machine) -> int:
    """Return the process that is the machine."""
    handle = machine.bundle.read_handle()
    assert handle is not None
    return int(handle.state["pid"])


class TestStart:
    @pytest.mark.parametrize(
        ("options", "step", "words"),
        [
            ("--die start", "boot", "status 7"),
            ("--die greet", "boot", "status 7"),
            ("--die qmp_capabilities", "boot", "status 7"),
            ("--die cont", "boot", "status 7"),
            ("--fail qmp_capabilities", "boot", "QEMU refuses qmp_capabilities: told to fail"),
            ("--fail cont", "boot", "QEMU refuses cont: told to fail"),
            ("--garble greet", "boot", "does not speak QMP"),
            ("--garble cont", "boot", "does not speak QMP"),
            ("--guest panic", "boot", "the guest ended before(.|\n)*Kernel panic"),
            ("--guest poweroff", "boot", "the guest ended before its agent opened the link"),
            ("--guest dies", "hello", "ended before the agent connected"),
        ],
    )
    async def test_qemu_that_dies_or_errs_at_a_step_fails_the_start_there(
        self, root: Path, tmp_path: Path, options: str, step: str, words: str
    ) -> None:
        """The error says what QEMU or its guest did, at once, and where its console was."""
        harness = FakeQemuHarness(root, tmp_path)
        await start_fails(harness, harness.ready(*options.split()), step=step, words=words)

    @pytest.mark.parametrize(
        ("options", "step", "words"),
        [
            ("--hang start", "boot", "sent no greeting|did not open"),
            ("--hang greet", "boot", "sent no greeting|did not open"),
            ("--hang qmp_capabilities", "boot", "did not answer qmp_capabilities|did not open"),
            ("--hang cont", "boot", "did not answer cont|did not open"),
            ("--guest silent", "boot", r"agent did not open its link within [\d.]+ s"),
            ("--guest mute", "hello", r"did not connect within [\d.]+ s"),
        ],
    )
    async def test_qemu_that_hangs_at_a_step_is_tried_twice_and_given_up(
        self,
        root: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        options: str,
        step: str,
        words: str,
    ) -> None:
        """What hangs is bounded by time, whatever it hangs at, even when it ignores SIGTERM."""
        harness = FakeQemuHarness.hurried(root, tmp_path)
        driver = harness.ready("--deaf", *options.split())
        await start_fails(harness, driver, step=step, words=words, limits=HURRIED)
        assert caplog.text.count("starting it again") == 1

    @pytest.mark.parametrize(
        ("options", "step", "words"),
        [
            ("--die GET§/", "connect", "gave no valid answer"),
            ("--die PUT§/vsock", "configure", "gave no valid answer to PUT /vsock"),
            ("--die PUT§/actions", "boot", "gave no valid answer to PUT /actions"),
            ("--fail PUT§/machine-config", "configure", "refused PUT /machine-config"),
            ("--garble PUT§/boot-source", "configure", "not an HTTP response"),
            ("--die start", "connect", "ended with status 1(.|\n)*told to die"),
            ("--panic", "hello", "ended before the agent connected(.|\n)*Kernel panic"),
        ],
    )
    async def test_firecracker_that_dies_or_errs_at_a_step_fails_the_start_there(
        self, root: Path, tmp_path: Path, options: str, step: str, words: str
    ) -> None:
        """The error says which call it was, at once, and where its console was."""
        harness = FakeFirecrackerHarness(root, tmp_path)
        driver = harness.ready(*(option.replace("§", " ") for option in options.split()))
        await start_fails(harness, driver, step=step, words=words)

    @pytest.mark.parametrize(
        ("options", "step", "words", "tries"),
        [
            ("--no-api", "connect", "did not serve its API within 3 s", 1),
            ("--hang GET§/", "connect", "did not answer GET / within 1 s", 1),
            ("--hang PUT§/vsock", "configure", "did not answer PUT /vsock within 1 s", 1),
            ("--hang PUT§/actions", "boot", "did not answer PUT /actions within 1 s", 1),
            ("--deaf-guest", "hello", r"did not connect within [\d.]+ s", 2),
        ],
    )
    async def test_firecracker_that_hangs_at_a_step_is_given_up(
        self,
        root: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        options: str,
        step: str,
        words: str,
        tries: int,
    ) -> None:
        """What hangs is bounded by time; only a guest's boot is worth a second try."""
        harness = FakeFirecrackerHarness.hurried(root, tmp_path)
        faults = [option.replace("§", " ") for option in options.split()]
        driver = harness.ready("--deaf", *faults)
        await start_fails(harness, driver, step=step, words=words, limits=HURRIED)
        assert caplog.text.count("starting it again") == tries - 1

    async def test_boot_that_hangs_once_comes_up_at_the_second_try(
        self, hurried_vmm: VmmHarness, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A boot may hang at random; nobody but the log learns of it."""
        once = ("--once", str(tmp_path / "hung"))
        fault = (
            ("--hang", "cont") if isinstance(hurried_vmm, FakeQemuHarness) else ("--deaf-guest",)
        )
        async with running(hurried_vmm, well(hurried_vmm, *fault, *once), HURRIED):
            assert "starting it again" in caplog.text
            assert len(list(hurried_vmm.root.iterdir())) == 1

    @pytest.mark.parametrize(
        ("program", "words"),
        [
            ("raise SystemExit('no such module')", "ended before(.|\n)*no such module"),
            ("import os; os.kill(os.getpid(), 11)", "ended before(.|\n)*SIGSEGV"),
            ("import time; time.sleep(600)", r"did not connect within [\d.]+ s"),
            (
                "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)",
                r"did not connect within [\d.]+ s",
            ),
            (
                "import socket, sys, time; s = socket.socket(socket.AF_UNIX); "
                "s.connect(sys.argv[4]); s.send(b'x' * 9); time.sleep(600)",
                r"did not connect within [\d.]+ s",
            ),
        ],
    )
    async def test_agent_process_that_dies_hangs_or_babbles_fails_the_start(
        self, root: Path, program: str, words: str
    ) -> None:
        """The level without a machine has the same faults, and the same end."""
        harness = ProcessHarness(root)
        driver = harness.of_python(program)
        await start_fails(harness, driver, step="hello", words=words, limits=HURRIED)


def missing(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def of_another_machine(path: Path) -> None:
    path.write_bytes(ELF_HEAD[:18] + b"\xb7\x00")


def something_else(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


class TestImage:
    @pytest.mark.parametrize(
        ("name", "damage", "words"),
        [
            (KERNEL, missing, "vmlinux is missing"),
            (KERNEL, cut_short, "vmlinux has 19 bytes, not 20"),
            (KERNEL, of_another_machine, "vmlinux is a kernel for aarch64, not x86_64"),
            (KERNEL, something_else, "vmlinux is not an uncompressed ELF kernel"),
            (INITRD, missing, "initrd is missing"),
            (INITRD, cut_short, "initrd has 5 bytes, not 6"),
            (ROOTFS, missing, r"rootfs\.erofs is missing"),
            (ROOTFS, cut_short, r"rootfs\.erofs has 1027 bytes, not 1028"),
            (ROOTFS, something_else, r"rootfs\.erofs is not an EROFS file system"),
            ("image.json", missing, "no guest image in"),
        ],
    )
    async def test_image_that_is_spoiled_while_the_node_runs_fails_the_next_start(
        self,
        vmm: VmmHarness,
        tmp_path: Path,
        name: str,
        damage: Callable[[Path], None],
        words: str,
    ) -> None:
        """The file is named before anything is started, and how to make it anew."""
        driver = well(vmm)
        damage(tmp_path / "image" / name)
        failed = await start_fails(vmm, driver, step="validate", words=words, console=False)
        assert "plexspaces image build" in (failed.hint or "")

    async def test_image_that_is_spoiled_fails_the_probe_with_the_same_words(
        self, vmm: VmmHarness, tmp_path: Path
    ) -> None:
        """`doctor` and the node's start tell it, in one line."""
        driver = vmm.of_program()
        of_another_machine(tmp_path / "image" / KERNEL)
        health = await driver.probe()
        assert not health.ok
        assert "is a kernel for aarch64" in health.reason
        assert "\n" not in health.reason
        assert "plexspaces image build" in (health.hint or "")

    async def test_kvm_under_which_nothing_boots_is_found_out_and_emulation_taken(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The device is there and opens, and the guest hangs: said, with what to look at."""
        monkeypatch.setattr(qemu, "check_kvm", lambda **_: None)
        harness = FakeQemuHarness.hurried(root, tmp_path)
        health = await harness.of_program("--kvm-hangs").probe()
        assert health.ok
        assert health.emulated
        assert "KVM does not work: the agent did not open its link within 3 s" in health.reason
        assert "dmesg | grep -i kvm" in (health.hint or "")
        assert list(root.iterdir()) == []

    async def test_probe_whose_trial_fails_says_why_in_one_line_and_leaves_nothing(
        self, vmm: VmmHarness
    ) -> None:
        """The trial machine goes as every other; a report has no room for its whole console."""
        at = "cont" if isinstance(vmm, FakeQemuHarness) else "PUT /vsock"
        health = await vmm.of_program("--die", at).probe()
        assert not health.ok
        assert "\n" not in health.reason
        assert health.hint
        assert list(vmm.root.iterdir()) == []


class TestHost:
    async def test_memory_that_the_host_has_not_is_refused_before_anything_starts(
        self, vmm: VmmHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is wanted and what there is are in the error, and what to ask for."""
        driver = well(vmm)
        monkeypatch.setattr(procfs, "available_memory_mib", lambda: 100)
        words = "needs 128 MiB, this host has 100 MiB available"
        failed = await start_fails(vmm, driver, step="validate", words=words, console=False)
        assert "at most --memory 100" in (failed.hint or "")

    async def test_probe_on_a_host_without_memory_says_so(
        self, vmm: VmmHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A level is not called broken by a trial that was killed for lack of memory."""
        monkeypatch.setattr(procfs, "available_memory_mib", lambda: 1)
        health = await vmm.of_program().probe()
        assert not health.ok
        assert "this host has 1 MiB available" in health.reason

    async def test_disk_that_fills_before_the_handle_is_written_ends_the_machine(
        self, any_level: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A machine that could not be found again does not stay; the hint is about space."""
        driver = well(any_level)
        made = any_level.bundle()
        monkeypatch.setattr(Path, "replace", no_space)
        with pytest.raises(VmStartFailed, match="No space left") as failed:
            await start_machine(driver, made, LIMITS)
        assert failed.value.step == "handle"
        assert "df -h" in (failed.value.hint or "")
        assert any_level.rests(made) == []

    async def test_disk_that_fills_while_a_file_is_attached_says_so(
        self, any_level: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The machine can be ended after that as ever."""
        file = tmp_path / "some.cwasm"
        file.write_bytes(b"compiled")
        async with running(any_level, well(any_level)) as machine:
            monkeypatch.setattr(os, "link", no_space)
            monkeypatch.setattr(shutil, "copyfile", no_space)
            with pytest.raises(Unavailable, match="No space left") as failed:
                await machine._vm.attach(file)
            assert "df -h" in (failed.value.hint or "")

    async def test_disk_too_small_for_the_artifacts_drive_says_so(
        self, vmm: VmmHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error says so, and no half-made drive stays."""
        file = tmp_path / "some.cwasm"
        file.write_bytes(b"compiled")
        monkeypatch.setattr(shutil, "copyfileobj", no_space)
        async with running(vmm, well(vmm)) as machine:
            with pytest.raises(Unavailable, match="No space left") as failed:
                await machine._vm.attach(file)
            assert "df -h" in (failed.value.hint or "")
            assert not (machine.bundle.path / DRIVE).exists()

    def test_disk_that_is_really_full_makes_no_bundle(self, tmp_path: Path) -> None:
        """On a file system without room the error names place and cure, and nothing is left."""
        program = (
            "import sys; from pathlib import Path; from plexspaces_node.vm.bundle import Bundle\n"
            "from plexspaces_node.model import VmConfig\n"
            "try: Bundle.create(Path(sys.argv[1]), 'vm-1', VmConfig())\n"
            "except Exception as error: print(error, '|', error.hint)\n"
            "print(sorted(p.name for p in Path(sys.argv[1]).iterdir()))\n"
        )
        fill = f"head -c 1M /dev/zero > {tmp_path}/fill; "
        done = run_on_small_disk(program, tmp_path, "16k", before=fill)
        refusal, left = done.stdout.splitlines()
        assert refusal.startswith(f"cannot create bundle {tmp_path}/vm-1: No space left on device")
        assert f"df -h {tmp_path}" in refusal
        assert left == "['fill']"

    @pytest.mark.parametrize("name", ["link.sock", "qmp.sock", "api.sock", "v.sock"])
    @pytest.mark.parametrize("kind", ["socket", "file"])
    async def test_stale_socket_in_the_bundle_is_replaced(
        self, vmm: VmmHarness, name: str, kind: str
    ) -> None:
        """What an attempt that was killed left behind does not keep the next one from starting."""
        if name == "link.sock" and kind == "file" and not isinstance(vmm, FakeQemuHarness):
            pytest.skip("what is no socket is not removed: the next test")
        made = vmm.bundle()
        path = made.path / name
        if kind == "file":
            path.touch()
        else:
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(path))
        machine = await start_machine(well(vmm), made, LIMITS)
        await machine.destroy()
        assert vmm.rests(made) == []

    async def test_directory_in_the_links_place_fails_the_start(self, any_level: Harness) -> None:
        """What nobody of ours has made there is not removed, but with its bundle."""
        driver = well(any_level)
        made = any_level.bundle()
        made.link_socket.mkdir()
        step = "listen" if driver.capabilities.link is LinkEnd.GUEST_DIALS else "spawn"
        with pytest.raises(VmStartFailed) as failed:
            await start_machine(driver, made, LIMITS)
        assert failed.value.step == step
        assert failed.value.hint
        assert any_level.rests(made) == []

    async def test_probe_where_sockets_have_no_room_is_told_and_leaves_nothing(
        self, root: Path
    ) -> None:
        """A trial's bundle has the same bound as every other."""
        deep = root / ("d" * 100)
        deep.mkdir()
        with pytest.raises(PlexSpacesError, match="more than a Unix socket allows"):
            trial_bundle(deep, SMALL)
        assert list(deep.iterdir()) == []
        deep.rmdir()

    async def test_machines_of_one_bundle_started_at_once_are_one(self, vmm: VmmHarness) -> None:
        """The second start is refused and does not take the first one's sockets away."""
        driver, made = well(vmm), vmm.bundle()
        server = None
        if driver.capabilities.link is LinkEnd.GUEST_DIALS:
            server = await asyncio.start_unix_server(hang_up, made.link_socket)
        results = await asyncio.gather(
            *(driver.start(SMALL, made) for _ in range(2)), return_exceptions=True
        )
        failed = [result for result in results if isinstance(result, VmStartFailed)]
        assert [error.step for error in failed] == ["validate"]
        await driver.destroy(made)
        if server is not None:
            server.close()
        assert vmm.rests(made) == []


class TestRunning:
    @pytest.mark.parametrize(
        ("number", "reason"),
        [
            (signal.SIGUSR1, "the guest ended"),
            (signal.SIGUSR2, "the guest ended: Kernel panic - not syncing: told to"),
            (signal.SIGKILL, "killed by SIGKILL"),
            (signal.SIGSEGV, "killed by SIGSEGV"),
        ],
    )
    async def test_machine_that_ends_unasked_is_seen_and_is_no_stop(
        self, vmm: VmmHarness, number: signal.Signals, reason: str
    ) -> None:
        """Power off, panic and death wake the keeper, which takes each for a crash."""
        async with running(vmm, well(vmm)) as machine, asyncio.timeout(BOUND_S):
            os.kill(pid_of(machine), number)
            ended = await machine.wait()
            assert ended.reason.startswith(reason)
            assert "stopped" not in ended.reason

    async def test_client_that_leaves_unread_what_it_was_told_ends_no_stand_in(
        self, root: Path, tmp_path: Path
    ) -> None:
        """As of QEMU: a machine that has come up may say more than its driver stays for."""
        harness = FakeQemuHarness(root, tmp_path)
        async with running(harness, well(harness)) as machine, asyncio.timeout(BOUND_S):
            await leave_unread(machine.bundle.path / "qmp.sock")
            async with connect_qmp(machine.bundle.path / "qmp.sock"):
                pass

    async def test_agent_that_is_killed_is_seen_and_is_no_stop(self, root: Path) -> None:
        """Without a machine around it the agent's own process is what ends."""
        harness = ProcessHarness(root)
        async with running(harness, well(harness)) as machine, asyncio.timeout(BOUND_S):
            os.kill(pid_of(machine), signal.SIGKILL)
            assert (await machine.wait()).reason == "killed by SIGKILL"

    async def test_guest_that_goes_silent_is_found_out_by_the_next_message(
        self, vmm: VmmHarness
    ) -> None:
        """The message fails by its deadline, and the machine counts as ended."""
        async with running(vmm, well(vmm)) as machine, asyncio.timeout(BOUND_S):
            with pytest.raises(DeadlineExceeded, match="no sign of life"):
                await reply_of(machine.agent, timeout_ns=100_000_000)
            assert (await machine.wait()).reason == "the agent did not answer"

    async def test_frozen_vmm_is_found_out_and_ends_in_time(self, any_level: Harness) -> None:
        """A process that no longer runs at all is killed like any other."""
        async with running(any_level, well(any_level)) as machine:
            os.kill(pid_of(machine), signal.SIGSTOP)
            with pytest.raises(DeadlineExceeded):
                await reply_of(machine.agent, timeout_ns=100_000_000)
            async with asyncio.timeout(BOUND_S):
                await machine.wait()

    async def test_frozen_vmm_takes_no_file_and_says_so_in_time(
        self, hurried_vmm: VmmHarness, tmp_path: Path
    ) -> None:
        """Attaching to a machine that hangs is bounded too."""
        file = tmp_path / "some.cwasm"
        file.write_bytes(b"compiled")
        async with running(hurried_vmm, well(hurried_vmm)) as machine:
            os.kill(pid_of(machine), signal.SIGSTOP)
            with pytest.raises(DeadlineExceeded, match=r"within [12] s"):
                await machine._vm.attach(file)

    async def test_vmm_that_dies_while_it_takes_a_file_says_so(
        self, vmm: VmmHarness, tmp_path: Path
    ) -> None:
        """The error is about the machine, and who waits for its end is woken."""
        file = tmp_path / "some.cwasm"
        file.write_bytes(b"compiled")
        at = "blockdev-add" if isinstance(vmm, FakeQemuHarness) else "PATCH /drives/artifact"
        async with running(vmm, well(vmm, "--die", at)) as machine, asyncio.timeout(BOUND_S):
            with pytest.raises(
                Unavailable, match=r"closed its control socket|gave no valid answer"
            ):
                await machine._vm.attach(file)
            assert "status 7" in (await machine.wait()).reason

    async def test_firecracker_whose_console_is_full_ends_and_says_why(
        self, root: Path, tmp_path: Path
    ) -> None:
        """A guest that floods its console ends itself, not silently."""
        harness = FakeFirecrackerHarness(root, tmp_path)
        async with running(harness, well(harness)) as machine, asyncio.timeout(BOUND_S):
            os.truncate(machine.bundle.console_log, CONSOLE_LIMIT_BYTES)
            os.kill(pid_of(machine), signal.SIGUSR1)
            assert "its console log is full" in (await machine.wait()).reason

    async def test_qemu_whose_console_is_full_runs_on(self, root: Path, tmp_path: Path) -> None:
        """QEMU's writes fail then; neither the disk nor the machine suffers."""
        harness = FakeQemuHarness(root, tmp_path)
        async with running(harness, harness.ready()) as machine, asyncio.timeout(BOUND_S):
            os.truncate(machine.bundle.console_log, CONSOLE_LIMIT_BYTES)
            assert (await machine._vm.stats()).rss_bytes > 0
            os.kill(pid_of(machine), signal.SIGUSR2)
            await machine.wait()
            assert machine.bundle.console_log.stat().st_size == CONSOLE_LIMIT_BYTES


JAILER = """
import os, pathlib, subprocess, sys, time
fault = {fault!r}
argv = sys.argv
value = lambda name: argv[argv.index(name) + 1]
vm_id, base, program = value("--id"), value("--chroot-base-dir"), value("--exec-file")
root = pathlib.Path(base, os.path.basename(program), vm_id, "root")
(pathlib.Path({group!r}) / vm_id).mkdir(parents=True)
if fault == "dies":
    sys.exit("told to die")
if fault == "hangs":
    time.sleep(600)
command = [program, "--id", vm_id, *argv[argv.index("--") + 1:]]
if fault == "dead":
    command = ["/bin/true"]
child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
if fault == "dead":
    child.wait()
if fault != "no pid file":
    text = "garbage" if fault == "garbage" else str(child.pid)
    (root / (os.path.basename(program) + ".pid")).write_text(text)
"""


class TestJailer:
    @pytest.mark.parametrize(
        ("fault", "step", "words"),
        [
            ("dies", "spawn", "the jailer ended with status 1(.|\n)*told to die"),
            ("hangs", "spawn", "the jailer did not finish within 2 s"),
            ("no pid file", "spawn", "No such file"),
            ("garbage", "spawn", "Firecracker exited immediately"),
            ("dead", "spawn", "Firecracker exited immediately"),
            ("none", "connect", "did not serve its API within 3 s"),
        ],
    )
    async def test_jailer_that_fails_leaves_no_process_cgroup_or_directory(
        self,
        root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        fault: str,
        step: str,
        words: str,
    ) -> None:
        """Whatever became of the jailer or its child, all that either made is gone."""
        monkeypatch.setattr(os, "chown", lambda *_, **__: None)  # which only root may
        harness = FakeFirecrackerHarness.hurried(root, tmp_path)
        driver = harness.ready("--no-api")
        groups = Cgroups(tmp_path / "cgroup", frozenset())
        jail(driver, tmp_path, groups, fault)
        await start_fails(harness, driver, step=step, words=words)
        assert list((groups.mount / jailer.CGROUP_PARENT).iterdir()) == []


def jail(driver: FirecrackerDriver, directory: Path, groups: Cgroups, fault: str) -> None:
    """Have a driver use a stand-in of the jailer, which does not jail."""
    group = str(groups.mount / jailer.CGROUP_PARENT)
    program = directory / "jailer"
    source = JAILER.format(fault=fault, group=group)
    program.write_text(f"#!{sys.executable} -I\n{source}")
    program.chmod(0o755)
    ready = driver._ready
    assert ready is not None
    programs = Programs(ready.host.programs.firecracker, program)
    driver._ready = replace(ready, host=FirecrackerHost(programs, "1.16.1", groups))


def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve nobody."""
    writer.close()


def no_space(*_: object, **__: object) -> None:
    """Do what a full disk does."""
    raise OSError(28, "No space left on device")
