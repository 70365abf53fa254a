"""Removes what applications that were undeployed have left in the bucket of actors' states."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from plexspaces_node.errors import Unavailable
from plexspaces_node.model import full_name
from plexspaces_node.node.cluster.mirror import META, Meta, decoded
from plexspaces_node.node.cluster.records import Application
from plexspaces_node.node.cluster.state_keys import FENCES, Fenced, StateKeys, encode
from plexspaces_node.node.nats.bucket import Bucket

_PARTS = 3
"""Of a fence's key: the tenant, the name and the id."""


async def forget(bucket: Bucket, name: str, id_: str) -> None:
    """Remove everything of an application that was undeployed; can be repeated.

    Whoever still owns it is fenced off first. Raises `Unavailable`: `sweep` does the rest.
    """
    keys = StateKeys(name, id_)
    await bucket.put(keys.fence, encode(Fenced(epoch=0, node="", token="", is_gone=True)))
    for prefix in keys.below:
        await bucket.purge(prefix)
    # Not before: as long as there is a fence, a sweep finds the rest.
    await bucket.delete(keys.fence)


async def sweep(bucket: Bucket, existing: Callable[[], Awaitable[Collection[str]]]) -> int:
    """Forget the applications whose ids do not exist any more; return how many.

    `existing` is asked after it is known what the bucket has, and must tell the ids as of now: an
    application's record is there before its state.
    """
    fences = await bucket.entries(FENCES)
    ids = frozenset(await existing())
    left = [one.key.removeprefix(FENCES).split(".") for one in fences]
    gone = [where for where in left if len(where) == _PARTS and where[-1] not in ids]
    for tenant, name, id_ in gone:
        await forget(bucket, full_name(tenant, name), id_)
    return len(gone)


async def existing(registry: Bucket, registry_id: str) -> frozenset[str]:
    """Return the ids of all applications, by the registry with this id as it is now.

    Raises `Unavailable` for another one, as one that was made anew and is empty, and if a record
    cannot be read, as one of a later version: what is not known to be gone stays.
    """
    records = [decoded(one.value, Application) for one in await registry.entries("app.")]
    found = await registry.get(META)
    meta = decoded(found.value if found is not None else None, Meta)
    if meta is None or meta.id != registry_id:
        raise Unavailable("the cluster's registry is another than this node knows")
    if None in records:
        raise Unavailable("the record of an application cannot be read")
    return frozenset(one.id for one in records if one is not None)
