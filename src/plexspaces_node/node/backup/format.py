"""The format of a backup: one tar file with everything that a node stores.

`manifest.json` comes first, then `registry.db`, `artifacts/` and `logs/`, and last `SHA256SUMS` of
all of them, so that a file that was cut off has none. It does not contain native code: a node
compiles it again.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from plexspaces_node.errors import NotFound, WrongState, quoted
from plexspaces_node.model import NAME_PATTERN, split_name
from plexspaces_node.node.backup.registry_copy import Contents
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.disk import is_whole
from plexspaces_node.node.registry.sqlite_errors import how_to_restore

FORMAT = 2
"""The version of the files that this program writes; it reads them up to this version.

Since 2 an artifact can lie in a directory of its tenant.
"""

MANIFEST = "manifest.json"
REGISTRY = "registry.db"
SUMS = "SHA256SUMS"
_NAME = NAME_PATTERN.pattern
ENTRY = re.compile(
    rf"registry\.db|artifacts/({_NAME}/)?[0-9a-f]{{64}}\.wasm|logs/({_NAME}~)?({_NAME})\.log(\.1)?"
)
CHUNK_BYTES = 1024 * 1024
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """A backup's manifest.

    Attributes:
        version: version of the program that wrote it.
        schema: schema version of its registry.
        created: RFC 3339, in UTC.
        isolation: the isolation level of the node's last start, "" if unknown.
        artifacts: whether it contains the artifacts.
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
        missing: applications whose artifact it does not contain, by name.
        secret_keys: ids of the keys without which its secrets cannot be read.
        passphrase_key: the id of the one that is made of a passphrase, "" for none.
        sha256: digest of the whole file.
    """

    manifest: Manifest
    applications: tuple[str, ...]
    missing: tuple[str, ...]
    size_bytes: int
    sha256: str
    secret_keys: tuple[str, ...] = ()
    passphrase_key: str = ""


class Hashing(io.RawIOBase):
    """Counts and digests the bytes that pass through a file in one direction."""

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


def registry_of(data_dir: Path) -> Path:
    """Return the registry of a data directory.

    Raises `NotFound` if there is none, `WrongState` while a restore is unfinished.
    """
    paths = DataDirectory(data_dir, "")
    if not paths.registry.is_file():
        raise NotFound(
            f"{data_dir} contains no node data",
            hint="choose the directory with --data-dir, or the node with --node-id",
        )
    if paths.unfinished.exists():
        raise WrongState(
            f"a backup was not completely restored into {data_dir}",
            hint=f"plexspaces restore BACKUP --data-dir {quoted(data_dir)}",
        )
    return paths.registry


@contextmanager
def of_data(data_dir: Path) -> Iterator[None]:
    """Add a hint to errors of a data directory's registry: how to get an intact one."""
    try:
        yield
    except WrongState as error:
        raise WrongState(error.message, hint=error.hint or how_to_restore(data_dir)) from error


def entry_of(artifact: str) -> str:
    """Return the name of the file of an artifact, in a data directory as in a backup."""
    return f"artifacts/{artifact}.wasm"


def is_there(data_dir: Path, artifact: str) -> bool:
    """Return whether a data directory has an artifact, complete and intact. Blocks."""
    entry, digest = entry_of(artifact), split_name(artifact)[1]
    with suppress(FileNotFoundError):
        return bool(ENTRY.fullmatch(entry)) and is_whole(data_dir / entry, digest)
    return False


def missing_artifacts(contents: Contents, artifacts: Collection[str]) -> tuple[str, ...]:
    """Return the applications whose artifact is not among these."""
    return tuple(name for name, used in contents.artifacts.items() if used not in artifacts)
