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
from typing import Any, TypeAlias

import msgspec

from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    WrongState,
)
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

_PRUNED_AT_ONCE = 16

Value: TypeAlias = bytes | bytearray | memoryview
"""What is written; read it is always bytes."""

Parts: TypeAlias = Sequence[tuple[int, Value]]
"""Parts of a state, each with the byte at which it begins; none is empty."""


class Desired(StrEnum):
    """What the user wants of an application; the supervisor makes it so."""

    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ApplicationRecord:
    """What the registry knows of an application.

    Attributes:
        env: kept out of the repr, because users put secrets there; so are the arguments.
        concurrency: 0 for as many messages at the same time as it has vcpus.
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
    args: tuple[str, ...] = field(default=(), repr=False)
    concurrency: int = 0
    fault: str = ""

    @property
    def at_once(self) -> int:
        """How many messages it handles at the same time."""
        if self.kind is ArtifactKind.ACTOR:
            return 1
        return self.concurrency or self.vm_config.vcpus


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """An actor's saved state.

    Attributes:
        taken_ns: since the epoch; no two states of an application have the same.
    """

    taken_ns: int
    size_bytes: int


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

    async def add_to_snapshot(self, name: str, taken_ns: int, parts: Parts) -> None:
        """Write parts of a state that is not the saved one, and is not until `save_snapshot`.

        Raises `NotFound`.
        """
        await self._call(
            Mode.WRITE, lambda connection: _add_to_snapshot(connection, name, taken_ns, parts)
        )

    async def save_snapshot(self, name: str, record: SnapshotRecord, parts: Parts) -> bool:
        """Write the last parts of an actor's state and keep it in place of the one before.

        What a crash leaves is one of the two. Tells whether nothing is left of any other state,
        see `prune_snapshots`. Raises `NotFound`.
        """

        def save(connection: sqlite3.Connection) -> bool:
            _add_to_snapshot(connection, name, record.taken_ns, parts)
            _save_snapshot(connection, name, record)
            return _prune(connection, name)

        return await self._call(Mode.WRITE, save)

    async def prune_snapshots(self, name: str) -> bool:
        """Remove some of what is left of states that are not the saved one; tell whether all.

        In steps, as the writes of everybody wait for each. Not while a state is on its way.
        """
        return await self._call(Mode.WRITE, lambda connection: _prune(connection, name))

    async def load_snapshot(self, name: str) -> SnapshotRecord | None:
        """Return what is known of the state saved last, or None."""
        return await self._call(Mode.READ, lambda connection: _load_snapshot(connection, name))

    async def read_part(self, name: str, taken_ns: int, begin: int) -> bytes:
        """Return the part of a state that begins at a byte; raises `WrongState` without one."""
        return await self._call(
            Mode.READ, lambda connection: _read_part(connection, name, taken_ns, begin)
        )

    async def kv_get(self, name: str, key: str) -> bytes | None:
        """Return the value of an application's key, or None."""
        _check_key(key)
        return await self._call(Mode.READ, lambda connection: _kv_get(connection, name, key))

    async def kv_put(self, name: str, key: str, value: Value | None) -> None:
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
    " request_id, created_ns, timings, args, concurrency"
)
_PLACES = ", ".join("?" * len(_COLUMNS.split(",")))


def _insert(connection: sqlite3.Connection, record: ApplicationRecord) -> None:
    connection.execute("DELETE FROM applications WHERE name = ? AND generation = 0", (record.name,))
    if _find(connection, "name", record.name) is not None:
        raise AlreadyExists(
            f"an application named {record.name!r} is deployed already",
            hint=f"plexspaces undeploy --name {record.name}",
        )
    _check_request(connection, record.request_id, record.name)
    connection.execute(f"INSERT INTO applications ({_COLUMNS}) VALUES ({_PLACES})", _row(record))


def _replace(connection: sqlite3.Connection, record: ApplicationRecord) -> None:
    _check_request(connection, record.request_id, record.name)
    # Not REPLACE, which would delete the row first, and snapshot and key-values with it.
    _update_one(
        connection,
        record.name,
        f"UPDATE applications SET ({_COLUMNS}) = ({_PLACES}) WHERE name = ?",
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
        _json(record.args),
        record.concurrency,
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
    generation, request_id, created_ns, timings, args, concurrency = rest
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
            args=msgspec.json.decode(args, type=tuple[str, ...]),
            concurrency=concurrency,
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


def _add_to_snapshot(
    connection: sqlite3.Connection, name: str, taken_ns: int, parts: Parts
) -> None:
    for begin, body in parts:
        # INSERT ... SELECT, so that an unknown application is no row rather than a broken key; OR
        # REPLACE for a part that is written again, since its first write was not seen to be done.
        _update_one(
            connection,
            name,
            "INSERT OR REPLACE INTO snapshot_parts (application, taken_ns, begin_byte, body)"
            " SELECT name, ?, ?, ? FROM applications WHERE name = ?",
            (taken_ns, begin, body, name),
        )


def _save_snapshot(connection: sqlite3.Connection, name: str, record: SnapshotRecord) -> None:
    _update_one(
        connection,
        name,
        "INSERT OR REPLACE INTO snapshots (application, taken_ns, size_bytes)"
        " SELECT name, ?, ? FROM applications WHERE name = ?",
        (record.taken_ns, record.size_bytes, name),
    )


def _prune(connection: sqlite3.Connection, name: str) -> bool:
    removed = connection.execute(
        "DELETE FROM snapshot_parts WHERE rowid IN ("
        " SELECT rowid FROM snapshot_parts WHERE application = ?1 AND taken_ns IS NOT"
        " (SELECT taken_ns FROM snapshots WHERE application = ?1) LIMIT ?2)",
        (name, _PRUNED_AT_ONCE),
    ).rowcount
    return removed < _PRUNED_AT_ONCE


def _load_snapshot(connection: sqlite3.Connection, name: str) -> SnapshotRecord | None:
    row = connection.execute(
        "SELECT taken_ns, size_bytes FROM snapshots WHERE application = ?", (name,)
    ).fetchone()
    return None if row is None else SnapshotRecord(*row)


def _read_part(connection: sqlite3.Connection, name: str, taken_ns: int, begin: int) -> bytes:
    row = connection.execute(
        "SELECT body FROM snapshot_parts WHERE application = ? AND taken_ns = ? AND begin_byte = ?",
        (name, taken_ns, begin),
    ).fetchone()
    if row is None or not row[0]:
        raise WrongState(
            f"the saved state of {name!r} has no part at byte {begin}",
            hint="put a backup of the registry in its place, or deploy the application anew",
        )
    body: bytes = row[0]
    return body


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
    connection: sqlite3.Connection,
    name: str,
    key: str,
    value: Value | None,
    *,
    limit: int,
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
