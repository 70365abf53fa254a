"""What there is in a cluster, for whoever asks at one of its nodes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from time import perf_counter_ns

from plexspaces_node.errors import NotFound, PlexSpacesError
from plexspaces_node.info import ApplicationInfo, Listing
from plexspaces_node.model import ApplicationState, VmConfig, split_name
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.applications.roster import Viewer
from plexspaces_node.node.cluster import desired
from plexspaces_node.node.cluster.parts import Peers, States, Store
from plexspaces_node.node.cluster.records import Application
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.secrets.secrets import Secrets
from plexspaces_node.vm.driver import Capabilities

ASK_S = 2.0
"""How long another node has to say what it runs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the operations need of their node.

    Attributes:
        node: its id.
        cluster: the name of its cluster.
        applications: what it runs itself.
    """

    node: str
    cluster: str
    applications: Applications
    capabilities: Capabilities
    store: Store
    secrets: Secrets
    quotas: Quotas
    states: States
    peers: Peers


class Look:
    """Tells what there is. Used on one event loop."""

    def __init__(self, parts: Parts, view: ClusterView) -> None:
        self._parts = parts
        self._node = parts.node
        self._view = view

    def __repr__(self) -> str:
        return f"<Look from {self._node}>"

    async def inspect(self, name: str) -> ApplicationInfo:
        """Describe an application that this node has, with where else it is; raises `NotFound`.

        One that it does not have, and no node that serves it was found for, by the registry alone.
        """
        try:
            info = await self._parts.applications.inspect(name)
        except NotFound:
            known = self._view.application(name)
            if known is None or (known.deploying and not known.before):
                raise
            statuses = dict(self._view.statuses(name))
            return self._located(desired.described(known, statuses), "")
        return self._located(info, self._node)

    async def list(self, viewer: Viewer | None = None, tenant: str = "") -> Listing:
        """Describe every application of the cluster, and this node's empty VMs; see `Applications`.

        Nodes that do not answer in time are named; what they run is told by the registry.
        """
        begin = perf_counter_ns()
        others = [
            node for node in self._view.nodes if node != self._node and self._view.is_alive(node)
        ]
        here, *told = await asyncio.gather(
            self._parts.applications.list(viewer, tenant),
            *(self._listing_of(node, viewer, tenant) for node in others),
        )
        assert here is not None
        found = {info.name: (self._node, info) for info in here.applications}
        for node, listing in zip(others, told, strict=True):
            for info in listing.applications if listing is not None else ():
                before = found.get(info.name)
                if before is None or before[1].state is not ApplicationState.RUNNING:
                    found[info.name] = node, info
        applications = []
        for name, application in sorted(self._view.applications.items()):
            is_there = not application.deploying or application.before
            if not is_there or not _sees(viewer, name, tenant):
                continue
            if name in found and found[name][1].id == application.id:
                node, info = found[name]
            else:
                statuses = dict(self._view.statuses(name))
                node, info = "", desired.described(application, statuses)
            applications.append(self._located(info, node))
        silent = [node for node, one in zip(others, told, strict=True) if one is None]
        return Listing(
            tuple(applications),
            here.empty_vms,
            perf_counter_ns() - begin,
            silent_nodes=tuple(silent),
            cluster=self._parts.cluster,
        )

    async def _listing_of(self, node: str, viewer: Viewer | None, tenant: str) -> Listing | None:
        try:
            async with asyncio.timeout(ASK_S):
                return await self._parts.peers.list(node, viewer, tenant)
        except (PlexSpacesError, TimeoutError) as error:
            _log.info("node %s does not say what it runs: %s", node, error or "in time")
            return None

    def vm_size(self, name: str, default: VmConfig) -> VmConfig:
        """Return the size of an application's VM, or `default` if there is no application."""
        known = self._view.application(name)
        return default if known is None else VmConfig(known.vcpus, known.memory_mib)

    async def describe(self, application: Application) -> ApplicationInfo:
        """Describe an application: as one of its nodes does, else by the registry alone."""
        name = application.name
        placed = self._view.placed(name)
        for node in filter(self._view.is_alive, placed[0].nodes if placed is not None else ()):
            try:
                async with asyncio.timeout(ASK_S):
                    if node == self._node:
                        info = await self._parts.applications.inspect(name)
                    else:
                        info = await self._parts.peers.inspect(node, name)
            except (PlexSpacesError, TimeoutError):
                continue
            if info.id == application.id:
                return self._located(info, node)
        return self._located(desired.described(application, dict(self._view.statuses(name))), "")

    def _located(self, info: ApplicationInfo, node: str) -> ApplicationInfo:
        application, placed = self._view.application(info.name), self._view.placed(info.name)
        if application is None or application.id != info.id:
            return replace(info, node=node)
        return desired.located(
            info,
            node or next(iter(placed[0].nodes), "") if placed is not None else node,
            application,
            placed[0] if placed is not None else None,
            dict(self._view.statuses(info.name)),
            self._view.is_alive,
        )

    def state_of(self, application: Application) -> str:
        return desired.described(application, dict(self._view.statuses(application.name))).state


def _sees(viewer: Viewer | None, name: str, tenant: str) -> bool:
    is_of_tenant = not tenant or split_name(name)[0] == tenant
    return is_of_tenant and (viewer is None or viewer.covers(name))
