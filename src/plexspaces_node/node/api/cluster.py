"""The gRPC service of the cluster: decode, call `Nodes`, encode."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from plexspaces_node.api.convert_cluster import cluster_to_proto, draining_to_proto
from plexspaces_node.api.generated import cluster_pb2 as pb
from plexspaces_node.api.generated import cluster_pb2_grpc as pb_grpc
from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.info import ClusterInfo, Draining
from plexspaces_node.node.access.gate import Call


class Nodes(Protocol):
    """The nodes of a cluster, and what an administrator can do with them."""

    async def describe(self) -> ClusterInfo:
        """Return the cluster and its nodes."""

    async def begin_drain(self, node: str) -> None:
        """Have a node's applications move; raises `NotFound` for no such node. Idempotent."""

    def draining(self, node: str) -> AsyncGenerator[Draining, None]:
        """Tell what still runs on a node, whenever it changes; it ends when nothing does."""

    async def undrain(self, node: str) -> None:
        """Let a node take applications again; raises `NotFound`. Idempotent."""

    async def remove(self, node: str, *, force: bool) -> None:
        """Forget a node; raises `NotFound`, and `WrongState` for one that is in use."""


class ClusterService(pb_grpc.ClusterServiceServicer):
    """`plexspaces.node.v1.ClusterService`; errors are mapped by a `Boundary`."""

    def __init__(self, nodes: Nodes | None = None) -> None:
        """Without nodes this node is in no cluster, and says so."""
        self._of_cluster = nodes

    async def ListNodes(  # type: ignore[override]
        self, request: pb.ListNodesRequest, call: Call
    ) -> pb.ListNodesResponse:
        return cluster_to_proto(await self._nodes.describe())

    async def DrainNode(  # type: ignore[override]
        self, request: pb.DrainNodeRequest, call: Call
    ) -> AsyncIterator[pb.DrainNodeResponse]:
        node = _named(request.node)
        await self._nodes.begin_drain(node)
        async with aclosing(self._nodes.draining(node)) as steps:
            async for step in steps:
                yield draining_to_proto(step)
                if request.no_wait:
                    return

    async def UndrainNode(  # type: ignore[override]
        self, request: pb.UndrainNodeRequest, call: Call
    ) -> pb.UndrainNodeResponse:
        await self._nodes.undrain(_named(request.node))
        return pb.UndrainNodeResponse()

    async def RemoveNode(  # type: ignore[override]
        self, request: pb.RemoveNodeRequest, call: Call
    ) -> pb.RemoveNodeResponse:
        await self._nodes.remove(_named(request.node), force=request.force)
        return pb.RemoveNodeResponse()

    @property
    def _nodes(self) -> Nodes:
        if self._of_cluster is None:
            raise WrongState(
                "this node is in no cluster",
                hint="to begin one, stop it and: plexspaces start-node --cluster NAME",
            )
        return self._of_cluster


def _named(node: str) -> str:
    if not node:
        raise InvalidArgument("no node is named", hint="list them with: plexspaces nodes")
    return node
