"""A Firecracker driver under test: over the stand-in program, or over the real one."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

from support import fake_firecracker
from support.machines import GuestHarness, Link
from support.patience import patient

from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.isolation import open_image
from plexspaces_node.vm.driver import Health
from plexspaces_node.vm.erofs import MAGIC, MAGIC_OFFSET
from plexspaces_node.vm.firecracker.driver import TIMEOUTS, FirecrackerDriver
from plexspaces_node.vm.firecracker.host import Installation
from plexspaces_node.vm.firecracker.timeouts import Timeouts
from plexspaces_node.vm.image import ROOTFS, GuestImage

ELF_HEAD = b"\x7fELF" + bytes(14) + b"\x3e\x00"
EROFS_HEAD = bytes(MAGIC_OFFSET) + MAGIC
HURRIED = Timeouts(
    jail_s=patient(2), connect_s=patient(3), call_s=patient(1), boot_s=patient(1), trial_s=0.3
)
"""For stand-ins that hang. What a stand-in's own start falls into is longer, for a busy host."""


def fake_program(directory: Path, *options: str) -> str:
    """Make a program in `directory` that is Firecracker to its caller; return its path."""
    path = directory / "firecracker"
    command = shlex.join((sys.executable, "-I", fake_firecracker.__file__, *options))
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return str(path)


def fake_image(directory: Path) -> Path:
    """Make files that look like a guest image; return their directory."""
    directory.mkdir(exist_ok=True)
    (directory / "vmlinux").write_bytes(ELF_HEAD)
    (directory / "initrd").write_bytes(b"initrd")
    (directory / ROOTFS).write_bytes(EROFS_HEAD)
    GuestImage.seal(directory, generation=1, min_memory_mib=64, made_of={}, arch=os.uname().machine)
    return directory


def kvm_works() -> None:
    """Find nothing wrong with KVM."""


class FakeFirecrackerHarness(GuestHarness):
    """The Firecracker driver over the stand-in program, which is not jailed."""

    def __init__(self, root: Path, scratch: Path, timeouts: Timeouts = TIMEOUTS) -> None:
        self._scratch = scratch
        self._trials = root
        self.timeouts = timeouts
        super().__init__(root, self.ready())

    @classmethod
    def hurried(cls, root: Path, scratch: Path) -> Self:
        """Make a harness whose drivers give up soon what hangs."""
        return cls(root, scratch, HURRIED)

    def of_program(self, *options: str) -> FirecrackerDriver:
        """Make a driver whose Firecracker is the stand-in with these options."""
        return FirecrackerDriver(
            partial(GuestImage.open, fake_image(self._scratch / "image")),
            Installation(fake_program(self._scratch, *options), jailer=None),
            scratch=self._trials,
            check_kvm=kvm_works,
            timeouts=self.timeouts,
        )

    def ready(self, *options: str) -> FirecrackerDriver:
        """Make a driver that has found all well already, with a stand-in of these options."""
        driver = self.of_program(*options)
        driver._ready = driver._look()
        return driver

    def restarted(self) -> FirecrackerDriver:
        return self.ready()


class FirecrackerHarness(GuestHarness):
    """The real Firecracker with the agent that is in the guest image, jailed or not."""

    _probed: ClassVar[dict[bool, FirecrackerDriver]] = {}

    def __init__(self, root: Path, driver: FirecrackerDriver, *, jailed: bool) -> None:
        self.jailed = jailed
        # The jailer ends as soon as it has made the machine, which is nobody's child then.
        self.statuses = not jailed
        super().__init__(root, driver)

    @classmethod
    async def probed(cls, root: Path, *, jailed: bool) -> tuple[FirecrackerHarness, Health]:
        """Make a harness; what the probe found is kept for the next, for it takes seconds."""
        driver = firecracker_driver(root, jailed=jailed)
        if jailed in cls._probed:
            driver._ready, driver._health = cls._probed[jailed]._ready, cls._probed[jailed]._health
        health = await driver.probe()
        if health.ok:
            cls._probed[jailed] = driver
        return cls(root, driver, jailed=jailed), health

    async def _greeted(self, link: Link, vm_id: str) -> None:
        assert (await link.hello()).vm_id == vm_id

    def restarted(self) -> FirecrackerDriver:
        driver = firecracker_driver(self.root, jailed=self.jailed)
        driver._ready = self._probed[self.jailed]._ready
        return driver


def firecracker_driver(root: Path, *, jailed: bool) -> FirecrackerDriver:
    """Make a driver of the Firecracker and the image that this user's configuration names."""
    config = ConfigBootstrap.load()
    program = str(config.firecracker.binary_path or "firecracker")
    installation = Installation(program, "jailer" if jailed else None)
    return FirecrackerDriver(partial(open_image, config), installation, scratch=root)
