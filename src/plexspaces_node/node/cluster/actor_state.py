"""The states of this node's actors: in the cluster's bucket first, and in the registry to read.

A write is acknowledged to its actor when the bucket and the registry have it. The bucket decides
who may write, by the actor's fence; see `fenced_writes`. The actor reads from the registry alone:
what is there is what the bucket has, as long as this node owns the actor.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from plexspaces_node.errors import Internal, NotFound, PlexSpacesError, WrongState
from plexspaces_node.node.applications.state_saver import Parts
from plexspaces_node.node.cluster.fenced_writes import WRITE_S, Claimed, FencedOff, FencedWrites
from plexspaces_node.node.cluster.state_keys import (
    Manifest,
    StateKeys,
    encode,
)
from plexspaces_node.node.cluster.state_transfer import (
    add_to,
    export,
    export_state,
    restore,
    state_entries,
    value_at,
)
from plexspaces_node.node.nats.bucket import Bucket, Fence
from plexspaces_node.node.registry import keyvalue
from plexspaces_node.node.registry.database import Value
from plexspaces_node.node.registry.keyvalue import StoreBound
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.snapshots import SnapshotRecord

_log = logging.getLogger(__name__)

TAKEN_AT_ONCE = 2
"""How many actors are taken over at a time: the short values of each are in memory meanwhile."""


class _Saving:
    """A state on its way into the bucket."""

    def __init__(self, taken_ns: int, floor: int) -> None:
        self.taken_ns = taken_ns
        # Everything older below the states' prefix is of other states.
        self.floor = floor
        self.digest = hashlib.sha256()
        self.written_bytes = 0


class _Owned:
    """An actor that this node owns."""

    def __init__(self, name: str, keys: StateKeys, writes: FencedWrites) -> None:
        self.name = name
        self.keys = keys
        self.writes = writes
        # One operation at a time: the registry has everything in the order of the bucket.
        self.lock = asyncio.Lock()
        # Keys whose values in the bucket have parts.
        self.parted: set[str] = set()
        # Keys of which the bucket may have another value than the registry.
        self.unsure: set[str] = set()
        self.saving: _Saving | None = None

    async def fill(self, bucket: Bucket, registry: Registry) -> None:
        """Write all that the registry has, once, under the fence as it is."""

        def write(entries: Sequence[tuple[str, bytes]]) -> Awaitable[int]:
            return bucket.put_all(entries, fence=self.writes.fence)

        self.parted = await export(registry, self.name, self.keys, write)
        # What it has written before is lost.
        self.saving = None


class ReplicatedStore:
    """Keys and states of actors in a cluster; an `applications.clustered.ActorStore`.

    Used on one event loop. What an actor asks for raises `FencedOff`, which is `Unavailable`, if
    this node does not own it, and `Unavailable` if the bucket does not answer in time; a write may
    then have been done all the same, and its next reader sees whether it was.
    """

    def __init__(
        self,
        registry: Registry,
        bucket: Bucket,
        *,
        node: str,
        on_fenced: Callable[[str], None],
        write_s: float = WRITE_S,
    ) -> None:
        """Own nothing yet; `on_fenced` is called with the name of an actor that another node owns.

        `write_s` is how long a write is tried.
        """
        self._registry = registry
        self._bucket = bucket
        self._node = node
        self._on_fenced = on_fenced
        self._write_s = write_s
        self._owned: dict[str, _Owned] = {}
        self._taking = asyncio.Semaphore(TAKEN_AT_ONCE)

    def __repr__(self) -> str:
        return f"<ReplicatedStore of {len(self._owned)} actors>"

    # ---- owning ------------------------------------------------------------------------

    async def take(self, name: str, id_: str, epoch: int, *, is_first: bool = False) -> Fence:
        """Own an actor from now on: fence off every earlier owner, and fetch what it has written.

        `epoch` is the revision of its placement on this node. The registry has its row already, and
        it must not run. `is_first` says that it has never run, so that there is nothing to fetch.
        If the bucket has lost what it had, this node's copy is written to it. Raises `WrongState`
        if it was placed elsewhere since, or is lost; `NotFound` if it was undeployed; `Damaged`,
        `Unavailable`, and errors of the registry: this can be repeated after them.
        """
        await self._leave(name)
        copies, keys = self._registry.copies, StateKeys(name, id_)
        async with self._taking:
            copy = await copies.epoch(name)
            writes = FencedWrites(
                self._bucket,
                name,
                keys.fence,
                epoch=epoch,
                node=self._node,
                on_lost=partial(self._fenced, name),
                rebuild=lambda: owned.fill(self._bucket, self._registry),
                write_s=self._write_s,
            )
            owned = _Owned(name, keys, writes)
            if await writes.claim(is_first=is_first, has_copy=copy is not None) is Claimed.LOST:
                _log.warning(
                    "application %s: the cluster has lost its state, which is restored from this "
                    "node's copy of placement %s",
                    *(name, copy),
                )
                await writes.settle()
            else:
                await copies.set_epoch(name, None)
                owned.parted = await restore(self._bucket, self._registry, name, keys)
            await copies.set_epoch(name, epoch)
            # Under no fence that has been moved meanwhile.
            fence = writes.fence
        self._owned[name] = owned
        return fence

    async def leave(self, name: str) -> None:
        """Own an actor no more: another node may do so now. Idempotent.

        What this node has of it is no copy any more, so it must not be stopped before its last
        state is saved. Raises errors of the registry.
        """
        await self._leave(name)
        # Unless its row went before.
        with suppress(NotFound):
            await self._registry.copies.set_epoch(name, None)

    # ---- keys --------------------------------------------------------------------------

    async def kv_get(self, name: str, key: str) -> bytes | None:
        owned = self._find(name)
        if key in owned.unsure:
            async with owned.lock:
                await self._resolve(owned, key)
        return await self._registry.kv_get(name, key)

    async def kv_put(
        self, name: str, key: str, value: Value, bound: StoreBound | None = None
    ) -> None:
        keyvalue.check_key(key)
        owned = self._find(name)
        async with owned.lock:
            # Before it is anywhere: what is refused is written nowhere.
            await self._registry.copies.check_put(name, key, len(value), bound)
            await self._change(owned, key, owned.keys.written(key, bytes(value)))
            await self._registry.copies.put(name, [(key, value)])
            owned.unsure.discard(key)

    async def kv_delete(self, name: str, key: str) -> None:
        keyvalue.check_key(key)
        owned = self._find(name)
        async with owned.lock:
            if key in owned.unsure or await self._registry.kv_get(name, key) is not None:
                await self._change(owned, key, [])
            await self._registry.kv_delete(name, key)
            owned.unsure.discard(key)

    async def _change(self, owned: _Owned, key: str, entries: list[tuple[str, bytes]]) -> None:
        """Write a key's entries, or delete it; the registry follows."""
        bucket, head = self._bucket, owned.keys.value(key)
        had_parts = key in owned.parted or key in owned.unsure
        owned.unsure.add(key)
        floor = owned.writes.last + 1
        if len(entries) > 1:
            await owned.writes.write(lambda fence: bucket.put_all(entries, fence=fence))
            owned.parted.add(key)
        else:
            if entries:
                [(_, value)] = entries
                floor = await owned.writes.write(lambda fence: bucket.put(head, value, fence=fence))
            else:
                floor = await owned.writes.write(lambda fence: bucket.delete(head, fence=fence))
            owned.parted.discard(key)
        if had_parts:
            await self._purge(owned.keys.parts(key), floor)

    async def _resolve(self, owned: _Owned, key: str) -> None:
        """Find out what has become of a write that was not acknowledged, for the registry."""
        if key not in owned.unsure:
            return
        await owned.writes.settle()
        found = await self._bucket.get(owned.keys.value(key))
        # Read under this fence: by nobody else it was written since.
        if found is None or found.value is None:
            await self._registry.kv_delete(owned.name, key)
        else:
            value = await value_at(self._bucket, owned.keys, key, found.value)
            await self._registry.copies.put(owned.name, [(key, value)])
            # Perhaps in parts.
            owned.parted.add(key)
        owned.unsure.discard(key)

    # ---- states ------------------------------------------------------------------------

    async def add_to_snapshot(self, name: str, taken_ns: int, parts: Parts) -> None:
        owned = self._find(name)
        async with owned.lock:
            await self._write_parts(owned, taken_ns, parts[0][0] if parts else 0, parts)
            await self._registry.add_to_snapshot(name, taken_ns, parts)

    async def save_snapshot(self, name: str, record: SnapshotRecord, parts: Parts) -> bool:
        owned = self._find(name)
        async with owned.lock:
            begin = parts[0][0] if parts else record.size_bytes
            saving = await self._write_parts(owned, record.taken_ns, begin, parts)
            if saving.written_bytes != record.size_bytes:
                owned.saving = None
                raise Internal(
                    f"a state of {record.size_bytes} bytes has parts of {saving.written_bytes}"
                )
            manifest = Manifest(
                taken_ns=record.taken_ns,
                size_bytes=record.size_bytes,
                digest=saving.digest.hexdigest(),
            )
            await self._write(owned, saving, [(owned.keys.manifest, encode(manifest))])
            is_pruned = await self._registry.save_snapshot(name, record, parts)
            owned.saving = None
            await self._purge(owned.keys.states, saving.floor)
            return is_pruned

    async def prune_snapshots(self, name: str) -> bool:
        # What is left of them in the bucket goes with the next one.
        return await self._registry.prune_snapshots(name)

    async def load_snapshot(self, name: str) -> SnapshotRecord | None:
        return await self._registry.load_snapshot(name)

    async def read_part(self, name: str, taken_ns: int, begin: int) -> bytes:
        return await self._registry.read_part(name, taken_ns, begin)

    async def _write_parts(self, owned: _Owned, taken_ns: int, start: int, parts: Parts) -> _Saving:
        """Write parts of a state that begin at `start`; what is before is there, or is written."""
        saving = owned.saving
        if saving is None or saving.taken_ns != taken_ns:
            saving = owned.saving = _Saving(taken_ns, owned.writes.last + 1)
        write = partial(self._write, owned, saving)
        if saving.written_bytes < start:
            # Its first parts were written before this node took the actor anew.
            saving.digest = await export_state(
                *(self._registry, owned.name, owned.keys, taken_ns, start), write
            )
            saving.written_bytes = start
        for begin, body in parts:
            part = bytes(body)
            await write(state_entries(owned.keys, taken_ns, begin, part))
            # Not again, if it is written again because the registry has refused it.
            if begin == saving.written_bytes:
                await add_to(saving.digest, part)
                saving.written_bytes += len(part)
        return saving

    # ---- the bucket --------------------------------------------------------------------

    def _find(self, name: str) -> _Owned:
        owned = self._owned.get(name)
        if owned is None:
            raise FencedOff(
                f"application {name!r} is not owned by this node", hint="plexspaces nodes"
            )
        return owned

    async def _write(
        self, owned: _Owned, saving: _Saving, entries: Sequence[tuple[str, bytes]]
    ) -> None:
        """Write what belongs to a state, unless its other parts were lost with the bucket."""

        async def act(fence: Fence) -> int:
            if owned.saving is not saving:
                raise WrongState("what was written of this state was lost: it is written anew")
            return await self._bucket.put_all(entries, fence=fence)

        await owned.writes.write(act)

    async def _purge(self, prefix: str, before: int) -> None:
        """Remove what has been replaced; what stays goes with the next one."""
        try:
            await self._bucket.purge(prefix, before=before)
        except PlexSpacesError as error:
            _log.info("what was replaced below %s stays for now: %s", prefix, error)

    async def _leave(self, name: str) -> None:
        owned = self._owned.pop(name, None)
        if owned is not None:
            owned.writes.leave()
            async with owned.lock:
                # The registry is not written for it any more.
                pass

    def _fenced(self, name: str) -> None:
        _log.warning("application %s: another node owns it now", name)
        self._on_fenced(name)
