"""The QEMU driver under test over a stand-in program, which needs neither QEMU nor KVM."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Self

from support import fake_qemu
from support.firecracker import fake_image
from support.machines import QemuHarness
from support.patience import patient

from plexspaces_node.link import frames as link
from plexspaces_node.model import ENGINE
from plexspaces_node.vm.image import GuestImage
from plexspaces_node.vm.qemu.command import Accelerator, Emulator, Walls
from plexspaces_node.vm.qemu.driver import TIMEOUTS, QemuDriver
from plexspaces_node.vm.qemu.machine import QemuHost
from plexspaces_node.vm.qemu.timeouts import Timeouts

HURRIED = Timeouts(
    answer_s=patient(2), first_boot_s=patient(2), boot_s=patient(3), copy_s=1, kvm_probe_s=3
)
"""For stand-ins that hang. What a stand-in's own start falls into is longer, for a busy host."""


def fake_qemu_program(directory: Path, *options: str) -> str:
    """Make a program in `directory` that is QEMU to its caller; return its path."""
    path = directory / "qemu-system-x86_64"
    hello = ("--hello", hello_in_hex())
    command = shlex.join((sys.executable, "-I", fake_qemu.__file__, *hello, *options))
    path.write_text(f'#!/bin/sh\nexec {command} -- "$@"\n')
    path.chmod(0o755)
    return str(path)


def hello_in_hex(vm_id: str = "") -> str:
    """Return an agent's hello, by default that of one who was not told which machine it is in."""
    return link.encode(link.Hello(generation=link.GENERATION, vm_id=vm_id, engine=ENGINE)).hex()


async def leave_unread(path: Path) -> None:
    """Connect to a control socket, and close once QEMU has said something that nobody reads."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        await loop.sock_connect(client, str(path))
        readable = asyncio.Event()
        loop.add_reader(client, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(client)


def plain_walls() -> Walls:
    """Return walls without another user, to whom the stand-in's files would be closed."""
    prlimit, setpriv, env = (shutil.which(name) for name in ("prlimit", "setpriv", "env"))
    assert prlimit is not None
    assert setpriv is not None
    assert env is not None
    return Walls(prlimit, setpriv, env)


class _OverFake(QemuDriver):
    """A driver that finds the stand-in where it would look for QEMU."""

    program = ""

    def _look(self) -> tuple[str, Walls, GuestImage]:
        return self.program, plain_walls(), self._image()


class FakeQemuHarness(QemuHarness):
    """The QEMU driver over the stand-in program."""

    def __init__(self, root: Path, scratch: Path, timeouts: Timeouts = TIMEOUTS) -> None:
        self._scratch = scratch
        self._trials = root
        self.timeouts = timeouts
        self.image = fake_image(scratch / "image")
        super().__init__(root, self.ready())

    @classmethod
    def hurried(cls, root: Path, scratch: Path) -> Self:
        """Make a harness whose drivers give up soon what hangs."""
        return cls(root, scratch, HURRIED)

    def of_program(self, *options: str) -> QemuDriver:
        """Make a driver whose QEMU is the stand-in with these options."""
        image = partial(GuestImage.open, self.image)
        driver = _OverFake(image, scratch=self._trials, timeouts=self.timeouts)
        driver.program = fake_qemu_program(self._scratch, *options)
        return driver

    def ready(self, *options: str) -> QemuDriver:
        """Make a driver that has found all well already, with a stand-in of these options."""
        driver = self.of_program(*options)
        program, walls, image = driver._look()
        emulator = Emulator(program, Accelerator.TCG)
        driver._host = QemuHost(emulator, walls, image, self.timeouts)
        return driver

    def restarted(self) -> QemuDriver:
        return self.ready()
