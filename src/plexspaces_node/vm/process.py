"""The process driver: a machine that is a child process of the node, for hosts without KVM.

What holds the agent is WebAssembly first, and around it what every kernel offers: limits
on data, files and descriptors, no new privileges, no capabilities, a bare environment, no
inherited descriptors, a session of its own, and death with the node. Bubblewrap, where it works,
adds namespaces: no network, no other process, and a read-only file system that holds only what
Python needs.

`memory_mib` bounds what the agent may allocate. `vcpus` is checked against the host and not
enforced: an agent computes in one thread of its actor, and pinning it to a CPU would only make
two busy machines share one while another CPU is idle.

This file owns the driver and what its handles' state means; it knows the agent only as a command
line.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from plexspaces_node.errors import (
    NotFound,
    PlexSpacesError,
    Unavailable,
    VmStartFailed,
    WrongState,
)
from plexspaces_node.model import VmConfig
from plexspaces_node.vm import procfs
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.driver import Capabilities, Endpoint, Health, LinkEnd, VmExit, VmStats
from plexspaces_node.vm.host_process import HostProcess, kill_all
from plexspaces_node.vm.procfs import ProcessId
from plexspaces_node.vm.sandbox import ENVIRONMENT, Sandbox, agent_command, bubblewrap_views

HANDLE_VERSION = 1
MIN_MEMORY_MIB = 64

_PROBE_TIMEOUT_S = 20.0
_AGENT_MODULE = "plexspaces_node.agent"


class ProcessVm:
    """A machine of the process driver."""

    def __init__(self, handle: VmHandle, bundle: Bundle, process: HostProcess) -> None:
        """Take a process that was started from `bundle`."""
        self.handle = handle
        self.endpoint = Endpoint(bundle.link_socket, LinkEnd.GUEST_DIALS)
        self._bundle = bundle
        self._process = process
        self._wrapped = bool(handle.state.get("wrapped"))
        self._stop_asked = False
        self._exit: VmExit | None = None

    async def attach(self, file: Path) -> str:
        if self._process.ended:
            self._refuse_ended()
        return str(await asyncio.to_thread(self._bundle.attach, file))

    async def wait(self) -> VmExit:
        status = await self._process.wait()
        if self._exit is None:
            self._exit = self._explain(status)
        return self._exit

    async def stop(self, grace_s: float) -> VmExit:
        self._stop_asked = self._stop_asked or not self._process.ended
        if grace_s > 0:
            await self._process.terminate(spare_leader=self._wrapped)
            await self._process.ended_within(grace_s)
        await self._process.kill()
        return await self.wait()

    async def stats(self) -> VmStats:
        if self._process.ended:
            self._refuse_ended()
        stats = await asyncio.to_thread(_measure, self._process.identity.pid)
        if stats.rss_bytes == 0:
            self._refuse_ended()
        return stats

    def _refuse_ended(self) -> NoReturn:
        raise Unavailable(f"VM {self.handle.vm_id} has ended", hint="look with: plexspaces list")

    def _explain(self, status: int | None) -> VmExit:
        if self._wrapped and status is not None and status > 128:
            status = 128 - status  # bwrap reports a signal as a shell does
        if self._stop_asked and status in (None, 0, -signal.SIGTERM):
            return VmExit(status, "stopped when asked")
        if self._stop_asked and status == -signal.SIGKILL:
            return VmExit(status, "killed while stopping")
        if status is None:
            reason = "ended"
        elif status < 0:
            reason = f"killed by {signal.Signals(-status).name}"
        else:
            reason = f"exited with status {status}"
        last = self._bundle.console_tail(1)
        return VmExit(status, f"{reason}: {last}" if last else reason)

    def __repr__(self) -> str:
        return f"ProcessVm({self.handle.vm_id}, {self._process!r})"


class ProcessDriver:
    """Makes machines as child processes. Belongs to the event loop it is first used in."""

    name = "process"

    def __init__(
        self,
        python: str = sys.executable,
        agent_argv: Sequence[str] | None = None,
        *,
        bubblewrap: str | None = "bwrap",
    ) -> None:
        """Set what to run; looks at nothing yet.

        Args:
            python: the interpreter the agent runs on, with this package installed.
            agent_argv: the agent's command, if it is not this package's own agent.
            bubblewrap: name or path of bwrap, used where it works; None to do without.
        """
        self._python = python
        self._agent = tuple(agent_argv or (python, "-I", "-m", _AGENT_MODULE))
        # What `probe` runs: all of the agent but its work, so that a module the sandbox hides is
        # found missing there.
        trial = "pass" if agent_argv else f"import {_AGENT_MODULE}.__main__"
        self._trial = (python, "-I", "-c", trial)
        self._bubblewrap = bubblewrap
        self._sandbox: Sandbox | None = None
        self._probing = asyncio.Lock()
        self._machines: dict[Bundle, ProcessVm] = {}

    @property
    def capabilities(self) -> Capabilities:
        wrapped = self._sandbox is not None and self._sandbox.bubblewrap is not None
        walls = "bubblewrap and process limits" if wrapped else "process limits"
        return Capabilities(
            link=LinkEnd.GUEST_DIALS,
            survives_node=False,
            min_memory_mib=MIN_MEMORY_MIB,
            max_memory_mib=procfs.total_memory_mib(),
            max_vcpus=len(os.sched_getaffinity(0)),
            isolation=f"WebAssembly in a process of its own, with {walls}; no virtual machine",
        )

    async def probe(self) -> Health:
        """Load the agent in bubblewrap, or else without, and remember what worked for `start`."""
        async with self._probing:
            setpriv, prlimit = shutil.which("setpriv"), shutil.which("prlimit")
            if setpriv is None or prlimit is None:
                return Health(
                    False,
                    "setpriv or prlimit is not installed",
                    "install util-linux: apt-get install util-linux",
                )
            plain = Sandbox(setpriv, prlimit, drop_capabilities=os.geteuid() == 0)
            fault, hint = await self._try_bubblewrap(plain)
            if fault is None:
                return Health(True, "agents run as child processes in bubblewrap")
            fault_without = await self._try(plain)
            if fault_without is not None:
                return Health(False, f"Python does not run as a child process: {fault_without}")
            return Health(True, f"agents run as child processes without bubblewrap: {fault}", hint)

    async def start(self, config: VmConfig, bundle: Bundle) -> ProcessVm:
        step = "validate"
        try:
            async with AsyncExitStack() as undo:
                sandbox = await self._validate(config, bundle)
                step = "spawn"
                process = self._spawn(sandbox, self._agent, bundle, config.memory_mib)
                undo.push_async_callback(process.kill)
                step = "handle"
                handle = _handle_of(process, sandbox, bundle)
                await _finished(asyncio.to_thread(bundle.write_handle, handle))
                undo.pop_all()
        except (OSError, PlexSpacesError) as error:
            raise _start_failed(step, bundle, error) from error
        return self._keep(ProcessVm(handle, bundle, process), bundle, process)

    async def recover(self, handle: VmHandle, bundle: Bundle) -> ProcessVm:
        known = self._machines.get(bundle)
        if known is not None:
            return known
        identity = _identity_in(handle)
        if identity is None:
            raise NotFound(
                f"the process of VM {handle.vm_id} has ended", hint="start the application again"
            )
        process = HostProcess.adopt(identity, _marks(bundle))
        return self._keep(ProcessVm(handle, bundle, process), bundle, process)

    async def destroy(self, bundle: Bundle) -> None:
        known = self._machines.get(bundle)
        if known is not None:
            await known.stop(0)
        while found := await asyncio.to_thread(_running_from, bundle):
            await kill_all(found)
        await asyncio.to_thread(bundle.remove)

    async def _try_bubblewrap(self, plain: Sandbox) -> tuple[str | None, str | None]:
        bubblewrap = shutil.which(self._bubblewrap) if self._bubblewrap is not None else None
        if self._bubblewrap is None:
            return "it is switched off", None
        if bubblewrap is None:
            return "it is not installed", "install it: apt-get install bubblewrap"
        views = bubblewrap_views(self._python)
        fault = await self._try(replace(plain, bubblewrap=bubblewrap, views=views))
        return fault, "see whether user namespaces are allowed: unshare --user true"

    async def _try(self, sandbox: Sandbox) -> str | None:
        try:
            with tempfile.TemporaryDirectory(prefix="plexspaces-probe-") as directory:
                bundle = Bundle(Path(directory).resolve())
                process = self._spawn(sandbox, self._trial, bundle, MIN_MEMORY_MIB)
                try:
                    await process.ended_within(_PROBE_TIMEOUT_S)
                    if not process.ended:
                        return f"no end within {_PROBE_TIMEOUT_S:.0f} s"
                    status = await process.wait()
                finally:
                    await process.kill()
                if status != 0:
                    return bundle.console_tail(1) or f"status {status}"
        except OSError as error:
            return str(error)
        self._sandbox = sandbox
        return None

    async def _validate(self, config: VmConfig, bundle: Bundle) -> Sandbox:
        self.capabilities.check(config)
        if not bundle.path.is_dir():
            raise NotFound(f"no bundle at {bundle.path}")
        if bundle in self._machines:
            raise WrongState(f"VM {bundle.vm_id} runs already")
        if self._sandbox is None:
            health = await self.probe()
            if self._sandbox is None:
                raise Unavailable(health.reason, hint=health.hint)
        return self._sandbox

    def _spawn(
        self, sandbox: Sandbox, command: Sequence[str], bundle: Bundle, memory_mib: int
    ) -> HostProcess:
        return HostProcess.spawn(
            agent_command(sandbox, command, bundle, memory_mib=memory_mib),
            marks=_marks(bundle),
            env=ENVIRONMENT,
            cwd=bundle.path,
            output=bundle.console_log,
        )

    def _keep(self, vm: ProcessVm, bundle: Bundle, process: HostProcess) -> ProcessVm:
        self._machines[bundle] = vm
        process.when_ended(partial(self._machines.pop, bundle, None))
        return vm


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Await to the end even when cancelled: a thread cannot be stopped, only waited for."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


def _marks(bundle: Bundle) -> tuple[str, ...]:
    return (bundle.vm_id, str(bundle.link_socket))


def _handle_of(process: HostProcess, sandbox: Sandbox, bundle: Bundle) -> VmHandle:
    state: dict[str, str | int] = {
        "pid": process.identity.pid,
        "start_ticks": process.identity.start_ticks,
        "boot_id": procfs.boot_id(),
        "wrapped": int(sandbox.bubblewrap is not None),
    }
    return VmHandle(ProcessDriver.name, HANDLE_VERSION, bundle.vm_id, state)


def _identity_in(handle: VmHandle) -> ProcessId | None:
    """Read which process a handle names; None when it cannot be one of this boot."""
    if handle.driver != ProcessDriver.name or handle.version != HANDLE_VERSION:
        return None
    pid, start_ticks = handle.state.get("pid"), handle.state.get("start_ticks")
    if handle.state.get("boot_id") != procfs.boot_id():
        return None
    if not isinstance(pid, int) or not isinstance(start_ticks, int) or pid < 2:
        return None
    return ProcessId(pid, start_ticks)


def _running_from(bundle: Bundle) -> list[ProcessId]:
    """Find what runs from a bundle, with or without a handle."""
    found = procfs.with_arguments(*_marks(bundle))
    handle = bundle.read_handle()
    identity = _identity_in(handle) if handle is not None else None
    if identity is not None and procfs.identify(identity.pid) == identity:
        found += procfs.tree(identity.pid)
    return found


def _measure(pid: int) -> VmStats:
    members = [member.pid for member in procfs.tree(pid)]
    return VmStats(
        rss_bytes=sum(map(procfs.resident_bytes, members)), cpu_ns=sum(map(procfs.cpu_ns, members))
    )


def _start_failed(step: str, bundle: Bundle, error: OSError | PlexSpacesError) -> VmStartFailed:
    tail = bundle.console_tail()
    console = f"; its console, {bundle.console_log}, ends:\n{tail}" if tail else ""
    hint = error.hint if isinstance(error, PlexSpacesError) else None
    return VmStartFailed(
        f"VM {bundle.vm_id} did not start at step {step}: {error}{console}", step=step, hint=hint
    )
