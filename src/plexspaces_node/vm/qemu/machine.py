"""One VM of the QEMU driver: booted or copied from a template, and what it can be asked.

This module starts QEMU and waits until its agent has opened the port. The driver decides what is
tried when, and again. It knows the agent only as whoever opens the port.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import DeadlineExceeded, Unavailable
from plexspaces_node.model import VmConfig
from plexspaces_node.tasks import finished
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.drive import DRIVE, GUEST_PATH, make_drive
from plexspaces_node.vm.driver import LinkEnd
from plexspaces_node.vm.host.process import HostProcess
from plexspaces_node.vm.host.vmm import HostVm, identity_state, marks_of, step
from plexspaces_node.vm.image import GuestImage
from plexspaces_node.vm.qemu.command import (
    ARTIFACT_SET,
    ENVIRONMENT,
    LINK_DEVICE,
    Accelerator,
    Descriptors,
    Emulator,
    Files,
    Walls,
    artifact_node,
    filled_slot,
    held_command,
    qemu_command,
)
from plexspaces_node.vm.qemu.qmp import QmpClient, connect_qmp
from plexspaces_node.vm.qemu.sandbox import walls_of
from plexspaces_node.vm.qemu.template import Template, memory_file, restore, save
from plexspaces_node.vm.qemu.timeouts import Timeouts

DRIVER = "qemu"
"""Name of the driver in its VMs' handles."""
HANDLE_VERSION = 1

_END_TIMEOUT_S = 2.0
"""How long a QEMU whose control socket has closed may take to end."""


@dataclass(frozen=True, slots=True)
class QemuHost:
    """What `probe` found to work here, and the timeouts."""

    emulator: Emulator
    walls: Walls
    image: GuestImage
    timeouts: Timeouts


class QemuVm(HostVm):
    """A VM of the QEMU driver.

    To end it, it gets SIGTERM, which is the same as QMP's `quit`: QEMU closes everything and ends.
    There is nothing in the guest to be saved; its agent has sent its last frame, or could not.
    """

    def __init__(
        self, handle: VmHandle, bundle: Bundle, process: HostProcess, timeouts: Timeouts
    ) -> None:
        """Take over a process that was started from `bundle`."""
        super().__init__(handle, bundle, process, link=LinkEnd.NODE_DIALS)
        self._timeouts = timeouts

    def control(self) -> AbstractAsyncContextManager[QmpClient]:
        """Connect to the machine's QEMU; see `connect_qmp`."""
        return connect_qmp(_control_socket(self.bundle), self._timeouts.answer_s)

    async def _attach(self, file: Path) -> str:
        drive = self.bundle.path / DRIVE
        await finished(asyncio.to_thread(self._make_drive, file, drive))
        with drive.open("rb") as opened:
            async with self.control() as qmp:
                await qmp.execute("add-fd", {"fdset-id": ARTIFACT_SET}, descriptor=opened.fileno())
                await qmp.execute("blockdev-add", dict(artifact_node()))
                await qmp.execute("blockdev-reopen", {"options": [filled_slot()]})
        return GUEST_PATH

    def _make_drive(self, file: Path, drive: Path) -> None:
        make_drive(self.bundle.attach(file), drive)

    def _reason(self, status: int | None) -> str:
        return {None: "ended", 0: "the guest ended"}.get(status, f"QEMU failed, status {status}")


async def start_booted(
    host: QemuHost, config: VmConfig, bundle: Bundle, timeout_s: float
) -> QemuVm:
    """Start QEMU and let the guest boot for this long; on failure nothing is left."""
    async with AsyncExitStack() as undo:
        with ExitStack() as opened:
            with step("spawn", bundle):
                files = _opened(host.image, opened)
            vm = await _spawned(host, config, bundle, undo, files)
        with step("boot", bundle):
            await _boot(vm, timeout_s)
        undo.pop_all()
    return vm


async def make_template(
    host: QemuHost, config: VmConfig, bundle: Bundle, timeout_s: float
) -> Template:
    """Boot a VM from `bundle`, save it, end it, and prove the template with a copy.

    The boot has `timeout_s` seconds. Afterwards, and on failure, nothing runs from the bundle.
    """
    with ExitStack() as opened, step("save", bundle):
        memory = memory_file(config)
        opened.callback(os.close, memory)
        files = _opened(host.image, opened)._replace(memory=memory)
        async with AsyncExitStack() as undo:
            vm = await _spawned(host, config, bundle, undo, files)
            with step("boot", bundle):
                await _boot(vm, timeout_s)
            state = await save(_control_socket(bundle), host.timeouts)
        console = bundle.console_log.read_bytes()
        template = Template(memory, files.root, state=state, console=console)
    async with AsyncExitStack() as undo:
        undo.callback(template.close)
        copy = await start_copy(host, config, bundle, template)
        try:
            await _speaks(copy, host.timeouts)
        finally:
            await copy.stop(0)
        undo.pop_all()
    return template


async def start_copy(
    host: QemuHost, config: VmConfig, bundle: Bundle, template: Template
) -> QemuVm:
    """Start QEMU with a copy of the template; on failure nothing is left."""
    async with AsyncExitStack() as undo:
        with ExitStack() as opened:
            with step("spawn", bundle):
                root = template.open_root()
                opened.callback(os.close, root)
                template.begin_console(bundle)
            files = Files(root, memory=template.memory)
            vm = await _spawned(host, config, bundle, undo, files)
        with step("restore", bundle):
            await _restore(vm, template.state, host.timeouts)
        undo.pop_all()
    return vm


def _opened(image: GuestImage, opened: ExitStack) -> Files:
    root, kernel, initrd = (
        opened.enter_context(file.open("rb")).fileno()
        for file in (image.rootfs, image.kernel, image.initrd)
    )
    return Files(root, kernel, initrd)


async def _spawned(
    host: QemuHost, config: VmConfig, bundle: Bundle, undo: AsyncExitStack, files: Files
) -> QemuVm:
    """Start a QEMU that waits for its first command; `undo` ends it and removes its sockets."""
    with step("spawn", bundle):
        process = _spawn(host, config, bundle, undo, files)
        undo.push_async_callback(process.kill)
    with step("handle", bundle):
        handle = _handle_of(process, host, bundle)
        await finished(asyncio.to_thread(bundle.write_handle, handle))
    return QemuVm(handle, bundle, process, host.timeouts)


def _spawn(
    host: QemuHost, config: VmConfig, bundle: Bundle, undo: AsyncExitStack, files: Files
) -> HostProcess:
    emulator = host.emulator
    with ExitStack() as opened:
        link = _listen(bundle.link_socket, opened, undo)
        control = _listen(_control_socket(bundle), opened, undo)
        descriptors = Descriptors(*files, link=link, control=control)
        marks = marks_of(bundle)
        command = qemu_command(emulator, config, marks, descriptors=descriptors)
        walls = walls_of(host.walls, bundle, kvm=emulator.accelerator is Accelerator.KVM)
        return HostProcess.spawn(
            held_command(walls, command),
            marks=marks,
            env=ENVIRONMENT,
            cwd=Path("/"),
            output=bundle.console_log,
            descriptors=descriptors.all,
        )


def _listen(path: Path, opened: ExitStack, undo: AsyncExitStack) -> int:
    """Create a listening socket for QEMU; ours must close, to notice QEMU's end."""
    path.unlink(missing_ok=True)
    listener = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    listener.bind(str(path))
    undo.callback(path.unlink, missing_ok=True)
    listener.listen(1)
    return listener.fileno()


async def _boot(vm: QemuVm, timeout_s: float) -> None:
    """Let the machine run and wait until its agent has opened the port.

    Raises `Unavailable` if the machine ends first, `DeadlineExceeded` if neither happens.
    """
    try:
        async with asyncio.timeout(timeout_s), vm.control() as qmp:
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
        raise await _explained(error, vm.process, "before its agent opened the link") from error


async def _restore(vm: QemuVm, state: bytes, timeouts: Timeouts) -> None:
    """Let the machine continue from the saved state; raises as `restore` does."""
    try:
        await restore(_control_socket(vm.bundle), state, timeouts)
    except Unavailable as error:
        raise await _explained(error, vm.process, "before it went on") from error


async def _explained(error: Unavailable, process: HostProcess, when: str) -> Unavailable:
    """Return the cause of an error of the control socket: the end of QEMU, if it has ended."""
    if not await process.ended_within(_END_TIMEOUT_S):
        return error
    status = await process.wait()
    how = "the guest ended" if status == 0 else f"QEMU ended with status {status}"
    return Unavailable(f"{how} {when}")


async def _speaks(vm: QemuVm, timeouts: Timeouts) -> None:
    """Wait until the agent of a copy has sent something to a node; raises `VmStartFailed`."""
    with step("restore", vm.bundle):
        try:
            async with asyncio.timeout(timeouts.copy_s):
                reader, writer = await asyncio.open_unix_connection(vm.endpoint.path)
                try:
                    await reader.readexactly(1)
                finally:
                    writer.close()
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            raise Unavailable("the agent of a copied VM does not answer") from error


def _control_socket(bundle: Bundle) -> Path:
    return bundle.path / "qmp.sock"


def _handle_of(process: HostProcess, host: QemuHost, bundle: Bundle) -> VmHandle:
    state = {**identity_state(process.identity), "accelerator": host.emulator.accelerator.value}
    return VmHandle(DRIVER, HANDLE_VERSION, bundle.vm_id, state)
