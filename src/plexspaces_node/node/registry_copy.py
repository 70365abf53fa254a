"""A registry's file as a backup sees it: copied while a node writes it, and checked.

Uses connections of its own that only read, also beside a running node, and knows of the tables no
more than every version of them has. Everything here blocks.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from plexspaces_node.errors import InvalidArgument, PlexSpacesError, ResourceExhausted, WrongState
from plexspaces_node.node.disk import using_disk
from plexspaces_node.node.migrations import MIGRATIONS

_BUSY_TIMEOUT_S = 30.0
_FAULTS_TOLD = 3
_SCRATCH = ".plexspaces-copy-"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a registry refers to.

    Attributes:
        schema: the number of its last migration.
        digests: of the artifact of each application whose deploy was done, by name.
    """

    schema: int
    digests: dict[str, str]


@contextmanager
def copied(registry: Path, beside: Path) -> Iterator[tuple[BinaryIO, Contents]]:
    """Copy a registry as it is at one moment, and yield the copy, open for reading.

    All that was committed until then is in it, and nothing after. The copy is gone with the
    context. `beside` is a directory with room for it. Raises
    `WrongState` for a registry that is damaged, `ResourceExhausted` without room.
    """
    with using_disk(beside), _reading(registry) as source, _scratch(beside) as (place, copy):
        with _explained(registry), closing(sqlite3.connect(place, isolation_level=None)) as target:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            source.backup(target)
            contents = _contents(target)
        # SQLite needs the name, nobody else does: what is left to do takes the longest.
        place.unlink()
        yield copy, contents


@contextmanager
def _scratch(beside: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Make an empty file and yield its place and the file, which is locked as long as it is used.

    Those of processes that were killed are removed.
    """
    for left in beside.glob(f"{_SCRATCH}*"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    place = beside / f"{_SCRATCH}{secrets.token_hex(8)}"
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield place, file
        finally:
            place.unlink(missing_ok=True)


def check(registry: Path) -> Contents:
    """Read every page of a registry and return what it refers to; changes nothing.

    Raises `WrongState` for one that is damaged, that a newer version has written, or that is no
    registry.
    """
    with _reading(registry) as connection, _explained(registry):
        foreign = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type NOT IN ('table', 'index')"
        ).fetchall()
        if foreign:
            raise WrongState(f"{registry.name} holds {foreign[0][0]!r}, which no registry has")
        faults = connection.execute(f"PRAGMA integrity_check({_FAULTS_TOLD})").fetchall()
        if faults != [("ok",)]:
            raise WrongState(
                f"{registry.name} is damaged: {'; '.join(fault for (fault,) in faults)}"
            )
        contents = _contents(connection)
    if contents.schema > len(MIGRATIONS):
        raise WrongState(
            f"{registry.name} has schema {contents.schema}, this version of PlexSpaces knows "
            f"{len(MIGRATIONS)}",
            hint="pip install --upgrade plexspaces-node",
        )
    return contents


@contextmanager
def _reading(registry: Path) -> Iterator[sqlite3.Connection]:
    address = f"file:{quote(str(registry.absolute()))}?mode=ro"
    try:
        connection = sqlite3.connect(address, _BUSY_TIMEOUT_S, uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise InvalidArgument(f"{registry} cannot be opened: {error}") from error
    with closing(connection):
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection


@contextmanager
def _explained(registry: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(error, registry) from error


def _meaning(error: sqlite3.Error, registry: Path) -> PlexSpacesError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return ResourceExhausted("no space left for a copy of the registry", hint="df -h")
    return WrongState(f"{registry} cannot be read: {error}", hint="plexspaces doctor")


def _contents(connection: sqlite3.Connection) -> Contents:
    [[schema]] = connection.execute("SELECT MAX(number) FROM migrations").fetchall()
    rows = connection.execute(
        "SELECT name, digest FROM applications WHERE generation > 0 ORDER BY name"
    )
    return Contents(schema, dict(rows.fetchall()))
