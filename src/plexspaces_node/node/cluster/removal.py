"""Removes a node from its cluster for good."""

from __future__ import annotations

import asyncio

import msgspec

from plexspaces_node.errors import NotFound, WrongState
from plexspaces_node.node.cluster.lease import DRIFT_S, LEASE_S
from plexspaces_node.node.cluster.records import (
    GONE,
    READY,
    REMOVED,
    Beat,
    NodeState,
    beat_key,
    node_key,
)
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket, Conflict


async def remove_node(bucket: Bucket, view: ClusterView, node: str, *, force: bool = False) -> None:
    """Delete what a cluster has of a node, so that nobody waits for it to come back.

    What was placed on it gets other places, or none. A node that still runs stops when it notices;
    one that still has something is waited for, until its lease has ended. May be called again after
    an error. Raises `NotFound`, `WrongState` for a node that is alive unless it has been drained or
    `force` is set, `Conflict` if it comes back meanwhile, and `Unavailable`.
    """
    known, beat = view.node(node), view.beat(node)
    if known is None and beat is None:
        raise NotFound(f"there is no node {node[:64]!r} in the cluster", hint="plexspaces nodes")
    if view.is_alive(node):
        left = len(_left(view, node))
        if not force:
            assert known is not None
            if known[0].state is not NodeState.DRAINING:
                raise WrongState(f"node {node!r} is alive", hint=f"plexspaces nodes drain {node}")
            if left:
                raise WrongState(
                    f"node {node!r} still has {left} applications; they are moving",
                    hint="plexspaces nodes",
                )
        if left:
            await _end(bucket, node)
        beat = await _beat(bucket, node)
    # The beat first: a dead node that has just come back has another one, and stays whole.
    if beat is not None:
        goes_anyway = view.is_alive(node) and beat[0].incarnation != REMOVED
        await bucket.delete(beat_key(node), revision=None if goes_anyway else beat[1])
    if known is not None:
        await bucket.delete(node_key(node))
    for entry in await bucket.entries(f"status.{node}."):
        await bucket.delete(entry.key)


def _left(view: ClusterView, node: str) -> set[str]:
    """Return the applications that a node has, or is still handing over."""
    serving = (
        name
        for name in view.names_with_status(node)
        if view.statuses(name)[node].state not in (READY, GONE)
    )
    return {*view.placed_on(node), *serving}


async def _end(bucket: Bucket, node: str) -> None:
    """Let a node beat no more, and wait until it cannot hold its lease any more.

    To others it is alive until then, so that they do not start its actors.
    """
    while True:
        found = await _beat(bucket, node)
        if found is None or found[0].dead or found[0].left:
            return
        if found[0].incarnation == REMOVED:
            break
        try:
            value = msgspec.json.encode(Beat(incarnation=REMOVED, count=0))
            await bucket.update(beat_key(node), value, found[1])
        except Conflict:
            # It was faster.
            continue
    await asyncio.sleep(LEASE_S + DRIFT_S)


async def _beat(bucket: Bucket, node: str) -> tuple[Beat, int] | None:
    found = await bucket.get(beat_key(node))
    if found is None or found.value is None:
        return None
    return msgspec.json.decode(found.value, type=Beat), found.revision
