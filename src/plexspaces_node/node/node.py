"""A running node, as a program that embeds one sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import grpc

from plexspaces_node.info import ClusterInfo, NodeInfo
from plexspaces_node.node.api.health import NodeHealth
from plexspaces_node.node.applications.capacity import Bounds
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.http.server import HttpServer

if TYPE_CHECKING:
    from plexspaces_node.node.http.peering import Peering

END_RPC_GRACE_S = 1.0
"""For what is still being answered on shutdown, over gRPC and over HTTP."""


class Clustering(Protocol):
    """A node's part in its cluster; see `clustering`."""

    async def describe(self) -> ClusterInfo:
        """Return the cluster and its nodes, as this node knows them."""

    async def join(self, info: NodeInfo, bounds: Bounds) -> None:
        """Be a member from now on; the node serves already."""

    async def cease(self) -> None:
        """Change nothing any more; before the applications are stopped."""

    async def leave(self) -> None:
        """Say that this node has stopped; after they are."""


class Node:
    """A running node. Made by `NodeBuilder.build`, ended by leaving its context.

    Attributes:
        info: what the node is and what it allows.
        address: HOST:PORT that it listens on.
        http_address: HOST:PORT that it serves HTTP on, "" for nowhere.
        http_fault: why it does not though it was to, "" otherwise.
        speaks_tls: whether both speak TLS.
        metrics_port: where it serves metrics, None for nowhere.
        recovered: the names of the applications that it started by itself.
        applications: what it runs.
        peering: its ways to other nodes and theirs to it, None without a cluster.
        clustering: its part in its cluster, None without one.
    """

    def __init__(  # noqa: PLR0913 - the parts of a running node
        self,
        info: NodeInfo,
        *,
        address: str,
        http_address: str,
        http_fault: str,
        speaks_tls: bool,
        is_unguarded: Callable[[], bool],
        metrics_port: int | None,
        recovered: tuple[str, ...],
        applications: Applications,
        server: grpc.aio.Server,
        http: HttpServer,
        withdraw_notice: Callable[[], None],
        health: NodeHealth,
        grace_s: float,
        peering: Peering | None = None,
        clustering: Clustering | None = None,
    ) -> None:
        self.info = info
        self.address = address
        self.http_address = http_address
        self.http_fault = http_fault
        self.speaks_tls = speaks_tls
        self._is_unguarded = is_unguarded
        self.metrics_port = metrics_port
        self.recovered = recovered
        self.applications = applications
        self.peering = peering
        self.clustering = clustering
        self._server = server
        self._http = http
        # Before the port is free: another process may listen there, and must not get messages.
        self._withdraw_notice = withdraw_notice
        self._health = health
        self._grace_s = grace_s
        self._ended = False

    def __repr__(self) -> str:
        return f"<Node {self.id} {self.isolation} at {self.address}>"

    @property
    def id(self) -> str:
        """The node's ID."""
        return self.info.node_id

    @property
    def isolation(self) -> str:
        """The isolation level."""
        return self.info.isolation

    @property
    def isolation_note(self) -> str:
        """One line on what the isolation level protects against."""
        return self.info.isolation_note

    @property
    def is_unguarded(self) -> bool:
        """Whether whoever reaches a port may do everything, because no token exists."""
        return self._is_unguarded()

    @property
    def is_empty(self) -> bool:
        """Whether it has no applications, none that are stopped either."""
        return not self.applications.roster.applications

    async def drain(self) -> bool:
        """Refuse new work, let running messages finish within the grace time, stop everything.

        Returns False when something could not be stopped, or its state not be saved; the log
        says what. Idempotent: again it does nothing; leaving the context drains too.
        """
        if self._ended:
            return True
        self._ended = True
        await self._health.shut_down()
        # The servers go last: until then whoever calls is told that the node is shutting down.
        if self.clustering is not None:
            await self.clustering.cease()
        drained = await self.applications.drain(self._grace_s)
        if self.clustering is not None:
            await self.clustering.leave()
        self._withdraw_notice()
        await asyncio.gather(self._http.drain(END_RPC_GRACE_S), self._server.stop(END_RPC_GRACE_S))
        return drained

    async def abort(self) -> None:
        """End every machine at once, without letting anything finish."""
        self._ended = True
        await self.applications.abort()
        self._withdraw_notice()
        await asyncio.gather(self._http.drain(0), self._server.stop(0))
