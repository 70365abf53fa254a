"""The cluster of a fake node, for tests of what talks to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc

from plexspaces_node.api.convert_cluster import cluster_to_proto, draining_to_proto
from plexspaces_node.api.generated import cluster_pb2
from plexspaces_node.api.generated.cluster_pb2_grpc import ClusterServiceServicer
from plexspaces_node.info import ClusterInfo, ClusterNodeInfo, Draining

CLUSTER = ClusterInfo(
    "shop",
    (
        ClusterNodeInfo(
            "a",
            "up",
            "process",
            "1.0",
            4096,
            3584,
            64,
            2,
            {"zone": "a"},
            True,
            True,
            "10.0.0.1:9400",
        ),
        ClusterNodeInfo("b", "draining", "process", "1.0", 4096, 4096, 64, 0, keeps_state=True),
    ),
    copies=2,
    warnings=("the state is on 2 nodes: with 3 one may be lost; join another",),
    answered_by="a",
)


class FakeCluster(ClusterServiceServicer):
    """The cluster of a fake node, with three nodes.

    Attributes:
        info: what it says of itself.
        steps: what a drain tells.
        done: what was asked of nodes, in order.
    """

    def __init__(self, enter: Callable[[str, grpc.ServicerContext], None]) -> None:
        self.info = CLUSTER
        self.steps = [Draining(2, ("calc", "site"), "no other node has room"), Draining(0)]
        self.done: list[tuple[str, str, bool]] = []
        self._enter = enter

    def ListNodes(
        self, request: cluster_pb2.ListNodesRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.ListNodesResponse:
        """Say what was set."""
        self._enter("ListNodes", context)
        return cluster_to_proto(self.info)

    def DrainNode(
        self, request: cluster_pb2.DrainNodeRequest, context: grpc.ServicerContext
    ) -> Iterator[cluster_pb2.DrainNodeResponse]:
        """Tell the steps, or the first."""
        self._enter("DrainNode", context)
        self.done.append(("drain", request.node, request.no_wait))
        steps = self.steps[:1] if request.no_wait else self.steps
        return map(draining_to_proto, iter(steps))

    def UndrainNode(
        self, request: cluster_pb2.UndrainNodeRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.UndrainNodeResponse:
        """Note it."""
        self._enter("UndrainNode", context)
        self.done.append(("undrain", request.node, False))
        return cluster_pb2.UndrainNodeResponse()

    def RemoveNode(
        self, request: cluster_pb2.RemoveNodeRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.RemoveNodeResponse:
        """Note it."""
        self._enter("RemoveNode", context)
        self.done.append(("remove", request.node, request.force))
        return cluster_pb2.RemoveNodeResponse()
