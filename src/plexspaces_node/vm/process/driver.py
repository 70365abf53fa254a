"""The process driver: a VM is a child process of the node, for hosts without KVM.

WebAssembly restricts the application first. Around it is what every kernel offers: limits on data,
files, threads and descriptors, no new privileges, no capabilities, a user of its own if the node is
root, an empty environment, no inherited descriptors, a session of its own, and death with the node.
Before an application's code runs, the agent applies Landlock's rules and a system call filter that
leave it no program, no file, no socket and no other process.

`memory_mib` limits what the agent can allocate. `vcpus` is checked against the host and not
enforced: an actor computes in one thread of its agent, and pinning it to a CPU would only make two
busy VMs share one while another CPU is idle.

This module defines the driver and the state of its handles. It knows the agent only as a command
line.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.model import VmConfig
from plexspaces_node.programs import agent_program
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.driver import Capabilities, Health, LinkEnd, VmExit
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.process import HostProcess
from plexspaces_node.vm.host.users import uid_of, users_exist
from plexspaces_node.vm.host.vmm import HostDriver, HostVm, identity_state, marks_of, step
from plexspaces_node.vm.process.sandbox import (
    ENVIRONMENT,
    LANDLOCK,
    OWN_USER,
    SECCOMP,
    Walls,
    agent_command,
    probe_command,
)

HANDLE_VERSION = 2
MIN_MEMORY_MIB = 64

_PROBE_TIMEOUT_S = 20.0
_NONE_KNOWN = Walls(own_user=False, missing=(SECCOMP, LANDLOCK))


class ProcessVm(HostVm):
    """A VM of the process driver."""

    def __init__(
        self, handle: VmHandle, bundle: Bundle, process: HostProcess, *, own_user: bool
    ) -> None:
        """Take over a process that was started from `bundle`."""
        super().__init__(handle, bundle, process, link=LinkEnd.GUEST_DIALS)
        self._own_user = own_user

    async def _attach(self, file: Path) -> str:
        artifact = await asyncio.to_thread(self.bundle.attach, file)
        if self._own_user:
            _let_others_read(artifact)
        # By its name alone: the VM's user can enter this directory, but not those above it.
        return artifact.name

    def _reason(self, status: int | None) -> str:
        return "ended" if status is None else f"exited with status {status}"

    def _explain(self, status: int | None) -> VmExit:
        if status == -signal.SIGSYS:
            return VmExit(status, "killed by SIGSYS: it made a system call that no agent makes")
        return super()._explain(status)


class ProcessDriver(HostDriver[ProcessVm]):
    """Starts VMs as child processes. Belongs to the event loop in which it is first used."""

    name = "process"
    handle_version = HANDLE_VERSION

    def __init__(
        self,
        agent_argv: Sequence[str] | None = None,
        *,
        find_agent: Callable[[], Path] = agent_program,
    ) -> None:
        """Set what to run, without checking it yet.

        `agent_argv` is the agent's command, if it is not the agent that `find_agent` finds. Its
        walls are not probed, and it is assumed to have none.
        """
        super().__init__()
        self._find_agent = find_agent
        self._agent = tuple(agent_argv or ())
        self._walls = _NONE_KNOWN if agent_argv else None
        self._probing = asyncio.Lock()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            link=LinkEnd.GUEST_DIALS,
            min_memory_mib=MIN_MEMORY_MIB,
            max_memory_mib=procfs.total_memory_mib(),
            max_vcpus=len(os.sched_getaffinity(0)),
            isolation="WebAssembly in a process of its own; no virtual machine",
            # A ceiling: an agent takes what its application uses, and gives it back.
            memory_promised=4,
            missing_walls=self._walls.missing if self._walls is not None else (),
        )

    async def probe(self) -> Health:
        """Make the agent apply its restrictions, and remember for `start` which of them work."""
        async with self._probing:
            if self._walls is not _NONE_KNOWN:
                try:
                    self._agent = (str(await asyncio.to_thread(self._find_agent)),)
                except PlexSpacesError as error:
                    return Health(False, error.message, error.hint)
                try:
                    self._walls = await self._find_walls()
                except Unavailable as error:
                    return Health(False, error.message, error.hint)
            return Health(True, f"agents run as child processes, {self._walls}", _hint(self._walls))

    async def start(self, config: VmConfig, bundle: Bundle) -> ProcessVm:
        with self._claimed(bundle):
            with step("validate", bundle):
                self.capabilities.check(config)
                walls = await self._found_walls()
            async with AsyncExitStack() as undo:
                with step("spawn", bundle):
                    process = self._spawn(walls, bundle, config.memory_mib)
                    undo.push_async_callback(process.kill)
                with step("handle", bundle):
                    handle = _handle_of(process, walls, bundle)
                    bundle.write_handle(handle)
                undo.pop_all()
            return self._keep(ProcessVm(handle, bundle, process, own_user=walls.own_user))

    async def _found_walls(self) -> Walls:
        if self._walls is None:
            health = await self.probe()
            if self._walls is None:
                raise Unavailable(health.reason, hint=health.hint)
        return self._walls

    async def _find_walls(self) -> Walls:
        """Try a user per VM if the node is root; otherwise, or if that fails, try without."""
        if os.geteuid() == 0 and users_exist():
            try:
                return await self._try(own_user=True)
            except Unavailable:
                # A container's root may have fewer rights than the name says.
                walls = await self._try(own_user=False)
                return replace(walls, missing=(*walls.missing, OWN_USER))
        return await self._try(own_user=False)

    async def _try(self, *, own_user: bool) -> Walls:
        try:
            with tempfile.TemporaryDirectory(prefix="plexspaces-probe-") as directory:
                bundle = Bundle(Path(directory).resolve())
                command = probe_command(
                    self._agent,
                    bundle,
                    memory_mib=MIN_MEMORY_MIB,
                    node_pid=os.getpid(),
                    own_user=own_user,
                )
                process = self._run(command, bundle, alone=False)
                try:
                    await process.ended_within(_PROBE_TIMEOUT_S)
                    status = await process.wait() if process.ended else None
                finally:
                    await process.kill()
                told = bundle.console_tail(1)
        except OSError as error:
            raise _does_not_run(str(error)) from error
        if status is None:
            raise _does_not_run(f"it did not finish within {_PROBE_TIMEOUT_S:.0f} s")
        if status != 0:
            raise _does_not_run(told or f"status {status}")
        try:
            missing = json.loads(told)["missing_walls"]
        except (ValueError, KeyError, TypeError) as error:
            raise _does_not_run(f"it printed {told!r} instead of its walls") from error
        return Walls(own_user, tuple(map(str, missing)))

    def _spawn(self, walls: Walls, bundle: Bundle, memory_mib: int) -> HostProcess:
        if walls.own_user:
            _let_machine_enter(bundle)
        command = agent_command(
            self._agent,
            bundle,
            memory_mib=memory_mib,
            node_pid=os.getpid(),
            own_user=walls.own_user,
        )
        return self._run(command, bundle, alone=walls.filtered)

    def _run(self, command: Sequence[str], bundle: Bundle, *, alone: bool) -> HostProcess:
        return HostProcess.spawn(
            command,
            marks=marks_of(bundle),
            env=ENVIRONMENT,
            cwd=bundle.path,
            output=bundle.console_log,
            alone=alone,
        )


def _let_machine_enter(bundle: Bundle) -> None:
    """Let the VM's user open files in the bundle by name, and no other user."""
    os.chown(bundle.path, -1, uid_of(bundle))
    bundle.path.chmod(stat.S_IRWXU | stat.S_IXGRP)


def _let_others_read(artifact: Path) -> None:
    """Let a VM's user read its artifact.

    It may be the node's only copy of this code, which all VMs map. Nobody else can reach it,
    because its directories belong to the node alone.
    """
    mode = stat.S_IMODE(artifact.stat().st_mode)
    if not mode & stat.S_IROTH:
        artifact.chmod(mode | stat.S_IROTH)


def _handle_of(process: HostProcess, walls: Walls, bundle: Bundle) -> VmHandle:
    state = {**identity_state(process.identity), "own_user": int(walls.own_user)}
    return VmHandle(ProcessDriver.name, HANDLE_VERSION, bundle.vm_id, state)


def _hint(walls: Walls) -> str | None:
    lacking = [wall for wall in walls.missing if wall.startswith(LANDLOCK)]
    if not lacking or walls is _NONE_KNOWN:
        return None
    return "see what the kernel has: cat /sys/kernel/security/lsm; uname -r (Linux 6.12 has all)"


def _does_not_run(why: str) -> Unavailable:
    return Unavailable(
        f"the agent does not run as a child process: {why}", hint="plexspaces doctor"
    )
