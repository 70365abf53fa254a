"""The QEMU driver: a VM is a microVM, under KVM where that works and emulated elsewhere.

The guest has the `microvm` machine type: the shared read-only root, a slot drive for the artifact,
a virtio-serial port as the link, a console that is written to the bundle's log, and nothing else:
no network card and almost no firmware. The QEMU process runs without privileges, network or files
of its own, under seccomp, and with its own user if the node is root. It outlives the node: its
handle identifies it by pid and start time.

A VM is a copy of a template, which is a VM of the same kind that was booted once. It boots itself
if copies are disabled or do not work.

This module defines the driver and the state of its handles. It knows the agent only as whoever
opens the port.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

from plexspaces_node.errors import (
    DeadlineExceeded,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    VmStartFailed,
)
from plexspaces_node.model import VmConfig, split_name
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.driver import Capabilities, Health, LinkEnd
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.kvm import KVM_HINT
from plexspaces_node.vm.host.tsc import host_tsc_khz
from plexspaces_node.vm.host.vmm import HostDriver, step, trial_bundle, trial_failed
from plexspaces_node.vm.image import GuestImage
from plexspaces_node.vm.qemu.command import Accelerator, Emulator, Walls
from plexspaces_node.vm.qemu.machine import (
    DRIVER,
    HANDLE_VERSION,
    QemuHost,
    QemuVm,
    make_template,
    start_booted,
    start_copy,
)
from plexspaces_node.vm.qemu.sandbox import check_kvm, find_qemu, find_walls
from plexspaces_node.vm.qemu.template import TemplateKind, Templates
from plexspaces_node.vm.qemu.timeouts import Timeouts

COLD_BOOTS = 2
"""How many VMs boot at once: on a small host more of them slow each other down."""
COPIES = 4
"""How many are copied at once: each takes a tenth of a second of a CPU."""
FAILED_COPIES = 3
"""After this many failures in a row, copying is not tried again."""
MIN_MEMORY_MIB = 80
"""The smallest memory that boots a guest; an image may need more."""
OVERHEAD_MIB = 76
"""How much of the guest's memory its kernel and agent use: 63 to 69 MiB were measured, and a
message takes some too."""
MAX_VCPUS = 32

USUAL = VmConfig()
"""The default size of VMs."""
TIMEOUTS = Timeouts()

_COPYING = ("save", "restore")
"""The steps of a start whose failure is one of copying, not of the machine."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class QemuDriver(HostDriver[QemuVm]):
    """Starts VMs with QEMU. Belongs to the event loop in which it is first used."""

    name = DRIVER
    handle_version = HANDLE_VERSION

    def __init__(
        self,
        image: Callable[[], GuestImage],
        *,
        emulation: bool = True,
        usual: VmConfig | None = USUAL,
        scratch: Path | None = None,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        """Set what to boot, without checking it yet.

        Args:
            image: finds the guest image; may block, and raises a platform error without one.
            emulation: whether VMs may be emulated if KVM does not work; otherwise `probe` fails.
            usual: VMs are copies of templates, and `probe` makes the template of this size; None
                to boot each VM.
            scratch: directory for the trial VM of `probe`, if it exists; best that of the bundles,
                so that the node's next start cleans up a trial that a crash cut short.
            timeouts: how long to wait for QEMU and its guests.
        """
        super().__init__()
        self._image = image
        self._emulation = emulation
        self._usual = usual
        self._templates = None if usual is None else Templates()
        self._scratch = scratch
        self._timeouts = timeouts
        self._host: QemuHost | None = None
        self._health: Health | None = None
        self._probing = asyncio.Lock()
        self._boots = asyncio.Semaphore(COLD_BOOTS)
        self._copies = asyncio.Semaphore(COPIES)
        self._failed_copies = 0

    @property
    def capabilities(self) -> Capabilities:
        host = self._host
        emulated = host is not None and host.emulator.accelerator is Accelerator.TCG
        how = "emulated by QEMU, without KVM" if emulated else "in QEMU, under KVM"
        least = MIN_MEMORY_MIB if host is None else host.image.min_memory_mib
        return Capabilities(
            link=LinkEnd.NODE_DIALS,
            min_memory_mib=least,
            max_memory_mib=procfs.total_memory_mib(),
            max_vcpus=min(MAX_VCPUS, 4 * len(os.sched_getaffinity(0))),
            isolation=f"a virtual machine of its own, {how}{_holds(host)}",
            overhead_mib=OVERHEAD_MIB,
        )

    async def probe(self) -> Health:
        """Boot the guest image once, under KVM or else emulated, and remember what worked.

        Takes seconds under emulation. Not repeated after a success.
        """
        async with self._probing:
            if self._health is None or not self._health.ok:
                self._health = await self._examine()
            return self._health

    async def start(self, config: VmConfig, bundle: Bundle) -> QemuVm:
        """Start a VM; returns when its agent has opened its end of the link.

        It is a copy of a template, which is made first if there is none of its kind. A boot that
        hangs is aborted and tried once more.
        """
        with self._claimed(bundle):
            with step("validate", bundle):
                host = await self._validate(config)
            vm = await self._copy(host, config, bundle)
            if vm is None:
                vm = await self._twice(partial(start_booted, host, config, bundle))
            return self._keep(vm)

    def close(self) -> None:
        """Drop the templates."""
        if self._templates is not None:
            self._templates.close()

    async def _copy(self, host: QemuHost, config: VmConfig, bundle: Bundle) -> QemuVm | None:
        """Start a VM as a copy; None if it has to boot."""
        if self._templates is None:
            return None
        kind = _kind_of(host, config, bundle)
        make = partial(self._twice, partial(make_template, host, config, bundle))
        try:
            template = await self._templates.get(kind, make)
            if template is None:
                return None
            async with self._copies:
                vm = await start_copy(host, config, bundle, template)
        except VmStartFailed as error:
            self._copy_failed(error, enough=FAILED_COPIES)
            # The template is not used for a VM that boots now.
            bundle.console_log.unlink(missing_ok=True)
            return None
        self._failed_copies = 0
        return vm

    async def _twice(self, boot: Callable[[float], Awaitable[_T]]) -> _T:
        async with self._boots:
            try:
                return await boot(self._timeouts.first_boot_s)
            except VmStartFailed as error:
                hung = isinstance(error.__cause__, DeadlineExceeded)
                if error.step != "boot" or not hung:
                    raise
                _log.warning("%s; starting it again", error)
            return await boot(self._timeouts.boot_s)

    def _copy_failed(self, error: VmStartFailed, *, enough: int) -> None:
        """Let the VM boot if only the copying failed; otherwise raise `error`.

        After `enough` such failures in a row, all further VMs boot too.
        """
        if error.step not in _COPYING:
            raise error
        self._failed_copies += 1
        _log.warning("the VM is booted because it could not be copied: %s", error)
        templates = self._templates
        if templates is not None and self._failed_copies >= enough and not templates.given_up:
            _log.warning("VMs boot instead of being copied from now on")
            templates.given_up = True
            templates.close()

    async def _validate(self, config: VmConfig) -> QemuHost:
        if self._host is None:
            health = await self.probe()
            if self._host is None:
                raise Unavailable(health.reason, hint=health.hint)
        self.capabilities.check(config)
        try:
            self._check_free_memory(config)
        except ResourceExhausted:
            # Templates are the only memory that can be freed without harm.
            self.close()
            self._check_free_memory(config)
        # Checked again, because it may have been rebuilt or damaged since the node started.
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
            emulator = Emulator(qemu, Accelerator.KVM)
            await self._try(
                QemuHost(emulator, walls, image, self._timeouts), self._timeouts.kvm_probe_s
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
            rest_s = begin + self._timeouts.probe_s - monotonic()
            await self._try(QemuHost(emulator, walls, image, self._timeouts), rest_s)
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
        return qemu, walls, self._image()

    async def _try(self, host: QemuHost, timeout_s: float) -> None:
        """Boot a VM and start a copy of it; sets `host` if it booted.

        Raises `Unavailable` if it did not boot. If it could not be copied, VMs will be booted.
        """
        config = self._trial_config(host)
        async with self._boots, AsyncExitStack() as undo:
            bundle = trial_bundle(self._scratch, config)
            undo.push_async_callback(self.destroy, bundle)
            try:
                await self._tried(host, config, bundle, timeout_s)
            except VmStartFailed as error:
                kvm = host.emulator.accelerator is Accelerator.KVM
                hint = KVM_HINT if kvm else "plexspaces image verify"
                raise trial_failed(error, bundle, hint=hint) from error
        self._host = host

    async def _tried(
        self, host: QemuHost, config: VmConfig, bundle: Bundle, timeout_s: float
    ) -> None:
        if self._templates is not None:
            make = partial(make_template, host, config, bundle, timeout_s)
            kind = _kind_of(host, config, bundle)
            try:
                if await self._templates.get(kind, make):
                    return
            except VmStartFailed as error:
                self._copy_failed(error, enough=1)
        vm = await start_booted(host, config, bundle, timeout_s)
        await vm.stop(0)

    def _trial_config(self, host: QemuHost) -> VmConfig:
        least = VmConfig(memory_mib=host.image.min_memory_mib)
        usual = self._usual or least
        try:
            self.capabilities.check(usual)
            self._check_free_memory(usual)
        except PlexSpacesError:
            self._check_free_memory(least)
            return least
        return usual


def _kind_of(host: QemuHost, config: VmConfig, bundle: Bundle) -> TemplateKind:
    emulator = host.emulator
    with step("validate", bundle):
        found = os.stat(emulator.program)
    program = (emulator.program, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    # An empty VM has no application, and so the tenant `default`.
    tenant, _ = split_name(bundle.application)
    return TemplateKind(host.image.digest, program, emulator.accelerator, config, tenant)


def _holds(host: QemuHost | None) -> str:
    if host is None:
        return ""
    walls = ["seccomp"]
    if host.walls.own_user:
        walls.append("a user of its own")
    if host.walls.unshare:
        walls.append("no network")
    return f", with {', '.join(walls)}"
