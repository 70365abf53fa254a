"""Reads, checks and restores backups. Everything here blocks.

The content of a file is not trusted until all of it was checked.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from plexspaces_node.errors import AlreadyExists, InvalidArgument, WrongState, quoted
from plexspaces_node.model import LEVELS, split_name
from plexspaces_node.node.backup import registry_copy
from plexspaces_node.node.backup.format import (
    CHUNK_BYTES,
    ENTRY,
    FORMAT,
    MANIFEST,
    NEW,
    REGISTRY,
    SUMS,
    BackupInfo,
    Hashing,
    Manifest,
    is_there,
    missing_artifacts,
    of_data,
    registry_of,
)
from plexspaces_node.node.backup.registry_copy import Contents
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.disk import lay_out, sync, using_disk

_SMALL_BYTES = 16 * 1024 * 1024
_ANOTHER = "use another backup"


def verify(file: Path) -> BackupInfo:
    """Read a backup and check all of it; what is unpacked for that is removed at the end.

    Raises `InvalidArgument` for a file that cannot be read, `WrongState` for one that is damaged,
    cut off or of a newer version.
    """
    with tempfile.TemporaryDirectory(prefix="plexspaces-verify-") as scratch:
        place = Path(scratch)

        def keep(name: str) -> BinaryIO | None:
            return (place / REGISTRY).open("wb") if name == REGISTRY else None

        with using_disk(place):
            return _read(file, keep, place / REGISTRY)


def verify_data(data_dir: Path) -> tuple[Contents, tuple[str, ...]]:
    """Check the registry and the artifacts of a data directory, whether its node runs or not.

    Returns the registry's references and the applications whose artifact is missing or damaged.
    Raises `NotFound`, and `WrongState` for a damaged registry or an unfinished restore.
    """
    registry = registry_of(data_dir)
    with of_data(data_dir):
        contents = registry_copy.check(registry)
    whole = {name for name in set(contents.artifacts.values()) if is_there(data_dir, name)}
    return contents, missing_artifacts(contents, whole)


def restore(file: Path, data_dir: Path, node_id: str = "") -> BackupInfo:
    """Unpack a backup into a data directory that is empty or missing.

    It is restored for the node it was made from, or for another one, `node_id`. No node can start
    from the directory until all of the backup was read and checked. Raises what `verify` raises,
    `AlreadyExists` for a directory with data in it, and what `DataDirectory.open` raises.
    """
    manifest = read_manifest(file)
    with DataDirectory.held(data_dir, node_id or manifest.node_id) as directory:
        if not directory.was_empty and not directory.unfinished.exists():
            raise AlreadyExists(
                f"{directory.path} already contains node data",
                hint=f"mv {quoted(directory.path)} {quoted(f'{directory.path}.before')}, "
                "or choose another with --data-dir",
            )
        with using_disk(directory.path):
            # First of all: whatever interrupts this, no node starts from half a backup.
            directory.unfinished.touch(mode=0o600)
            sync(directory.path)
            directory.clear()
            directory.lay_out()

            def keep(name: str) -> BinaryIO:
                lay_out((directory.path / name).parent)
                return os.fdopen(os.open(directory.path / name, NEW, 0o600), "wb")

            info = _read(file, keep, directory.registry)
            if info.manifest.isolation in LEVELS:
                directory.isolation_file.write_text(f"{info.manifest.isolation}\n", "utf-8")
            tenants = [each for each in directory.artifacts.iterdir() if each.is_dir()]
            for place in (*tenants, directory.artifacts, directory.logs, directory.path):
                sync(place)
            directory.unfinished.unlink()
            sync(directory.path)
        directory.keep()
    return info


def _read(file: Path, keep: Callable[[str], BinaryIO | None], registry: Path) -> BackupInfo:
    """Read a backup to its end, pass every entry to a file that `keep` opens, and check all."""
    with _opened_backup(file) as raw:
        hashing = Hashing(raw)
        manifest, artifacts = _unpack(hashing, os.fstat(raw.fileno()).st_size, keep)
        contents = registry_copy.check(registry)
        return BackupInfo(
            manifest,
            tuple(contents.artifacts),
            missing_artifacts(contents, artifacts),
            hashing.size_bytes,
            hashing.sha256,
            contents.secret_keys,
            contents.passphrase_key,
        )


def _unpack(
    source: Hashing, size: int, keep: Callable[[str], BinaryIO | None]
) -> tuple[Manifest, set[str]]:
    entries = _entries(source, size)
    manifest, line = _manifest_in(entries)
    sums, names, artifacts = [line], set[str](), set[str]()
    for name, entry in entries:
        if name == SUMS:
            if entry.read(_SMALL_BYTES).decode("utf-8", "replace") != "".join(sums):
                raise WrongState("its contents have changed since it was written")
            break
        if not ENTRY.fullmatch(name) or name in names:
            raise WrongState(f"it contains {name!r}, which does not belong in a backup")
        names.add(name)
        digest = _copy(entry, keep(name))
        sums.append(f"{digest}  {name}\n")
        if name.startswith("artifacts/"):
            artifact = name.removeprefix("artifacts/").removesuffix(".wasm")
            if split_name(artifact)[1] != digest:
                raise WrongState(f"{name} has the digest {digest}")
            artifacts.add(artifact)
    else:
        raise WrongState("it is truncated")
    if REGISTRY not in names:
        raise WrongState("it has no registry")
    entry.skip()
    while rest := source.read(CHUNK_BYTES):
        if rest.strip(b"\0"):
            raise WrongState("it has data after its end")
    return manifest, artifacts


def read_manifest(file: Path) -> Manifest:
    """Return a backup's manifest, which is not checked yet; raises as `verify` does."""
    with _opened_backup(file) as raw:
        return _manifest_in(_entries(Hashing(raw), os.fstat(raw.fileno()).st_size))[0]


def _manifest_in(entries: Iterator[tuple[str, _Entry]]) -> tuple[Manifest, str]:
    name, entry = next(entries, ("", None))
    if name != MANIFEST or entry is None:
        raise WrongState("it is not a backup of a PlexSpaces node")
    data = entry.read(_SMALL_BYTES)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WrongState(f"its {MANIFEST} cannot be read: {error}") from error
    if manifest.format > FORMAT:
        raise WrongState(
            f"it has format {manifest.format}, written by version {manifest.version}; "
            f"this version supports {FORMAT}",
            hint="pip install --upgrade plexspaces-node",
        )
    return manifest, f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n"


class _Entry:
    """The part of an archive that belongs to one file; read to its end before the next one."""

    def __init__(self, source: Hashing, size: int) -> None:
        self._source = source
        self._left = size
        self._padding = -size % tarfile.BLOCKSIZE

    def read(self, size: int) -> bytes:
        """Return at most this many bytes, b"" at the end; raises `WrongState` if it is cut off."""
        data = self._source.read(min(size, self._left))
        if not data and self._left and size:
            raise WrongState("it is truncated")
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Skip to where the next entry begins."""
        while self.read(CHUNK_BYTES):
            pass
        self._source.read(self._padding)


def _entries(source: Hashing, size: int) -> Iterator[tuple[str, _Entry]]:
    """Yield name and contents of each file of an archive that has the form of a backup.

    `tarfile` only parses the headers: links, sparse files and long names do not occur in a backup,
    and it would follow them before they could be refused.
    """
    while len(header := source.read(tarfile.BLOCKSIZE)) == tarfile.BLOCKSIZE:
        if not header.strip(b"\0"):
            return
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise WrongState(f"it is not a complete backup: {error}") from error
        if found.type != tarfile.REGTYPE or not 0 <= found.size <= size:
            raise WrongState(f"it contains {found.name!r}, which does not belong in a backup")
        entry = _Entry(source, found.size)
        yield found.name, entry
        entry.skip()


def _copy(entry: _Entry, target: BinaryIO | None) -> str:
    """Copy to a file and close it; return the digest."""
    digest = hashlib.sha256()
    with target or io.BytesIO() as out:
        while data := entry.read(CHUNK_BYTES):
            digest.update(data)
            if target:
                out.write(data)
        if target:
            out.flush()
            os.fsync(out.fileno())
    return digest.hexdigest()


@contextmanager
def _opened_backup(file: Path) -> Iterator[BinaryIO]:
    """Open a backup, and name it in errors about it."""
    try:
        # Opening a pipe without a writer would block.
        raw = os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror}") from error
    with raw:
        try:
            yield raw
        except WrongState as error:
            raise WrongState(
                f"{file} cannot be used: {error.message}", hint=error.hint or _ANOTHER
            ) from error
