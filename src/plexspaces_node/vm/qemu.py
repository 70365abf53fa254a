"""The QEMU driver: a machine that is a microVM, under KVM where it works and emulated elsewhere.

A guest of the `microvm` machine type: the shared read-only root, a slot drive for the artifact,
a virtio-serial port as the link, a console that goes to the bundle's log, and nothing else; no
network card, no firmware to speak of. The QEMU process runs without privileges, network or files
of its own, under seccomp, and under root as a user of its own. It outlives the node: its handle
names it by pid and start time.

This file owns the driver and what its handles' state means; it knows the agent only as whoever
opens the port.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from plexspaces_node.errors import (
    DeadlineExceeded,
    NotFound,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    WrongState,
)
from plexspaces_node.model import VmConfig
from plexspaces_node.vm import procfs
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.drive import GUEST_PATH, find_mke2fs, make_drive
from plexspaces_node.vm.driver import Capabilities, Endpoint, Health, LinkEnd, VmExit, VmStats
from plexspaces_node.vm.host_machine import (
    finished,
    identity_in,
    identity_state,
    marks_of,
    running_from,
    start_failed,
)
from plexspaces_node.vm.host_process import HostProcess, kill_all
from plexspaces_node.vm.image import GuestImage
from plexspaces_node.vm.qemu_command import (
    ARTIFACT_SET,
    ENVIRONMENT,
    LINK_DEVICE,
    Accelerator,
    Descriptors,
    Emulator,
    Walls,
    artifact_node,
    filled_slot,
    held_command,
    qemu_command,
)
from plexspaces_node.vm.qemu_walls import check_kvm, find_qemu, find_walls, walls_of
from plexspaces_node.vm.qmp import connect_qmp
from plexspaces_node.vm.tsc import host_tsc_khz

HANDLE_VERSION = 1
BOOT_TIMEOUT_S = 60.0
"""From the first instruction until the agent opens its port: twenty times what emulation takes."""
KVM_PROBE_TIMEOUT_S = 45.0
"""For the first boot under KVM: a nested one that does not work may hang instead of failing."""
COLD_BOOTS = 2
"""The most that boot at once: on a small host more of them hinder each other."""
MIN_MEMORY_MIB = 96
"""The least a guest boots with; an image may want more."""
OVERHEAD_MIB = 88
"""What kernel and agent take of the guest's memory: of 128 MiB an actor was seen to use 44."""
MAX_VCPUS = 32

_PANIC_LINES = 60
"""How far from the end of the console its first line can be."""

_END_TIMEOUT_S = 2.0
"""For a QEMU whose control socket has closed to end."""


@dataclass(frozen=True, slots=True)
class _Host:
    """What `probe` found to work here."""

    emulator: Emulator
    walls: Walls
    image: GuestImage


class QemuVm:
    """A machine of the QEMU driver."""

    def __init__(self, handle: VmHandle, bundle: Bundle, process: HostProcess) -> None:
        """Take a process that was started from `bundle`."""
        self.handle = handle
        self.endpoint = Endpoint(bundle.link_socket, LinkEnd.NODE_DIALS)
        self._bundle = bundle
        self._process = process
        self._stop_asked = False
        self._exit: VmExit | None = None

    async def attach(self, file: Path) -> str:
        if self._process.ended:
            self._refuse_ended()
        drive = self._bundle.path / "drive.ext4"
        await finished(asyncio.to_thread(self._make_drive, file, drive))
        with drive.open("rb") as opened:
            async with connect_qmp(_control_socket(self._bundle)) as qmp:
                await qmp.execute("add-fd", {"fdset-id": ARTIFACT_SET}, descriptor=opened.fileno())
                await qmp.execute("blockdev-add", dict(artifact_node()))
                await qmp.execute("blockdev-reopen", {"options": [filled_slot()]})
        return GUEST_PATH

    async def wait(self) -> VmExit:
        status = await self._process.wait()
        if self._exit is None:
            self._exit = self._explain(status)
        return self._exit

    async def stop(self, grace_s: float) -> VmExit:
        # SIGTERM is what QMP's `quit` is: QEMU closes everything and ends. There is nothing in the
        # guest to be saved; its agent has said goodbye, or could not.
        self._stop_asked = self._stop_asked or not self._process.ended
        if grace_s > 0:
            await self._process.terminate(spare_leader=False)
            await self._process.ended_within(grace_s)
        await self._process.kill()
        return await self.wait()

    async def stats(self) -> VmStats:
        pid = self._process.identity.pid
        rss_bytes = 0 if self._process.ended else procfs.resident_bytes(pid)
        if rss_bytes == 0:
            self._refuse_ended()
        return VmStats(rss_bytes=rss_bytes, cpu_ns=procfs.cpu_ns(pid))

    def _make_drive(self, file: Path, drive: Path) -> None:
        make_drive(self._bundle.attach(file), drive)

    def _refuse_ended(self) -> NoReturn:
        raise Unavailable(f"VM {self.handle.vm_id} has ended", hint="look with: plexspaces list")

    def _explain(self, status: int | None) -> VmExit:
        if self._stop_asked and status in (None, 0, -signal.SIGTERM):
            return VmExit(status, "stopped when asked")
        if self._stop_asked and status == -signal.SIGKILL:
            return VmExit(status, "killed while stopping")
        if status is not None and status < 0:
            return VmExit(status, f"killed by {signal.Signals(-status).name}")
        # A guest that panics resets, as one does that ends in good order: its console tells.
        reason = {None: "ended", 0: "the guest ended"}.get(status, f"QEMU failed, status {status}")
        last = _last_words(self._bundle)
        return VmExit(status, f"{reason}: {last}" if last else reason)

    def __repr__(self) -> str:
        return f"QemuVm({self.handle.vm_id}, {self._process!r})"


class QemuDriver:
    """Makes machines with QEMU. Belongs to the event loop it is first used in."""

    name = "qemu"

    def __init__(self, image: Callable[[], GuestImage], *, emulation: bool = True) -> None:
        """Set what to boot; looks at nothing yet.

        Args:
            image: finds the guest image; may block, and raises a platform error without one.
            emulation: machines may be emulated where KVM does not work; otherwise `probe` says
                that they cannot be made.
        """
        self._image = image
        self._emulation = emulation
        self._host: _Host | None = None
        self._health: Health | None = None
        self._probing = asyncio.Lock()
        self._boots = asyncio.Semaphore(COLD_BOOTS)
        self._machines: dict[Bundle, QemuVm] = {}

    @property
    def capabilities(self) -> Capabilities:
        host = self._host
        emulated = host is not None and host.emulator.accelerator is Accelerator.TCG
        how = "emulated by QEMU, without KVM" if emulated else "in QEMU, under KVM"
        least = MIN_MEMORY_MIB if host is None else host.image.min_memory_mib
        return Capabilities(
            link=LinkEnd.NODE_DIALS,
            survives_node=True,
            min_memory_mib=least,
            max_memory_mib=procfs.total_memory_mib(),
            max_vcpus=min(MAX_VCPUS, 4 * len(os.sched_getaffinity(0))),
            isolation=f"a virtual machine of its own, {how}{_holds(host)}",
            overhead_mib=OVERHEAD_MIB,
        )

    async def probe(self) -> Health:
        """Boot the guest image once, under KVM or else emulated, and remember what worked.

        Takes seconds under emulation. Tried once in this object's life when it succeeds.
        """
        async with self._probing:
            if self._health is None or not self._health.ok:
                self._health = await self._examine()
            return self._health

    async def start(self, config: VmConfig, bundle: Bundle) -> QemuVm:
        """Start a machine; returns when its agent has opened its end of the link."""
        step = "validate"
        try:
            host = await self._validate(config, bundle)
            async with self._boots, AsyncExitStack() as undo:
                step = "spawn"
                process = _spawn(host, config, bundle, undo)
                undo.push_async_callback(process.kill)
                step = "handle"
                handle = _handle_of(process, host, bundle)
                await finished(asyncio.to_thread(bundle.write_handle, handle))
                step = "boot"
                await _boot(process, bundle, BOOT_TIMEOUT_S)
                undo.pop_all()
        except (OSError, PlexSpacesError) as error:
            raise start_failed(step, bundle, error) from error
        return self._keep(QemuVm(handle, bundle, process), process)

    async def recover(self, handle: VmHandle, bundle: Bundle) -> QemuVm:
        known = self._machines.get(bundle)
        if known is not None:
            return known
        identity = identity_in(handle, driver=self.name, version=HANDLE_VERSION)
        if identity is None:
            raise NotFound(
                f"the QEMU of VM {handle.vm_id} has ended", hint="start the application again"
            )
        process = HostProcess.adopt(identity, marks_of(bundle))
        return self._keep(QemuVm(handle, bundle, process), process)

    async def destroy(self, bundle: Bundle) -> None:
        known = self._machines.get(bundle)
        if known is not None:
            await known.stop(0)
        look = partial(running_from, bundle, driver=self.name, version=HANDLE_VERSION)
        while found := await asyncio.to_thread(look):
            await kill_all(found)
        await asyncio.to_thread(bundle.remove)

    async def _validate(self, config: VmConfig, bundle: Bundle) -> _Host:
        if self._host is None:
            health = await self.probe()
            if self._host is None:
                raise Unavailable(health.reason, hint=health.hint)
        self.capabilities.check(config)
        if not bundle.path.is_dir():
            raise NotFound(f"no bundle at {bundle.path}")
        if bundle in self._machines:
            raise WrongState(f"VM {bundle.vm_id} runs already")
        free_mib = procfs.available_memory_mib()
        if config.memory_mib > free_mib:
            raise ResourceExhausted(
                f"the VM wants {config.memory_mib} MiB and this host has {free_mib} MiB available",
                hint=f"deploy with --memory {self.capabilities.min_memory_mib}, or stop another",
            )
        return self._host

    async def _examine(self) -> Health:
        try:
            qemu, walls, image = await asyncio.to_thread(self._look)
        except PlexSpacesError as error:
            return Health(False, error.message, error.hint)
        try:
            check_kvm()
            await self._try(
                _Host(Emulator(qemu, Accelerator.KVM), walls, image), KVM_PROBE_TIMEOUT_S
            )
        except PlexSpacesError as error:
            why = error
        else:
            return Health(True, "the guest image boots in QEMU under KVM")
        fault = f"KVM does not work: {why}"
        if not self._emulation:
            return Health(False, fault, why.hint)
        try:
            tsc_khz = await asyncio.to_thread(host_tsc_khz)
            emulator = Emulator(qemu, Accelerator.TCG, tsc_khz)
            await self._try(_Host(emulator, walls, image), BOOT_TIMEOUT_S)
        except PlexSpacesError as error:
            hint = error.hint or "plexspaces image verify"
            return Health(False, f"the guest image does not boot: {error}; {fault}", hint)
        return Health(
            True,
            f"the guest image boots in QEMU by emulation, many times slower; {fault}",
            why.hint,
            emulated=True,
        )

    def _look(self) -> tuple[str, Walls, GuestImage]:
        qemu, walls = find_qemu(), find_walls()
        if find_mke2fs() is None:
            raise Unsupported("mke2fs is not installed", hint="apt-get install e2fsprogs")
        return qemu, walls, self._image()

    async def _try(self, host: _Host, timeout_s: float) -> None:
        """Boot a machine and end it; keeps `host` when that went well, or raises `Unavailable`."""
        config = VmConfig(memory_mib=host.image.min_memory_mib)
        with tempfile.TemporaryDirectory(prefix="plexspaces-probe-") as directory:
            bundle = Bundle(Path(directory).resolve())
            try:
                async with self._boots, AsyncExitStack() as undo:
                    process = _spawn(host, config, bundle, undo)
                    undo.push_async_callback(process.kill)
                    await _boot(process, bundle, timeout_s)
            except (OSError, PlexSpacesError) as error:
                words = _last_words(bundle)
                raise Unavailable(f"{error}: {words}" if words else str(error)) from error
        self._host = host

    def _keep(self, vm: QemuVm, process: HostProcess) -> QemuVm:
        bundle = vm._bundle
        self._machines[bundle] = vm
        process.when_ended(partial(self._machines.pop, bundle, None))
        return vm


def _spawn(host: _Host, config: VmConfig, bundle: Bundle, undo: AsyncExitStack) -> HostProcess:
    """Start a QEMU that waits for its first command; its sockets are removed by `undo`."""
    image, emulator = host.image, host.emulator
    with ExitStack() as opened:
        kernel, initrd, root = (
            opened.enter_context(file.open("rb")).fileno()
            for file in (image.kernel, image.initrd, image.rootfs)
        )
        link = _listen(bundle.link_socket, opened, undo)
        control = _listen(_control_socket(bundle), opened, undo)
        descriptors = Descriptors(kernel, initrd, root, link=link, control=control)
        marks = marks_of(bundle)
        command = qemu_command(emulator, config, marks, descriptors=descriptors)
        walls = walls_of(host.walls, bundle.path, kvm=emulator.accelerator is Accelerator.KVM)
        return HostProcess.spawn(
            held_command(walls, command),
            marks=marks,
            env=ENVIRONMENT,
            cwd=Path("/"),
            output=bundle.console_log,
            descriptors=descriptors,
        )


def _listen(path: Path, opened: ExitStack, undo: AsyncExitStack) -> int:
    """Make a listening socket for QEMU; ours is closed with `opened`, or nobody saw QEMU's end."""
    path.unlink(missing_ok=True)
    listener = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    listener.bind(str(path))
    undo.callback(path.unlink, missing_ok=True)
    listener.listen(1)
    return listener.fileno()


async def _boot(process: HostProcess, bundle: Bundle, timeout_s: float) -> None:
    """Let the machine run and wait until its agent has opened the port.

    Raises `Unavailable` when the machine ends before, `DeadlineExceeded` when it does neither.
    """
    try:
        async with asyncio.timeout(timeout_s), connect_qmp(_control_socket(bundle)) as qmp:
            await qmp.execute("cont")
            while True:
                name, data = await qmp.event()
                if name == "VSERPORT_CHANGE" and data == {"open": True, "id": LINK_DEVICE}:
                    return
    except TimeoutError as error:
        raise DeadlineExceeded(f"the agent did not open its link within {timeout_s:g} s") from error
    except Unavailable as error:
        if await process.ended_within(_END_TIMEOUT_S):
            status = await process.wait()
            how = "the guest ended" if status == 0 else f"QEMU ended with status {status}"
            raise Unavailable(f"{how} before its agent opened the link") from error
        raise


def _last_words(bundle: Bundle) -> str:
    """Return the line of the console that tells most about an end: a panic, or else the last."""
    lines = bundle.console_tail(_PANIC_LINES).splitlines()
    told = [line for line in lines if "Kernel panic" in line or "plexspaces:" in line] or lines
    return re.sub(r"^\[ *[0-9.]+\] ", "", told[-1]) if told else ""


def _control_socket(bundle: Bundle) -> Path:
    return bundle.path / "qmp.sock"


def _handle_of(process: HostProcess, host: _Host, bundle: Bundle) -> VmHandle:
    state = {**identity_state(process.identity), "accelerator": host.emulator.accelerator.value}
    return VmHandle(QemuDriver.name, HANDLE_VERSION, bundle.vm_id, state)


def _holds(host: _Host | None) -> str:
    if host is None:
        return ""
    walls = ["seccomp"]
    if host.walls.own_user:
        walls.append("a user of its own")
    if host.walls.unshare:
        walls.append("no network")
    return f", with {', '.join(walls)}"
