"""The user's cache of built programs: nothing is built twice on one host.

One directory for each digest of sources and toolchain, which appears complete or not at all. Builds
wait for one another; the layout is that of `plexspaces_node.programs`, which finds the programs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from native_build.faults import Fault
from plexspaces_node.programs import PROGRAMS

RECORD = "build.json"
KEPT_BUILDS = 10
"""How many builds always stay, those used last; one has about 35 MB."""
UNUSED_S = 24 * 3600.0
"""How long the others stay: a node may run from one."""
TARGET_LIMIT_BYTES = 4 * 1024**3
"""The size limit of cargo's directory; it grows with every version of what is used."""

_NEW = "new-"
_DIGEST_LENGTH = 16


class Cache:
    """The cached programs in one directory, which is created at the first write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find(self, sources: str, toolchain: str) -> Path | None:
        """Return the directory of this build and mark it as used, or None. Blocks."""
        path = self._path(sources, toolchain)
        if not all(os.access(path / name, os.X_OK) for name in PROGRAMS):
            return None
        os.utime(path)
        return path

    @contextmanager
    def alone(self, told: Callable[[str], None]) -> Iterator[None]:
        """Keep all other builds of this user waiting, however long this one takes.

        Raises `Fault` if the cache cannot be written.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.directory / "lock").open("ab")
        except OSError as error:
            raise Fault(
                f"the cache {self.directory} cannot be written: {error.strerror}",
                "set XDG_CACHE_HOME to a directory you can write to",
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told("waiting for another build of the agent to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def store(self, sources: str, toolchain: str, built: Path, about: dict[str, str]) -> Path:
        """Move the programs from cargo's directory to the cache; return their directory. Blocks."""
        path = self._path(sources, toolchain)
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.directory))
        try:
            programs = {name: _copied(built / name, new / name) for name in PROGRAMS}
            record = {**about, "sources": sources, "programs": programs}
            (new / RECORD).write_text(json.dumps(record, indent=2) + "\n")
            # Left by an incomplete build, or somebody removed its programs.
            shutil.rmtree(path, ignore_errors=True)
            new.rename(path)
        except OSError as error:
            raise Fault(f"the programs cannot be kept in {path}: {error.strerror}") from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._prune(keep=path)
        return path

    def target(self, toolchain: str) -> Path:
        """Return cargo's directory, emptied for another toolchain or if it grew too large.

        ``CARGO_TARGET_DIR`` names another, which belongs to the user and is only added to.
        """
        if named := os.environ.get("CARGO_TARGET_DIR"):
            return Path(named).absolute()
        target = self.directory / "target"
        mark = target / ".toolchain"
        known = mark.read_text() if mark.is_file() else None
        if known != toolchain or _size(target) > TARGET_LIMIT_BYTES:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(mode=0o700)
            mark.write_text(toolchain)
        return target

    def _path(self, sources: str, toolchain: str) -> Path:
        return self.directory / f"{sources}-{toolchain}"

    def _prune(self, *, keep: Path) -> None:
        # Under the lock, so nobody else is about to finish one of these.
        for abandoned in self.directory.glob(f"{_NEW}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        oldest = time.time() - UNUSED_S
        builds = [path.parent for path in self.directory.glob(f"*/{RECORD}")]
        used = sorted(((path.stat().st_mtime, path) for path in builds), reverse=True)
        for last, path in used[KEPT_BUILDS:]:
            if last < oldest and path != keep:
                shutil.rmtree(path, ignore_errors=True)


def toolchain_digest(identity: str) -> str:
    """Return the part of a build's name that stands for everything but its sources."""
    return hashlib.sha256(identity.encode()).hexdigest()[:_DIGEST_LENGTH]


def _copied(program: Path, place: Path) -> str:
    shutil.copyfile(program, place)
    place.chmod(0o755)
    with place.open("rb") as file:
        # Before the name exists: after a power loss a program without content would stay.
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(directory: Path) -> int:
    total = 0
    for place, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total
