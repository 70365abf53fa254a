"""The registry of a cluster made new, or anew from what its nodes remember.

A bucket is known by its `meta` record. A node that remembers another one than there is, which was
not rebuilt yet, offers what it remembers. What nodes remember are states of one bucket at one write
each, so the one with the latest write knows everything that any other does, deletions among it: it
alone writes its records into the new bucket, each only if there is none, and the others wait.

    offer.NODE       which bucket a node remembers, and up to which write
    rebuilt.BUCKET   who rebuilds it, up to which write it was known, and whether that is done

Who comes later finds `rebuilt` done: what it alone remembers is lost, and its log says how much. A
write that was acknowledged and that no node had on its disk yet is lost too. If a node ends while
it rebuilds, another one goes on with what it remembers itself: what the first had written stays.

What nodes say about themselves is not restored but made anew. Nobody may follow the bucket before
`settle` has returned: it would see applications missing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import time_ns

import msgspec

from plexspaces_node.node.cluster.mirror import META, Meta, decoded
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry
from plexspaces_node.node.registry.cluster_records import Remembered

_log = logging.getLogger(__name__)

OFFERS_S = 10.0
"""How long a node that remembers waits for others that may remember more."""

GONE_S = 30.0
"""How long a node that rebuilds may write nothing until another one goes on."""

LOOK_S = 0.5
"""Between two looks at what others do."""

NOT_RESTORED = ("node.", "beat.", "status.", "leader", "offer.", META)

_FIRST = ("rebuilt.", "placed.", "token-key")
_SAY_SO = 100


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a node remembers: a bucket, up to a write."""

    id: str
    revision: int


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """Who rebuilds a bucket.

    Attributes:
        revision: up to which write they know it.
        count: one more each time they say that they are at it.
    """

    node: str
    revision: int
    count: int = 0
    done: bool = False


class Settling:
    """Makes sure, at a node's start, that the bucket is the registry of its cluster."""

    def __init__(
        self,
        bucket: Bucket,
        node: str,
        *,
        offers_s: float = OFFERS_S,
        gone_s: float = GONE_S,
        clock: Callable[[], int] = time_ns,
    ) -> None:
        self._bucket = bucket
        self._node = node
        self._offers_s = offers_s
        self._gone_s = gone_s
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Settling {self._node} in {self._bucket.name}>"

    async def settle(
        self, remembered: Remembered, found: Callable[[], Awaitable[None]] | None = None
    ) -> str:
        """Return the id of the registry once it is complete.

        Who founds a cluster gives `found`, which writes what a new registry has from the start; it
        may be called again after an error. Others wait until there is a registry, unless they
        remember one. Raises `Unavailable`; may be called again then.
        """
        id_ = _id_of(remembered.records)
        if id_ and await self._is_lost(id_):
            await self._restore(id_, remembered)
        elif await self._bucket.get(META) is None and found is not None:
            await found()
            await self._make_meta()
        return await self._complete()

    async def _is_lost(self, id_: str) -> bool:
        meta = await self._meta()
        return meta is None or meta.id != id_

    async def _restore(self, id_: str, remembered: Remembered) -> None:
        key, mine = f"rebuilt.{id_}", remembered.revision
        offer = f"offer.{self._node}"
        # Before `meta`, so that who sees that waits.
        await self._claim(key, 0, Rebuilt(node="", revision=0))
        await self._make_meta()
        entry = await self._bucket.get(key)
        told = None if entry is None else decoded(entry.value, Rebuilt)
        if entry is not None and told is not None and not told.node:
            await self._bucket.put(offer, msgspec.json.encode(Offer(id=id_, revision=mine)))
            await asyncio.sleep(self._offers_s)
            if await self._knows_most(id_, mine):
                await self._claim(key, entry.revision, Rebuilt(node=self._node, revision=mine))
        await self._finish(key, id_, remembered)
        await self._bucket.delete(offer)

    async def _knows_most(self, id_: str, mine: int) -> bool:
        best = (mine, self._node)
        for entry in await self._bucket.entries("offer."):
            offer = decoded(entry.value, Offer)
            if offer is not None and offer.id == id_:
                best = max(best, (offer.revision, entry.key.removeprefix("offer.")))
        return best[1] == self._node

    async def _claim(self, key: str, revision: int, claim: Rebuilt) -> None:
        """Write who rebuilds, unless somebody else has written it since this revision."""
        value = msgspec.json.encode(claim)
        with suppress(Conflict):
            if revision:
                await self._bucket.update(key, value, revision)
            else:
                await self._bucket.create(key, value)

    async def _finish(self, key: str, id_: str, remembered: Remembered) -> None:
        """Rebuild if this node has the claim, and wait until it is done."""
        revision, looks = 0, 0
        while True:
            entry = await self._bucket.get(key)
            told = None if entry is None else decoded(entry.value, Rebuilt)
            if entry is not None and told is not None and told.done:
                if told.node != self._node and told.revision < remembered.revision:
                    _log.warning(
                        "the cluster's registry was rebuilt from node %s, which remembered it up "
                        "to write %d, and this node up to %d: what came between them is lost",
                        *(told.node, told.revision, remembered.revision),
                    )
                return
            if entry is not None and told is not None and told.node == self._node:
                if await self._rebuild(key, entry.revision, told, remembered.records):
                    _log.warning(
                        "the cluster's registry was lost; it is rebuilt from what this node "
                        "remembers: %d records of %s",
                        *(len(remembered.records), id_),
                    )
                continue
            now = 0 if entry is None else entry.revision
            looks = looks + 1 if now == revision else 0
            revision = now
            if looks * LOOK_S >= self._gone_s:
                mine = remembered.revision
                await self._claim(key, revision, Rebuilt(node=self._node, revision=mine))
                looks = 0
                continue
            await asyncio.sleep(LOOK_S)

    async def _rebuild(
        self, key: str, revision: int, claim: Rebuilt, records: Sequence[Entry]
    ) -> bool:
        """Write the records that are not there; return False if another one has taken over."""
        try:
            for number, entry in enumerate(_to_restore(records), 1):
                # What is there already was written before this node went on, or is newer.
                with suppress(Conflict):
                    await self._bucket.create(entry.key, entry.value or b"")
                if number % _SAY_SO == 0:
                    claim = msgspec.structs.replace(claim, count=claim.count + 1)
                    value = msgspec.json.encode(claim)
                    revision = await self._bucket.update(key, value, revision)
            done = msgspec.json.encode(msgspec.structs.replace(claim, done=True))
            await self._bucket.update(key, done, revision)
        except Conflict:
            return False
        return True

    async def _complete(self) -> str:
        """Wait until there is a registry that nobody rebuilds, and return its id."""
        is_said = False
        while True:
            meta = await self._meta()
            rebuilt = [
                decoded(one.value, Rebuilt) for one in await self._bucket.entries("rebuilt.")
            ]
            if meta is not None and all(one is None or one.done for one in rebuilt):
                return meta.id
            if not is_said:
                is_said = True
                _log.info("waiting for other nodes, until the cluster has a registry")
            await asyncio.sleep(LOOK_S)

    async def _meta(self) -> Meta | None:
        entry = await self._bucket.get(META)
        return None if entry is None else decoded(entry.value, Meta)

    async def _make_meta(self) -> None:
        meta = Meta(id=os.urandom(16).hex(), created_ns=self._clock())
        with suppress(Conflict):
            await self._bucket.create(META, msgspec.json.encode(meta))


def _to_restore(records: Sequence[Entry]) -> list[Entry]:
    """Return what is written anew, in this order: where applications run before that they do."""
    restored = []
    for entry in records:
        if entry.key.startswith(NOT_RESTORED):
            continue
        if entry.key.startswith("rebuilt."):
            # So that who still remembers an even earlier one does not rebuild that.
            rebuilt = decoded(entry.value, Rebuilt)
            if rebuilt is None or not rebuilt.done:
                continue
        restored.append(entry)
    return sorted(restored, key=lambda one: (not one.key.startswith(_FIRST), one.key))


def _id_of(records: Sequence[Entry]) -> str:
    for entry in records:
        if entry.key == META and (meta := decoded(entry.value, Meta)) is not None:
            return meta.id
    return ""
