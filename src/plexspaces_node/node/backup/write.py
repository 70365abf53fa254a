"""Writes a backup of a node that runs, has ended or has crashed. Everything here blocks."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from plexspaces_node import __version__
from plexspaces_node.errors import AlreadyExists, InvalidArgument
from plexspaces_node.model import split_name
from plexspaces_node.node.backup import registry_copy
from plexspaces_node.node.backup.format import (
    ENTRY,
    FORMAT,
    MANIFEST,
    NEW,
    REGISTRY,
    SUMS,
    BackupInfo,
    Hashing,
    Manifest,
    entry_of,
    missing_artifacts,
    of_data,
    registry_of,
)
from plexspaces_node.node.backup.registry_copy import Contents
from plexspaces_node.node.datadir import DataDirectory, word_in
from plexspaces_node.node.disk import DiskFull, has_digest, is_full, sync

_SCRATCH = ".plexspaces-backup-"
_WRITTEN_BYTES = 16 * 1024
"""Like tarfile's copies, but each piece is written at once."""


def back_up(data_dir: Path, file: Path, *, artifacts: bool = True) -> BackupInfo:
    """Write a backup of a data directory, whether its node runs or not.

    It contains what a node would find after a crash at that moment: everything acknowledged, and
    the last snapshot of each actor. The file is created completely or not at all, readable by its
    owner only, because it contains the environments of applications. Its registry and artifacts are
    checked before it appears. Raises `AlreadyExists` if the file exists, `InvalidArgument` for a
    place that cannot be written, `NotFound` if there is no data directory, `ResourceExhausted` if
    the disk is full, `WrongState` for a damaged registry or a directory with an unfinished restore.
    """
    if os.path.lexists(file):
        raise AlreadyExists(f"{file} already exists", hint="choose another name")
    with _writing(file), _scratch(file.parent) as scratch:
        part = scratch / "backup.tar"
        with os.fdopen(os.open(part, NEW, 0o600), "wb") as out:
            info = _write(data_dir, out, scratch, artifacts=artifacts)
            out.flush()
            os.fsync(out.fileno())
        _give_name(part, file)
        sync(file.parent)
    return info


def stream_backup(data_dir: Path, out: BinaryIO, *, artifacts: bool = True) -> BackupInfo:
    """Write a backup to an open file, for example a pipe; see `back_up`.

    Raises `OSError` if `out` cannot be written.
    """
    with _scratch(data_dir) as scratch:
        return _write(data_dir, out, scratch, artifacts=artifacts)


def _write(data_dir: Path, out: BinaryIO, scratch: Path, *, artifacts: bool) -> BackupInfo:
    registry, paths = registry_of(data_dir), DataDirectory(data_dir, "")
    copied = scratch / REGISTRY
    copied.touch(mode=0o600)
    with of_data(data_dir):
        contents = registry_copy.copy(registry, copied)
    manifest = Manifest(
        format=FORMAT,
        node_id=word_in(paths.node_id_file),
        version=__version__,
        schema=contents.schema,
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        isolation=word_in(paths.isolation_file),
        artifacts=artifacts,
    )
    hashing = Hashing(out)
    with ExitStack() as stack:
        # Opened now: a running node may remove an artifact meanwhile, but not its bytes.
        held = _whole_artifacts(paths, contents, stack) if artifacts else {}
        archive = stack.enter_context(
            tarfile.open(
                fileobj=hashing,
                mode="w|",
                format=tarfile.GNU_FORMAT,
                bufsize=_WRITTEN_BYTES,
            )
        )
        _write_entries(archive, manifest, copied, held, paths.logs)
    return BackupInfo(
        manifest,
        tuple(contents.artifacts),
        missing_artifacts(contents, set(held)),
        hashing.size_bytes,
        hashing.sha256,
        contents.secret_keys,
        contents.passphrase_key,
    )


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """Create a directory for this process alone, and remove it; also those of killed processes."""
    for left in beside.glob(f"{_SCRATCH}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left)
    with ExitStack() as stack:
        place = _held_scratch(beside, stack)
        try:
            yield place
        finally:
            shutil.rmtree(place)


def _held_scratch(beside: Path, stack: ExitStack) -> Path:
    while True:
        place = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=beside))
        # Until it is held, another backup may consider it abandoned and remove it.
        with suppress(FileNotFoundError, BlockingIOError):
            stack.enter_context(_locked(place))
            if place.exists():
                return place


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock a directory of this user. Raises `OSError` for another user's, and if it is locked."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(directory, flags)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DiskFull(file.parent) from error
        raise InvalidArgument(
            f"{file} cannot be written: {error.strerror}", hint="choose a writable location"
        ) from error


def _give_name(part: Path, file: Path) -> None:
    try:
        # Not a rename, which would replace what somebody has put there meanwhile.
        os.link(part, file)
    except FileExistsError as error:
        raise AlreadyExists(f"{file} already exists", hint="choose another name") from error
    except OSError:
        # The file system has no links.
        part.rename(file)


def _write_entries(
    archive: tarfile.TarFile,
    manifest: Manifest,
    registry: Path,
    artifacts: dict[str, BinaryIO],
    logs: Path,
) -> None:
    sums: list[str] = []

    def add(name: str, file: BinaryIO, size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        hashing = Hashing(file)
        archive.addfile(entry, cast(BinaryIO, hashing))
        sums.append(f"{hashing.sha256}  {name}\n")

    def add_bytes(name: str, data: bytes) -> None:
        add(name, io.BytesIO(data), len(data))

    add_bytes(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    with registry.open("rb") as opened:
        add(REGISTRY, opened, os.fstat(opened.fileno()).st_size)
    # The largest part, and not needed any more.
    registry.unlink()
    for name, file in artifacts.items():
        add(entry_of(name), file, os.fstat(file.fileno()).st_size)
    for path in sorted(logs.glob("*.log*")):
        if ENTRY.fullmatch(f"logs/{path.name}"):
            # At once, because a running node writes to it.
            with suppress(FileNotFoundError):
                add_bytes(f"logs/{path.name}", path.read_bytes())
    add_bytes(SUMS, "".join(sums).encode())


def _whole_artifacts(
    paths: DataDirectory, contents: Contents, stack: ExitStack
) -> dict[str, BinaryIO]:
    held: dict[str, BinaryIO] = {}
    for name in sorted(set(contents.artifacts.values())):
        entry = entry_of(name)
        if ENTRY.fullmatch(entry):
            with suppress(FileNotFoundError):
                file = stack.enter_context((paths.path / entry).open("rb"))
                if has_digest(file, split_name(name)[1]):
                    file.seek(0)
                    held[name] = file
    return held
