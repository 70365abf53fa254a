"""The registry file of a backup: copied while a node writes it, and checked.

Uses read-only connections of its own, also while a node runs. Everything here blocks.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from plexspaces_node.errors import ResourceExhausted, WrongState
from plexspaces_node.model import beside
from plexspaces_node.node.registry.migrations import MIGRATIONS, migrate

_BUSY_TIMEOUT_S = 30.0
_FAULTS_TOLD = 3


@dataclass(frozen=True, slots=True)
class Contents:
    """What a registry refers to.

    Attributes:
        schema: the number of its last migration.
        artifacts: the artifact of each application whose deploy was done, by name: its digest, in
            its tenant.
        secret_keys: ids of the keys with which its secrets are encrypted.
        passphrase_key: the id of the one that is made of a passphrase, "" for none.
    """

    schema: int
    artifacts: dict[str, str]
    secret_keys: tuple[str, ...] = ()
    passphrase_key: str = ""


def copy(registry: Path, target: Path) -> Contents:
    """Copy a registry as it is at one moment into an existing empty file, and check it.

    The copy contains exactly what was committed until then. Raises what `check` raises, and
    `ResourceExhausted` if the disk is full.
    """
    with _opened(registry, "mode=ro") as source, _opened(target, "mode=rw") as copied:
        copied.execute("PRAGMA journal_mode = OFF")
        copied.execute("PRAGMA synchronous = OFF")
        source.backup(copied)
    return check(target)


def check(registry: Path) -> Contents:
    """Read every page of a registry and return what it refers to.

    Raises `WrongState` for a registry that is damaged, that a newer version has written, or whose
    tables are not those of its version.
    """
    with _opened(registry, "mode=ro") as connection:
        schema = _schema(connection)
        if schema > len(MIGRATIONS):
            raise WrongState(
                f"{registry.name} has schema {schema}, this version of PlexSpaces supports "
                f"{len(MIGRATIONS)}",
                hint="pip install --upgrade plexspaces-node",
            )
        # First, because anything else, a trigger or a computed column, would run in what follows.
        if _tables(connection) != _tables_of(schema):
            raise WrongState(f"{registry.name} has other tables than a registry of schema {schema}")
        faults = connection.execute(f"PRAGMA integrity_check({_FAULTS_TOLD})").fetchall()
        if faults != [("ok",)]:
            raise WrongState(
                f"{registry.name} is damaged: {'; '.join(fault for (fault,) in faults)}"
            )
        rows = connection.execute(
            "SELECT name, digest FROM applications WHERE generation > 0 ORDER BY name"
        )
        artifacts = {name: beside(name, digest) for name, digest in rows}
        return Contents(schema, artifacts, *_keys(connection))


def _keys(connection: sqlite3.Connection) -> tuple[tuple[str, ...], str]:
    tables = "SELECT 1 FROM sqlite_schema WHERE name = 'secrets'"
    if connection.execute(tables).fetchone() is None:
        return (), ""
    # Limited, whatever somebody has put there.
    keys = "SELECT DISTINCT SUBSTR(key_id, 1, 64) FROM secrets ORDER BY 1 LIMIT 10"
    found = tuple(key for (key,) in connection.execute(keys))
    salt = connection.execute("SELECT SUBSTR(key_id, 1, 64) FROM secret_salt").fetchone()
    return found, "" if salt is None else salt[0]


@contextmanager
def _opened(registry: Path, mode: str) -> Iterator[sqlite3.Connection]:
    address = f"file:{quote(str(registry.absolute()))}?{mode}"
    try:
        connection = sqlite3.connect(address, _BUSY_TIMEOUT_S, uri=True, isolation_level=None)
        with closing(connection):
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise ResourceExhausted(
                "no space left for a copy of the registry", hint="df -h"
            ) from error
        raise WrongState(f"{registry.name} cannot be read: {error}") from error


def _schema(connection: sqlite3.Connection) -> int:
    # With this type and limited, whatever somebody has put into the table.
    [[number]] = connection.execute(
        "SELECT MAX(CASE WHEN TYPEOF(number) = 'integer' THEN number END) FROM migrations"
    ).fetchall()
    if not isinstance(number, int) or number < 1:
        raise WrongState("the registry does not name its schema")
    return number


def _tables(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    rows = connection.execute(
        "SELECT type, name, SUBSTR(COALESCE(sql, ''), 1, 4096) FROM sqlite_schema LIMIT 100"
    )
    # Because versions of SQLite quote a renamed table differently.
    return {(type_, name, re.sub(r'[\s"]+', "", sql)) for type_, name, sql in rows}


def _tables_of(schema: int) -> set[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, MIGRATIONS[:schema])
        return _tables(connection)
