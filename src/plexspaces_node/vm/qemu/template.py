"""Templates: VMs that were booted once, to be copied instead of booting each one.

A template is the memory and the state of a VM whose agent has opened its link and waits for a node,
with the root that the VM has mounted. No application's code ever ran in it. The memory is in a file
without a name, which is sealed: not even the QEMU of a copy, which must open it for writing, can
change it. What a copy writes is private. Everything ends with the process that made it.

This module defines what is saved, how, and how much is kept; it starts no process. The agent
ensures that copies do not share their randomness, when the node welcomes it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.model import DEFAULT_TENANT, MIB, VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.qemu.command import Accelerator
from plexspaces_node.vm.qemu.qmp import QmpClient, connect_qmp
from plexspaces_node.vm.qemu.timeouts import Timeouts

KEPT = 4
"""How many templates a driver keeps; docs/qemu.md says how much memory one takes."""

_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_ALL_SEALS = _SIZE_SEALS | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_NOEXEC_SEAL = 0x8
"""MFD_NOEXEC_SEAL of memfd_create(2), from Linux 6.3 on."""
_READ_BYTES = 256 * 1024
_HANDED = "state"
"""Name by which QEMU knows its end of the socket that carries the state."""


class TemplateKind(NamedTuple):
    """What a VM and its template have in common.

    The VM that is tried when the node starts, and empty VMs, are of the tenant `default`.
    """

    image: str
    """The guest image's digest."""
    program: tuple[str | int, ...]
    """QEMU's path, and what distinguishes its file from one that replaced it."""
    accelerator: Accelerator
    config: VmConfig
    tenant: str = DEFAULT_TENANT
    """Whose VMs are copies of it: copies share pages, by whose access times they could tell which
    of these another one uses."""


class Template:
    """A saved VM. Its files are closed with it, at the latest when nothing refers to it any more.

    Attributes:
        memory: descriptor of the file that is the initial memory of a copy.
        state: state of the machine's devices, as QEMU writes it.
        console: what the VM had written to its console.
    """

    def __init__(self, memory: int, root: int, *, state: bytes, console: bytes) -> None:
        """Take over memory and root of a VM that has ended, with descriptors of its own.

        Raises `OSError`.
        """
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _ALL_SEALS)
        files: list[int] = []
        self.close = weakref.finalize(self, _close, files)
        """Close the files, once; VMs that are copies keep theirs."""
        files += [os.dup(memory)]
        files += [os.dup(root)]
        self.memory, self._root = files
        self.state = state
        booted = datetime.now(UTC).isoformat(timespec="seconds")
        self.console = (
            b"-- a copy of the machine that booted at %b --\n" % booted.encode() + console
        )

    def open_root(self) -> int:
        """Open the root for one copy, which has to close it; raises `OSError`.

        It is the file that the copied VM has mounted, even if it has been replaced since.
        """
        return os.open(f"/proc/self/fd/{self._root}", os.O_RDONLY | os.O_CLOEXEC)

    def begin_console(self, bundle: Bundle) -> None:
        """Start the console of a copy with the template's output and a line that says so."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(bundle.console_log, flags, 0o600), "wb") as log:
            log.write(self.console)


async def save(control: Path, timeouts: Timeouts) -> bytes:
    """Stop the VM whose QEMU listens at `control` and return its state.

    Its memory is not included: that is already in a file. Raises `Unavailable` if QEMU refuses, and
    `DeadlineExceeded`.
    """
    async with _in_time("save", timeouts), connect_qmp(control, timeouts.answer_s) as qmp:
        await qmp.execute("stop")
        with await _prepared(qmp) as stream:
            await qmp.execute("migrate", {"uri": f"fd:{_HANDED}"})
            state = bytearray()
            while data := await asyncio.get_running_loop().sock_recv(stream, _READ_BYTES):
                state += data
        await _completed(qmp, "save")
    return bytes(state)


async def restore(control: Path, state: bytes, timeouts: Timeouts) -> None:
    """Make the QEMU that listens at `control` load a state and continue; raises as `save` does."""
    async with _in_time("take up", timeouts), connect_qmp(control, timeouts.answer_s) as qmp:
        with await _prepared(qmp) as stream:
            await qmp.execute("migrate-incoming", {"uri": f"fd:{_HANDED}"})
            # If QEMU refuses something it stops reading, and says so.
            with suppress(ConnectionError):
                await asyncio.get_running_loop().sock_sendall(stream, state)
            await _completed(qmp, "take up")
        await qmp.execute("cont")


def memory_file(config: VmConfig) -> int:
    """Create the file that becomes the memory of a VM, and return its descriptor.

    It cannot be executed, if the kernel supports that; some hosts allow no other files.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        file = os.memfd_create("plexspaces-memory", flags | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        file = os.memfd_create("plexspaces-memory", flags)
    os.ftruncate(file, config.memory_mib * MIB)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SIZE_SEALS)
    return file


class Templates:
    """The templates of one driver, at most `KEPT`: those used last."""

    def __init__(self) -> None:
        self._kept: dict[TemplateKind, Template] = {}
        self._making: dict[TemplateKind, asyncio.Lock] = {}
        self.given_up = False
        """No template is returned or made any more."""

    async def get(
        self, of: TemplateKind, make: Callable[[], Awaitable[Template]]
    ) -> Template | None:
        """Return the template; it is made if there is none.

        Raises what `make` raises. Concurrent callers wait; they get None if it failed, and all
        callers do once copying was given up.
        """
        making = self._making.setdefault(of, asyncio.Lock())
        waited = making.locked()
        async with making:
            kept = self._kept
            template = kept.pop(of, None)
            if self.given_up or (template is None and waited):
                return None
            template = template or await make()
            kept[of] = template
        while len(kept) > KEPT:
            # Its files are closed when the last copy that is being started releases it.
            del kept[next(iter(kept))]
        return template

    def close(self) -> None:
        """Drop all of them, including those that are being made.

        A copy that is being started keeps the files until then.
        """
        self._kept.clear()
        # A new dictionary, so that one that is being made now is put into a forgotten one.
        self._kept = {}


async def _prepared(qmp: QmpClient) -> socket.socket:
    """Tell QEMU to move no shared memory, and pass it one end of a stream; returns the other."""
    names = ("x-ignore-shared", "events")
    capabilities = [{"capability": name, "state": True} for name in names]
    await qmp.execute("migrate-set-capabilities", {"capabilities": capabilities})
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        with theirs:
            await qmp.execute("getfd", {"fdname": _HANDED}, descriptor=theirs.fileno())
    except BaseException:
        ours.close()
        raise
    return ours


async def _completed(qmp: QmpClient, what: str) -> None:
    while True:
        name, data = await qmp.event()
        if name == "MIGRATION" and data.get("status") == "completed":
            return
        if name == "MIGRATION" and data.get("status") in ("failed", "cancelled"):
            raise Unavailable(f"QEMU could not {what} the VM's state")


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


@asynccontextmanager
async def _in_time(what: str, timeouts: Timeouts) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeouts.copy_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"QEMU did not {what} the VM's state within {timeouts.copy_s:g} s"
        ) from error
