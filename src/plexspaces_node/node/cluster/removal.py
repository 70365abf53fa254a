"""Removes a node from its cluster for good."""

from __future__ import annotations

from plexspaces_node.errors import NotFound, WrongState
from plexspaces_node.node.cluster.records import NodeState, beat_key, node_key
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket


async def remove_node(bucket: Bucket, view: ClusterView, node: str, *, force: bool = False) -> None:
    """Delete what a cluster has of a node, so that nobody waits for it to come back.

    What was placed on it gets other places, or none. A node that still runs stops when it notices.
    May be called again after an error. Raises `NotFound`, `WrongState` for a node that is alive
    unless it has been drained or `force` is set, `Conflict` if it comes back meanwhile, and
    `Unavailable`.
    """
    known, beat = view.node(node), view.beat(node)
    if known is None and beat is None:
        raise NotFound(f"there is no node {node[:64]!r} in the cluster", hint="plexspaces nodes")
    if view.is_alive(node) and not force:
        assert known is not None
        if known[0].state is not NodeState.DRAINING:
            raise WrongState(f"node {node!r} is alive", hint=f"plexspaces nodes drain {node}")
        if left := len(view.placed_on(node)):
            raise WrongState(
                f"node {node!r} still has {left} applications; they are moving",
                hint="plexspaces nodes",
            )
    # The beat first: a dead node that has just come back has another one, and stays whole.
    if beat is not None:
        goes_anyway = force or view.is_alive(node)
        await bucket.delete(beat_key(node), revision=None if goes_anyway else beat[1])
    if known is not None:
        await bucket.delete(node_key(node))
    for entry in await bucket.entries(f"status.{node}."):
        await bucket.delete(entry.key)
