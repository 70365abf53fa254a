"""An actor's keys and saved state between the bucket and a node's own copy, all of them.

Little of it is in memory at a time: a value, or a part of a state; of the short values all at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.cluster.state_keys import (
    Manifest,
    Parted,
    StateKeys,
    chunks,
    decode,
    encode,
    value_of,
)
from plexspaces_node.node.nats.bucket import Bucket
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.snapshots import SnapshotRecord
from plexspaces_node.node.registry.sqlite_errors import Damaged

PAGE_BYTES = 1024 * 1024
"""How much is read or written at once."""

Write: TypeAlias = Callable[[Sequence[tuple[str, bytes]]], Awaitable[object]]
"""Writes entries to the bucket, in this order."""


async def restore(bucket: Bucket, registry: Registry, name: str, keys: StateKeys) -> set[str]:
    """Make a node's copy what the bucket has; return the keys whose values are in parts.

    Raises `Damaged` if what the bucket has is not what was written, `Unavailable`, and errors of
    the registry; the copy is not complete then.
    """
    parted = await _restore_keys(bucket, registry, name, keys)
    found = await bucket.get(keys.manifest)
    if found is None or found.value is None:
        await registry.copies.clear_state(name)
        return parted
    manifest = decode(found.value, Manifest)
    if not await _has(registry, name, manifest):
        await registry.copies.clear_state(name)
        await _restore_state(bucket, registry, name, keys, manifest)
    return parted


async def export(registry: Registry, name: str, keys: StateKeys, write: Write) -> set[str]:
    """Write everything that a node's copy has; return the keys whose values are in parts."""
    parted, after = set(), ""
    while page := await registry.copies.page(name, after, PAGE_BYTES):
        entries = []
        for key, value in page:
            written = keys.written(key, value)
            entries += written
            if len(written) > 1:
                parted.add(key)
        await write(entries)
        after = page[-1][0]
    saved = await registry.load_snapshot(name)
    if saved is not None:
        digest = await export_state(registry, name, keys, saved.taken_ns, saved.size_bytes, write)
        manifest = Manifest(
            taken_ns=saved.taken_ns, size_bytes=saved.size_bytes, digest=digest.hexdigest()
        )
        await write([(keys.manifest, encode(manifest))])
    return parted


async def export_state(  # noqa: PLR0913 - what is read, and where it goes
    registry: Registry, name: str, keys: StateKeys, taken_ns: int, size_bytes: int, write: Write
) -> hashlib._Hash:
    """Write the first bytes of a state as the registry has them; return their digest so far."""
    digest, begin = hashlib.sha256(), 0
    while begin < size_bytes:
        part = await registry.read_part(name, taken_ns, begin)
        await write(state_entries(keys, taken_ns, begin, part))
        await add_to(digest, part)
        begin += len(part)
    return digest


def state_entries(
    keys: StateKeys, taken_ns: int, begin: int, part: bytes
) -> list[tuple[str, bytes]]:
    """Return the entries of the bucket for a part of a state."""
    return [(keys.state(taken_ns, at), chunk) for at, chunk in chunks(begin, part)]


async def add_to(digest: hashlib._Hash, part: bytes | bytearray) -> None:
    """Add a part to a digest, off the event loop."""
    await asyncio.to_thread(digest.update, part)


async def value_at(bucket: Bucket, keys: StateKeys, key: str, entry: bytes) -> bytes:
    """Return the value that an entry of the bucket is or names; raises `Damaged`."""
    value = value_of(entry)
    if not isinstance(value, Parted):
        return value
    whole, number = bytearray(), 0
    while len(whole) < value.size_bytes:
        part = await bucket.get(keys.part(key, value.put, number))
        if part is None or not part.value:
            break
        whole += part.value
        number += 1
    digest = hashlib.sha256()
    await add_to(digest, whole)
    if digest.hexdigest() != value.digest:
        raise _damaged(f"the value of a key of {len(whole)} bytes")
    return bytes(whole)


async def _restore_keys(bucket: Bucket, registry: Registry, name: str, keys: StateKeys) -> set[str]:
    entries = await bucket.entries(keys.values)
    await registry.copies.clear_keys(name)
    parted, page, size = set(), [], 0
    while entries:
        entry = entries.pop()
        if entry.value is None:
            continue
        key = keys.key_of(entry.key)
        value = await value_at(bucket, keys, key, entry.value)
        if isinstance(value_of(entry.value), Parted):
            parted.add(key)
        page.append((key, value))
        size += len(value)
        if size >= PAGE_BYTES or not entries:
            await registry.copies.put(name, page)
            page, size = [], 0
    return parted


async def _has(registry: Registry, name: str, manifest: Manifest) -> bool:
    """Return whether a node's copy has this very state already."""
    if await registry.load_snapshot(name) != SnapshotRecord(manifest.taken_ns, manifest.size_bytes):
        return False
    digest, begin = hashlib.sha256(), 0
    with suppress(PlexSpacesError):
        while begin < manifest.size_bytes:
            part = await registry.read_part(name, manifest.taken_ns, begin)
            await add_to(digest, part)
            begin += len(part)
    return digest.hexdigest() == manifest.digest


async def _restore_state(
    bucket: Bucket, registry: Registry, name: str, keys: StateKeys, manifest: Manifest
) -> None:
    digest, begin = hashlib.sha256(), 0
    while begin < manifest.size_bytes:
        part = await bucket.get(keys.state(manifest.taken_ns, begin))
        if part is None or not part.value:
            raise _damaged(f"the saved state at byte {begin}")
        await registry.add_to_snapshot(name, manifest.taken_ns, [(begin, part.value)])
        await add_to(digest, part.value)
        begin += len(part.value)
    if begin != manifest.size_bytes or digest.hexdigest() != manifest.digest:
        raise _damaged(f"a saved state of {begin} bytes")
    record = SnapshotRecord(manifest.taken_ns, manifest.size_bytes)
    is_pruned = await registry.save_snapshot(name, record, [])
    while not is_pruned:
        is_pruned = await registry.prune_snapshots(name)


def _damaged(what: str) -> Damaged:
    return Damaged(
        f"the cluster's bucket has {what} that is not what was written",
        hint="restore a backup (docs/backup.md), or undeploy the application and deploy it",
    )
