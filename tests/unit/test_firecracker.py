"""The Firecracker driver over a stand-in program: steps, faults, ends, and what is left of them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from support.firecracker import FakeFirecrackerHarness, fake_image, fake_program
from support.machines import SMALL

from plexspaces_node.errors import Unavailable, Unsupported, VmStartFailed
from plexspaces_node.vm.drive import DRIVE, GUEST_PATH, SLOT_BYTES
from plexspaces_node.vm.driver import VmExit
from plexspaces_node.vm.firecracker import host as firecracker_host
from plexspaces_node.vm.firecracker.driver import FirecrackerDriver
from plexspaces_node.vm.firecracker.host import Installation, find_host, release_of
from plexspaces_node.vm.firecracker.start import kernel_arguments
from plexspaces_node.vm.firecracker.timeouts import Timeouts
from plexspaces_node.vm.host import kvm, procfs
from plexspaces_node.vm.image import GuestImage

CONFIGURE = [
    "PUT /machine-config",
    "PUT /boot-source",
    "PUT /drives/root",
    "PUT /drives/artifact",
    "PUT /vsock",
]


@pytest.fixture
def harness(short_dir: Path, tmp_path: Path) -> FakeFirecrackerHarness:
    """The driver over the stand-in."""
    return FakeFirecrackerHarness(short_dir, tmp_path)


@pytest.fixture
def hurried(short_dir: Path, tmp_path: Path) -> FakeFirecrackerHarness:
    """The driver over the stand-in, which gives up soon what hangs."""
    return FakeFirecrackerHarness.hurried(short_dir, tmp_path)


class TestStart:
    @pytest.mark.parametrize("fault", ["--fail", "--die", "--garble"])
    @pytest.mark.parametrize("call", ["GET /", *CONFIGURE, "PUT /actions"])
    async def test_start_when_a_call_goes_wrong_names_it_and_leaves_nothing(
        self, harness: FakeFirecrackerHarness, call: str, fault: str
    ) -> None:
        """Refused, dead or mad at any call: the step and the call are in the error."""
        step = "configure" if call in CONFIGURE else "boot"
        driver = harness.ready(fault, call)
        step = "connect" if call == "GET /" else step
        await self._check_failed(harness, driver, step, call)

    @pytest.mark.parametrize("call", ["GET /", "PUT /vsock"])
    async def test_start_when_a_call_hangs_ends_in_time_and_leaves_nothing(
        self, hurried: FakeFirecrackerHarness, call: str
    ) -> None:
        """A Firecracker that does not answer is given up."""
        driver = hurried.ready("--hang", call)
        step = "connect" if call == "GET /" else "configure"
        await self._check_failed(hurried, driver, step, "within")

    async def test_start_when_the_api_is_never_served_ends_in_time_and_leaves_nothing(
        self, short_dir: Path, tmp_path: Path
    ) -> None:
        """So is one that never listens."""
        harness = FakeFirecrackerHarness(short_dir, tmp_path, Timeouts(connect_s=0.2))
        driver = harness.ready("--no-api")
        await self._check_failed(harness, driver, "connect", "did not serve its API")

    async def test_start_wants_no_more_memory_than_there_is(
        self, harness: FakeFirecrackerHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A host that is full says so before anything is made."""
        driver = harness.ready()
        monkeypatch.setattr(procfs, "available_memory_mib", lambda: 100)
        bundle = harness.bundle()
        with pytest.raises(VmStartFailed, match="100 MiB available") as failed:
            await driver.start(SMALL, bundle)
        assert failed.value.step == "validate"
        await driver.destroy(bundle)

    @staticmethod
    async def _check_failed(
        harness: FakeFirecrackerHarness, driver: FirecrackerDriver, step: str, words: str
    ) -> None:
        bundle = harness.bundle()
        with pytest.raises(VmStartFailed, match=words) as failed:
            await driver.start(SMALL, bundle)
        assert failed.value.step == step
        assert harness.rests(bundle) == [str(bundle.path)]
        await driver.destroy(bundle)
        assert harness.rests(bundle) == []


class TestMachine:
    async def test_attach_puts_a_drive_of_the_slots_length_in(
        self, harness: FakeFirecrackerHarness, tmp_path: Path
    ) -> None:
        """The guest's kernel sees no change of length, and the disk no more blocks."""
        file = tmp_path / "some.cwasm"
        file.write_bytes(b"compiled")
        async with harness.machine(harness.ready()) as machine:
            assert await machine.vm.attach(file) == GUEST_PATH
            drive, slot = machine.bundle.path / DRIVE, machine.bundle.path / "slot"
            assert drive.stat().st_size == slot.stat().st_size == SLOT_BYTES
            assert slot.stat().st_blocks == 0
            assert drive.stat().st_blocks * 512 < 4_000_000

    async def test_stop_when_only_firecracker_listens_ends_by_sigterm(
        self, harness: FakeFirecrackerHarness
    ) -> None:
        """A guest that ignores Ctrl-Alt-Del is not waited for longer than half the grace."""
        driver = harness.ready("--deaf-guest")
        bundle = harness.bundle()
        vm = await driver.start(SMALL, bundle)
        assert await vm.stop(0.4) == VmExit(-signal.SIGTERM, "stopped when asked")
        await driver.destroy(bundle)

    async def test_stop_when_nobody_listens_ends_by_sigkill(
        self, harness: FakeFirecrackerHarness
    ) -> None:
        """In the end it is insisted."""
        driver = harness.ready("--deaf-guest", "--deaf")
        bundle = harness.bundle()
        vm = await driver.start(SMALL, bundle)
        assert await vm.stop(0.2) == VmExit(-signal.SIGKILL, "killed while stopping")
        await driver.destroy(bundle)

    async def test_end_of_a_guest_that_panics_is_told_by_the_line_that_says_so(
        self, harness: FakeFirecrackerHarness
    ) -> None:
        """Not by the last line of the register dump."""
        async with harness.machine(harness.ready()) as machine:
            machine.bundle.console_log.write_text("[ 1] Kernel panic - not syncing: x\nCR2: 0\n")
            machine.link.say("exit 0")
            ended = await machine.vm.wait()
        assert ended.reason == "the guest ended: Kernel panic - not syncing: x"


class TestProbe:
    async def test_probe_boots_a_guest_and_leaves_nothing(
        self, harness: FakeFirecrackerHarness
    ) -> None:
        """It is ok because a guest has dialled; then the trial machine is gone."""
        health = await harness.driver.probe()
        assert health.ok
        assert "1.16.1" in health.reason
        assert "seccomp, no jail" in harness.driver.capabilities.isolation
        assert list(harness.root.iterdir()) == []

    async def test_probe_when_the_guest_stays_silent_is_not_ok_and_leaves_nothing(
        self, hurried: FakeFirecrackerHarness
    ) -> None:
        """A KVM on which nothing boots is found out, within a bound."""
        health = await hurried.of_program("--deaf-guest").probe()
        assert not health.ok
        assert "did not connect" in health.reason
        assert health.hint
        assert list(hurried.root.iterdir()) == []

    async def test_probe_without_firecracker_says_what_to_install(self, tmp_path: Path) -> None:
        """The most frequent case is the clearest."""
        image = partial(GuestImage.open, fake_image(tmp_path / "image"))
        driver = FirecrackerDriver(image, Installation("no-such-firecracker"))
        health = await driver.probe()
        reason = "no-such-firecracker is not installed; supported are 1.15 to 1.16"
        assert (health.ok, health.reason) == (False, reason)
        assert "releases/download" in (health.hint or "")
        assert "sha256sum -c" in (health.hint or "")

    async def test_probe_without_kvm_says_how_to_get_it(self, tmp_path: Path) -> None:
        """Nothing else can be tried then."""
        health = await FirecrackerDriver(
            partial(GuestImage.open, fake_image(tmp_path / "image")),
            Installation(fake_program(tmp_path), jailer=None),
            check_kvm=partial(kvm.open_kvm, tmp_path / "kvm"),
        ).probe()
        assert not health.ok
        assert "no KVM" in health.reason
        assert "modprobe" in (health.hint or "")

    @pytest.mark.parametrize(
        ("refusal", "words"),
        [(errno.EACCES, "usermod -aG kvm"), (errno.ENODEV, "dmesg"), (errno.ENOENT, "modprobe")],
    )
    def test_kvm_that_cannot_be_opened_says_what_to_do(
        self, refusal: int, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the group and never by a chmod."""

        def refuse(*_: object) -> int:
            raise OSError(refusal, os.strerror(refusal))

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(Unavailable) as refused:
            kvm.open_kvm()
        assert words in (refused.value.hint or "")
        assert "chmod" not in (refused.value.hint or "")

    async def test_switched_off_filters_show_in_every_listing(
        self, short_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The opt-out is loud."""
        driver = FirecrackerDriver(
            partial(GuestImage.open, fake_image(tmp_path / "image")),
            Installation(fake_program(tmp_path), jailer=None, seccomp=False),
            scratch=short_dir,
            check_kvm=lambda: None,
        )
        assert (await driver.probe()).ok
        assert "NO seccomp" in driver.capabilities.isolation
        assert "FIRECRACKER_NO_SECCOMP" in caplog.text


class TestHost:
    @pytest.mark.parametrize("version", ["1.15.0", "1.16.1", "1.17.0-dev", "2.0.0"])
    def test_release_still_maintained_or_newer_is_taken(self, version: str) -> None:
        """1.15, 1.16, and what comes next."""
        assert release_of(version) >= (1, 15)

    @pytest.mark.parametrize("version", ["1.4.1", "0.25.2", "1.14.4", "x"])
    def test_release_no_longer_maintained_is_refused(self, version: str) -> None:
        """The hint says which to install."""
        with pytest.raises(Unsupported) as refused:
            release_of(version)
        assert "1.16" in (refused.value.hint or "")

    def test_newer_release_is_noted(self, tmp_path: Path) -> None:
        """It may work; nobody has seen it."""
        program = fake_program(tmp_path, "--release", "1.17.0")
        host = find_host(Installation(program, jailer=None))
        assert host.version == "1.17.0"
        assert "newer than any" in host.note

    def test_program_that_is_something_else_is_refused(self) -> None:
        """A wrong path in the configuration is told by what the program says."""
        with pytest.raises(Unsupported, match="--version says"):
            find_host(Installation("/bin/true", jailer=None))

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root jails")
    def test_root_without_the_jailer_is_refused(self, tmp_path: Path) -> None:
        """Never silently less isolation than was promised."""
        with pytest.raises(Unsupported, match="no-such-jailer is not installed"):
            find_host(Installation(fake_program(tmp_path), "no-such-jailer"))

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root jails")
    def test_jailer_of_another_release_is_refused(self, tmp_path: Path) -> None:
        """They are made for each other."""
        other = tmp_path / "other"
        other.mkdir()
        jailer = fake_program(other, "--release", "1.15.0")
        with pytest.raises(Unsupported, match=r"1\.15\.0"):
            find_host(Installation(fake_program(tmp_path), jailer))

    def test_kvm_that_is_no_device_is_unavailable(self, tmp_path: Path) -> None:
        """A file of that name is no KVM."""
        (tmp_path / "kvm").touch()
        with pytest.raises(Unavailable, match="cannot create a virtual machine"):
            kvm.open_kvm(tmp_path / "kvm")

    def test_downloads_are_the_makers_own(self) -> None:
        """The hint leads to the releases of the project itself."""
        assert firecracker_host.DOWNLOADS.startswith("https://github.com/firecracker-microvm/")
        newest = ".".join(map(str, firecracker_host.NEWEST_RELEASE))
        assert f"firecracker-v{newest}." in firecracker_host.INSTALL_HINT


def test_kernel_arguments_carry_the_machine_and_its_link_and_end_it_with_its_guest() -> None:
    """What the agent reads, and what makes a restart the end of the process."""
    words = kernel_arguments("vm-1").split()
    assert {"plexspaces.vm=vm-1", "plexspaces.link=vsock:2:52", "reboot=k", "panic=-1"} <= set(
        words
    )


async def test_start_when_two_ask_for_one_bundle_makes_one_machine(
    harness: FakeFirecrackerHarness,
) -> None:
    """The second is refused and disturbs nothing."""
    driver = harness.ready()
    bundle = harness.bundle()
    results = await asyncio.gather(
        *(driver.start(SMALL, bundle) for _ in range(2)), return_exceptions=True
    )
    failed = [result for result in results if isinstance(result, VmStartFailed)]
    assert len(failed) == 1
    assert failed[0].step == "validate"
    await driver.destroy(bundle)
    assert harness.rests(bundle) == []
