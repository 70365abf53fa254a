"""Templates: machines that were booted once, to be copied instead of booting each anew.

A template is the memory and the state of a machine whose agent has opened its link and waits for
a node. No application's code ever ran in it. Both lie in files without a name, which are sealed:
not even the QEMU of a copy, which must open the memory for writing, can change it, and they are
gone with the process that made them. What a copy writes is its own.

This file owns what is saved, how, and what is kept of it; it starts no process. That copies do
not share their randomness is the agent's part, at the node's welcome.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.model import MIB, VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.qemu_command import Accelerator
from plexspaces_node.vm.qmp import QmpClient, connect_qmp

COPY_TIMEOUT_S = 10.0
"""For a state to be saved, or taken up: 5 ms and 50 ms on a host that is at ease."""
KEPT = 4
"""The most templates a driver keeps; one of a 256 MiB machine holds 90 MiB of the host's memory."""

_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_ALL_SEALS = _SIZE_SEALS | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_STATE = "state"
"""Name under which QEMU is handed the file of the state."""


class Likeness(NamedTuple):
    """What a machine and its template have in common."""

    image: str
    """The guest image's digest."""
    program: str
    accelerator: Accelerator
    config: VmConfig


class Template:
    """A saved machine. Its files are closed with it, at the latest when nobody has it any more.

    Attributes:
        memory: descriptor of the file that the memory of a copy begins with.
        console: what the machine had written to its console.
    """

    def __init__(self, memory: int, state: int, console: bytes) -> None:
        """Take the two files of a machine that has ended, and seal them; raises `OSError`."""
        for file in (memory, state):
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _ALL_SEALS)
        self.memory = memory
        self._state = state
        self.close = weakref.finalize(self, _close, memory, state)
        """Give the files up, once; machines that are copies keep what they have."""
        booted = datetime.now(UTC).isoformat(timespec="seconds")
        self.console = (
            b"-- a copy of the machine that booted at %b --\n" % booted.encode() + console
        )

    def begin_console(self, bundle: Bundle) -> None:
        """Let the console of a copy begin with what the machine said that it is a copy of."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(bundle.console_log, flags, 0o600), "wb") as log:
            log.write(self.console)

    def open_state(self) -> int:
        """Open the file of the state for one copy, which has to close it; raises `OSError`."""
        # Opened anew, for a place in a file is common to all who have it from one opening.
        return os.open(f"/proc/self/fd/{self._state}", os.O_RDONLY | os.O_CLOEXEC)


async def save(control: Path, state: int) -> None:
    """Stop the machine whose QEMU listens at `control` and write its state to a file.

    Its memory is not in there: that is in a file already. Raises `Unavailable` when QEMU refuses
    and `DeadlineExceeded`.
    """
    async with _in_time("save"), connect_qmp(control) as qmp:
        await qmp.execute("stop")
        await _migrate(qmp, "migrate", state)


async def restore(control: Path, state: int) -> None:
    """Have the QEMU that listens at `control` take up a state and go on; raises as `save` does."""
    async with _in_time("take up"), connect_qmp(control) as qmp:
        await _migrate(qmp, "migrate-incoming", state)
        await qmp.execute("cont")


def memory_file(config: VmConfig) -> int:
    """Make the file that is to be the memory of a machine, and return its descriptor."""
    file = _file("plexspaces-memory")
    os.ftruncate(file, config.memory_mib * MIB)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SIZE_SEALS)
    return file


def state_file() -> int:
    """Make the file for the state of a machine, and return its descriptor."""
    return _file("plexspaces-state")


class Templates:
    """The templates of one driver: of those that were made the ones used last, `KEPT` at most."""

    def __init__(self) -> None:
        self._kept: dict[Likeness, Template] = {}
        self._making: dict[Likeness, asyncio.Lock] = {}

    async def get(self, of: Likeness, make: Callable[[], Awaitable[Template]]) -> Template:
        """Return the template, which is made when there is none, by one caller at a time.

        It is the caller's until it awaits something again: others may put it out.
        """
        async with self._making.setdefault(of, asyncio.Lock()):
            template = self._kept.pop(of, None) or await make()
            self._kept[of] = template
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept))).close()
        return template

    def close(self) -> None:
        """Give all of them up."""
        while self._kept:
            self._kept.popitem()[1].close()
        self._making.clear()


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


def _file(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


async def _migrate(qmp: QmpClient, command: str, state: int) -> None:
    names = ("x-ignore-shared", "events")
    capabilities = [{"capability": name, "state": True} for name in names]
    await qmp.execute("migrate-set-capabilities", {"capabilities": capabilities})
    await qmp.execute("getfd", {"fdname": _STATE}, descriptor=state)
    await qmp.execute(command, {"uri": f"fd:{_STATE}"})
    while True:
        name, data = await qmp.event()
        if name == "MIGRATION" and data.get("status") == "completed":
            return
        if name == "MIGRATION" and data.get("status") in ("failed", "cancelled"):
            raise Unavailable(f"QEMU failed at {command}")


@asynccontextmanager
async def _in_time(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(COPY_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"QEMU did not {what} the machine's state within {COPY_TIMEOUT_S:g} s"
        ) from error
