"""What drivers have in common whose VM is one process of the host.

The parts of the VM and of the driver that are alike: how a process is recorded in a handle and
found again, by the handle or by its arguments; how its end is reported; what is checked before a
start; how the error of a failed start reads. This module knows no driver's command line.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar, Generic, NoReturn, TypeVar

from plexspaces_node.errors import (
    NotFound,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    VmStartFailed,
    WrongState,
    quoted,
)
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.driver import Capabilities, Endpoint, LinkEnd, VmExit, VmStats
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.process import HostProcess, kill_all, signal_name
from plexspaces_node.vm.host.procfs import ProcessId

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers for a full disk."""
_PANIC_LINES = 100
"""How far from the end of the console a panic's first line can be: registers and a stack follow."""
_ADVICE = ("note:", "skipping backtrace")
"""Beginnings of the last lines of a Rust program that do not say why it ended."""


class HostVm(ABC):
    """A VM that is one process, or that leads several."""

    def __init__(
        self, handle: VmHandle, bundle: Bundle, process: HostProcess, *, link: LinkEnd
    ) -> None:
        """Take over a process that was started from `bundle`."""
        self.handle = handle
        self.bundle = bundle
        self.process = process
        self.endpoint = Endpoint(bundle.link_socket, link)
        self._stop_asked = False
        self._exit: VmExit | None = None

    async def attach(self, file: Path) -> str:
        if self.process.ended:
            self._refuse_ended()
        try:
            return await self._attach(file)
        except OSError as error:
            raise Unavailable(
                f"{file} cannot be attached to VM {self.handle.vm_id}: {error.strerror or error}",
                hint=_hint_for(error, self.bundle),
            ) from error

    async def wait(self) -> VmExit:
        status = await self.process.wait()
        if self._exit is None:
            self._exit = self._explain(status)
        return self._exit

    async def stop(self, grace_s: float) -> VmExit:
        self._stop_asked = self._stop_asked or not self.process.ended
        if grace_s > 0 and not self.process.ended:
            await self._ask_to_end(grace_s)
        await self.process.kill()
        return await self.wait()

    async def stats(self) -> VmStats:
        stats = None if self.process.ended else await self._measure()
        if stats is None or stats.rss_bytes == 0:
            self._refuse_ended()
        return stats

    @abstractmethod
    async def _attach(self, file: Path) -> str:
        """Implement `Vm.attach` for a living VM; may also raise `OSError`."""

    async def _ask_to_end(self, grace_s: float) -> None:
        """Ask the VM to end and wait for at most this long."""
        self.process.terminate()
        await self.process.ended_within(grace_s)

    async def _measure(self) -> VmStats:
        pid = self.process.identity.pid
        return VmStats(rss_bytes=procfs.resident_bytes(pid), cpu_ns=procfs.cpu_ns(pid))

    @abstractmethod
    def _reason(self, status: int | None) -> str:
        """Explain the end of a process that was neither killed nor asked to end."""

    def _explain(self, status: int | None) -> VmExit:
        if self._stop_asked and status in (None, 0, -signal.SIGTERM):
            return VmExit(status, "stopped when asked")
        if self._stop_asked and status == -signal.SIGKILL:
            return VmExit(status, "killed while stopping")
        if status == -signal.SIGKILL:
            return VmExit(status, "killed by SIGKILL")
        if status is not None and status < 0:
            reason = f"killed by {signal_name(-status)}"
        else:
            reason = self._reason(status)
        # A guest that panics resets, like one that shuts down cleanly: its console says which.
        last = last_words(self.bundle)
        return VmExit(status, f"{reason}: {last}" if last else reason)

    def _refuse_ended(self) -> NoReturn:
        raise Unavailable(f"VM {self.handle.vm_id} has ended", hint="see: plexspaces list")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.handle.vm_id}, {self.process!r})"


_V = TypeVar("_V", bound=HostVm)


class HostDriver(ABC, Generic[_V]):
    """A driver of such VMs. Belongs to the event loop in which it is first used."""

    name: ClassVar[str]
    handle_version: ClassVar[int]
    """The version of `VmHandle.state`."""

    def __init__(self) -> None:
        self._machines: dict[Bundle, _V] = {}
        self._starting: set[Bundle] = set()
        # Those whose process has ended and could not start another: nothing is searched for.
        self._gone: set[Bundle] = set()

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this driver can do on this host."""

    async def destroy(self, bundle: Bundle, *, ended: bool = False) -> None:
        known = self._machines.get(bundle)
        if known is not None:
            await known.stop(0)
            ended = known.process.alone
        if not ended and bundle not in self._gone:
            find = partial(running_from, bundle, driver=self.name, version=self.handle_version)
            while found := await asyncio.to_thread(find):
                await kill_all(found)
        await asyncio.to_thread(self._remove, bundle)
        self._gone.discard(bundle)

    def close(self) -> None:
        """Release what is kept for future VMs: nothing, unless a driver overrides it."""

    def _remove(self, bundle: Bundle) -> None:
        """Remove what is left on disk when no process of the VM runs; blocks."""
        bundle.remove()

    def _keep(self, vm: _V) -> _V:
        self._machines[vm.bundle] = vm
        vm.process.when_ended(partial(self._forget, vm))
        return vm

    def _forget(self, vm: _V) -> None:
        self._machines.pop(vm.bundle, None)
        if vm.process.alone and vm.bundle.path.exists():
            self._gone.add(vm.bundle)

    @contextmanager
    def _claimed(self, bundle: Bundle) -> Iterator[None]:
        """Prevent others from starting this bundle's VM; raises `VmStartFailed`."""
        with step("validate", bundle):
            if not bundle.path.is_dir():
                raise NotFound(f"no bundle at {bundle.path}")
            if bundle in self._machines or bundle in self._starting:
                raise WrongState(f"VM {bundle.vm_id} is already running", hint="plexspaces list")
        self._starting.add(bundle)
        try:
            yield
        finally:
            self._starting.discard(bundle)

    def _check_free_memory(self, config: VmConfig) -> None:
        """Raise `ResourceExhausted` unless the host has this much memory available now."""
        free_mib = procfs.available_memory_mib()
        if config.memory_mib > free_mib:
            raise ResourceExhausted(
                f"the VM needs {config.memory_mib} MiB, this host has {free_mib} MiB available",
                hint=f"deploy with at most --memory {free_mib}, or stop another: plexspaces list",
            )


def marks_of(bundle: Bundle) -> tuple[str, ...]:
    """Return the arguments that every process of a VM has and no other process.

    All drivers use the same ones, so that each can end what another one left in a bundle.
    """
    return (bundle.vm_id, str(bundle.link_socket))


def identity_state(identity: ProcessId) -> dict[str, str | int]:
    """Return what a handle's state must hold to find this process again."""
    return {
        "pid": identity.pid,
        "start_ticks": identity.start_ticks,
        "boot_id": procfs.boot_id(),
    }


def identity_in(handle: VmHandle, *, driver: str, version: int) -> ProcessId | None:
    """Read which process a handle names; None if it is not one of this driver and boot."""
    if handle.driver != driver or handle.version != version:
        return None
    pid, start_ticks = handle.state.get("pid"), handle.state.get("start_ticks")
    if handle.state.get("boot_id") != procfs.boot_id():
        return None
    if not isinstance(pid, int) or not isinstance(start_ticks, int) or pid < 2:
        return None
    return ProcessId(pid, start_ticks)


def running_from(bundle: Bundle, *, driver: str, version: int) -> list[ProcessId]:
    """Find what runs from a bundle, with or without a handle. Scans /proc: a few milliseconds."""
    handle = bundle.read_handle()
    identity = identity_in(handle, driver=driver, version=version) if handle is not None else None
    return procfs.with_arguments(*marks_of(bundle)) + _tree_of(identity)


def running_from_any(bundles: Sequence[Bundle]) -> list[ProcessId]:
    """Find what runs from these bundles, whichever driver started it, in one scan for all."""
    found = procfs.with_any_arguments([marks_of(bundle) for bundle in bundles])
    for handle in filter(None, (bundle.read_handle() for bundle in bundles)):
        found += _tree_of(identity_in(handle, driver=handle.driver, version=handle.version))
    return found


def _tree_of(identity: ProcessId | None) -> list[ProcessId]:
    if identity is None or procfs.identify(identity.pid) != identity:
        return []
    return procfs.tree(identity.pid)


def trial_bundle(scratch: Path | None, config: VmConfig) -> Bundle:
    """Create the bundle of a trial VM for `probe`; raises as `Bundle.create` does.

    Blocks for a moment, so that a cancelled caller either has it or not.

    It is in `scratch` if that exists and is ours: there the node's next start cleans up a trial
    that a crash cut short. Otherwise it is a temporary directory.
    """
    usable = scratch is not None and os.access(scratch, os.R_OK | os.W_OK | os.X_OK)
    root = scratch if scratch is not None and usable else Path(tempfile.gettempdir())
    return Bundle.create(root, f"try-{secrets.token_hex(3)}", config)


def trial_failed(error: VmStartFailed, bundle: Bundle, *, hint: str) -> Unavailable:
    """Return why a trial VM did not start, in one line with the last output of its console."""
    why, words = error.__cause__, last_words(bundle)
    known = why.hint if isinstance(why, PlexSpacesError) else None
    return Unavailable(f"{why}: {words}" if words else str(why), hint=known or hint)


def last_words(bundle: Bundle) -> str:
    """Return the line of the console that says most about an end: a panic, or else the last one."""
    lines = bundle.console_tail(_PANIC_LINES).splitlines()
    lines = [line for line in lines if not line.startswith(_ADVICE)]
    told = [line for line in lines if "Kernel panic" in line or "plexspaces:" in line] or lines
    return re.sub(r"^\[ *[0-9.]+\] ", "", told[-1]) if told else ""


@contextmanager
def step(name: str, bundle: Bundle) -> Iterator[None]:
    """Turn errors in the body into the error of a start that failed at this step."""
    try:
        yield
    except VmStartFailed:
        raise
    except (OSError, PlexSpacesError) as error:
        raise start_failed(name, bundle, error) from error


def start_failed(step: str, bundle: Bundle, error: OSError | PlexSpacesError) -> VmStartFailed:
    """Return the error of a start that failed at `step`, with the end of the VM's console."""
    console = ""
    if bundle.console_log.exists():  # else nothing was started that could have written one
        tail = bundle.console_tail()
        console = f"; its console, {bundle.console_log}, "
        console += f"ends:\n{tail}" if tail else "is empty"
    return VmStartFailed(
        f"VM {bundle.vm_id} did not start at step {step}: {error}{console}",
        step=step,
        hint=_hint_for(error, bundle),
    )


def _hint_for(error: OSError | PlexSpacesError, bundle: Bundle) -> str:
    if isinstance(error, PlexSpacesError) and error.hint:
        return error.hint
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"free some space: df -h {quoted(bundle.path.parent)}"
    return "see what works here with: plexspaces doctor"
