"""The calls about a cluster and its nodes, which `NodeClient` has too."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from plexspaces_node.api.convert_cluster import cluster_from_proto, draining_from_proto
from plexspaces_node.api.generated import cluster_pb2 as pb
from plexspaces_node.api.generated.cluster_pb2_grpc import ClusterServiceStub
from plexspaces_node.client.connection import NodeConnection
from plexspaces_node.info import ClusterInfo, Draining

if TYPE_CHECKING:
    # The stubs' type files have this class, but not the generated code.
    from plexspaces_node.api.generated.cluster_pb2_grpc import ClusterServiceAsyncStub

TIMEOUT_S = 15.0


class ClusterCalls(NodeConnection):
    """What a client can ask of a node about its cluster.

    Every method raises `WrongState` for a node that is in none.
    """

    async def nodes(self) -> ClusterInfo:
        """Return the cluster and its nodes."""
        reply = await self._answer(
            self._cluster.ListNodes(pb.ListNodesRequest(), timeout=TIMEOUT_S)
        )
        return cluster_from_proto(reply)

    async def drain_node(
        self, node: str, *, wait: bool = True, timeout_s: float | None = None
    ) -> AsyncGenerator[Draining, None]:
        """Have a node's applications move to others; yield what is left until nothing is.

        Without `wait` only what is left now. Whoever stops to wait does not undo it, nor does
        `DeadlineExceeded` after `timeout_s`: see `undrain_node`. Raises `NotFound`.
        """
        request = pb.DrainNodeRequest(node=node, no_wait=not wait)
        call = self._cluster.DrainNode(request, timeout=timeout_s)
        async with aclosing(self._stream(call)) as messages:
            async for message in messages:
                yield draining_from_proto(message)

    async def undrain_node(self, node: str) -> None:
        """Let a node take applications again; idempotent. Raises `NotFound`."""
        request = pb.UndrainNodeRequest(node=node)
        await self._answer(self._cluster.UndrainNode(request, timeout=TIMEOUT_S))

    async def remove_node(self, node: str, *, force: bool = False) -> None:
        """Forget a node that is down or drained, or with `force` any.

        Raises `NotFound`, and `WrongState` for one that is up and in use.
        """
        request = pb.RemoveNodeRequest(node=node, force=force)
        await self._answer(self._cluster.RemoveNode(request, timeout=TIMEOUT_S))

    @property
    def _cluster(self) -> ClusterServiceAsyncStub:
        return ClusterServiceStub(self._open.channel)
