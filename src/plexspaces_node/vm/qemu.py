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
import logging
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from plexspaces_node.errors import (
    DeadlineExceeded,
    PlexSpacesError,
    Unavailable,
    Unsupported,
    VmStartFailed,
)
from plexspaces_node.model import VmConfig
from plexspaces_node.vm import procfs
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.drive import GUEST_PATH, find_mke2fs, make_drive
from plexspaces_node.vm.driver import Capabilities, Health, LinkEnd
from plexspaces_node.vm.host_machine import (
    HostDriver,
    HostVm,
    finished,
    identity_state,
    marks_of,
    step,
    trial_bundle,
    trial_failed,
)
from plexspaces_node.vm.host_process import HostProcess
from plexspaces_node.vm.image import GuestImage
from plexspaces_node.vm.kvm import KVM_HINT
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
FIRST_BOOT_TIMEOUT_S = 15.0
"""From the first instruction until the agent opens its port: five times what emulation takes."""
BOOT_TIMEOUT_S = 60.0
"""The same for the second try: a boot may hang at random where many run on few CPUs."""
KVM_PROBE_TIMEOUT_S = 30.0
"""For the first boot under KVM: a nested one that does not work may hang instead of failing."""
PROBE_TIMEOUT_S = 55.0
"""For it and an emulated one together: less than the minute that `doctor` has for a probe."""
COLD_BOOTS = 2
"""The most that boot at once: on a small host more of them hinder each other."""
MIN_MEMORY_MIB = 96
"""The least a guest boots with; an image may want more."""
OVERHEAD_MIB = 88
"""What kernel and agent take of the guest's memory: of 128 MiB an actor was seen to use 44."""
MAX_VCPUS = 32

_END_TIMEOUT_S = 2.0
"""For a QEMU whose control socket has closed to end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Host:
    """What `probe` found to work here."""

    emulator: Emulator
    walls: Walls
    image: GuestImage


class QemuVm(HostVm):
    """A machine of the QEMU driver.

    Asked to end it gets SIGTERM, which is what QMP's `quit` is: QEMU closes everything and ends.
    There is nothing in the guest to be saved; its agent has said goodbye, or could not.
    """

    def __init__(self, handle: VmHandle, bundle: Bundle, process: HostProcess) -> None:
        """Take a process that was started from `bundle`."""
        super().__init__(handle, bundle, process, link=LinkEnd.NODE_DIALS)

    async def _attach(self, file: Path) -> str:
        drive = self.bundle.path / "drive.ext4"
        await finished(asyncio.to_thread(self._make_drive, file, drive))
        with drive.open("rb") as opened:
            async with connect_qmp(_control_socket(self.bundle)) as qmp:
                await qmp.execute("add-fd", {"fdset-id": ARTIFACT_SET}, descriptor=opened.fileno())
                await qmp.execute("blockdev-add", dict(artifact_node()))
                await qmp.execute("blockdev-reopen", {"options": [filled_slot()]})
        return GUEST_PATH

    def _make_drive(self, file: Path, drive: Path) -> None:
        make_drive(self.bundle.attach(file), drive)

    def _reason(self, status: int | None) -> str:
        return {None: "ended", 0: "the guest ended"}.get(status, f"QEMU failed, status {status}")


class QemuDriver(HostDriver[QemuVm]):
    """Makes machines with QEMU. Belongs to the event loop it is first used in."""

    name = "qemu"
    handle_version = HANDLE_VERSION

    def __init__(
        self,
        image: Callable[[], GuestImage],
        *,
        emulation: bool = True,
        scratch: Path | None = None,
    ) -> None:
        """Set what to boot; looks at nothing yet.

        Args:
            image: finds the guest image; may block, and raises a platform error without one.
            emulation: machines may be emulated where KVM does not work; otherwise `probe` says
                that they cannot be made.
            scratch: directory for the trial machine of `probe`, if it is there; best the bundles'
                own, so that no trial outlives a node that was killed for longer than until its
                next start.
        """
        super().__init__()
        self._image = image
        self._emulation = emulation
        self._scratch = scratch
        self._host: _Host | None = None
        self._health: Health | None = None
        self._probing = asyncio.Lock()
        self._boots = asyncio.Semaphore(COLD_BOOTS)

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
        """Start a machine; returns when its agent has opened its end of the link.

        A boot that hangs is given up and tried once more.
        """
        with self._claimed(bundle):
            with step("validate", bundle):
                host = await self._validate(config)
            async with self._boots:
                try:
                    return self._keep(await _start(host, config, bundle, FIRST_BOOT_TIMEOUT_S))
                except VmStartFailed as error:
                    if not isinstance(error.__cause__, DeadlineExceeded):
                        raise
                    _log.warning("%s; it is started once more", error)
                return self._keep(await _start(host, config, bundle, BOOT_TIMEOUT_S))

    async def _recovered(self, handle: VmHandle, bundle: Bundle, process: HostProcess) -> QemuVm:
        return QemuVm(handle, bundle, process)

    async def _validate(self, config: VmConfig) -> _Host:
        if self._host is None:
            health = await self.probe()
            if self._host is None:
                raise Unavailable(health.reason, hint=health.hint)
        self.capabilities.check(config)
        self._check_free_memory(config)
        # Looked at again, for it may have been made anew, or spoiled, since the node started.
        self._host = replace(self._host, image=await asyncio.to_thread(self._image))
        return self._host

    async def _examine(self) -> Health:
        begin = monotonic()
        try:
            qemu, walls, image = await asyncio.to_thread(self._look)
        except PlexSpacesError as error:
            return Health(False, error.message, error.hint)
        try:
            check_kvm(own_user=walls.own_user)
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
            rest_s = begin + PROBE_TIMEOUT_S - monotonic()
            await self._try(_Host(emulator, walls, image), rest_s)
        except PlexSpacesError as error:
            return Health(False, f"the guest image does not boot: {error}; {fault}", error.hint)
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
        self._check_free_memory(config)
        async with self._boots, AsyncExitStack() as undo:
            bundle = trial_bundle(self._scratch, config)
            undo.push_async_callback(self.destroy, bundle)
            try:
                vm = await _start(host, config, bundle, timeout_s)
            except VmStartFailed as error:
                kvm = host.emulator.accelerator is Accelerator.KVM
                hint = KVM_HINT if kvm else "plexspaces image verify"
                raise trial_failed(error, bundle, hint=hint) from error
            await vm.stop(0)
        self._host = host


async def _start(host: _Host, config: VmConfig, bundle: Bundle, timeout_s: float) -> QemuVm:
    """Start QEMU and let the guest boot for so long; on failure nothing of it is left."""
    async with AsyncExitStack() as undo:
        with step("spawn", bundle):
            process = _spawn(host, config, bundle, undo)
            undo.push_async_callback(process.kill)
        with step("handle", bundle):
            handle = _handle_of(process, host, bundle)
            await finished(asyncio.to_thread(bundle.write_handle, handle))
        with step("boot", bundle):
            await _boot(process, bundle, timeout_s)
        undo.pop_all()
    return QemuVm(handle, bundle, process)


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
        walls = walls_of(host.walls, bundle, kvm=emulator.accelerator is Accelerator.KVM)
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
        raise DeadlineExceeded(
            f"the agent did not open its link within {timeout_s:.3g} s"
        ) from error
    except Unavailable as error:
        if await process.ended_within(_END_TIMEOUT_S):
            status = await process.wait()
            how = "the guest ended" if status == 0 else f"QEMU ended with status {status}"
            raise Unavailable(f"{how} before its agent opened the link") from error
        raise


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
