"""What this node remembers of its cluster's registry, on its own disk.

It follows the bucket, off the way of those who change it: changes are written together, in the
order of the bucket. So what a node remembers is what the bucket was at some write of it, and of two
nodes the one that remembers a later write knows everything that the other does. `rebuild` rests on
that.

Signs of life are not remembered: they are worth nothing later, and come every second.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TypeVar

import msgspec

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.nats.bucket import Bucket, Change, Entry, Synced
from plexspaces_node.node.registry.cluster_records import ClusterRows

_log = logging.getLogger(__name__)

META = "meta"
"""The key of `Meta`."""

MOST_RECORDS = 400_000
"""How many records a node remembers: three for each of 100,000 applications, and others."""

MOST_VALUE_BYTES = 1024 * 1024
"""The longest value: more is not sent in a message of NATS."""

AGAIN_S = 1.0
"""Until a write that failed is tried again."""

_BATCH = 256
_FORGOTTEN = ("beat.", "leader", "offer.")
_OTHER = -1

_T = TypeVar("_T")


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """Which registry it is: written once, when its bucket is new.

    Attributes:
        id: at random, 32 hexadecimal digits.
        created_ns: when, in Unix time.
    """

    id: str
    created_ns: int


def decoded(value: bytes | None, type_: type[_T]) -> _T | None:
    """Return what a record says, None for one that says nothing this version can read."""
    if value is None or len(value) > MOST_VALUE_BYTES:
        return None
    try:
        return msgspec.json.decode(value, type=type_)
    except (msgspec.DecodeError, RecursionError):
        return None


class Mirror:
    """Writes the changes of a bucket into the registry's file. Used on one event loop.

    Attributes:
        is_of_another: whether the bucket was exchanged since; nothing is taken from it any more.
    """

    def __init__(
        self, rows: ClusterRows, *, most: int = MOST_RECORDS, again_s: float = AGAIN_S
    ) -> None:
        """Remember nothing yet; see `load`."""
        self._rows = rows
        self._again_s = again_s
        self.is_of_another = False
        self._most = most
        # Up to which write all is on the disk, and the last that is.
        self._revision = self._last = 0
        self._id = ""
        # Of each record on the disk; `_OTHER` if it is of another bucket.
        self._known: dict[str, int] = {}
        self._waiting: dict[str, Entry] = {}
        self._told: set[str] | None = set()
        self._refused = False
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<Mirror {len(self._known)} records, {len(self._waiting)} to write>"

    async def load(self) -> list[Entry]:
        """Return what is remembered, by key; before anything is noted."""
        remembered = await self._rows.load()
        self._known = {one.key: one.revision for one in remembered.records}
        self._revision = self._last = remembered.revision
        for one in remembered.records:
            if one.key == META and (meta := decoded(one.value, Meta)) is not None:
                self._id = meta.id
        return list(remembered.records)

    def note(self, change: Change) -> None:
        """Take a change of the bucket, in its order; returns at once.

        What is not told before the first `SYNCED` does not exist any more. After the bucket was
        exchanged for another nothing is taken, and what is remembered stays: see `rebuild`.
        """
        if self.is_of_another:
            return
        if isinstance(change, Synced):
            self._synced()
        elif change.key == META and self._told is None:
            self._check_same(change)
        elif not change.key.startswith(_FORGOTTEN):
            self._take(change)

    async def follow(self, bucket: Bucket) -> None:
        """Note every change of a bucket; it never ends. For who has no other view of it."""
        async for change in bucket.watch(""):
            self.note(change)

    async def run(self) -> None:
        """Write what is noted; it never ends."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._told is None and self._waiting:
                try:
                    await self._write_some()
                except PlexSpacesError as error:
                    _log.warning("changes of the cluster are not remembered for now: %s", error)
                    await asyncio.sleep(self._again_s)
            if not self._waiting:
                self._idle.set()

    async def written(self) -> None:
        """Return once everything that was noted is on the disk."""
        await self._idle.wait()

    def _take(self, entry: Entry) -> None:
        key = entry.key
        if self._told is not None:
            self._told.add(key)
            if key == META:
                self._check_remembered(entry)
        if entry.value is None:
            if key not in self._known and key not in self._waiting:
                return
        elif self._known.get(key) == entry.revision:
            self._waiting.pop(key, None)
            return
        elif len(entry.value) > MOST_VALUE_BYTES or self._is_full(key):
            if not self._refused:
                self._refused = True
                _log.warning(
                    "the record %.80r of the cluster is not remembered: it has %d bytes, and there "
                    "are %d records",
                    *(key, len(entry.value), len(self._known)),
                )
            return
        self._waiting.pop(key, None)
        self._waiting[key] = entry
        self._wake()

    def _is_full(self, key: str) -> bool:
        if key in self._known or key in self._waiting:
            return False
        return len(self._known) + len(self._waiting) >= self._most

    def _synced(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            for key in self._known.keys() - told:
                self._waiting[key] = Entry(key, None, 0)
            # Last: until it is there, the others may be of the former one.
            if (meta := self._waiting.pop(META, None)) is not None:
                self._waiting[META] = meta
        self._wake()

    def _check_remembered(self, entry: Entry) -> None:
        meta = decoded(entry.value, Meta)
        if meta is not None and meta.id != self._id:
            # Revisions of another bucket say nothing about this one's.
            self._known = dict.fromkeys(self._known, _OTHER)
            self._revision, self._last, self._id = 0, 0, meta.id

    def _check_same(self, entry: Entry) -> None:
        meta = decoded(entry.value, Meta)
        if meta is None or meta.id != self._id:
            self.is_of_another = True
            _log.error(
                "the cluster's registry was removed or exchanged while this node runs; what it "
                "remembers of it stays: restart the nodes, and they rebuild it"
            )

    def _wake(self) -> None:
        if self._waiting:
            self._idle.clear()
            if self._told is None:
                self._changed.set()

    async def _write_some(self) -> None:
        batch = [entry for entry, _ in zip(self._waiting.values(), range(_BATCH), strict=False)]
        # Until all is written, one that changed again may be missing among earlier ones.
        is_all = len(batch) == len(self._waiting)
        self._last = max(self._last, *(one.revision for one in batch))
        revision = self._last if is_all else self._revision
        await self._rows.write(batch, revision)
        self._revision = revision
        for one in batch:
            if self._waiting.get(one.key) is one:
                del self._waiting[one.key]
            if one.value is None:
                self._known.pop(one.key, None)
            else:
                self._known[one.key] = one.revision
