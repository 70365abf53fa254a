"""The registry's schema, as the numbered steps that create it.

This module defines the tables. A released step is never changed or removed, only followed by
another one, because existing files were made by it. Only `registry` uses this module.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeAlias

from plexspaces_node.errors import WrongState

Migration: TypeAlias = Callable[[sqlite3.Connection], object]


def _applications(connection: sqlite3.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE applications (
            name TEXT PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            version TEXT NOT NULL,
            language TEXT NOT NULL,
            kind TEXT NOT NULL,
            digest TEXT NOT NULL,
            vcpus INTEGER NOT NULL,
            memory_mib INTEGER NOT NULL,
            env TEXT NOT NULL,
            desired TEXT NOT NULL CHECK (desired IN ('running', 'stopped')),
            generation INTEGER NOT NULL,
            request_id TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            timings TEXT,
            keyvalue_bytes INTEGER NOT NULL DEFAULT 0
        ) STRICT
        """
    )
    connection.execute(
        "CREATE UNIQUE INDEX applications_request_id ON applications (request_id)"
        " WHERE request_id <> ''"
    )


def _state(connection: sqlite3.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE snapshots (
            application TEXT PRIMARY KEY REFERENCES applications (name) ON DELETE CASCADE,
            state BLOB NOT NULL,
            taken_ns INTEGER NOT NULL
        ) STRICT
        """
    )
    connection.execute(
        """
        CREATE TABLE keyvalue (
            application TEXT NOT NULL REFERENCES applications (name) ON DELETE CASCADE,
            key TEXT NOT NULL,
            value BLOB NOT NULL,
            PRIMARY KEY (application, key)
        ) STRICT
        """
    )


def _commands(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE applications ADD COLUMN args TEXT NOT NULL DEFAULT '[]'")
    connection.execute("ALTER TABLE applications ADD COLUMN concurrency INTEGER NOT NULL DEFAULT 0")


def _states_in_parts(connection: sqlite3.Connection) -> None:
    # A state that was one value was at most 2 MiB long.
    connection.execute("ALTER TABLE snapshots RENAME TO whole_snapshots")
    connection.execute(
        """
        CREATE TABLE snapshots (
            application TEXT PRIMARY KEY REFERENCES applications (name) ON DELETE CASCADE,
            taken_ns INTEGER NOT NULL,
            size_bytes INTEGER NOT NULL
        ) STRICT
        """
    )
    connection.execute(
        """
        CREATE TABLE snapshot_parts (
            application TEXT NOT NULL REFERENCES applications (name) ON DELETE CASCADE,
            taken_ns INTEGER NOT NULL,
            begin_byte INTEGER NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (application, taken_ns, begin_byte)
        ) STRICT
        """
    )
    connection.execute(
        "INSERT INTO snapshots SELECT application, taken_ns, LENGTH(state) FROM whole_snapshots"
    )
    for begin in (0, 1024 * 1024):
        connection.execute(
            "INSERT INTO snapshot_parts"
            " SELECT application, taken_ns, ?, SUBSTR(state, ? + 1, 1024 * 1024)"
            " FROM whole_snapshots WHERE LENGTH(state) > ?",
            (begin, begin, begin),
        )
    connection.execute("DROP TABLE whole_snapshots")


def _rows_by_number(connection: sqlite3.Connection) -> None:
    # No foreign keys: what an application leaves goes in steps, see `removed`, and not within the
    # statement that removes its row.
    connection.execute(
        """
        CREATE TABLE numbered (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            id TEXT NOT NULL UNIQUE,
            version TEXT NOT NULL,
            language TEXT NOT NULL,
            kind TEXT NOT NULL,
            digest TEXT NOT NULL,
            vcpus INTEGER NOT NULL,
            memory_mib INTEGER NOT NULL,
            env TEXT NOT NULL,
            desired TEXT NOT NULL CHECK (desired IN ('running', 'stopped')),
            generation INTEGER NOT NULL,
            request_id TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            timings TEXT,
            args TEXT NOT NULL,
            concurrency INTEGER NOT NULL,
            keyvalue_bytes INTEGER NOT NULL DEFAULT 0
        ) STRICT
        """
    )
    columns = (
        "name, id, version, language, kind, digest, vcpus, memory_mib, env, desired, generation,"
        " request_id, created_ns, timings, args, concurrency"
    )
    connection.execute(f"INSERT INTO numbered ({columns}) SELECT {columns} FROM applications")
    for table, described, columns in (
        (
            "snapshots",
            "application INTEGER PRIMARY KEY, taken_ns INTEGER NOT NULL, "
            "size_bytes INTEGER NOT NULL",
            "taken_ns, size_bytes",
        ),
        (
            "snapshot_parts",
            "application INTEGER NOT NULL, taken_ns INTEGER NOT NULL, "
            "begin_byte INTEGER NOT NULL, body BLOB NOT NULL, "
            "PRIMARY KEY (application, taken_ns, begin_byte)",
            "taken_ns, begin_byte, body",
        ),
        (
            "keyvalue",
            "id INTEGER PRIMARY KEY, application INTEGER NOT NULL, key TEXT NOT NULL, "
            "value BLOB NOT NULL, UNIQUE (application, key)",
            "key, value",
        ),
    ):
        connection.execute(f"ALTER TABLE {table} RENAME TO named_{table}")
        connection.execute(f"CREATE TABLE {table} ({described}) STRICT")
        connection.execute(
            f"INSERT INTO {table} (application, {columns})"
            f" SELECT number, {columns} FROM named_{table} JOIN numbered ON name = application"
        )
        connection.execute(f"DROP TABLE named_{table}")
    connection.execute("DROP TABLE applications")
    connection.execute("ALTER TABLE numbered RENAME TO applications")
    connection.execute(
        "CREATE UNIQUE INDEX applications_request_id ON applications (request_id)"
        " WHERE request_id <> ''"
    )
    connection.execute(
        "UPDATE applications SET keyvalue_bytes = (SELECT COALESCE(SUM(CASE"
        "  WHEN bytes < 2048 THEN bytes ELSE (bytes + 4095) / 4096 * 4096 END), 0)"
        " FROM (SELECT 32 + 2 * LENGTH(CAST(key AS BLOB)) + LENGTH(value) AS bytes"
        "  FROM keyvalue WHERE application = number))"
    )
    connection.execute("CREATE TABLE removed (application INTEGER PRIMARY KEY) STRICT")


def _allowed_hosts(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE applications ADD COLUMN allow_hosts TEXT NOT NULL DEFAULT '[]'")


def _quotas(connection: sqlite3.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE quotas (
            tenant TEXT NOT NULL,
            application TEXT NOT NULL,
            key TEXT NOT NULL,
            value INTEGER NOT NULL,
            PRIMARY KEY (tenant, application, key)
        ) STRICT
        """
    )
    connection.execute(
        "ALTER TABLE applications ADD COLUMN keyvalue_keys INTEGER NOT NULL DEFAULT 0"
    )
    connection.execute(
        "UPDATE applications SET keyvalue_keys ="
        " (SELECT COUNT(*) FROM keyvalue WHERE application = number)"
    )


def _secrets(connection: sqlite3.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE secrets (
            tenant TEXT NOT NULL,
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            key_id TEXT NOT NULL,
            sealed BLOB NOT NULL,
            created_ns INTEGER NOT NULL,
            changed_ns INTEGER NOT NULL,
            PRIMARY KEY (tenant, name)
        ) STRICT
        """
    )


def _tokens(connection: sqlite3.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE tokens (
            tenant TEXT NOT NULL,
            name TEXT NOT NULL,
            id TEXT NOT NULL,
            scopes TEXT NOT NULL,
            applications TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            expires_ns INTEGER NOT NULL,
            hash BLOB NOT NULL,
            key_check BLOB NOT NULL,
            used_ns INTEGER NOT NULL,
            previous_hash BLOB NOT NULL,
            previous_until_ns INTEGER NOT NULL,
            PRIMARY KEY (tenant, name)
        ) STRICT
        """
    )
    # At most one row.
    connection.execute("CREATE TABLE secret_salt (salt BLOB NOT NULL, key_id TEXT NOT NULL) STRICT")
    connection.execute("ALTER TABLE applications ADD COLUMN secrets TEXT NOT NULL DEFAULT '{}'")


def _tenants(connection: sqlite3.Connection) -> None:
    # The tenant with the slash behind it, as it begins the names; '' in the tenant `default`.
    connection.execute("DROP INDEX applications_request_id")
    connection.execute(
        "CREATE UNIQUE INDEX applications_request_id"
        " ON applications (request_id, SUBSTR(name, 1, INSTR(name, '/'))) WHERE request_id <> ''"
    )


def _public(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE applications ADD COLUMN public INTEGER NOT NULL DEFAULT 0")


def _cluster_records(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE cluster_records"
        " (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL) STRICT"
    )
    # At most one row.
    connection.execute("CREATE TABLE cluster_mirror (revision INTEGER NOT NULL) STRICT")


def _state_copies(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE state_copies (application INTEGER PRIMARY KEY, epoch INTEGER NOT NULL) STRICT"
    )


MIGRATIONS: tuple[Migration, ...] = (
    _applications,
    _state,
    _commands,
    _states_in_parts,
    _rows_by_number,
    _allowed_hosts,
    _quotas,
    _secrets,
    _tokens,
    _tenants,
    _public,
    _cluster_records,
    _state_copies,
)
"""Step N of the schema is element N-1; append only."""


def migrate(connection: sqlite3.Connection, steps: Sequence[Migration] = MIGRATIONS) -> int:
    """Migrate the file to the last of `steps`; return how many were applied now.

    Each step and its number are written in one transaction, so that after a crash the file is
    completely at one number. The connection must be in autocommit mode. Raises `WrongState` for a
    file that a newer version has written, and then changes nothing.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY) STRICT")
    (applied,) = connection.execute("SELECT COALESCE(MAX(number), 0) FROM migrations").fetchone()
    if applied > len(steps):
        raise WrongState(
            f"the registry has schema {applied}, this version of PlexSpaces supports {len(steps)}",
            hint="pip install --upgrade plexspaces-node, or use another --data-dir",
        )
    for number in range(applied + 1, len(steps) + 1):
        _apply(connection, number, steps[number - 1])
    return len(steps) - int(applied)


def _apply(connection: sqlite3.Connection, number: int, step: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        step(connection)
        connection.execute("INSERT INTO migrations (number) VALUES (?)", (number,))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
