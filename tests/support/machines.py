"""What a suite needs of each driver: a way to make one, to kill by it, to look for rests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from support.erofs import read_erofs
from support.fake_driver import FakeDriver
from support.feeding import feed
from support.patience import patient

from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.isolation import open_image
from plexspaces_node.link import frames as frames
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle, new_vm_id
from plexspaces_node.vm.drive import DRIVE
from plexspaces_node.vm.driver import Driver, Endpoint, Health, Vm
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.vmm import marks_of
from plexspaces_node.vm.process.driver import ProcessDriver
from plexspaces_node.vm.qemu.driver import TIMEOUTS, QemuDriver
from plexspaces_node.vm.qemu.timeouts import Timeouts

STANDIN_AGENT = Path(__file__).parents[1] / "contract" / "standin_agent.py"
SMALL = VmConfig(vcpus=1, memory_mib=128)
TIMEOUT_S = patient(20.0)


@dataclass
class Link:
    """The node's end of a link."""

    reader: StreamReader
    writer: StreamWriter

    async def line(self) -> str:
        """Read a line the agent sent."""
        async with asyncio.timeout(TIMEOUT_S):
            return (await self.reader.readline()).decode().rstrip("\n")

    async def hello(self) -> frames.Hello:
        """Read the frame that a real agent begins with."""
        prefix = await self.reader.readexactly(frames.PREFIX_BYTES)
        head = await self.reader.readexactly(int.from_bytes(prefix[:4], "little"))
        [(hello, _)] = feed(frames.FrameReader.of_agent(0), prefix + head)
        assert isinstance(hello, frames.Hello)
        return hello

    def say(self, text: str) -> None:
        """Send the agent a line."""
        self.writer.write(f"{text}\n".encode())


@dataclass
class Machine:
    """A machine whose agent has dialled."""

    bundle: Bundle
    vm: Vm
    link: Link


class Harness:
    """A driver under test, the directory of its bundles, and the rests it may leave.

    Attributes:
        statuses: the machines are the node's children, so that it learns how they ended.
    """

    statuses = True

    def __init__(self, root: Path, driver: Driver) -> None:
        self.root = root
        self.driver = driver

    def bundle(self, config: VmConfig = SMALL, *, application: str = "") -> Bundle:
        """Make a bundle."""
        return Bundle.create(self.root, new_vm_id(), config, application=application)

    @asynccontextmanager
    async def machine(self, driver: Driver | None = None) -> AsyncIterator[Machine]:
        """Start a machine the way a node does: listen, start, await its hello; then destroy it."""
        driver = driver or self.driver
        bundle = self.bundle()
        async with AsyncExitStack() as undo:
            undo.push_async_callback(driver.destroy, bundle)
            vm, link = await self._linked(driver, bundle, undo)
            undo.callback(link.writer.close)
            async with asyncio.timeout(TIMEOUT_S):
                await self._greeted(link, bundle.vm_id)
            yield Machine(bundle, vm, link)

    async def _linked(
        self, driver: Driver, bundle: Bundle, undo: AsyncExitStack
    ) -> tuple[Vm, Link]:
        """Start the machine and have its link, which its agent dials."""
        accepted: asyncio.Queue[Link] = asyncio.Queue()

        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            accepted.put_nowait(Link(reader, writer))

        server = await asyncio.start_unix_server(accept, bundle.link_socket)
        undo.callback(server.close)
        vm = await driver.start(bundle.config, bundle)
        async with asyncio.timeout(TIMEOUT_S):
            return vm, await accepted.get()

    async def _greeted(self, link: Link, vm_id: str) -> None:
        """Take the hello of the stand-in."""
        assert await link.line() == f"hello {vm_id}"

    def attached(self, machine: Machine, path: str) -> bytes:
        """Return what the agent of a machine would read at the path `attach` gave."""
        del machine
        return Path(path).read_bytes()

    def restarted(self) -> Driver:
        """Return the driver a node started anew would have."""
        raise NotImplementedError

    def kill(self, vm: Vm) -> None:
        """Do what kill -9 of the machine does."""
        raise NotImplementedError

    def rests(self, bundle: Bundle) -> list[str]:
        """Name what is left of a machine: processes, tasks, files."""
        return [str(bundle.path)] if bundle.path.exists() else []


class FakeHarness(Harness):
    """The fake, with an agent that stays on the link until it ends."""

    def __init__(self, root: Path) -> None:
        self.fake = FakeDriver(_agent_in_memory)
        super().__init__(root, self.fake)

    def restarted(self) -> Driver:
        return self.fake

    def kill(self, vm: Vm) -> None:
        self.fake.crash(vm.handle.vm_id, status=-signal.SIGKILL, reason="killed by SIGKILL")

    def rests(self, bundle: Bundle) -> list[str]:
        tasks = [task.get_name() for task in asyncio.all_tasks()]
        live = [name for name in [*tasks, *self.fake.live] if bundle.vm_id in name]
        return [*live, *super().rests(bundle)]


class HostHarness(Harness):
    """A driver whose machines are processes of this host."""

    def kill(self, vm: Vm) -> None:
        os.kill(int(vm.handle.state["pid"]), signal.SIGKILL)

    def rests(self, bundle: Bundle) -> list[str]:
        processes = procfs.with_arguments(*marks_of(bundle))
        return [*(f"process {process.pid}" for process in processes), *super().rests(bundle)]


class ProcessHarness(HostHarness):
    """The process driver with a stand-in for the agent."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, self.of_agent())

    def of_agent(self, *options: str) -> ProcessDriver:
        """Make a driver whose agent is the stand-in with these options."""
        return self.of_python(STANDIN_AGENT.read_text(), *options)

    def of_python(self, source: str, *options: str) -> ProcessDriver:
        """Make a driver whose agent is a Python program."""
        return ProcessDriver((sys.executable, "-I", "-c", source, *options))

    def attached(self, machine: Machine, path: str) -> bytes:
        # The agent opens it from where it is started.
        return (machine.bundle.path / path).read_bytes()

    def restarted(self) -> Driver:
        return self.of_agent()


class GuestHarness(HostHarness):
    """A driver whose machines are virtual ones: what is attached is on a drive."""

    def attached(self, machine: Machine, path: str) -> bytes:
        return read_erofs(machine.bundle.path / DRIVE)[f"/{Path(path).name}"].content


class QemuHarness(GuestHarness):
    """The QEMU driver with the agent that is in the guest image."""

    _probed: ClassVar[QemuDriver | None] = None

    @classmethod
    async def probed(cls, root: Path) -> tuple[QemuHarness, Health]:
        """Make a harness; what the probe found is kept for the next, for it takes seconds."""
        driver = qemu_driver()
        if cls._probed is not None:
            driver._host, driver._health = cls._probed._host, cls._probed._health
            driver._templates = cls._probed._templates
        health = await driver.probe()
        if health.ok:
            cls._probed = driver
        return cls(root, driver), health

    async def _linked(
        self, driver: Driver, bundle: Bundle, undo: AsyncExitStack
    ) -> tuple[Vm, Link]:
        del undo
        vm = await driver.start(bundle.config, bundle)
        return vm, Link(*await asyncio.open_unix_connection(vm.endpoint.path))

    async def _greeted(self, link: Link, vm_id: str) -> None:
        # What boots is copied, and so is not told which machine it will be.
        del vm_id
        assert (await link.hello()).vm_id == ""

    def restarted(self) -> Driver:
        return qemu_driver()


def qemu_driver(timeouts: Timeouts = TIMEOUTS) -> QemuDriver:
    """Make a QEMU driver for the image that this user's configuration names."""
    return QemuDriver(partial(open_image, ConfigBootstrap.load()), timeouts=timeouts)


async def _agent_in_memory(endpoint: Endpoint, vm_id: str) -> None:
    reader, writer = await asyncio.open_unix_connection(endpoint.path)
    try:
        writer.write(f"hello {vm_id}\n".encode())
        await reader.read()
    finally:
        writer.close()
