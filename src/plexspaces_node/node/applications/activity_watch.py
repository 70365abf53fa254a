"""What applications do now, as somebody sees it who may see some of them."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from time import time_ns
from typing import NamedTuple

from plexspaces_node.info import NodeInfo
from plexspaces_node.model import MIB
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.roster import Roster, Viewer, in_flight_of
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.timeline import Spent
from plexspaces_node.vm.host import procfs


class Now(NamedTuple):
    """What one application does.

    Attributes:
        recent: of the last 10 s, or since there is the application; `recent_s` is how long that is.
        isolation: the level of its VM; "" without one.
        memory_bytes: of the host; 0 if it cannot be measured.
        cpu_ns: that its VM has used so far; 0 if it cannot be measured.
    """

    supervisor: Supervisor
    recent: Spent
    recent_s: float
    p50_ns: int
    p99_ns: int
    in_flight: int
    isolation: str
    memory_bytes: int
    cpu_ns: int

    @property
    def activity(self) -> Activity:
        """What it has done so far."""
        return self.supervisor.activity


class NodeNow(NamedTuple):
    """What the node does: of itself, and with what its VMs were given."""

    memory_bytes: int
    cpu_ns: int
    loop_lag_ns: int
    cpus: int
    host_memory_bytes: int
    granted_memory_bytes: int


class ActivityWatch:
    """Tells what applications do. Used on the event loop.

    Attributes:
        info: which node this is.
    """

    def __init__(self, roster: Roster, node: NodeContext, info: NodeInfo) -> None:
        self.info = info
        self._roster = roster
        self._node = node
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ActivityWatch of {self._roster!r}>"

    def visible(self, viewer: Viewer, tenant: str = "") -> tuple[Supervisor, ...]:
        """Return the applications that somebody may see, or those of a tenant among them."""
        return self._roster.visible(viewer, tenant)

    def supervisors(self) -> tuple[Supervisor, ...]:
        """Return every application."""
        return self._roster.supervisors()

    def named(self, name: str) -> Supervisor:
        """Return an application; raises `NotFound`."""
        return self._roster.named(name)

    async def now(self, supervisor: Supervisor) -> Now:
        """Return what an application does now; measures its VM."""
        activity, machine = supervisor.activity, supervisor.machine
        isolation, memory_bytes, cpu_ns = "", 0, 0
        if machine is not None:
            vm = await machine.info()
            isolation, memory_bytes, cpu_ns = vm.isolation, vm.rss_bytes, vm.cpu_ns
        activity.settle()
        recent, recent_s = activity.timeline.recent(time_ns())
        p50_ns, p99_ns = activity.timeline.quantiles_ns()
        return Now(
            *(supervisor, recent, recent_s, p50_ns, p99_ns),
            *(in_flight_of(supervisor), isolation, memory_bytes, cpu_ns),
        )

    def node_now(self) -> NodeNow:
        """Return what the node does now."""
        pid = os.getpid()
        return NodeNow(
            *(procfs.resident_bytes(pid), procfs.cpu_ns(pid)),
            self._node.telemetry.recent_lag_ns,
            *(len(os.sched_getaffinity(0)), self._node.host_memory_mib * MIB),
            sum(machine.config.memory_mib for machine in self._roster.machines()) * MIB,
        )

    def unix_ns(self, perf_ns: int) -> int:
        """Return a time of a span as one since the epoch."""
        return self._node.telemetry.unix_ns(perf_ns)

    async def pause(self, duration_s: float) -> bool:
        """Wait; return whether the node is still there then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self._ended.wait()
        return not self._ended.is_set()

    def close(self) -> None:
        """End every `pause`, because the node ends."""
        self._ended.set()
