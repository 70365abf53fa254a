"""What an administrator sees of the nodes, and does with them: drain one, let it in, remove it.

Any node can be asked, about any node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import msgspec

from plexspaces_node.errors import NotFound
from plexspaces_node.info import ClusterInfo, ClusterNodeInfo, Draining
from plexspaces_node.node.cluster.desires import patiently
from plexspaces_node.node.cluster.known import Kind
from plexspaces_node.node.cluster.records import Node, NodeState, node_key
from plexspaces_node.node.cluster.removal import remove_node
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry
from plexspaces_node.node.nats.engine import REPLICAS

_log = logging.getLogger(__name__)

_NAMED = 10
"""How many of the applications that are left a drain names."""


class ClusterNodes:
    """The nodes of a cluster, as one of them sees them. Used on one event loop."""

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        cluster: str,
        node: str,
        bucket: Bucket,
        view: ClusterView,
        *,
        copies: Callable[[], int],
        has_majority: Callable[[], bool],
        forget_server: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        """`copies` returns how often what the cluster keeps is there, 0 if that is not known.

        `has_majority` returns whether this node's beats were acknowledged lately.
        `forget_server` takes the NATS server of a removed node out of the cluster.
        """
        self._cluster = cluster
        self._node = node
        self._bucket = bucket
        self._view = view
        self._copies = copies
        self._has_majority = has_majority
        self._forget_server = forget_server
        self._forgetting: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<ClusterNodes {len(self._view.nodes)} of {self._cluster}>"

    async def describe(self) -> ClusterInfo:
        """Return the cluster and its nodes, as this node knows them."""
        leader = self._view.leader
        nodes = tuple(
            self._describe(node, leads=leader is not None and leader[0].node == node.id)
            for _, node in sorted(self._view.nodes.items())
        )
        return ClusterInfo(
            self._cluster, nodes, self._copies(), tuple(self._warnings(nodes)), self._node
        )

    async def begin_drain(self, node: str) -> None:
        """Have the applications of a node move; raises `NotFound`. Idempotent."""
        await self._set_state(node, NodeState.DRAINING)

    async def draining(self, node: str) -> AsyncGenerator[Draining, None]:
        """Tell what still runs on a node, whenever that changes; it ends when nothing does.

        Raises `NotFound` if the node is removed meanwhile.
        """
        changed, told = asyncio.Event(), None

        def note(_kind: Kind, _whose: str) -> None:
            changed.set()

        forget = self._view.on_change(note)
        try:
            while True:
                changed.clear()
                self._known(node)
                step = self._left(node)
                if step != told:
                    told = step
                    yield step
                if not step.left:
                    return
                await changed.wait()
        finally:
            forget()

    async def undrain(self, node: str) -> None:
        """Let a node take applications again; raises `NotFound`. Idempotent."""
        await self._set_state(node, NodeState.UP)

    async def remove(self, node: str, *, force: bool) -> None:
        """Forget a node; raises what `remove_node` raises."""
        known = self._view.node(node)
        await remove_node(self._bucket, self._view, node, force=force)
        if known is not None and known[0].server:
            # What it had is copied to another, which may take long; nobody has to wait for it.
            self._forget_later(known[0].server)

    def _forget_later(self, server: str) -> None:
        task = asyncio.get_running_loop().create_task(self._forget_server(server))
        self._forgetting.add(task)
        task.add_done_callback(self._forgotten)

    def _forgotten(self, task: asyncio.Future[None]) -> None:
        self._forgetting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("a removed node's NATS server still counts: %s", error)

    async def _set_state(self, node: str, state: NodeState) -> None:
        key = node_key(node)
        while True:
            self._known(node)
            # A node that has just started may not be connected yet.
            found = await patiently(lambda: self._bucket.get(key))
            if found is None or found.value is None:
                raise _no_node(node)
            record = msgspec.json.decode(found.value, type=Node)
            if record.state is state:
                return
            value = msgspec.json.encode(msgspec.structs.replace(record, state=state))
            try:
                revision = await self._bucket.update(key, value, found.revision)
            except Conflict:
                # The node itself, or somebody who asked another one.
                continue
            self._view.wrote(Entry(key, value, revision))
            return

    def _known(self, node: str) -> Node:
        if (found := self._view.node(node)) is None:
            raise _no_node(node)
        return found[0]

    def _left(self, node: str) -> Draining:
        names = sorted(self._serving(node))
        why = ""
        if names and (placed := self._view.placed(names[0])) is not None:
            why = placed[0].why
        return Draining(len(names), tuple(names[:_NAMED]), why)

    def _serving(self, node: str) -> list[str]:
        """Return the applications that a node still has: placed there, or said by it to be."""
        placed = []
        for name in self._view.placed_on(node) | self._view.names_with_status(node):
            where = self._view.placed(name)
            is_placed = where is not None and node in (*where[0].nodes, *where[0].leaving)
            status = self._view.statuses(name).get(node)
            if is_placed or (status is not None and status.vm_id and self._view.is_alive(node)):
                placed.append(name)
        return placed

    def _describe(self, node: Node, *, leads: bool) -> ClusterNodeInfo:
        names = self._serving(node.id)
        known = (self._view.application(name) for name in names)
        used_mib = sum(one.memory_mib for one in known if one is not None)
        return ClusterNodeInfo(
            id=node.id,
            state=self._state_of(node),
            level=node.level,
            version=node.version,
            memory_mib=node.memory_mib,
            free_memory_mib=max(0, node.memory_mib - used_mib),
            application_limit=node.applications,
            applications=len(names),
            labels=dict(node.labels),
            leads=leads,
            keeps_state=bool(node.server) and self._copies() > 0,
            route=node.route,
        )

    def _state_of(self, node: Node) -> str:
        beat = self._view.beat(node.id)
        if beat is None or beat[0].dead:
            return "down"
        return "left" if beat[0].left else str(node.state)

    def _warnings(self, nodes: tuple[ClusterNodeInfo, ...]) -> list[str]:
        warnings = []
        if not self._has_majority():
            warnings.append(
                "this node reaches no majority of NATS servers: it shows what it knew, nothing can "
                "be changed from here, and its actors wait"
            )
        copies = self._copies()
        if 0 < copies < REPLICAS:
            warnings.append(
                f"what the cluster keeps is on {copies} of {REPLICAS} nodes: if they are "
                f"lost, so is that; with {REPLICAS} nodes one may be lost"
            )
        if len([one for one in nodes if one.route]) == 2:
            warnings.append("two nodes need each other: if one is down, nothing can be changed")
        return warnings


def _no_node(node: str) -> NotFound:
    return NotFound(f"there is no node {node[:64]!r} in the cluster", hint="plexspaces nodes")
