"""The SQL of the secrets: a row for each, with what only its key can read.

It also has the salt of the passphrase, if the key is made of one. Nothing here sees a value.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from plexspaces_node.errors import NotFound, ResourceExhausted, WrongState
from plexspaces_node.info import SecretInfo
from plexspaces_node.model import split_name
from plexspaces_node.node.registry.database import Database
from plexspaces_node.node.registry.sqlite_file import Mode

MOST_SECRETS = 1000
"""How many secrets a tenant can have."""


Seal: TypeAlias = Callable[[int], tuple[str, bytes]]
"""Returns a key's id, and a value that is sealed with it as the version of this number."""

_COLUMNS = "tenant, name, version, key_id, sealed, created_ns, changed_ns"


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A secret as it is stored."""

    name: str
    version: int
    key_id: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SecretRow:
    """All that is stored of a secret."""

    tenant: str
    name: str
    version: int
    key_id: str
    sealed: bytes = field(repr=False)
    created_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Salt:
    """What makes a key of a passphrase, and the id of that key, by which it is known again."""

    salt: bytes
    key_id: str


def secret_used(name: str, users: Iterable[str]) -> WrongState:
    """Return the error for a secret that applications use."""
    return WrongState(
        f"secret {name!r} is used by {', '.join(users)}",
        hint="deploy them without it, or force it: they do not start again then",
    )


def no_secret(tenant: str, name: str) -> NotFound:
    """Return the error for a secret that a tenant does not have."""
    return NotFound(
        f"there is no secret {name!r} in tenant {tenant!r}",
        hint=f"plexspaces secret list --tenant {tenant}",
    )


def too_many_secrets(tenant: str, count: int) -> ResourceExhausted:
    """Return the error for a tenant that has as many as it may."""
    return ResourceExhausted(
        f"tenant {tenant!r} has {count} secrets, the limit is {MOST_SECRETS}",
        hint="remove those that nothing uses",
    )


class SecretRows:
    """The secrets in a registry. What is written survives a power loss."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(
        self,
        tenant: str,
        name: str,
        now_ns: int,
        seal: Seal,
        *,
        restart: bool = False,
    ) -> int:
        """Store the next version of a secret and return its number.

        `seal` is called with that number, on the database's thread, and returns the key's id and
        the sealed value. Raises `ResourceExhausted` if the tenant has too many.
        """

        def run(connection: sqlite3.Connection) -> int:
            return _put(connection, tenant, name, now_ns, seal)

        return await self._database.call(Mode.DURABLE, run)

    async def get(self, tenant: str, names: Iterable[str]) -> dict[str, SealedSecret]:
        """Return those of a tenant's secrets that exist, by name."""
        wanted = frozenset(names)
        return await self._database.call(
            Mode.READ, lambda connection: _get(connection, tenant, wanted)
        )

    async def list(self, tenant: str | None) -> list[SecretInfo]:
        """Return the secrets of a tenant by name, or of all tenants."""
        return await self._database.call(Mode.READ, lambda connection: _list(connection, tenant))

    async def delete(self, tenant: str, name: str, *, force: bool) -> tuple[str, ...]:
        """Remove a secret and return the applications that use it.

        Raises `NotFound`, and `WrongState` if an application uses it, unless `force`.
        """
        return await self._database.free(
            Mode.DURABLE, lambda connection: _delete(connection, tenant, name, force)
        )

    async def rows(self) -> tuple[SecretRow, ...]:
        """Return all that is stored of every secret."""
        return await self._database.call(
            Mode.READ,
            lambda connection: tuple(
                SecretRow(*row) for row in connection.execute(f"SELECT {_COLUMNS} FROM secrets")
            ),
        )

    async def keep(self, row: SecretRow) -> None:
        """Write a secret as it is, whether it is there or not."""
        values = (row.tenant, row.name, row.version, row.key_id, row.sealed, row.created_ns)
        await self._database.free(
            Mode.WRITE,
            lambda connection: connection.execute(
                f"INSERT OR REPLACE INTO secrets ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, row.changed_ns),
            ),
        )

    async def drop(self, tenant: str, name: str) -> None:
        """Remove a secret, if it is there, whoever uses it."""
        await self._database.free(
            Mode.WRITE,
            lambda connection: connection.execute(
                "DELETE FROM secrets WHERE tenant = ? AND name = ?", (tenant, name)
            ),
        )

    async def key_ids(self) -> frozenset[str]:
        """Return the ids of the keys with which the secrets are sealed."""
        return await self._database.call(Mode.READ, key_ids)

    async def salt(self) -> Salt | None:
        """Return the salt of the passphrase, if there is one."""
        return await self._database.call(Mode.READ, _salt)

    async def set_salt(self, salt: Salt) -> None:
        """Store the salt of the passphrase in place of the one before."""
        await self._database.call(Mode.DURABLE, lambda connection: _set_salt(connection, salt))


def key_ids(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the ids of the keys with which the secrets are sealed."""
    return frozenset(key_id for (key_id,) in connection.execute("SELECT key_id FROM secrets"))


def _put(
    connection: sqlite3.Connection,
    tenant: str,
    name: str,
    now_ns: int,
    seal: Seal,
) -> int:
    row = connection.execute(
        "SELECT version FROM secrets WHERE tenant = ? AND name = ?", (tenant, name)
    ).fetchone()
    if row is None:
        (count,) = connection.execute(
            "SELECT COUNT(*) FROM secrets WHERE tenant = ?", (tenant,)
        ).fetchone()
        if count >= MOST_SECRETS:
            raise too_many_secrets(tenant, count)
    version = 1 if row is None else row[0] + 1
    connection.execute(
        f"INSERT INTO secrets ({_COLUMNS})"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET (version, key_id, sealed, changed_ns)"
        " = (excluded.version, excluded.key_id, excluded.sealed, excluded.changed_ns)",
        (tenant, name, version, *seal(version), now_ns, now_ns),
    )
    return version


def _get(
    connection: sqlite3.Connection, tenant: str, names: frozenset[str]
) -> dict[str, SealedSecret]:
    found = {}
    for name in names:
        row = connection.execute(
            "SELECT name, version, key_id, sealed FROM secrets WHERE tenant = ? AND name = ?",
            (tenant, name),
        ).fetchone()
        if row is not None:
            found[name] = SealedSecret(*row)
    return found


def _list(connection: sqlite3.Connection, tenant: str | None) -> list[SecretInfo]:
    users = _users(connection)
    rows = connection.execute(
        "SELECT tenant, name, version, created_ns, changed_ns FROM secrets"
        " WHERE ? IS NULL OR tenant = ? ORDER BY tenant, name",
        (tenant, tenant),
    )
    return [
        SecretInfo(of, name, version, created_ns, changed_ns, tuple(users.get((of, name), ())))
        for of, name, version, created_ns, changed_ns in rows
    ]


def _delete(connection: sqlite3.Connection, tenant: str, name: str, force: bool) -> tuple[str, ...]:
    users = tuple(_users(connection).get((tenant, name), ()))
    if users and not force:
        raise secret_used(name, users)
    deleted = connection.execute(
        "DELETE FROM secrets WHERE tenant = ? AND name = ?", (tenant, name)
    ).rowcount
    if not deleted:
        raise no_secret(tenant, name)
    return users


def _users(connection: sqlite3.Connection) -> Mapping[tuple[str, str], list[str]]:
    """Return the full names of the applications that use each secret, by its tenant and name."""
    users: dict[tuple[str, str], list[str]] = {}
    for application, text in connection.execute(
        "SELECT name, secrets FROM applications WHERE secrets <> '{}' ORDER BY name"
    ):
        tenant, _ = split_name(application)
        with suppress(msgspec.DecodeError):
            # Nobody can start what a newer version has written there.
            for name in sorted(set(msgspec.json.decode(text, type=dict[str, str]).values())):
                users.setdefault((tenant, name), []).append(application)
    return users


def _salt(connection: sqlite3.Connection) -> Salt | None:
    row = connection.execute("SELECT salt, key_id FROM secret_salt").fetchone()
    return None if row is None else Salt(*row)


def _set_salt(connection: sqlite3.Connection, salt: Salt) -> None:
    connection.execute("DELETE FROM secret_salt")
    connection.execute(
        "INSERT INTO secret_salt (salt, key_id) VALUES (?, ?)", (salt.salt, salt.key_id)
    )
