"""The cache of finished builds: one file each, named by the digest of everything it was made from.

Limited in size; the builds unused for longest are removed first. Safe for concurrent builds: a file
appears complete or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from plexspaces_node.model import MIB
from plexspaces_node.toolchains.places import CACHE_HINT, writing

MAX_BYTES = 1024 * MIB
_SCRATCH_PREFIX = "scratch-"
_SCRATCH_LIFE_S = 24 * 3600.0


class BuildCache:
    """The cached builds in one directory, which is created at the first write."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def __repr__(self) -> str:
        return f"BuildCache({str(self._directory)!r})"

    def find(self, digest: str) -> Path | None:
        """Return the build of this digest and mark it as used, or None. Blocks."""
        path = self._path(digest)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def store(self, digest: str, built: Path) -> Path:
        """Move a finished file, of the same file system, into the cache. Blocks."""
        path = self._path(digest)
        with built.open("rb") as file:
            # Before the name exists: after a power loss a file without content would stay.
            os.fsync(file.fileno())
        built.replace(path)
        self._prune(keep=path)
        return path

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty directory on the cache's file system, removed afterwards. Blocks.

        Raises `InvalidArgument` if the cache cannot be written.
        """
        with writing(f"the build cache {self._directory}", hint=CACHE_HINT):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=self._directory))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest}.wasm"

    def _prune(self, *, keep: Path) -> None:
        self._remove_abandoned_scratch()
        left = self._max_bytes
        builds = [found for path in self._directory.glob("*.wasm") if (found := _seen(path))]
        for path, status in sorted(builds, key=lambda b: b[1].st_mtime, reverse=True):
            left -= status.st_size
            if left < 0 and path != keep:
                path.unlink(missing_ok=True)

    def _remove_abandoned_scratch(self) -> None:
        # Left by builds that were killed: no build takes this long.
        oldest = time.time() - _SCRATCH_LIFE_S
        for path in self._directory.glob(f"{_SCRATCH_PREFIX}*"):
            found = _seen(path)
            if found is not None and found[1].st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _seen(path: Path) -> tuple[Path, os.stat_result] | None:
    """Return a path and its status; None if another build has removed it."""
    try:
        return path, path.stat()
    except FileNotFoundError:
        return None
