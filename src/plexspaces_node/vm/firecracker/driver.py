"""The Firecracker driver: a VM is a microVM under KVM, with a minimum of devices.

The guest has two read-only drives (the shared root and a slot for its artifact), a vsock device
through which its agent connects to the node, a console that is written to the bundle's log, and
nothing else: no network, no PCI. A node that runs as root jails each Firecracker process: it has
its own user, chroot, PID namespace and cgroup.

This module defines the driver and the state of its handles. It knows the agent only as whoever
connects to the vsock port.
"""

from __future__ import annotations

import asyncio
import logging
import os
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from plexspaces_node.errors import PlexSpacesError, Unavailable, VmStartFailed
from plexspaces_node.model import VmConfig
from plexspaces_node.tasks import finished
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.drive import DRIVE, GUEST_PATH, make_drive
from plexspaces_node.vm.driver import Capabilities, Health, LinkEnd
from plexspaces_node.vm.firecracker import api as api
from plexspaces_node.vm.firecracker.api import Action, FirecrackerApi
from plexspaces_node.vm.firecracker.host import FirecrackerHost, Installation, find_host
from plexspaces_node.vm.firecracker.jailer import (
    CONSOLE_LIMIT_BYTES,
    VMM_MEMORY_MIB,
    VMM_THREADS,
    Places,
    find_cgroups,
    remove_cgroup,
)
from plexspaces_node.vm.firecracker.start import (
    ARTIFACT_DRIVE,
    connected,
    lengthen,
    prepare,
    spawn,
)
from plexspaces_node.vm.firecracker.timeouts import Timeouts
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.kvm import KVM_HINT, open_kvm
from plexspaces_node.vm.host.process import HostProcess
from plexspaces_node.vm.host.vmm import (
    HostDriver,
    HostVm,
    identity_state,
    last_words,
    step,
    trial_bundle,
    trial_failed,
)
from plexspaces_node.vm.image import GuestImage

HANDLE_VERSION = 1
MIN_MEMORY_MIB = 80
"""The smallest memory that boots a guest; an image may need more."""
OVERHEAD_MIB = 76
"""How much of the guest's memory its kernel and agent use."""
MAX_VCPUS = 32
COLD_BOOTS = 2
"""How many VMs boot at once: on a small host more of them slow each other down."""

DEFAULT_INSTALLATION = Installation()
TIMEOUTS = Timeouts()

_ASK_TIMEOUT_S = 1.0

_ENDS = {
    None: "Firecracker ended",  # jailed it is nobody's child, and there is no status
    0: "the guest ended",
    148: "Firecracker made a system call that its filters forbid",
    151: "its console log is full",
}
"""What Firecracker's exit statuses mean."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ready:
    """What `probe` found to work here, and the timeouts."""

    host: FirecrackerHost
    image: GuestImage
    timeouts: Timeouts


class FirecrackerVm(HostVm):
    """A VM of the Firecracker driver."""

    def __init__(
        self, handle: VmHandle, places: Places, process: HostProcess, timeouts: Timeouts
    ) -> None:
        """Take over a process that was started from the bundle of `places`."""
        super().__init__(handle, places.bundle, process, link=LinkEnd.GUEST_DIALS)
        self._places = places
        self._timeouts = timeouts

    async def _attach(self, file: Path) -> str:
        name = await finished(asyncio.to_thread(self._make_drive, file))
        pid = self.process.identity.pid
        async with FirecrackerApi(self._places.api_socket, pid=pid) as connection:
            await connection.call(api.change_drive(ARTIFACT_DRIVE, name), self._timeouts.call_s)
        return GUEST_PATH

    async def _ask_to_end(self, grace_s: float) -> None:
        # The agent has already sent its last frame and its guest is shutting down, or it could not:
        # then the guest's kernel is asked, then Firecracker, and then it is killed.
        begin = monotonic()
        await self._press_ctrl_alt_del(min(_ASK_TIMEOUT_S, grace_s / 4))
        await self.process.ended_within(begin + grace_s / 2 - monotonic())
        if self._places.root is None:
            # Firecracker does not handle SIGTERM, and as the first process of a PID namespace it
            # does not even receive it.
            self.process.terminate()
            await self.process.ended_within(begin + grace_s - monotonic())

    async def _press_ctrl_alt_del(self, timeout_s: float) -> None:
        pid = self.process.identity.pid
        with suppress(OSError, PlexSpacesError, TimeoutError):
            async with (
                asyncio.timeout(timeout_s),
                FirecrackerApi(self._places.api_socket, pid=pid) as connection,
            ):
                await connection.call(api.act(Action.CTRL_ALT_DEL), timeout_s)

    def _make_drive(self, file: Path) -> str:
        bundle = self.bundle
        drive = bundle.path / DRIVE
        make_drive(bundle.attach(file), drive)
        lengthen(drive)
        return self._places.show(drive, drive.name)

    def _reason(self, status: int | None) -> str:
        with suppress(OSError):
            if self.bundle.console_log.stat().st_size >= CONSOLE_LIMIT_BYTES:
                return _ENDS[151]
        return _ENDS.get(status, f"Firecracker failed, status {status}")


class FirecrackerDriver(HostDriver[FirecrackerVm]):
    """Starts VMs with Firecracker. Belongs to the event loop in which it is first used."""

    name = "firecracker"
    handle_version = HANDLE_VERSION

    def __init__(
        self,
        open_image: Callable[[], GuestImage],
        installation: Installation = DEFAULT_INSTALLATION,
        *,
        scratch: Path | None = None,
        check_kvm: Callable[[], None] = open_kvm,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        """Set what to run and boot, without checking it yet.

        Args:
            open_image: opens the guest image to boot and checks that it fits this node; blocks.
            installation: which programs to run, and how.
            scratch: directory for the trial machine of `probe`, if it is there; best the bundles'
                own, for a jail needs device files, which a /tmp often does not allow.
            check_kvm: raises when KVM cannot be used; for tests.
            timeouts: how long to wait for Firecracker and its guests.
        """
        super().__init__()
        self._open_image = open_image
        self._installation = installation
        self._scratch = scratch
        self._check_kvm = check_kvm
        self._timeouts = timeouts
        self._ready: _Ready | None = None
        self._health: Health | None = None
        self._probing = asyncio.Lock()
        self._boots = asyncio.Semaphore(COLD_BOOTS)

    @property
    def capabilities(self) -> Capabilities:
        ready = self._ready
        return Capabilities(
            link=LinkEnd.GUEST_DIALS,
            min_memory_mib=MIN_MEMORY_MIB if ready is None else ready.image.min_memory_mib,
            max_memory_mib=procfs.total_memory_mib(),
            max_vcpus=min(MAX_VCPUS, 4 * len(os.sched_getaffinity(0))),
            isolation=f"a virtual machine of its own, in Firecracker{self._holds()}",
            overhead_mib=OVERHEAD_MIB,
            host_memory_mib=VMM_MEMORY_MIB,
            host_processes=VMM_THREADS,
        )

    async def probe(self) -> Health:
        """Boot the guest image once, and remember what worked.

        Takes seconds on a slow host. Not repeated after a success.
        """
        async with self._probing:
            if self._health is None or not self._health.ok:
                self._health = await self._examine()
            return self._health

    async def start(self, config: VmConfig, bundle: Bundle) -> FirecrackerVm:
        """Start a VM; returns when its guest runs.

        The node must already listen on the bundle's link socket: in a jail the guest's way to it is
        created now.
        """
        with self._claimed(bundle):
            with step("validate", bundle):
                ready = await self._validate(config)
            async with self._boots:
                return self._keep(await _start(ready, config, bundle))

    def _remove(self, bundle: Bundle) -> None:
        cgroups = find_cgroups(Path("/proc/self/mounts").read_text())
        if cgroups is not None and (bundle.path / "jail").exists():
            remove_cgroup(cgroups.group(bundle.vm_id))
        bundle.remove()

    async def _validate(self, config: VmConfig) -> _Ready:
        if self._ready is None:
            health = await self.probe()
            if self._ready is None:
                raise Unavailable(health.reason, hint=health.hint)
        self.capabilities.check(config)
        self._check_free_memory(config)
        # Checked again, because it may have been rebuilt or damaged since the node started.
        self._ready = replace(self._ready, image=await asyncio.to_thread(self._open_image))
        return self._ready

    async def _examine(self) -> Health:
        try:
            ready = await asyncio.to_thread(self._look)
            await self._try(ready)
        except PlexSpacesError as error:
            return Health(False, error.message, error.hint)
        self._ready = ready
        if not self._installation.seccomp:
            _log.warning("Firecracker runs without its seccomp filters: FIRECRACKER_NO_SECCOMP")
        reason = f"the guest image boots in Firecracker {ready.host.version}"
        return Health(True, "; ".join(filter(None, (reason, ready.host.note))))

    def _look(self) -> _Ready:
        host = find_host(self._installation)
        self._check_kvm()
        return _Ready(host, self._open_image(), self._timeouts)

    async def _try(self, ready: _Ready) -> None:
        """Boot a VM until its agent connects, and end it; raises `Unavailable` with the reason."""
        config = VmConfig(memory_mib=ready.image.min_memory_mib)
        dialled = asyncio.Event()

        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            dialled.set()
            writer.close()

        self._check_free_memory(config)
        try:
            async with self._boots, AsyncExitStack() as undo:
                bundle = trial_bundle(self._scratch, config)
                undo.push_async_callback(self.destroy, bundle)
                server = await asyncio.start_unix_server(accept, bundle.link_socket)
                undo.push_async_callback(server.wait_closed)
                undo.callback(server.close)
                try:
                    vm = await _start(ready, config, bundle)
                except VmStartFailed as error:
                    raise trial_failed(error, bundle, hint=KVM_HINT) from error
                undo.push_async_callback(vm.stop, 0)
                await _first(dialled, vm, bundle, self._timeouts.trial_s)
        except OSError as error:
            raise Unavailable(f"a trial VM could not be created: {error}") from error

    def _holds(self) -> str:
        ready = self._ready
        if ready is None:
            return ""
        host = ready.host
        walls = ["seccomp" if self._installation.seccomp else "NO seccomp (FIRECRACKER_NO_SECCOMP)"]
        if host.programs.jailer is None:
            walls.append("no jail")
        else:
            walls += ["jailed as a user of its own", "a cgroup" if host.cgroups else "no cgroup"]
        return f" {host.version} under KVM, with {', '.join(walls)}"


async def _start(ready: _Ready, config: VmConfig, bundle: Bundle) -> FirecrackerVm:
    """Start Firecracker and its guest; on failure only files of the bundle are left."""
    timeouts = ready.timeouts
    async with AsyncExitStack() as undo:
        places = Places.of(bundle, ready.host.programs)
        undo.push_async_callback(asyncio.to_thread, _remove_group, ready.host, bundle)
        with step("prepare", bundle):
            requests = await finished(asyncio.to_thread(prepare, ready.image, places, config))
        with step("spawn", bundle):
            process = await spawn(ready.host, places, config, timeouts)
            undo.push_async_callback(process.kill)
        with step("handle", bundle):
            handle = _handle_of(process, places)
            await finished(asyncio.to_thread(bundle.write_handle, handle))
        async with AsyncExitStack() as opened:
            with step("connect", bundle):
                connecting = connected(places, process, timeouts)
                connection = await opened.enter_async_context(connecting)
            with step("configure", bundle):
                for request in requests:
                    await connection.call(request, timeouts.call_s)
            with step("boot", bundle):
                await connection.call(api.act(Action.START), timeouts.boot_s)
        undo.pop_all()
    return FirecrackerVm(handle, places, process, timeouts)


async def _first(
    dialled: asyncio.Event, vm: FirecrackerVm, bundle: Bundle, timeout_s: float
) -> None:
    """Wait until the guest has connected; raises `Unavailable` if it ends or does not."""
    dialling, ending = asyncio.ensure_future(dialled.wait()), asyncio.ensure_future(vm.wait())
    try:
        await asyncio.wait(
            {dialling, ending}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if dialled.is_set():
            return
        how = f"within {timeout_s:g} s"
        if ending.done():
            how = f"before it ended: {ending.result().reason}"
        elif last := last_words(bundle):
            how += f"; its console ends: {last}"
        raise Unavailable(
            f"Firecracker starts, but the guest's agent did not connect {how}",
            hint=KVM_HINT,
        )
    finally:
        dialling.cancel()
        ending.cancel()
        await asyncio.wait({dialling, ending})


def _handle_of(process: HostProcess, places: Places) -> VmHandle:
    bundle, root = places.bundle, places.root
    jail = "" if root is None else str(root.relative_to(bundle.path))
    state = {**identity_state(process.identity), "jail": jail}
    return VmHandle(FirecrackerDriver.name, HANDLE_VERSION, bundle.vm_id, state)


def _remove_group(host: FirecrackerHost, bundle: Bundle) -> None:
    if host.cgroups is not None and host.programs.jailer is not None:
        remove_cgroup(host.cgroups.group(bundle.vm_id))
