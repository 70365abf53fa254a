"""The applications that a node had before it founded a cluster: they become the cluster's."""

from __future__ import annotations

from plexspaces_node.errors import WrongState
from plexspaces_node.model import ArtifactKind
from plexspaces_node.node.cluster.desired import application_of
from plexspaces_node.node.cluster.desires import Desires
from plexspaces_node.node.registry.registry import Registry

_BEFORE_ANY = 1
"""An epoch that is older than that of any placement: a registry has a record before it has one."""


async def publish_applications(node: str, registry: Registry, desires: Desires) -> int:
    """Ask the cluster for everything that this node has; return how many applications that are.

    Before the cluster has its `meta` record, and before anything is reconciled: what is here and
    not asked for would be removed. The states of actors are written into the cluster's bucket when
    this node takes them over. May be called again after an error. Raises `Unavailable`, and
    `WrongState` if a name is another's.
    """
    count = 0
    for record in await registry.list_applications():
        if record.fault or not record.generation:
            # One that cannot be read, or whose deploy was never done.
            continue
        if record.kind is ArtifactKind.ACTOR:
            # What this node has is the copy from which the bucket is filled.
            await registry.copies.set_epoch(record.name, _BEFORE_ANY)
        taken = await desires.create(application_of(record, node))
        if taken is not None and taken.id != record.id:
            raise WrongState(
                f"the cluster has another application {record.name!r} already",
                hint="start this node with another --data-dir",
            )
        count += 1
    return count
