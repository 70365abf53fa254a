"""The fake driver: machines in memory, for tests of whatever uses a driver.

It keeps the whole contract, bundles and handles on disk included, and passes the same suite as
the real ones. What a test wants to see go wrong it is told beforehand: fail or hang at a step of
`start`, die afterwards, be unhealthy.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

from plexspaces_node.errors import NotFound, PlexSpacesError, Unavailable, VmStartFailed, WrongState
from plexspaces_node.model import MIB, VmConfig
from plexspaces_node.vm.bundle import Bundle, VmHandle
from plexspaces_node.vm.driver import Capabilities, Endpoint, Health, LinkEnd, VmExit, VmStats

STEPS = ("validate", "spawn", "handle")
"""The steps of `start`, in order."""

AgentProgram: TypeAlias = Callable[[Endpoint, str], Coroutine[Any, Any, None]]
"""Plays the agent: called with the link's endpoint and the VM's id, cancelled to end it."""

_CANCEL_TIMEOUT_S = 5.0


class FakeVm:
    """A machine that is at most a task."""

    def __init__(self, bundle: Bundle, agent: AgentProgram | None) -> None:
        """Start the agent, if there is one; its end is the machine's end."""
        self.handle = VmHandle(FakeDriver.name, 1, bundle.vm_id)
        self.endpoint = Endpoint(bundle.link_socket, LinkEnd.GUEST_DIALS)
        self._bundle = bundle
        self._ended: asyncio.Future[VmExit] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        if agent is not None:
            name = f"agent of {bundle.vm_id}"
            self._task = asyncio.create_task(agent(self.endpoint, bundle.vm_id), name=name)
            self._task.add_done_callback(self._on_agent_end)

    @property
    def ended(self) -> bool:
        """Whether the machine has ended."""
        return self._ended.done()

    async def attach(self, file: Path) -> str:
        self._check_alive()
        return str(await asyncio.to_thread(self._bundle.attach, file))

    async def wait(self) -> VmExit:
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float) -> VmExit:
        """End the machine at once: cancelling is both the asking and the insisting."""
        del grace_s
        self.end(VmExit(-signal.SIGTERM, "stopped when asked"))
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_CANCEL_TIMEOUT_S)
        return await self.wait()

    async def stats(self) -> VmStats:
        self._check_alive()
        return VmStats(rss_bytes=MIB, cpu_ns=1_000_000)

    def end(self, how: VmExit) -> None:
        """Let the machine have ended so, and cancel its agent; nothing when it has already."""
        if not self._ended.done():
            self._ended.set_result(how)
        if self._task is not None:
            self._task.cancel()

    def _on_agent_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            how = VmExit(-signal.SIGTERM, "killed by SIGTERM")
        elif (error := task.exception()) is not None:
            how = VmExit(1, f"exited with status 1: {error!r}")
        else:
            how = VmExit(0, "exited with status 0")
        self.end(how)

    def _check_alive(self) -> None:
        if self.ended:
            raise Unavailable(f"VM {self.handle.vm_id} has ended")

    def __repr__(self) -> str:
        return f"FakeVm({self.handle.vm_id}, ended={self.ended})"


class FakeDriver:
    """Makes machines in memory. They outlive whoever asked for them, as long as this object does.

    Attributes:
        health: what `probe` answers; to be set.
        hanging: set as soon as a `start` hangs as it was told to.
    """

    name = "fake"

    def __init__(self, agent: AgentProgram | None = None) -> None:
        """Make a driver that works until told otherwise; without `agent` its machines are deaf."""
        self.health = Health(True, "machines exist in memory only")
        self.hanging = asyncio.Event()
        self._agent = agent
        self._machines: dict[str, FakeVm] = {}
        self._failures: dict[str, int] = {}
        self._hang_step: str | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            link=LinkEnd.GUEST_DIALS,
            min_memory_mib=64,
            max_memory_mib=65_536,
            max_vcpus=64,
            isolation="none: for tests",
        )

    @property
    def live(self) -> list[str]:
        """The ids of the machines that run, oldest first."""
        return [vm_id for vm_id, vm in self._machines.items() if not vm.ended]

    def close(self) -> None:
        """Do nothing: no machine is kept for later."""

    def fail_at(self, step: str, *, times: int = 1) -> None:
        """Let the next so many starts fail at this step."""
        self._failures[_known(step)] = times

    def hang_at(self, step: str) -> None:
        """Let every start from now on hang at this step until it is cancelled."""
        self._hang_step = _known(step)

    def crash(self, vm_id: str, *, status: int = 1, reason: str = "crashed") -> None:
        """End a machine as if it had died by itself; raises `NotFound` when it does not run."""
        vm = self._machines.get(vm_id)
        if vm is None or vm.ended:
            raise NotFound(f"no VM {vm_id} runs")
        vm.end(VmExit(status, reason))

    def node_dies(self) -> None:
        """Do to the machines what kill -9 of the node does: all end."""
        for vm_id in self.live:
            self.crash(vm_id, status=-signal.SIGKILL, reason="killed by SIGKILL")

    async def probe(self) -> Health:
        return self.health

    async def start(self, config: VmConfig, bundle: Bundle) -> FakeVm:
        step = "validate"
        try:
            async with AsyncExitStack() as undo:
                await self._script(step)
                self._validate(config, bundle)
                step = "spawn"
                await self._script(step)
                vm = FakeVm(bundle, self._agent)
                self._machines[bundle.vm_id] = vm
                undo.push_async_callback(vm.stop, 0)
                step = "handle"
                await self._script(step)
                bundle.write_handle(vm.handle)
                undo.pop_all()
        except (OSError, PlexSpacesError) as error:
            hint = error.hint if isinstance(error, PlexSpacesError) else None
            raise VmStartFailed(
                f"VM {bundle.vm_id} did not start at step {step}: {error}", step=step, hint=hint
            ) from error
        return vm

    async def destroy(self, bundle: Bundle, *, ended: bool = False) -> None:
        del ended  # a look costs nothing here
        vm = self._machines.pop(bundle.vm_id, None)
        if vm is not None:
            await vm.stop(0)
        await asyncio.to_thread(bundle.remove)

    def _validate(self, config: VmConfig, bundle: Bundle) -> None:
        self.capabilities.check(config)
        if not bundle.path.is_dir():
            raise NotFound(f"no bundle at {bundle.path}")
        if bundle.vm_id in self.live:
            raise WrongState(f"VM {bundle.vm_id} is already running")
        if not self.health.ok:
            raise Unavailable(self.health.reason, hint=self.health.hint)

    async def _script(self, step: str) -> None:
        if self._hang_step == step:
            self.hanging.set()
            await asyncio.get_running_loop().create_future()
        if self._failures.get(step, 0) > 0:
            self._failures[step] -= 1
            raise Unavailable(f"told to fail at {step}")


def _known(step: str) -> str:
    if step not in STEPS:
        raise ValueError(f"no step {step!r}; there are {', '.join(STEPS)}")
    return step
