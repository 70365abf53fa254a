"""Backups of a data directory: one file with everything, checked as it is read.

A backup is a tar file: `manifest.json` first, then `registry.db`, `artifacts/` and `logs/`, and
`SHA256SUMS` of all of them last, so that one that was cut off has none. Native code is not in it:
a node makes it anew. What comes from a file is checked before anything of it counts. Everything
here blocks.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from plexspaces_node import __version__
from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    WrongState,
    quoted,
)
from plexspaces_node.model import LEVELS
from plexspaces_node.node import registry_copy
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.disk import is_whole, sync, using_disk
from plexspaces_node.node.registry_copy import Contents

FORMAT = 1
"""Of the files that this version writes; it reads those up to it."""

_MANIFEST = "manifest.json"
_REGISTRY = "registry.db"
_SUMS = "SHA256SUMS"
_ENTRY = re.compile(
    r"registry\.db|artifacts/[0-9a-f]{64}\.wasm|logs/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.log(\.1)?"
)
_SMALL_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_WRITTEN_BYTES = 16 * 1024
"""As tarfile copies: each piece is written as it is."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_ANOTHER = "use another backup"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """What a backup says of itself.

    Attributes:
        version: of the program that wrote it.
        schema: of its registry.
        created: RFC 3339, in UTC.
        isolation: the level at which the node ran last, "" when it is not known.
        artifacts: whether it has them.
    """

    format: int
    node_id: str
    version: str
    schema: int
    created: str
    isolation: str = ""
    artifacts: bool = True


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """A backup that was written or read.

    Attributes:
        missing: applications whose artifact is not in it, by name.
        sha256: of the whole file.
    """

    manifest: Manifest
    applications: tuple[str, ...]
    missing: tuple[str, ...]
    size_bytes: int
    sha256: str


class _Hashing(io.RawIOBase):
    """Counts and digests what passes through a file, in one direction."""

    def __init__(self, file: BinaryIO) -> None:
        self.size_bytes = 0
        self._file = file
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._count(data)
        return data

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._file.write(data)
        self._count(data)
        return len(data)

    def _count(self, data: bytes) -> None:
        self.size_bytes += len(data)
        self._digest.update(data)


# ---- writing ---------------------------------------------------------------------------


def back_up(data_dir: Path, file: Path, *, artifacts: bool = True) -> BackupInfo:
    """Write a backup of a data directory, whether its node runs or not.

    It is what a node would find after a crash at that moment: everything acknowledged, and of each
    actor the last snapshot. The file is made whole or not at all, readable by its owner only: it
    holds the environments of applications. Raises `AlreadyExists` for a file that is there,
    `NotFound` without a data directory, `ResourceExhausted` without room, `WrongState` for a
    registry that cannot be read.
    """
    if file.exists():
        raise AlreadyExists(f"{file} exists", hint="choose another name")
    part = file.with_name(f".{file.name}.part")
    try:
        with using_disk(file.parent):
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                info = write_backup(data_dir, out, file.parent, artifacts=artifacts)
                out.flush()
                os.fsync(out.fileno())
            part.rename(file)
            sync(file.parent)
    finally:
        part.unlink(missing_ok=True)
    return info


def write_backup(
    data_dir: Path, out: BinaryIO, beside: Path, *, artifacts: bool = True
) -> BackupInfo:
    """Write a backup to an open file, a pipe for example; see `back_up`.

    `beside` is a directory with room for a copy of the registry.
    """
    registry = data_dir / _REGISTRY
    if not registry.is_file():
        raise NotFound(
            f"there is no node's data in {data_dir}",
            hint="name the directory with --data-dir, or the node with --node-id",
        )
    hashing = _Hashing(out)
    with registry_copy.copied(registry, beside) as (copy, contents):
        # Opened now: a node that goes on may remove an artifact meanwhile, not its bytes.
        held = _opened(data_dir, contents.digests) if artifacts else {}
        manifest = Manifest(
            format=FORMAT,
            node_id=_word(data_dir / "node-id"),
            version=__version__,
            schema=contents.schema,
            created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            isolation=_word(data_dir / "isolation"),
            artifacts=artifacts,
        )
        try:
            with tarfile.open(
                fileobj=hashing,
                mode="w|",
                format=tarfile.PAX_FORMAT,
                bufsize=_WRITTEN_BYTES,
            ) as archive:
                _write_entries(archive, manifest, copy, held, data_dir / "logs")
        finally:
            for artifact in held.values():
                artifact.close()
    return BackupInfo(
        manifest,
        tuple(contents.digests),
        _missing(contents, set(held)),
        hashing.size_bytes,
        hashing.sha256,
    )


def _write_entries(
    archive: tarfile.TarFile,
    manifest: Manifest,
    registry: BinaryIO,
    artifacts: dict[str, BinaryIO],
    logs: Path,
) -> None:
    sums: list[str] = []

    def add(name: str, file: BinaryIO, size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        hashing = _Hashing(file)
        archive.addfile(entry, cast(BinaryIO, hashing))
        sums.append(f"{hashing.sha256}  {name}\n")

    def add_bytes(name: str, data: bytes) -> None:
        add(name, io.BytesIO(data), len(data))

    add_bytes(_MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    registry.seek(0)
    add(_REGISTRY, registry, os.fstat(registry.fileno()).st_size)
    for digest, file in artifacts.items():
        add(f"artifacts/{digest}.wasm", file, os.fstat(file.fileno()).st_size)
    for path in sorted(logs.glob("*.log*")):
        if _ENTRY.fullmatch(f"logs/{path.name}"):
            # At once: a node that goes on writes to it.
            with suppress(FileNotFoundError):
                add_bytes(f"logs/{path.name}", path.read_bytes())
    add_bytes(_SUMS, "".join(sums).encode())


def _opened(data_dir: Path, digests: dict[str, str]) -> dict[str, BinaryIO]:
    held: dict[str, BinaryIO] = {}
    for digest in sorted(set(digests.values())):
        with suppress(FileNotFoundError):
            held[digest] = (data_dir / "artifacts" / f"{digest}.wasm").open("rb")
    return held


def _word(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text("utf-8").strip()
    return ""


# ---- reading ---------------------------------------------------------------------------


def verify(file: Path) -> BackupInfo:
    """Read a backup and check all of it; what is unpacked for that is gone at the end.

    Raises `NotFound`, `WrongState` for one that is damaged, cut off or of a newer version.
    """
    with tempfile.TemporaryDirectory(prefix="plexspaces-verify-") as scratch:
        place = Path(scratch)

        def keep(name: str) -> BinaryIO | None:
            return (place / _REGISTRY).open("wb") if name == _REGISTRY else None

        with using_disk(place):
            return _read(file, keep, place / _REGISTRY)


def verify_data(data_dir: Path) -> tuple[Contents, tuple[str, ...]]:
    """Check the registry and the artifacts of a data directory, whether its node runs or not.

    Returns what the registry refers to and the applications whose artifact is missing or damaged.
    Raises `NotFound`, and `WrongState` for a damaged registry.
    """
    registry = data_dir / _REGISTRY
    if not registry.is_file():
        raise NotFound(f"there is no node's data in {data_dir}", hint="name a data directory")
    contents = registry_copy.check(registry)
    whole = {digest for digest in set(contents.digests.values()) if _is_there(data_dir, digest)}
    return contents, _missing(contents, whole)


def restore(file: Path, data_dir: Path, node_id: str = "") -> BackupInfo:
    """Unpack a backup into a data directory that is empty or not there yet.

    For the node that it is of, or for another, `node_id`. All of it was read and checked before a
    node could start from it: until then the directory says that it is not whole. Raises what
    `verify` does, `AlreadyExists` for a directory with data in it, and what
    `DataDirectory.open` does.
    """
    manifest = read_manifest(file)
    with DataDirectory.open(data_dir, node_id or manifest.node_id) as directory:
        if not directory.was_empty and not directory.unfinished.exists():
            raise AlreadyExists(
                f"{directory.path} has a node's data in it",
                hint=f"mv {quoted(directory.path)} {quoted(f'{directory.path}.before')}, "
                "or name another with --data-dir",
            )
        with using_disk(directory.path):
            directory.unfinished.touch(mode=0o600)
            _clear(directory)

            def keep(name: str) -> BinaryIO:
                descriptor = os.open(
                    directory.path / name,
                    os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                    0o600,
                )
                return os.fdopen(descriptor, "wb")

            info = _read(file, keep, directory.registry)
            if info.manifest.isolation in LEVELS:
                directory.isolation_file.write_text(f"{info.manifest.isolation}\n", "utf-8")
            for place in (directory.artifacts, directory.logs, directory.path):
                sync(place)
            directory.unfinished.unlink()
            sync(directory.path)
        directory.keep()
    return info


def _clear(directory: DataDirectory) -> None:
    """Remove what a restore left that was killed."""
    for place in (directory.artifacts, directory.logs):
        for path in place.iterdir():
            path.unlink()
    for path in directory.path.glob(f"{_REGISTRY}*"):
        path.unlink()


def _read(file: Path, keep: Callable[[str], BinaryIO | None], registry: Path) -> BackupInfo:
    """Read a backup to its end, give every entry to a file that `keep` opens, and check all."""
    with _opened_backup(file) as raw:
        hashing = _Hashing(raw)
        with tarfile.open(
            fileobj=cast(BinaryIO, hashing), mode="r|", bufsize=_CHUNK_BYTES
        ) as archive:
            manifest, digests = _unpack(archive, keep)
        while hashing.read(_CHUNK_BYTES):
            pass
        contents = registry_copy.check(registry)
        return BackupInfo(
            manifest,
            tuple(contents.digests),
            _missing(contents, digests),
            hashing.size_bytes,
            hashing.sha256,
        )


def _unpack(
    archive: tarfile.TarFile, keep: Callable[[str], BinaryIO | None]
) -> tuple[Manifest, set[str]]:
    entries = iter(archive)
    manifest, line = _read_manifest(archive, next(entries, None))
    sums, names, digests = [line], set[str](), set[str]()
    for entry in entries:
        name = entry.name
        source = cast(BinaryIO, archive.extractfile(entry)) if entry.isreg() else None
        if source is None or not (name == _SUMS or _ENTRY.fullmatch(name)) or name in names:
            raise WrongState(f"it holds {name!r}, which no backup has there")
        names.add(name)
        if name == _SUMS:
            if _small(entry, source).decode("utf-8", "replace") != "".join(sums):
                raise WrongState("its contents are not those that were written")
            if next(entries, None) is not None:
                raise WrongState("it goes on after its end")
            break
        digest = _copy(source, keep(name))
        sums.append(f"{digest}  {name}\n")
        if name.startswith("artifacts/"):
            if name != f"artifacts/{digest}.wasm":
                raise WrongState(f"{name} has the digest {digest}")
            digests.add(digest)
    else:
        raise WrongState("it is cut off")
    if _REGISTRY not in names:
        raise WrongState("it has no registry")
    return manifest, digests


def read_manifest(file: Path) -> Manifest:
    """Return what a backup says of itself, which is not checked yet; raises as `verify`."""
    with _opened_backup(file) as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
        return _read_manifest(archive, next(iter(archive), None))[0]


def _read_manifest(archive: tarfile.TarFile, entry: tarfile.TarInfo | None) -> tuple[Manifest, str]:
    if entry is None or entry.name != _MANIFEST or not entry.isreg():
        raise WrongState("it is no backup of a PlexSpaces node")
    data = _small(entry, cast(BinaryIO, archive.extractfile(entry)))
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise WrongState(f"its {_MANIFEST} cannot be read: {error}") from error
    if manifest.format > FORMAT:
        raise WrongState(
            f"it has format {manifest.format}, written by version {manifest.version}; "
            f"this version knows {FORMAT}",
            hint="pip install --upgrade plexspaces-node",
        )
    return manifest, f"{hashlib.sha256(data).hexdigest()}  {_MANIFEST}\n"


def _small(entry: tarfile.TarInfo, source: BinaryIO) -> bytes:
    if entry.size > _SMALL_BYTES:
        raise WrongState(f"its {entry.name} has {entry.size} bytes")
    return source.read()


def _copy(source: BinaryIO, target: BinaryIO | None) -> str:
    """Copy to a file and close that; return the digest."""
    hashing = _Hashing(source)
    if target is None:
        while hashing.read(_CHUNK_BYTES):
            pass
    else:
        with target:
            shutil.copyfileobj(hashing, target, _CHUNK_BYTES)
            target.flush()
            os.fsync(target.fileno())
    return hashing.sha256


@contextmanager
def _opened_backup(file: Path) -> Iterator[BinaryIO]:
    """Open a backup, and name it in whatever is found wrong with it."""
    try:
        raw = file.open("rb")
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror}") from error
    with raw:
        try:
            yield raw
        except tarfile.TarError as error:
            raise WrongState(f"{file} is no whole backup: {error}", hint=_ANOTHER) from error
        except WrongState as error:
            raise WrongState(
                f"{file} cannot be used: {error.message}", hint=error.hint or _ANOTHER
            ) from error


def _is_there(data_dir: Path, digest: str) -> bool:
    with suppress(FileNotFoundError):
        return is_whole(data_dir / "artifacts" / f"{digest}.wasm", digest)
    return False


def _missing(contents: Contents, digests: set[str]) -> tuple[str, ...]:
    return tuple(name for name, digest in contents.digests.items() if digest not in digests)
