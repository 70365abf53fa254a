"""The VMs of a node for users: all of them, one of them, its console.

Finds a VM by its application's name or its own id, among the running ones and among the bundles of
those that are still starting; for a viewer among those they may see. Changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import NotFound, ResourceExhausted
from plexspaces_node.info import VmInfo, VmInspection
from plexspaces_node.model import ApplicationState, VmState, split_name
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.roster import Roster, Viewer
from plexspaces_node.node.machines.console import read_console
from plexspaces_node.node.machines.machine import Machine, pid_in
from plexspaces_node.vm.bundle import Bundle, bundles
from plexspaces_node.vm.host import procfs

MAX_FOLLOWERS = 32
"""How many consoles can be followed at a time, over all VMs: each holds an open file."""


@dataclass(frozen=True, slots=True)
class _Starting:
    """A VM that is known only by its bundle: it is not ready, or is being removed."""

    bundle: Bundle
    info: VmInfo


class Vms:
    """Every VM of a node. Used on the node's event loop."""

    def __init__(self, roster: Roster, node: NodeContext) -> None:
        self._roster = roster
        self._node = node
        self._followers: Counter[str] = Counter()

    def __repr__(self) -> str:
        followed = self._followers.total()
        return f"<Vms {len(self._roster.machines())} ready, {followed} consoles followed>"

    async def list(self, viewer: Viewer | None = None) -> tuple[VmInfo, ...]:
        """Describe every VM: those with an application by its name, then the others by id."""
        starting = await self._starting()
        # Only those: how long it takes tells nothing of the others.
        seen = [one for one in self._roster.machines() if _sees(viewer, one.application)]
        infos = list(await asyncio.gather(*(machine.info() for machine in seen)))
        known = {vm.id for vm in infos}
        infos += [
            one.info
            for one in starting
            if one.info.id not in known and _sees(viewer, one.info.application)
        ]
        return tuple(sorted(infos, key=lambda vm: (not vm.application, vm.application, vm.id)))

    async def inspect(self, name: str, viewer: Viewer | None = None) -> VmInspection:
        """Return everything known about one VM; takes about a second if its agent is silent.

        `name` is its application's full name, or its id in place of the name within a tenant.
        Raises `NotFound`.
        """
        found = await self._find(name, viewer)
        if isinstance(found, Machine):
            return await found.inspect()
        return VmInspection(
            vm=found.info,
            pid=await asyncio.to_thread(_living_pid, found.bundle),
            console=str(found.bundle.console_log),
            memory_unknown="its agent is not ready",
        )

    async def console(
        self, name: str, *, tail: int = 0, follow: bool = False, viewer: Viewer | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield a VM's console output, see `read_console`; close it with `aclosing`.

        `name` is as in `inspect`. Raises `NotFound`, and `ResourceExhausted` if there are
        `MAX_FOLLOWERS` already, or half of them of this tenant for who does not see all.
        """
        bundle, tenant = (await self._find(name, viewer)).bundle, split_name(name)[0]
        of_tenant = 0 if _sees(viewer, "") else 2 * self._followers[tenant]
        if follow and max(self._followers.total(), of_tenant) >= MAX_FOLLOWERS:
            raise ResourceExhausted(
                f"too many followed consoles ({MAX_FOLLOWERS}, half of them of one tenant)",
                hint="stop another `plexspaces vms console --follow`",
            )
        self._followers[tenant] += follow
        try:
            async with aclosing(read_console(bundle, tail=tail, follow=follow)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._followers[tenant] -= follow
            if not self._followers[tenant]:
                del self._followers[tenant]

    async def _find(self, name: str, viewer: Viewer | None) -> Machine | _Starting:
        named: list[tuple[str, str, Machine | _Starting]] = [
            (one.info.application, one.info.id, one) for one in await self._starting()
        ]
        named += [(machine.application, machine.id, machine) for machine in self._roster.machines()]
        seen = [entry for entry in named if _sees(viewer, entry[0])]
        for application, _, found in seen:
            if application == name:
                return found
        tenant, id_ = split_name(name)
        for application, vm_id, found in seen:
            # Who sees all of them need not know whose it is.
            is_meant = _sees(viewer, "") or split_name(application)[0] == tenant
            if vm_id == id_ and is_meant:
                return found
        raise self._not_found(name)

    async def _starting(self) -> tuple[_Starting, ...]:
        found = await asyncio.to_thread(_bundled, self._node.vms, self._node.driver.name)
        ready = {machine.id for machine in self._roster.machines()}
        return tuple(one for one in found if one.info.id not in ready)

    def _not_found(self, name: str) -> NotFound:
        for supervisor in self._roster.supervisors():
            if supervisor.name == name:
                stopped = supervisor.state is ApplicationState.STOPPED
                act = f"start --name {name}" if stopped else f"inspect {name}"
                return NotFound(
                    f"application {name!r} is {supervisor.state} and has no VM",
                    hint=f"plexspaces {act}",
                )
        return NotFound(f"there is no application or VM {name!r}", hint="plexspaces vms list")


def _sees(viewer: Viewer | None, application: str) -> bool:
    """Return whether somebody may see the VM of an application, "" for an empty one."""
    if viewer is None or viewer.is_of_all():
        return True
    return application != "" and viewer.covers(application)


def _bundled(root: Path, isolation: str) -> list[_Starting]:
    """Describe every bundle as a VM that is starting; incomplete ones are skipped."""
    found = []
    for bundle in bundles(root):
        with suppress(NotFound):
            info = VmInfo(
                id=bundle.vm_id,
                state=VmState.STARTING,
                isolation=isolation,
                socket=str(bundle.link_socket),
                config=bundle.config,
                application=bundle.application,
            )
            found.append(_Starting(bundle, info))
    return found


def _living_pid(bundle: Bundle) -> int:
    """Return the process of a bundle's handle; 0 if there is none or it has ended."""
    handle = bundle.read_handle()
    if handle is None:
        return 0
    identity = procfs.identify(pid_in(handle))
    same = identity is not None and identity.start_ticks == handle.state.get("start_ticks")
    return pid_in(handle) if same else 0
