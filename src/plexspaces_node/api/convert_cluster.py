"""Converts between the messages of the contract about a cluster and the records of `info`."""

from __future__ import annotations

from plexspaces_node.api.generated import cluster_pb2 as pb
from plexspaces_node.info import ClusterInfo, ClusterNodeInfo, Draining


def cluster_to_proto(cluster: ClusterInfo) -> pb.ListNodesResponse:
    """Convert a cluster with its nodes."""
    return pb.ListNodesResponse(
        cluster=cluster.cluster,
        nodes=[_node_to_proto(node) for node in cluster.nodes],
        copies=cluster.copies,
        warnings=cluster.warnings,
        answered_by=cluster.answered_by,
    )


def cluster_from_proto(message: pb.ListNodesResponse) -> ClusterInfo:
    """Convert a cluster with its nodes."""
    return ClusterInfo(
        cluster=message.cluster,
        nodes=tuple(_node_from_proto(node) for node in message.nodes),
        copies=message.copies,
        warnings=tuple(message.warnings),
        answered_by=message.answered_by,
    )


def draining_to_proto(draining: Draining) -> pb.DrainNodeResponse:
    """Convert what still runs on a node."""
    return pb.DrainNodeResponse(
        left=draining.left, applications=draining.applications, why=draining.why
    )


def draining_from_proto(message: pb.DrainNodeResponse) -> Draining:
    """Convert what still runs on a node."""
    return Draining(message.left, tuple(message.applications), message.why)


def _node_to_proto(node: ClusterNodeInfo) -> pb.ClusterNode:
    return pb.ClusterNode(
        id=node.id,
        state=node.state,
        level=node.level,
        version=node.version,
        memory_mib=node.memory_mib,
        free_memory_mib=node.free_memory_mib,
        application_limit=node.application_limit,
        applications=node.applications,
        labels=node.labels,
        leads=node.leads,
        keeps_state=node.keeps_state,
        route=node.route,
    )


def _node_from_proto(message: pb.ClusterNode) -> ClusterNodeInfo:
    return ClusterNodeInfo(
        id=message.id,
        state=message.state,
        level=message.level,
        version=message.version,
        memory_mib=message.memory_mib,
        free_memory_mib=message.free_memory_mib,
        application_limit=message.application_limit,
        applications=message.applications,
        labels=dict(message.labels),
        leads=message.leads,
        keeps_state=message.keeps_state,
        route=message.route,
    )
