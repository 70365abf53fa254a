"""Machines of one isolation level for the conformance suite, driven from code that blocks.

The drivers are asynchronous and the suite's cases at a bare link are not, so the machines of a
level live on an event loop of their own, in a thread.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar

from support.nodes import node_process
from support.patience import PATIENCE, patient
from support.peer import NodeEnd
from support.traces import assert_nothing_left, bundles_of

from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.isolation import make_drivers
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle, new_vm_id
from plexspaces_node.vm.driver import Driver, LinkEnd, Vm

_T = TypeVar("_T")

MACHINE = VmConfig(vcpus=1, memory_mib=512)
"""For an actor of 128 MiB and the longest messages."""
START_S = 60.0
EMULATED = 10.0
"""How many times slower an emulated machine is than the host: 8 to 20 were measured."""
FEWEST = 30
"""Repetitions that a case keeps, however slow its machine."""


@dataclass
class _Started:
    """A machine with nothing in it; `listener` where its guest dials."""

    bundle: Bundle
    vm: Vm
    listener: socket.socket | None


class MachinePeer(NodeEnd):
    """The node's end of the link of a machine, which ends with this context."""

    def __init__(self, machines: Machines, started: _Started) -> None:
        super().__init__(slowness=machines.slowness)
        self.level = machines.level
        self._machines = machines
        self._started = started
        self.welcome(self._connected())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()
        self._machines.end(self._started)

    def shown(self, artifact: Path) -> str:
        return self._machines.run(self._started.vm.attach(artifact))

    def ended(self) -> None:
        async def end() -> int | None:
            async with asyncio.timeout(self.seconds(20)):
                return (await self._started.vm.wait()).status

        # Of a machine that was made by a program which has ended, nobody learns the status.
        assert self._machines.run(end()) in (0, None)

    def rss_bytes(self) -> int:
        """Return the memory that the machine takes of the host's now, in bytes."""
        return self._machines.run(self._started.vm.stats()).rss_bytes

    def repeated(self, times: int) -> int:
        """Return how often to do what an ordinary machine does so many times."""
        return max(min(times, FEWEST), int(times / self.slowness / PATIENCE))

    def alive(self) -> bool:
        """Say whether the actor still answers; a case that failed may have left it dead."""
        try:
            return self.invoke("echo", b"alive").payload == b"alive"
        except (OSError, EOFError):
            return False

    def _connected(self) -> socket.socket:
        listener = self._started.listener
        if listener is not None:
            listener.settimeout(self.seconds(30))
            return listener.accept()[0]
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._started.vm.endpoint.path))
        return connection


@dataclass(frozen=True)
class Place:
    """Where a level's cases run.

    Attributes:
        machines: for the cases at a bare link.
        address: of a node, in a process of its own, for all languages.
        data: the node's directory.
    """

    machines: Machines
    address: str
    data: Path


@contextmanager
def open_place(level: str) -> Iterator[Place]:
    """Start a level's machines and node; fails the test when it does not work here."""
    # Not pytest's directories: a unix socket's path has at most 107 bytes.
    with TemporaryDirectory(prefix="px-") as one, TemporaryDirectory(prefix="px-") as two:
        data = Path(two, "data")
        with (
            Machines(level, Path(one)) as machines,
            node_process(data, isolation=level) as (process, address),
        ):
            assert address, f"--levels names {level}, but its node does not start"
            yield Place(machines, address, data)
            process.communicate(timeout=patient(60))
        assert_nothing_left(data)
        assert bundles_of(Path(one)) == []


class Machines:
    """Empty machines of one level: each is taken once, and while it is used the next one starts.

    Attributes:
        level: the isolation level, as users name it.
        slowness: how many times slower than the host the machines are.
    """

    def __init__(self, level: str, data: Path) -> None:
        """Set where the machines' bundles will be: where a node has them in its data directory."""
        self.level = level
        self.slowness = 1.0
        self._data = data
        (data / "vms").mkdir()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"machines-{level}")
        self._next: Future[_Started] | None = None

    def __enter__(self) -> Self:
        """Find the level's driver; fails the test when it does not work here."""
        self._thread.start()
        try:
            self._driver = self.run(self._working_driver())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._next is not None:
                self.end(self._next.result(patient(START_S)))
        finally:
            self._end_loop()

    def take(self) -> MachinePeer:
        """Return the node's end of an empty machine whose agent has said hello."""
        ready = self._next or self._begin()
        self._next = None
        started = ready.result(patient(START_S))
        try:
            peer = MachinePeer(self, started)
        except BaseException:
            self.end(started)
            raise
        self._next = self._begin()
        return peer

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something on the machines' event loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def end(self, started: _Started) -> None:
        """Leave nothing of a machine."""
        if started.listener is not None:
            started.listener.close()
        self.run(self._driver.destroy(started.bundle))
        assert not started.bundle.path.exists()

    def _begin(self) -> Future[_Started]:
        return asyncio.run_coroutine_threadsafe(self._start(), self._loop)

    async def _start(self) -> _Started:
        bundle = Bundle.create(self._data / "vms", new_vm_id(), MACHINE)
        listener = None
        try:
            if self._driver.capabilities.link is LinkEnd.GUEST_DIALS:
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(str(bundle.link_socket))
                listener.listen(1)
            return _Started(bundle, await self._driver.start(MACHINE, bundle), listener)
        except BaseException:
            if listener is not None:
                listener.close()
            await self._driver.destroy(bundle)
            raise

    async def _working_driver(self) -> Driver:
        config = ConfigBootstrap.load(flags={"node.data_dir": self._data})
        [driver] = [one for one in make_drivers(config) if one.name == self.level]
        health = await driver.probe()
        assert health.ok, f"--levels names {self.level}, but: {health.reason} ({health.hint})"
        if health.emulated:
            self.slowness = EMULATED
        return driver

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
