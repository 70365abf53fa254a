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
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from plexspaces_node.errors import Unavailable
from plexspaces_node.model import VmConfig
from plexspaces_node.vm import procfs
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.driver import Capabilities, Health, LinkEnd, VmExit, VmStats
from plexspaces_node.vm.host_machine import (
    HostDriver,
    HostVm,
    finished,
    identity_state,
    marks_of,
    step,
)
from plexspaces_node.vm.host_process import HostProcess
from plexspaces_node.vm.sandbox import ENVIRONMENT, Sandbox, agent_command, bubblewrap_views

HANDLE_VERSION = 1
MIN_MEMORY_MIB = 64

_PROBE_TIMEOUT_S = 20.0
_AGENT_MODULE = "plexspaces_node.agent"


class ProcessVm(HostVm):
    """A machine of the process driver."""

    def __init__(self, handle: VmHandle, bundle: Bundle, process: HostProcess) -> None:
        """Take a process that was started from `bundle`."""
        super().__init__(handle, bundle, process, link=LinkEnd.GUEST_DIALS)
        self._wrapped = bool(handle.state.get("wrapped"))

    async def _attach(self, file: Path) -> str:
        return str(await asyncio.to_thread(self.bundle.attach, file))

    async def _ask_to_end(self, grace_s: float) -> None:
        await self.process.terminate(spare_leader=self._wrapped)
        await self.process.ended_within(grace_s)

    async def _measure(self) -> VmStats:
        return await asyncio.to_thread(_measure, self.process.identity.pid)

    def _explain(self, status: int | None) -> VmExit:
        if self._wrapped and status is not None and 128 < status < 128 + signal.NSIG:
            status = 128 - status  # bwrap reports a signal as a shell does
        return super()._explain(status)

    def _reason(self, status: int | None) -> str:
        return "ended" if status is None else f"exited with status {status}"


class ProcessDriver(HostDriver[ProcessVm]):
    """Makes machines as child processes. Belongs to the event loop it is first used in."""

    name = "process"
    handle_version = HANDLE_VERSION

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
        super().__init__()
        self._python = python
        self._agent = tuple(agent_argv or (python, "-I", "-m", _AGENT_MODULE))
        # What `probe` runs: all of the agent but its work, so that a module the sandbox hides is
        # found missing there.
        trial = "pass" if agent_argv else f"import {_AGENT_MODULE}.__main__"
        self._trial = (python, "-I", "-c", trial)
        self._bubblewrap = bubblewrap
        self._sandbox: Sandbox | None = None
        self._probing = asyncio.Lock()

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
        with self._claimed(bundle):
            with step("validate", bundle):
                self.capabilities.check(config)
                sandbox = await self._working_sandbox()
            async with AsyncExitStack() as undo:
                with step("spawn", bundle):
                    process = self._spawn(sandbox, self._agent, bundle, config.memory_mib)
                    undo.push_async_callback(process.kill)
                with step("handle", bundle):
                    handle = _handle_of(process, sandbox, bundle)
                    await finished(asyncio.to_thread(bundle.write_handle, handle))
                undo.pop_all()
            return self._keep(ProcessVm(handle, bundle, process))

    async def _recovered(self, handle: VmHandle, bundle: Bundle, process: HostProcess) -> ProcessVm:
        return ProcessVm(handle, bundle, process)

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

    async def _working_sandbox(self) -> Sandbox:
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
            marks=marks_of(bundle),
            env=ENVIRONMENT,
            cwd=bundle.path,
            output=bundle.console_log,
        )


def _handle_of(process: HostProcess, sandbox: Sandbox, bundle: Bundle) -> VmHandle:
    wrapped = int(sandbox.bubblewrap is not None)
    state = {**identity_state(process.identity), "wrapped": wrapped}
    return VmHandle(ProcessDriver.name, HANDLE_VERSION, bundle.vm_id, state)


def _measure(pid: int) -> VmStats:
    members = procfs.family(pid)
    return VmStats(
        rss_bytes=sum(map(procfs.resident_bytes, members)), cpu_ns=sum(map(procfs.cpu_ns, members))
    )
