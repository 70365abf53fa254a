"""The SQL of what a node remembers of its cluster's registry: a row for each record.

With it a node starts and serves while the cluster's bucket cannot be reached, and the bucket can be
rebuilt. The bucket is the truth while it is there: rows only follow it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from plexspaces_node.node.nats.bucket import Entry
from plexspaces_node.node.registry.database import Database
from plexspaces_node.node.registry.sqlite_file import Mode


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a node remembers.

    Attributes:
        records: by key; each has a value.
        revision: up to which write of the bucket they are complete, 0 if they never were.
    """

    records: tuple[Entry, ...] = ()
    revision: int = 0


class ClusterRows:
    """The records of a cluster in a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Remembered:
        """Return what is remembered."""
        return await self._database.call(Mode.READ, _load)

    async def is_empty(self) -> bool:
        """Return whether nothing is remembered: the node is of no cluster yet."""
        found = "SELECT EXISTS (SELECT 1 FROM cluster_records)"
        return await self._database.call(
            Mode.READ, lambda connection: not connection.execute(found).fetchone()[0]
        )

    async def write(self, changes: Sequence[Entry], revision: int) -> None:
        """Write and delete records, all or none, and up to which write they are complete.

        Survives `kill -9` of the node. After a power loss the last moments may be missing: what is
        then remembered is what there was before.
        """
        await self._database.call(
            Mode.WRITE, lambda connection: _write(connection, changes, revision)
        )


def _load(connection: sqlite3.Connection) -> Remembered:
    rows = connection.execute("SELECT key, value, revision FROM cluster_records ORDER BY key")
    records = tuple(Entry(*row) for row in rows)
    row = connection.execute("SELECT revision FROM cluster_mirror").fetchone()
    return Remembered(records, 0 if row is None else row[0])


def _write(connection: sqlite3.Connection, changes: Sequence[Entry], revision: int) -> None:
    connection.executemany(
        "INSERT INTO cluster_records (key, value, revision) VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET (value, revision) = (excluded.value, excluded.revision)",
        [(one.key, one.value, one.revision) for one in changes if one.value is not None],
    )
    connection.executemany(
        "DELETE FROM cluster_records WHERE key = ?",
        [(one.key,) for one in changes if one.value is None],
    )
    connection.execute("DELETE FROM cluster_mirror")
    connection.execute("INSERT INTO cluster_mirror (revision) VALUES (?)", (revision,))
