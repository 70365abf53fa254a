"""The Firecracker driver: a machine that is a microVM under KVM, with next to no devices.

The guest has two read-only drives, the root all machines share and a slot for its artifact, a
vsock device over which its agent dials the node, a console that goes to the bundle's log, and
nothing else: no network, no PCI. A node that runs as root jails each Firecracker: a user, a chroot,
a PID namespace and a cgroup of its own.

This file owns the driver and what its handles' state means; it knows the agent only as whoever
dials the vsock port.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import NoReturn

from plexspaces_node.errors import (
    NotFound,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    WrongState,
)
from plexspaces_node.model import VmConfig
from plexspaces_node.vm import firecracker_api as api
from plexspaces_node.vm import procfs
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.drive import GUEST_PATH, find_mke2fs, make_drive
from plexspaces_node.vm.driver import Capabilities, Endpoint, Health, LinkEnd, VmExit, VmStats
from plexspaces_node.vm.firecracker_api import Action, FirecrackerApi
from plexspaces_node.vm.firecracker_host import FirecrackerHost, Installation, find_host
from plexspaces_node.vm.firecracker_start import (
    ARTIFACT_DRIVE,
    CALL_TIMEOUT_S,
    connected,
    lengthen,
    prepare,
    spawn,
)
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
from plexspaces_node.vm.jailer import (
    Places,
    find_cgroups,
    remove_cgroup,
)
from plexspaces_node.vm.kvm import open_kvm

HANDLE_VERSION = 1
MIN_MEMORY_MIB = 96
"""The least a guest boots with; an image may want more."""
OVERHEAD_MIB = 88
"""What kernel and agent take of the guest's memory."""
MAX_VCPUS = 32
COLD_BOOTS = 2
"""The most that boot at once: on a small host more of them hinder each other."""

DEFAULT_INSTALLATION = Installation()

BOOT_TIMEOUT_S = 30.0
"""For the call that loads the kernel into the guest's memory and starts it."""
TRIAL_TIMEOUT_S = 60.0
"""For the guest of `probe` to dial: ten times what a slow host takes."""

_ASK_TIMEOUT_S = 1.0
_PANIC_LINES = 100
"""How far from the end the line is that names a panic: before registers and stack."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ready:
    """What `probe` found to work here."""

    host: FirecrackerHost
    image: GuestImage


class FirecrackerVm:
    """A machine of the Firecracker driver."""

    def __init__(self, handle: VmHandle, places: Places, process: HostProcess) -> None:
        """Take a process that was started from the bundle of `places`."""
        self.handle = handle
        self.endpoint = Endpoint(places.bundle.link_socket, LinkEnd.GUEST_DIALS)
        self._places = places
        self._process = process
        self._stop_asked = False
        self._exit: VmExit | None = None

    async def attach(self, file: Path) -> str:
        if self._process.ended:
            self._refuse_ended()
        name = await finished(asyncio.to_thread(self._make_drive, file))
        try:
            async with FirecrackerApi(
                self._places.api_socket, pid=self._process.identity.pid
            ) as connection:
                await connection.call(api.change_drive(ARTIFACT_DRIVE, name), CALL_TIMEOUT_S)
        except OSError as error:
            raise Unavailable(f"VM {self.handle.vm_id} is not reached: {error}") from error
        return GUEST_PATH

    async def wait(self) -> VmExit:
        status = await self._process.wait()
        if self._exit is None:
            self._exit = self._explain(status)
        return self._exit

    async def stop(self, grace_s: float) -> VmExit:
        # The agent has said goodbye and its guest is on the way down, or it could not: then the
        # guest's kernel is asked, then Firecracker, and then nobody.
        self._stop_asked = self._stop_asked or not self._process.ended
        if grace_s > 0 and not self._process.ended:
            begin = monotonic()
            await self._press_ctrl_alt_del(min(_ASK_TIMEOUT_S, grace_s / 4))
            await self._process.ended_within(begin + grace_s / 2 - monotonic())
            if self._places.root is None:
                # Firecracker does not handle SIGTERM, and as the first process of a PID namespace
                # it is not even sent it.
                await self._process.terminate(spare_leader=False)
                await self._process.ended_within(begin + grace_s - monotonic())
        await self._process.kill()
        return await self.wait()

    async def stats(self) -> VmStats:
        pid = self._process.identity.pid
        rss_bytes = 0 if self._process.ended else procfs.resident_bytes(pid)
        if rss_bytes == 0:
            self._refuse_ended()
        return VmStats(rss_bytes=rss_bytes, cpu_ns=procfs.cpu_ns(pid))

    async def _press_ctrl_alt_del(self, timeout_s: float) -> None:
        pid = self._process.identity.pid
        with suppress(OSError, PlexSpacesError, TimeoutError):
            async with (
                asyncio.timeout(timeout_s),
                FirecrackerApi(self._places.api_socket, pid=pid) as connection,
            ):
                await connection.call(api.act(Action.CTRL_ALT_DEL), timeout_s)

    def _make_drive(self, file: Path) -> str:
        bundle = self._places.bundle
        drive = bundle.path / "drive.ext4"
        make_drive(bundle.attach(file), drive)
        lengthen(drive)
        return self._places.show(drive, drive.name)

    def _refuse_ended(self) -> NoReturn:
        raise Unavailable(f"VM {self.handle.vm_id} has ended", hint="look with: plexspaces list")

    def _explain(self, status: int | None) -> VmExit:
        if self._stop_asked and status in (None, 0, -signal.SIGTERM):
            return VmExit(status, "stopped when asked")
        if self._stop_asked and status == -signal.SIGKILL:
            return VmExit(status, "killed while stopping")
        if status is not None and status < 0:
            return VmExit(status, f"killed by {signal.Signals(-status).name}")
        # A guest that panics resets, as one does that ends in good order: its console tells. Of a
        # jailed machine, which is nobody's child, there is no status.
        known = {None: "Firecracker ended", 0: "the guest ended"}
        reason = known.get(status, f"Firecracker failed, status {status}")
        last = _last_words(self._places.bundle)
        return VmExit(status, f"{reason}: {last}" if last else reason)

    def __repr__(self) -> str:
        return f"FirecrackerVm({self.handle.vm_id}, {self._process!r})"


class FirecrackerDriver:
    """Makes machines with Firecracker. Belongs to the event loop it is first used in."""

    name = "firecracker"

    def __init__(
        self,
        open_image: Callable[[], GuestImage],
        installation: Installation = DEFAULT_INSTALLATION,
        *,
        scratch: Path | None = None,
        check_kvm: Callable[[], None] = open_kvm,
    ) -> None:
        """Set what to run and boot; looks at nothing yet.

        Args:
            open_image: opens the guest image to boot and checks that it fits this node; blocks.
            installation: which programs to run, and how.
            scratch: directory for the trial machine of `probe`, if it is there; best the bundles'
                own, for a jail needs device files, which a /tmp often does not allow.
            check_kvm: raises when KVM cannot be used; for tests.
        """
        self._open_image = open_image
        self._installation = installation
        self._scratch = scratch
        self._check_kvm = check_kvm
        self._ready: _Ready | None = None
        self._health: Health | None = None
        self._probing = asyncio.Lock()
        self._boots = asyncio.Semaphore(COLD_BOOTS)
        self._machines: dict[Bundle, FirecrackerVm] = {}
        self._starting: set[Bundle] = set()

    @property
    def capabilities(self) -> Capabilities:
        ready = self._ready
        return Capabilities(
            link=LinkEnd.GUEST_DIALS,
            survives_node=ready is not None and ready.host.programs.jailer is not None,
            min_memory_mib=MIN_MEMORY_MIB if ready is None else ready.image.min_memory_mib,
            max_memory_mib=procfs.total_memory_mib(),
            max_vcpus=min(MAX_VCPUS, 4 * len(os.sched_getaffinity(0))),
            isolation=f"a virtual machine of its own, in Firecracker{self._holds()}",
            overhead_mib=OVERHEAD_MIB,
        )

    async def probe(self) -> Health:
        """Boot the guest image once, and remember what worked.

        Takes seconds on a slow host. Tried once in this object's life when it succeeds.
        """
        async with self._probing:
            if self._health is None or not self._health.ok:
                self._health = await self._examine()
            return self._health

    async def start(self, config: VmConfig, bundle: Bundle) -> FirecrackerVm:
        """Start a machine; returns when its guest runs.

        The node listens on the bundle's link socket before: in a jail the guest's way there is
        made now.
        """
        step = "validate"
        try:
            ready = await self._validate(config, bundle)
            self._starting.add(bundle)
            async with self._boots, AsyncExitStack() as undo:
                undo.callback(self._starting.discard, bundle)
                places = Places.of(bundle, ready.host.programs)
                undo.push_async_callback(asyncio.to_thread, _remove_group, ready.host, bundle)
                step = "prepare"
                requests = await finished(asyncio.to_thread(prepare, ready.image, places, config))
                step = "spawn"
                process = await spawn(ready.host, places, config)
                undo.push_async_callback(process.kill)
                step = "handle"
                handle = _handle_of(process, places)
                await finished(asyncio.to_thread(bundle.write_handle, handle))
                step = "connect"
                async with connected(places, process) as connection:
                    step = "configure"
                    for request in requests:
                        await connection.call(request, CALL_TIMEOUT_S)
                    step = "boot"
                    await connection.call(api.act(Action.START), BOOT_TIMEOUT_S)
                undo.pop_all()
        except (OSError, PlexSpacesError) as error:
            raise start_failed(step, bundle, error) from error
        finally:
            self._starting.discard(bundle)
        return self._keep(FirecrackerVm(handle, places, process), bundle, process)

    async def recover(self, handle: VmHandle, bundle: Bundle) -> FirecrackerVm:
        """Take hold of a machine; the node listens on the bundle's link socket before."""
        known = self._machines.get(bundle)
        if known is not None:
            return known
        identity = identity_in(handle, driver=self.name, version=HANDLE_VERSION)
        if identity is None:
            raise NotFound(
                f"the Firecracker of VM {handle.vm_id} has ended",
                hint="start the application again",
            )
        process = HostProcess.adopt(identity, marks_of(bundle))
        root = str(handle.state.get("jail", ""))
        places = Places(bundle, bundle.path / root if root else None)
        with suppress(OSError):
            # Of a machine without its link the node finds out as of one that is silent.
            await finished(asyncio.to_thread(places.show_link))
        return self._keep(FirecrackerVm(handle, places, process), bundle, process)

    async def destroy(self, bundle: Bundle) -> None:
        known = self._machines.get(bundle)
        if known is not None:
            await known.stop(0)
        look = partial(running_from, bundle, driver=self.name, version=HANDLE_VERSION)
        while found := await asyncio.to_thread(look):
            await kill_all(found)
        await asyncio.to_thread(_remove_all, bundle)

    async def _validate(self, config: VmConfig, bundle: Bundle) -> _Ready:
        if self._ready is None:
            health = await self.probe()
            if self._ready is None:
                raise Unavailable(health.reason, hint=health.hint)
        self.capabilities.check(config)
        if not bundle.path.is_dir():
            raise NotFound(f"no bundle at {bundle.path}")
        if bundle in self._machines or bundle in self._starting:
            raise WrongState(f"VM {bundle.vm_id} runs already")
        free_mib = procfs.available_memory_mib()
        if config.memory_mib > free_mib:
            raise ResourceExhausted(
                f"the VM wants {config.memory_mib} MiB and this host has {free_mib} MiB available",
                hint=f"deploy with --memory {self.capabilities.min_memory_mib}, or stop another",
            )
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
        if find_mke2fs() is None:
            raise Unsupported("mke2fs is not installed", hint="apt-get install e2fsprogs")
        self._check_kvm()
        return _Ready(host, self._open_image())

    async def _try(self, ready: _Ready) -> None:
        """Boot a machine until its agent dials, and end it; raises `Unavailable` with why not."""
        config = VmConfig(memory_mib=ready.image.min_memory_mib)
        dialled = asyncio.Event()

        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            dialled.set()
            writer.close()

        trial = FirecrackerDriver(self._open_image)
        trial._ready = ready
        try:
            async with AsyncExitStack() as undo:
                bundle = await asyncio.to_thread(_trial_bundle, self._scratch, config)
                undo.push_async_callback(trial.destroy, bundle)
                server = await asyncio.start_unix_server(accept, bundle.link_socket)
                undo.push_async_callback(server.wait_closed)
                undo.callback(server.close)
                vm = await trial.start(config, bundle)
                await _first(dialled, vm, bundle)
        except OSError as error:
            raise Unavailable(f"a trial machine could not be made: {error}") from error

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

    def _keep(self, vm: FirecrackerVm, bundle: Bundle, process: HostProcess) -> FirecrackerVm:
        self._machines[bundle] = vm
        process.when_ended(partial(self._machines.pop, bundle, None))
        return vm


def _trial_bundle(scratch: Path | None, config: VmConfig) -> Bundle:
    root = scratch if scratch is not None and scratch.is_dir() else Path(tempfile.gettempdir())
    return Bundle.create(root, f"try-{secrets.token_hex(3)}", config)


async def _first(dialled: asyncio.Event, vm: FirecrackerVm, bundle: Bundle) -> None:
    """Wait until the guest has dialled; raises `Unavailable` when it ends or stays silent."""
    dialling, ending = asyncio.ensure_future(dialled.wait()), asyncio.ensure_future(vm.wait())
    try:
        await asyncio.wait(
            {dialling, ending}, timeout=TRIAL_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if dialled.is_set():
            return
        how = f"within {TRIAL_TIMEOUT_S:g} s"
        if ending.done():
            how = f"before it ended: {ending.result().reason}"
        elif last := _last_words(bundle):
            how += f"; its console ends: {last}"
        raise Unavailable(
            f"Firecracker starts, but the guest's agent did not dial {how}",
            hint="see whether KVM works here: dmesg | grep -i kvm",
        )
    finally:
        dialling.cancel()
        ending.cancel()
        await asyncio.wait({dialling, ending})


def _last_words(bundle: Bundle) -> str:
    """Return the line of the console that tells most about an end, or ""."""
    lines = bundle.console_tail(_PANIC_LINES).splitlines()
    panics = [line for line in lines if "Kernel panic" in line]
    return (panics or lines or [""])[-1]


def _handle_of(process: HostProcess, places: Places) -> VmHandle:
    bundle, root = places.bundle, places.root
    jail = "" if root is None else str(root.relative_to(bundle.path))
    state = {**identity_state(process.identity), "jail": jail}
    return VmHandle(FirecrackerDriver.name, HANDLE_VERSION, bundle.vm_id, state)


def _remove_group(host: FirecrackerHost, bundle: Bundle) -> None:
    if host.cgroups is not None and host.programs.jailer is not None:
        remove_cgroup(host.cgroups.group(bundle.vm_id))


def _remove_all(bundle: Bundle) -> None:
    cgroups = find_cgroups(Path("/proc/self/mounts").read_text())
    if cgroups is not None and (bundle.path / "jail").exists():
        remove_cgroup(cgroups.group(bundle.vm_id))
    bundle.remove()
