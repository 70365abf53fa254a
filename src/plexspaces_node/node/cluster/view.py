"""What this node knows of its cluster: the registry's records, decoded, in memory.

One watch follows the whole bucket. While it does not answer, the view is as it was: a node serves
on with what it knew. What cannot be read is left out, and said once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.model import NAME_PATTERN, full_name
from plexspaces_node.node.cluster import checks
from plexspaces_node.node.cluster.known import Kind, Known
from plexspaces_node.node.cluster.records import (
    LEADER,
    Application,
    Beat,
    Leader,
    Node,
    Placed,
    Status,
)
from plexspaces_node.node.nats.bucket import Bucket, Entry, Synced
from plexspaces_node.tasks import Leave

_log = logging.getLogger(__name__)

RETRY_S = 1.0
"""How long after a watch that failed the next one begins."""

MOST_RECORD_BYTES = 1 << 20
"""The largest record that is read: what a NATS message holds."""

_MOST_COMPLAINTS = 1000
"""About how many keys that cannot be read something is said at most."""

_TURN = 256
"""After so many records others get a turn on the event loop."""


_KINDS: Mapping[str, Kind] = {kind.value: kind for kind in Kind}

_TYPES: Mapping[Kind, type[msgspec.Struct]] = {
    Kind.NODE: Node,
    Kind.BEAT: Beat,
    Kind.LEADER: Leader,
    Kind.APPLICATION: Application,
    Kind.PLACED: Placed,
    Kind.STATUS: Status,
}

_MOST: Mapping[Kind, int] = {
    Kind.NODE: 10_000,
    Kind.BEAT: 10_000,
    Kind.LEADER: 1,
    Kind.APPLICATION: 500_000,
    Kind.PLACED: 500_000,
    Kind.STATUS: 2_000_000,
}
"""How many records of a kind are held; the others are left out."""

OnChange: TypeAlias = Callable[[Kind, str], None]
"""Called after a record has changed, with its kind and whose it is: a node's id, an application's
full name, "" for the leader. On the event loop; must neither block nor raise."""

OnEntry: TypeAlias = Callable[[Entry], None]
"""Called with a record as it was told; its value is None if it was deleted."""


class ClusterView(Known):
    """The records of a registry, followed by one watch. Used on one event loop.

    Attributes:
        synced: set once the bucket has told everything that it has; never cleared.
    """

    def __init__(self, bucket: Bucket) -> None:
        """Know nothing yet; see `load` and `run`."""
        super().__init__()
        self.synced = asyncio.Event()
        self._bucket = bucket
        self._decoders = {kind: msgspec.json.Decoder(type_) for kind, type_ in _TYPES.items()}
        self._listeners: list[OnChange] = []
        self._followers: list[tuple[str, OnEntry]] = []
        # Every key that there is, also of what cannot be read: what a new watch does not tell again
        # is gone.
        self._keys: set[str] = set()
        # What the watch has told last of each key that is there, and who waits for more.
        self._told: dict[str, int] = {}
        self._awaited: dict[str, asyncio.Event] = {}
        self._unreadable: set[str] = set()
        self._complained: set[str] = set()
        # Own writes that the watch has not told yet: what it tells that is older, is not news.
        self._written: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<ClusterView {len(self._nodes)} nodes, {len(self._applications)} applications>"

    def is_unreadable(self, key: str) -> bool:
        """Return whether a record is there that cannot be read, perhaps of a later version."""
        return key in self._unreadable

    def on_change(self, call: OnChange) -> Leave:
        """Call something after each change, until the returned function is called."""
        self._listeners.append(call)
        return lambda: self._listeners.remove(call) if call in self._listeners else None

    def follow(self, prefix: str, call: OnEntry) -> None:
        """Call something with each record below a prefix; "" is everything.

        To be called before `load` and `run`: what was told before is not told again.
        """
        self._followers.append((prefix, call))

    def load(self, entries: Iterable[Entry]) -> None:
        """Begin with records that were kept from before; the bucket's replace them."""
        for entry in entries:
            self._take(entry)

    def wrote(self, entry: Entry) -> None:
        """Take over a write of this node that was acknowledged, before the watch tells it.

        Not of a key that is new: if somebody deletes it at once, a watch never tells that.
        """
        if entry.key in self._told and entry.revision > self._revision(entry.key):
            self._written[entry.key] = entry.revision
            self._take(entry)

    async def caught_up(self, key: str, revision: int) -> None:
        """Wait until a write has been told: then so has everything that was written before it.

        A node that says by a record what it is about to do, waits for this, and then finds nobody
        who has said the same before, is the first.
        """
        while self._told.get(key, 0) < revision:
            await self._awaited.setdefault(key, asyncio.Event()).wait()

    async def run(self) -> None:
        """Follow the bucket, until cancelled; begins anew when a watch fails."""
        while True:
            try:
                await self._follow_once()
            except PlexSpacesError as error:
                _log.info("the registry is not told: %s", error)
            await asyncio.sleep(RETRY_S)

    async def _follow_once(self) -> None:
        self._told = {}
        is_first = True
        count = 0
        async for change in self._bucket.watch(""):
            if isinstance(change, Synced):
                if is_first:
                    for key in self._keys - self._told.keys():
                        self._take(Entry(key, None, 0))
                    is_first = False
                self._written.clear()
                self.synced.set()
                continue
            if change.value is None:
                self._told.pop(change.key, None)
            else:
                self._told[change.key] = change.revision
            if self._written.get(change.key, 0) <= change.revision:
                self._written.pop(change.key, None)
                self._take(change)
            if (awaited := self._awaited.pop(change.key, None)) is not None:
                awaited.set()
            count += 1
            if count % _TURN == 0:
                await asyncio.sleep(0)

    def _revision(self, key: str) -> int:
        if (parsed := parse_key(key)) is None:
            return 0
        found = self._records[parsed[0]].get(parsed[1])
        return found[1] if found is not None else 0

    def _take(self, entry: Entry) -> None:
        """Take over a record, or its end."""
        for prefix, call in self._followers:
            if entry.key.startswith(prefix):
                call(entry)
        if entry.value is None:
            self._keys.discard(entry.key)
            self._unreadable.discard(entry.key)
            self._complained.discard(entry.key)
        else:
            self._keys.add(entry.key)
        kind = _kind_of(entry.key)
        if kind is None:
            return
        if (parsed := parse_key(entry.key)) is None:
            self._complain(entry.key, "its key is not one")
            return
        subject = parsed[1]
        if entry.value is None:
            if subject in self._records[kind]:
                self._tell(kind, self._keep(kind, subject, None, 0))
            return
        if (record := self._decoded(kind, subject, entry)) is None:
            # What was there before stays: somebody could read it.
            self._unreadable.add(entry.key)
            return
        self._unreadable.discard(entry.key)
        self._complained.discard(entry.key)
        before = self._records[kind].get(subject)
        if before is not None and before == (record, entry.revision):
            return
        self._tell(kind, self._keep(kind, subject, record, entry.revision))

    def _tell(self, kind: Kind, whose: str) -> None:
        for call in list(self._listeners):
            call(kind, whose)

    def _decoded(self, kind: Kind, subject: str, entry: Entry) -> Any:
        """Return a record that is sound; None for any other, about which something is said."""
        assert entry.value is not None
        records = self._records[kind]
        if len(entry.value) > MOST_RECORD_BYTES:
            self._complain(entry.key, f"it has {len(entry.value)} bytes")
            return None
        if len(records) >= _MOST[kind] and subject not in records:
            self._complain(entry.key, f"there are {len(records)} of its kind already")
            return None
        try:
            record = self._decoders[kind].decode(entry.value)
            checks.check(record, subject)
        # Not the error's text, which may repeat what is in the record.
        except (msgspec.MsgspecError, PlexSpacesError, RecursionError) as error:
            self._complain(entry.key, type(error).__name__)
            return None
        return record

    def _complain(self, key: str, why: str) -> None:
        """Say once of a record that it is left out."""
        if key in self._complained or len(self._complained) >= _MOST_COMPLAINTS:
            return
        self._complained.add(key)
        _log.warning("the registry's record %.200r is left out: %s", key, why)


def parse_key(key: str) -> tuple[Kind, str] | None:
    """Return of what kind a record is, and whose; None for a key of another kind.

    Whose: a node's id, an application's full name, NODE/FULL NAME for a status, "" for the leader.
    """
    if key == LEADER:
        return Kind.LEADER, ""
    kind, *parts = key.split(".")
    if not all(map(NAME_PATTERN.fullmatch, parts)):
        return None
    match kind, parts:
        case ("node" | "beat", [node]):
            return Kind(kind), node
        case ("app" | "placed", [tenant, name]):
            return Kind(kind), full_name(tenant, name)
        case ("status", [node, tenant, name]):
            return Kind.STATUS, f"{node}/{full_name(tenant, name)}"
    return None


def _kind_of(key: str) -> Kind | None:
    """Return of which kind a key says it is."""
    return _KINDS.get(key.partition(".")[0])
