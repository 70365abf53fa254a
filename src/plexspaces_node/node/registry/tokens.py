"""The SQL of the tokens: one row for each, with hashes and never a secret.

The rows are read once, when the node starts; `node.access.tokens` has them in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from plexspaces_node.errors import AlreadyExists
from plexspaces_node.node.registry.database import Database
from plexspaces_node.node.registry.sqlite_file import Mode


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token in the registry; its name is unique within its tenant.

    Attributes:
        id: what its secret begins with.
        hash: of its secret; `previous_hash` of the one before, b"" for none.
        key_check: tells with which key the hashes were made.
        expires_ns: 0 for never.
        used_ns: when it was last used, 0 for never.
        previous_until_ns: until when the secret before works.
    """

    tenant: str
    name: str
    id: str
    scopes: tuple[str, ...]
    applications: str
    created_ns: int
    expires_ns: int
    hash: bytes = field(repr=False)
    key_check: bytes = field(repr=False)
    used_ns: int = 0
    previous_hash: bytes = field(default=b"", repr=False)
    previous_until_ns: int = 0


def token_taken(record: TokenRecord) -> AlreadyExists:
    """Return the error for a token whose name its tenant has used."""
    return AlreadyExists(
        f"there is a token {record.name!r} of tenant {record.tenant!r} already",
        hint=f"plexspaces token rotate {record.name}, or choose another --name",
    )


class TokenRows:
    """The tokens in a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[TokenRecord]:
        """Return every token by tenant and name; what a field holds is not checked."""
        return await self._database.call(Mode.READ, _load)

    async def insert(self, record: TokenRecord) -> None:
        """Add a token; raises `AlreadyExists` if its tenant has one of its name."""
        await self._database.call(Mode.DURABLE, lambda connection: _insert(connection, record))

    async def keep(self, record: TokenRecord) -> None:
        """Write a token, whether it is there or not, except for when it was last used."""

        def run(connection: sqlite3.Connection) -> None:
            places = f"INSERT INTO tokens ({_COLUMNS}) VALUES ({_PLACES})"
            connection.execute(f"{places} ON CONFLICT DO UPDATE SET {_KEPT}", _row(record))

        await self._database.free(Mode.WRITE, run)

    async def replace(self, record: TokenRecord) -> None:
        """Write a token anew, if it is there. Works on a full disk."""
        await self._database.free(Mode.DURABLE, lambda connection: _replace(connection, record))

    async def delete(self, tenant: str, name: str) -> None:
        """Remove a token, if it is there. Works on a full disk."""
        await self._database.free(
            Mode.DURABLE,
            lambda connection: connection.execute(
                "DELETE FROM tokens WHERE tenant = ? AND name = ?", (tenant, name)
            ),
        )

    async def write_used(self, used: Mapping[tuple[str, str], int]) -> None:
        """Record when tokens, by tenant and name, were last used."""

        def run(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE tokens SET used_ns = ? WHERE tenant = ? AND name = ?",
                [(used_ns, *key) for key, used_ns in used.items()],
            )

        await self._database.call(Mode.WRITE, run)


_COLUMNS = (
    "tenant, name, id, scopes, applications, created_ns, expires_ns, hash, key_check, used_ns,"
    " previous_hash, previous_until_ns"
)
_PLACES = ", ".join("?" * len(_COLUMNS.split(",")))
_KEPT = ", ".join(
    f"{column} = excluded.{column}" for column in _COLUMNS.split(", ") if column != "used_ns"
)


def _load(connection: sqlite3.Connection) -> list[TokenRecord]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM tokens ORDER BY tenant, name")
    return [_record(*row) for row in rows]


def _record(tenant: str, name: str, id_: str, scopes: str, *rest: object) -> TokenRecord:
    try:
        told = msgspec.json.decode(scopes, type=tuple[str, ...])
    except msgspec.DecodeError:
        # It allows nothing then.
        told = ()
    return TokenRecord(tenant, name, id_, told, *rest)  # type: ignore[arg-type]


def _insert(connection: sqlite3.Connection, record: TokenRecord) -> None:
    found = connection.execute(
        "SELECT 1 FROM tokens WHERE tenant = ? AND name = ?", (record.tenant, record.name)
    ).fetchone()
    if found is not None:
        raise token_taken(record)
    connection.execute(f"INSERT INTO tokens ({_COLUMNS}) VALUES ({_PLACES})", _row(record))


def _replace(connection: sqlite3.Connection, record: TokenRecord) -> None:
    connection.execute(
        f"UPDATE tokens SET ({_COLUMNS}) = ({_PLACES}) WHERE tenant = ? AND name = ?",
        (*_row(record), record.tenant, record.name),
    )


def _row(record: TokenRecord) -> tuple[object, ...]:
    """Return the values of `_COLUMNS`."""
    return (
        record.tenant,
        record.name,
        record.id,
        msgspec.json.encode(record.scopes).decode(),
        record.applications,
        record.created_ns,
        record.expires_ns,
        record.hash,
        record.key_check,
        record.used_ns,
        record.previous_hash,
        record.previous_until_ns,
    )
