"""The registry: the truth about applications and their state, in one SQLite file.

This file owns every SQL statement about applications; `migrations` makes the tables and
`database` runs the statements. It knows nothing of machines, links or artifacts on disk, and
generates neither ids nor times: they are arguments.

How much an acknowledged write survives:

- What a user asked for (insert, set_deployed, delete, set_desired) survives a power loss: its
  commit is synced.
- What actors produce in quantity (snapshots, key-values) survives `kill -9` of the actor and of
  the node and never damages the file, but the last moments may be lost with the power: a sync
  each would cap a node at the few hundred syncs a second of its disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from plexspaces_node.errors import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted
from plexspaces_node.model import (
    MIB,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    check_name,
)
from plexspaces_node.node.database import Database, Mode
from plexspaces_node.node.migrations import MIGRATIONS, Migration

DEFAULT_KEYVALUE_LIMIT_BYTES = 64 * MIB
"""The most one application's keys and values may add up to."""

KEY_LIMIT_BYTES = 512
"""The longest key, in bytes of UTF-8."""


class Desired(StrEnum):
    """What the user wants of an application; the supervisor makes it so."""

    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ApplicationRecord:
    """What the registry knows of an application.

    Attributes:
        env: kept out of the repr, because users put secrets there.
        generation: 0 until the deploy is done, which raises it, as every change of `desired` does.
        request_id: of the deploy that made it, "" for none; unique otherwise.
        timings: of the deploy, None until they are known.
        fault: why the row cannot be read, "" for one that can. What could not be read is then a
            placeholder, and all that can be done with the application is to remove it.
    """

    name: str
    id: str
    version: str
    language: Language
    kind: ArtifactKind
    digest: str
    vm_config: VmConfig
    env: Mapping[str, str] = field(repr=False)
    desired: Desired
    generation: int
    request_id: str
    created_ns: int
    timings: PhaseTimings | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """An actor's saved state and when it was taken, in nanoseconds since the epoch."""

    application: str
    state: bytes = field(repr=False)
    taken_ns: int


class Registry:
    """The open registry. Made by `open`; used from the event loop that opened it.

    Every method returns when its work is committed, and they take effect in the order they were
    called. Beyond the errors named, each raises what `Database.call` raises.

    Attributes:
        is_new: there was no file, or nothing in it, before it was opened.
    """

    def __init__(self, database: Database, *, keyvalue_limit_bytes: int, is_new: bool) -> None:
        self.is_new = is_new
        self._database = database
        self._call = database.call
        self._keyvalue_limit = keyvalue_limit_bytes

    def __repr__(self) -> str:
        return f"<Registry {self._database!r}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        *,
        keyvalue_limit_bytes: int = DEFAULT_KEYVALUE_LIMIT_BYTES,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> AsyncIterator[Registry]:
        """Open or make the registry's file; leaving the context writes what is pending.

        Raises what `Database.open` raises.
        """
        is_new = not path.exists() or not path.stat().st_size
        async with Database.open(path, migrations) as database:
            yield cls(database, keyvalue_limit_bytes=keyvalue_limit_bytes, is_new=is_new)

    async def insert_application(self, record: ApplicationRecord) -> None:
        """Add an application; raises `AlreadyExists` when its name or request id is taken.

        One of that name whose deploy was never done makes room: only one deploy of a name may be
        under way.
        """
        await self._call(Mode.DURABLE, lambda connection: _insert(connection, record))

    async def check_request(self, request_id: str, name: str) -> None:
        """Raise `AlreadyExists` when this request has deployed an application of another name."""
        await self._call(Mode.READ, lambda connection: _check_request(connection, request_id, name))

    async def replace_application(self, record: ApplicationRecord) -> None:
        """Put an application in place of the one of its name, whose state and keys it keeps.

        Raises `NotFound` without one, and `AlreadyExists` when its request id is another's.
        """
        await self._call(Mode.DURABLE, lambda connection: _replace(connection, record))

    async def get_application(self, name: str) -> ApplicationRecord:
        """Return an application; raises `NotFound`."""
        return await self._call(Mode.READ, lambda connection: _get(connection, name))

    async def list_applications(self) -> list[ApplicationRecord]:
        """Return all applications by name, those that cannot be read too: see their `fault`."""
        return await self._call(Mode.READ, _list)

    async def delete_application(self, id_: str) -> None:
        """Remove an application with its snapshot and key-values; silent when already gone.

        By its id, so that it is never another one of the same name.
        """
        await self._call(Mode.DURABLE, lambda connection: _delete(connection, id_))

    async def set_desired(self, name: str, desired: Desired) -> ApplicationRecord:
        """Record what the user wants and return the application; raises `NotFound`.

        Idempotent: the generation is raised only when something changes.
        """
        return await self._call(
            Mode.DURABLE, lambda connection: _set_desired(connection, name, desired)
        )

    async def set_deployed(self, name: str, timings: PhaseTimings) -> ApplicationRecord:
        """Record that a deploy is done and how long it took, and return the application.

        Raises `NotFound`.
        """
        return await self._call(
            Mode.DURABLE, lambda connection: _set_deployed(connection, name, timings)
        )

    async def save_snapshot(self, name: str, state: bytes, *, taken_ns: int) -> None:
        """Keep an actor's state in place of the one before; raises `NotFound`."""
        await self._call(
            Mode.WRITE, lambda connection: _save_snapshot(connection, name, state, taken_ns)
        )

    async def load_snapshot(self, name: str) -> SnapshotRecord | None:
        """Return the state saved last, or None."""
        return await self._call(Mode.READ, lambda connection: _load_snapshot(connection, name))

    async def kv_get(self, name: str, key: str) -> bytes | None:
        """Return the value of an application's key, or None."""
        _check_key(key)
        return await self._call(Mode.READ, lambda connection: _kv_get(connection, name, key))

    async def kv_put(self, name: str, key: str, value: bytes | None) -> None:
        """Set an application's key; None deletes it, silently when it is not there.

        Raises `InvalidArgument` for a key that is empty or over `KEY_LIMIT_BYTES`, `NotFound`
        when there is no such application, `ResourceExhausted` when its keys and values would
        pass the limit; nothing is changed then.
        """
        _check_key(key)
        await self._call(
            Mode.WRITE,
            lambda connection: _kv_put(connection, name, key, value, limit=self._keyvalue_limit),
        )


_COLUMNS = (
    "name, id, version, language, kind, digest, vcpus, memory_mib, env, desired, generation,"
    " request_id, created_ns, timings"
)


def _insert(connection: sqlite3.Connection, record: ApplicationRecord) -> None:
    connection.execute("DELETE FROM applications WHERE name = ? AND generation = 0", (record.name,))
    if _find(connection, "name", record.name) is not None:
        raise AlreadyExists(
            f"an application named {record.name!r} is deployed already",
            hint=f"plexspaces undeploy --name {record.name}",
        )
    _check_request(connection, record.request_id, record.name)
    connection.execute(
        f"INSERT INTO applications ({_COLUMNS}) VALUES ({', '.join('?' * 14)})", _row(record)
    )


def _replace(connection: sqlite3.Connection, record: ApplicationRecord) -> None:
    _check_request(connection, record.request_id, record.name)
    # Not REPLACE, which would delete the row first, and snapshot and key-values with it.
    _update_one(
        connection,
        record.name,
        f"UPDATE applications SET ({_COLUMNS}) = ({', '.join('?' * 14)}) WHERE name = ?",
        (*_row(record), record.name),
    )


def _check_request(connection: sqlite3.Connection, request_id: str, name: str) -> None:
    other = _find(connection, "request_id", request_id) if request_id else None
    if other is not None and other.name != name:
        raise AlreadyExists(
            f"request id {request_id!r} has deployed application {other.name!r}",
            hint="choose a new request id for every deploy",
        )


def _row(record: ApplicationRecord) -> tuple[Any, ...]:
    """Return the values of `_COLUMNS`."""
    return (
        record.name,
        record.id,
        record.version,
        record.language,
        record.kind,
        record.digest,
        record.vm_config.vcpus,
        record.vm_config.memory_mib,
        _json(record.env),
        record.desired,
        record.generation,
        record.request_id,
        record.created_ns,
        None if record.timings is None else _json(record.timings),
    )


def _get(connection: sqlite3.Connection, name: str) -> ApplicationRecord:
    record = _find(connection, "name", name)
    if record is None:
        raise _not_found(name)
    return record


def _find(connection: sqlite3.Connection, column: str, value: str) -> ApplicationRecord | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM applications WHERE {column} = ?", (value,)
    ).fetchone()
    return None if row is None else _record(row)


def _list(connection: sqlite3.Connection) -> list[ApplicationRecord]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM applications ORDER BY name")
    return [_record(row) for row in rows]


def _record(row: tuple[Any, ...]) -> ApplicationRecord:
    name, id_, version, language, kind, digest, vcpus, memory_mib, env, desired, *rest = row
    generation, request_id, created_ns, timings = rest
    bare = ApplicationRecord(
        name=name,
        id=id_,
        version=version,
        language=Language.UNKNOWN,
        kind=ArtifactKind.ACTOR,
        digest=digest,
        vm_config=VmConfig(),
        env={},
        desired=Desired.STOPPED,
        generation=generation,
        request_id=request_id,
        created_ns=created_ns,
    )
    try:
        check_name(name)
        return replace(
            bare,
            language=Language(language),
            kind=ArtifactKind(kind),
            vm_config=VmConfig(vcpus, memory_mib),
            env=msgspec.json.decode(env, type=dict[str, str]),
            desired=Desired(desired),
            timings=None if timings is None else msgspec.json.decode(timings, type=PhaseTimings),
        )
    except (ValueError, InvalidArgument) as error:
        # A newer version may have written it, and will read it again.
        return replace(bare, fault=f"its row in the registry cannot be read: {error}")


def _set_deployed(
    connection: sqlite3.Connection, name: str, timings: PhaseTimings
) -> ApplicationRecord:
    _update_one(
        connection,
        name,
        "UPDATE applications SET timings = ?, generation = generation + 1 WHERE name = ?",
        (_json(timings), name),
    )
    return _get(connection, name)


def _set_desired(connection: sqlite3.Connection, name: str, desired: Desired) -> ApplicationRecord:
    connection.execute(
        "UPDATE applications SET desired = ?, generation = generation + 1"
        " WHERE name = ? AND desired <> ?",
        (desired, name, desired),
    )
    return _get(connection, name)


def _delete(connection: sqlite3.Connection, id_: str) -> None:
    # Snapshot and key-values go by their foreign keys.
    connection.execute("DELETE FROM applications WHERE id = ?", (id_,))


def _save_snapshot(connection: sqlite3.Connection, name: str, state: bytes, taken_ns: int) -> None:
    # INSERT ... SELECT, so that an unknown application is no row rather than a broken key.
    _update_one(
        connection,
        name,
        "INSERT INTO snapshots (application, state, taken_ns)"
        " SELECT name, ?, ? FROM applications WHERE name = ?"
        " ON CONFLICT (application) DO UPDATE"
        " SET state = excluded.state, taken_ns = excluded.taken_ns",
        (state, taken_ns, name),
    )


def _load_snapshot(connection: sqlite3.Connection, name: str) -> SnapshotRecord | None:
    row = connection.execute(
        "SELECT state, taken_ns FROM snapshots WHERE application = ?", (name,)
    ).fetchone()
    return None if row is None else SnapshotRecord(name, row[0], row[1])


def _check_key(key: str) -> None:
    size = len(key.encode())
    if not 1 <= size <= KEY_LIMIT_BYTES:
        raise InvalidArgument(
            f"a key of {size} bytes is not valid",
            hint=f"use keys of 1 to {KEY_LIMIT_BYTES} bytes of UTF-8",
        )


def _kv_get(connection: sqlite3.Connection, name: str, key: str) -> bytes | None:
    row = connection.execute(
        "SELECT value FROM keyvalue WHERE application = ? AND key = ?", (name, key)
    ).fetchone()
    return None if row is None else row[0]


def _kv_put(
    connection: sqlite3.Connection, name: str, key: str, value: bytes | None, *, limit: int
) -> None:
    row = connection.execute(
        "SELECT keyvalue_bytes, LENGTH(value) FROM applications"
        " LEFT JOIN keyvalue ON application = name AND key = ? WHERE name = ?",
        (key, name),
    ).fetchone()
    if row is None:
        raise _not_found(name)
    used, old_value_bytes = row
    key_bytes = len(key.encode())
    new_bytes = 0 if value is None else key_bytes + len(value)
    old_bytes = 0 if old_value_bytes is None else key_bytes + old_value_bytes
    total = used - old_bytes + new_bytes
    if total > limit and new_bytes > old_bytes:
        raise ResourceExhausted(
            f"the key-value store of {name!r} would hold {total} bytes, its limit is {limit}",
            hint="delete keys, or raise [limits] keyvalue_bytes",
        )
    if value is None:
        connection.execute("DELETE FROM keyvalue WHERE application = ? AND key = ?", (name, key))
    else:
        connection.execute(
            "INSERT INTO keyvalue (application, key, value) VALUES (?, ?, ?)"
            " ON CONFLICT (application, key) DO UPDATE SET value = excluded.value",
            (name, key, value),
        )
    connection.execute("UPDATE applications SET keyvalue_bytes = ? WHERE name = ?", (total, name))


def _update_one(
    connection: sqlite3.Connection, name: str, sql: str, values: tuple[Any, ...]
) -> None:
    if connection.execute(sql, values).rowcount == 0:
        raise _not_found(name)


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no application named {name!r}", hint="plexspaces list")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
