"""What drivers share whose machine is one process of the host and may outlive the node.

How such a process is recorded in a handle and found again, by the handle or by its arguments;
how the error of a start that failed reads. Knows no driver's command line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from plexspaces_node.errors import PlexSpacesError, VmStartFailed
from plexspaces_node.vm import procfs
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.procfs import ProcessId

_T = TypeVar("_T")


def marks_of(bundle: Bundle) -> tuple[str, ...]:
    """Return the arguments that every process of a machine carries and no other process does.

    All drivers use the same, so that each can end what another one left in a bundle.
    """
    return (bundle.vm_id, str(bundle.link_socket))


def identity_state(identity: ProcessId) -> dict[str, str | int]:
    """Return what a handle's state must hold to find this process again, and no other."""
    return {
        "pid": identity.pid,
        "start_ticks": identity.start_ticks,
        "boot_id": procfs.boot_id(),
    }


def identity_in(handle: VmHandle, *, driver: str, version: int) -> ProcessId | None:
    """Read which process a handle names; None when it cannot be one of this driver and boot."""
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
    found = procfs.with_arguments(*marks_of(bundle))
    handle = bundle.read_handle()
    identity = identity_in(handle, driver=driver, version=version) if handle is not None else None
    if identity is not None and procfs.identify(identity.pid) == identity:
        found += procfs.tree(identity.pid)
    return found


async def finished(work: Coroutine[Any, Any, _T]) -> _T:
    """Await to the end even when cancelled: a thread cannot be stopped, only waited for."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


def start_failed(step: str, bundle: Bundle, error: OSError | PlexSpacesError) -> VmStartFailed:
    """Return the error of a start that failed at `step`, with the end of the machine's console."""
    tail = bundle.console_tail()
    console = f"; its console, {bundle.console_log}, ends:\n{tail}" if tail else ""
    hint = error.hint if isinstance(error, PlexSpacesError) else None
    return VmStartFailed(
        f"VM {bundle.vm_id} did not start at step {step}: {error}{console}", step=step, hint=hint
    )
