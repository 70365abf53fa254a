"""The SQL of the quotas: one row for each quota of a tenant or of an application.

The rows are read once, when the node starts; `node.applications.quotas` has them in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from plexspaces_node.node.registry import keyvalue
from plexspaces_node.node.registry.database import Database
from plexspaces_node.node.registry.keyvalue import StoreUse
from plexspaces_node.node.registry.sqlite_file import Mode
from plexspaces_node.quota import Key, Subject


class QuotaRows:
    """The quotas in a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> dict[Subject, dict[Key, int]]:
        """Return every quota; keys that only a newer version knows are left out."""
        return await self._database.call(Mode.READ, _load)

    async def stores(self, tenant: str, names: Sequence[str]) -> tuple[StoreUse, list[StoreUse]]:
        """Return what the keys and values use: of a tenant, and of each of these applications."""

        def run(connection: sqlite3.Connection) -> tuple[StoreUse, list[StoreUse]]:
            each = [keyvalue.use_of(connection, "WHERE name = ?", name) for name in names]
            return keyvalue.use_of_tenant(connection, tenant), each

        return await self._database.call(Mode.READ, run)

    async def store(self, subject: Subject, changes: Mapping[Key, int]) -> None:
        """Write some quotas of a subject, 0 to remove one; they survive a power loss."""
        await self._database.call(
            Mode.DURABLE, lambda connection: _store(connection, subject, changes)
        )

    async def replace(self, subject: Subject, values: Mapping[Key, int]) -> None:
        """Write all quotas of a subject: it has no others then."""
        changes = {**dict.fromkeys(Key, 0), **values}
        await self._database.free(
            Mode.WRITE, lambda connection: _store(connection, subject, changes)
        )


def _load(connection: sqlite3.Connection) -> dict[Subject, dict[Key, int]]:
    found: dict[Subject, dict[Key, int]] = {}
    known = frozenset(Key)
    for tenant, application, key, value in connection.execute(
        "SELECT tenant, application, key, value FROM quotas"
    ):
        if key in known:
            found.setdefault(Subject(tenant, application), {})[Key(key)] = value
    return found


def _store(connection: sqlite3.Connection, subject: Subject, changes: Mapping[Key, int]) -> None:
    for key, value in changes.items():
        if value:
            connection.execute(
                "INSERT INTO quotas (tenant, application, key, value) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET value = excluded.value",
                (subject.tenant, subject.application, key.value, value),
            )
        else:
            connection.execute(
                "DELETE FROM quotas WHERE tenant = ? AND application = ? AND key = ?",
                (subject.tenant, subject.application, key.value),
            )
