"""CPU shares: each application's VM in a cgroup of its own, each tenant's below one.

Where the node cannot have cgroups, nothing is done and it is said why: see `Shares.note`. A VM is
in its cgroup before it runs the application's code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from plexspaces_node.errors import Unsupported
from plexspaces_node.model import VmConfig, split_name
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.quota import Key, Subject, application_of
from plexspaces_node.tasks import finished
from plexspaces_node.vm.driver import Capabilities
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.cgroups import GroupBounds, NodeCgroups, find_place

OFF = "[node] cgroups is off"
_log = logging.getLogger(__name__)


class Shares:
    """Puts the VMs of a node into cgroups. Used on the event loop.

    Attributes:
        note: why CPU shares are not enforced here, or "".
        hint: what helps, or "".
    """

    def __init__(
        self, groups: NodeCgroups | None = None, *, note: str = "", hint: str = ""
    ) -> None:
        """Use these cgroups, or none, and then `note` says why."""
        self._groups = groups
        self.note = note
        self.hint = hint
        self._quotas = Quotas()
        # The group of each running application, and its bounds without quotas.
        self._entered: dict[str, tuple[str, GroupBounds]] = {}
        self._changes: set[asyncio.Task[None]] = set()
        # One thread at a time works on the groups.
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Shares {self._groups!r} {self.note}>"

    @classmethod
    @asynccontextmanager
    async def open(cls, node_id: str, *, wanted: bool) -> AsyncIterator[Shares]:
        """Make the node's cgroups if it can have some; leaving the context removes them."""
        if not wanted:
            yield cls(note=OFF, hint="[node] cgroups = true")
            return
        try:
            groups = await asyncio.to_thread(lambda: NodeCgroups.open(find_place(), node_id))
        except Unsupported as error:
            # Listings and `doctor` say it too.
            _log.debug("CPU shares are not enforced: %s", error.message)
            yield cls(note=error.message, hint=error.hint or "")
            return
        shares = cls(groups)
        try:
            yield shares
        finally:
            await asyncio.gather(*shares._changes)
            await asyncio.to_thread(groups.close)

    @property
    def enforced(self) -> bool:
        """Whether CPU shares hold."""
        return self._groups is not None

    def follow(self, quotas: Quotas) -> None:
        """Use these quotas, also when they change. Called once."""
        self._quotas = quotas
        quotas.watch(self._changed)

    async def enter(
        self, name: str, group: str, pid: int, config: VmConfig, can: Capabilities
    ) -> str:
        """Move a VM's processes into the group of its application; return why not, else ""."""
        groups = self._groups
        if groups is None:
            return self.note
        # One CPU more than the guest has, for the work of the virtual machine itself.
        own = GroupBounds(
            cpu_percent=(config.vcpus + 1) * 100,
            memory_mib=config.memory_mib + can.host_memory_mib if can.host_memory_mib else 0,
            processes=config.vcpus + can.host_processes,
        )
        self._entered[name] = group, own
        tenant = split_name(name)[0]

        def act() -> None:
            # Below the number 0 there are all processes of the host.
            pids = [one.pid for one in procfs.tree(pid)] if pid else []
            groups.enter(tenant, group, pids, self._bounds(name, own))
            groups.bound_tenant(tenant, self._tenant_bounds(tenant))

        return await self._run(act, f"{name} has no CPU share")

    async def leave(self, name: str) -> None:
        """Remove the group of an application whose VM has ended. Idempotent."""
        known = self._entered.pop(name, None)
        if self._groups is not None and known is not None:
            await self._run(partial(self._groups.leave, split_name(name)[0], known[0]), name)

    def cpu_us(self, subject: Subject) -> int:
        """Return the processor time of a tenant, or of an application, since it was started."""
        if self._groups is None:
            return 0
        group = ""
        if subject.application:
            group = self._entered.get(subject.full, ("", None))[0]
            if not group:
                return 0
        return self._groups.cpu_us(subject.tenant, group)

    def _bounds(self, name: str, own: GroupBounds) -> GroupBounds:
        quota = self._quotas.limit(application_of(name), Key.CPU_PERCENT)
        percent = min(quota, own.cpu_percent) if quota else own.cpu_percent
        return GroupBounds(percent, own.memory_mib, own.processes)

    def _tenant_bounds(self, tenant: str) -> GroupBounds:
        return GroupBounds(self._quotas.limit(Subject(tenant), Key.CPU_PERCENT))

    def _changed(self, subject: Subject) -> None:
        groups = self._groups
        if groups is None:
            return
        known = self._entered.get(subject.full)
        if not subject.application:
            bounds = self._tenant_bounds(subject.tenant)
            act = partial(groups.bound_tenant, subject.tenant, bounds)
        elif known is not None:
            act = partial(
                groups.bound_group, subject.tenant, known[0], self._bounds(subject.full, known[1])
            )
        else:
            return
        task = asyncio.get_running_loop().create_task(self._change(act, str(subject)))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _change(self, act: Callable[[], object], what: str) -> None:
        await self._run(act, f"{what} keeps its former CPU share")

    async def _run(self, act: Callable[[], object], failed: str) -> str:
        async with self._turn:
            try:
                # To its end, also for a start that is cancelled: then the group is removed.
                await finished(asyncio.to_thread(act))
            except OSError as error:
                why = f"{failed}: {error}"
                _log.warning("%s", why)
                return why
        return ""
