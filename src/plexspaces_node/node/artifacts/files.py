"""The files of a store: where they are, and whether they are still intact.

    ROOT/artifacts/<sha256>.wasm           what users sent; its time is when it was used last
    ROOT/artifacts/<tenant>/<sha256>.wasm  the same of another tenant than `default`
    ROOT/cache/                            native code made from it, see `native_cache`

An artifact is named like an application: by its digest, with its tenant before. Two tenants that
send the same bytes have two artifacts, so that neither can find out about the other.

Files appear complete, by rename; names that begin with `.tmp-` are leftovers of a crash and are
removed at start. An artifact's native code is removed before the artifact, so that after a crash
between the two it is compiled again. What is found on the disk, or found damaged and removed, is
recorded in the inventory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.model import check_name, full_name, split_name
from plexspaces_node.node.artifacts.eviction import Inventory
from plexspaces_node.node.artifacts.native_cache import Entry, NativeCache, places
from plexspaces_node.node.artifacts.upload import TEMPORARY
from plexspaces_node.node.disk import clear, is_whole, room_of, sync, using_disk
from plexspaces_node.tasks import finished

_log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactFiles:
    """Artifacts and their native code on the disk, compared with their digests before use."""

    def __init__(self, root: Path, engine: str, inventory: Inventory) -> None:
        self.directory = root / "artifacts"
        self.native = NativeCache(root / "cache", engine)
        self._inventory = inventory
        # Held while a file is compared with its digest, so that at most one thread does that.
        self._checking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<ArtifactFiles {self.directory}>"

    def path(self, name: str) -> Path:
        """Return the path of an artifact; raises `InvalidArgument` for a bad digest or tenant."""
        tenant, digest = split_name(name)
        if not _DIGEST.fullmatch(digest):
            raise InvalidArgument(
                f"digest {digest!r} is not 64 lowercase hexadecimal digits", hint="sha256sum FILE"
            )
        check_name(tenant, what="tenant")
        return self.directory / f"{full_name(tenant, digest)}.wasm"

    async def open(self) -> None:
        """Create the directories, remove leftovers, and record existing files in the inventory."""
        for found in await asyncio.to_thread(self._scan):
            self._inventory.put(
                found.key,
                found.name,
                wasm_bytes=found.wasm_bytes,
                native_bytes=found.native_bytes,
            )

    async def find_native(self, name: str) -> Entry | None:
        """Return an artifact's native code, or None; damaged code is removed."""
        key = self.native.key(name)
        async with self._checking:
            # Not cancelled: damaged code must not be removed after it was compiled again.
            entry = await finished(asyncio.to_thread(self.native.find, key))
        if entry is None:
            self._inventory.put(key, native_bytes=0)
        return entry

    async def is_whole(self, name: str) -> bool:
        """Compare a held artifact with its digest; remove it if it differs."""
        async with self._checking:
            if await finished(asyncio.to_thread(_keep_whole, self.path(name))):
                return True
        self._inventory.put(self.native.key(name), wasm_bytes=0)
        return False

    async def check_whole(self, name: str) -> None:
        """Raise `NotFound` if an artifact is missing or damaged; see `is_whole`."""
        if not await self.is_whole(name):
            raise missing(name)

    async def size_bytes(self, name: str) -> int | None:
        """Return the length of an artifact; None if it is missing."""
        return await asyncio.to_thread(_size, self.path(name))

    def write_down(self, used: Mapping[str, int]) -> None:
        """Store on disk when artifacts were last used, in nanoseconds since 1970. Blocks."""
        # For the order after the next start; losing it costs at most a compilation.
        for name, used_ns in used.items():
            with suppress(OSError, InvalidArgument):
                os.utime(self.path(name), ns=(used_ns, used_ns))

    def remove(self, key: str, name: str) -> None:
        """Remove native code, and the artifact if its name is known. Blocks, raises `OSError`."""
        self.native.remove(key)
        if name:
            self.path(name).unlink(missing_ok=True)

    def _scan(self) -> list[_Found]:
        found: dict[str, _Found] = {}
        with using_disk(self.directory.parent):
            for directory in (self.directory, self.native.directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                for leftover in directory.glob(f"{TEMPORARY}*"):
                    clear(leftover)
            sync(self.directory.parent)
            for tenant, place in places(self.directory):
                for path in place.glob("*.wasm"):
                    if _DIGEST.fullmatch(path.stem):
                        name, status = full_name(tenant, path.stem), path.stat()
                        key = self.native.key(name)
                        room_bytes = room_of(status.st_size)
                        found[key] = _Found(key, name, status.st_mtime, room_bytes)
            for key, entry, used_s in self.native.prune():
                # There may be only code, if somebody deleted the artifact by hand.
                known = found.setdefault(key, _Found(key, "", used_s, 0))
                known.native_bytes = entry.room_bytes
        return sorted(found.values(), key=lambda one: (one.used_s, one.key))


def missing(name: str) -> NotFound:
    """Return the error for a missing artifact."""
    return NotFound(
        f"artifact {split_name(name)[1]} is missing or corrupt",
        hint="deploy the file again, under any name",
    )


@dataclass(slots=True)
class _Found:
    """What is found of an artifact at start."""

    key: str
    name: str
    used_s: float
    wasm_bytes: int
    native_bytes: int = 0


def _keep_whole(path: Path) -> bool:
    with using_disk(path.parent), suppress(FileNotFoundError):
        if is_whole(path, path.stem):
            return True
        _log.warning("artifact %s is corrupt: removed", path)
        path.unlink()
    return False


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
