"""The SQL of actors' saved states, which are stored in parts.

Runs on the database's thread, for `registry`. Rows belong to an application's number, as in
`keyvalue`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from plexspaces_node.errors import no_application
from plexspaces_node.node.registry.database import Value
from plexspaces_node.node.registry.sqlite_errors import Damaged

_REMOVED_AT_ONCE = 16

Parts: TypeAlias = Sequence[tuple[int, Value]]
"""Parts of a state, each with the byte at which it begins; none is empty."""


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """An actor's saved state.

    Attributes:
        taken_ns: since the epoch; no two states of an application have the same.
    """

    taken_ns: int
    size_bytes: int


def add(connection: sqlite3.Connection, name: str, taken_ns: int, parts: Parts) -> None:
    """Write parts of a state; raises `NotFound`."""
    number = _number(connection, name)
    # OR REPLACE for a part that is written again, because its first write was not known to be done.
    connection.executemany(
        "INSERT OR REPLACE INTO snapshot_parts (application, taken_ns, begin_byte, body)"
        " VALUES (?, ?, ?, ?)",
        ((number, taken_ns, begin, body) for begin, body in parts),
    )


def save(connection: sqlite3.Connection, name: str, record: SnapshotRecord, parts: Parts) -> bool:
    """Write the last parts and make it the saved state; return whether nothing of another is left.

    Raises `NotFound`.
    """
    add(connection, name, record.taken_ns, parts)
    connection.execute(
        "INSERT OR REPLACE INTO snapshots (application, taken_ns, size_bytes) VALUES (?, ?, ?)",
        (_number(connection, name), record.taken_ns, record.size_bytes),
    )
    return prune(connection, name)


def prune(connection: sqlite3.Connection, name: str) -> bool:
    """Delete some of what is left of states that are not the saved one; return whether all."""
    removed = connection.execute(
        "DELETE FROM snapshot_parts WHERE rowid IN ("
        " SELECT parts.rowid FROM applications JOIN snapshot_parts AS parts"
        " ON parts.application = number WHERE name = ? AND parts.taken_ns IS NOT"
        " (SELECT taken_ns FROM snapshots WHERE application = number) LIMIT ?)",
        (name, _REMOVED_AT_ONCE),
    ).rowcount
    return removed < _REMOVED_AT_ONCE


def load(connection: sqlite3.Connection, name: str) -> SnapshotRecord | None:
    """Return the description of the saved state, or None."""
    row = connection.execute(
        "SELECT taken_ns, size_bytes FROM snapshots JOIN applications ON number = application"
        " WHERE name = ?",
        (name,),
    ).fetchone()
    return None if row is None else SnapshotRecord(*row)


def read_part(connection: sqlite3.Connection, name: str, taken_ns: int, begin: int) -> bytes:
    """Return the part of a state that begins at a byte; raises `Damaged` if it is missing."""
    row = connection.execute(
        "SELECT body FROM snapshot_parts JOIN applications ON number = application"
        " WHERE name = ? AND taken_ns = ? AND begin_byte = ?",
        (name, taken_ns, begin),
    ).fetchone()
    if row is None or not row[0]:
        raise Damaged(
            f"the saved state of {name!r} has no part at byte {begin}",
            hint="restore a backup (docs/backup.md), or undeploy the application and deploy it",
        )
    body: bytes = row[0]
    return body


def sweep(connection: sqlite3.Connection, number: int) -> bool:
    """Delete some of the states of a removed application; return whether none is left."""
    connection.execute("DELETE FROM snapshots WHERE application = ?", (number,))
    removed = connection.execute(
        "DELETE FROM snapshot_parts WHERE rowid IN"
        " (SELECT rowid FROM snapshot_parts WHERE application = ? LIMIT ?)",
        (number, _REMOVED_AT_ONCE),
    ).rowcount
    return removed < _REMOVED_AT_ONCE


def _number(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT number FROM applications WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise no_application(name)
    number: int = row[0]
    return number
