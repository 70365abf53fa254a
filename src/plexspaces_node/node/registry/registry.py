"""The registry: the truth about applications and their state, in one SQLite file.

This module has every SQL statement about applications; `migrations` makes the tables and `database`
runs the statements. It knows nothing of VMs, links or artifacts on disk, and generates neither ids
nor times: they are arguments.

How durable an acknowledged write is:

- What a user asked for (insert, set_deployed, delete, set_desired) survives a power loss: its
  commit is synced.
- What actors produce in quantity (snapshots, key-values) survives `kill -9` of the actor and of
  the node and never damages the file, but the last moments may be lost with the power: a sync
  each would cap a node at the few hundred syncs a second of its disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from plexspaces_node.allowed_hosts import AllowedHosts
from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    PlexSpacesError,
    name_taken,
    no_application,
)
from plexspaces_node.model import (
    HTTP_CONCURRENCY,
    MIB,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    beside,
    check_full_name,
)
from plexspaces_node.node.registry import keyvalue, snapshots
from plexspaces_node.node.registry.cluster_records import ClusterRows
from plexspaces_node.node.registry.database import Database, Value
from plexspaces_node.node.registry.keyvalue import StoreBound
from plexspaces_node.node.registry.migrations import MIGRATIONS, Migration
from plexspaces_node.node.registry.quotas import QuotaRows
from plexspaces_node.node.registry.secrets import SecretRows
from plexspaces_node.node.registry.snapshots import Parts, SnapshotRecord
from plexspaces_node.node.registry.sqlite_errors import Damaged
from plexspaces_node.node.registry.sqlite_file import DEFAULT_BOUNDS, Bounds, Mode
from plexspaces_node.node.registry.state_copies import StateCopies
from plexspaces_node.node.registry.tokens import TokenRows

_log = logging.getLogger(__name__)

DEFAULT_KEYVALUE_LIMIT_BYTES = 64 * MIB
"""The size limit of one application's keys and values."""

_AGAIN_S = 30.0
_GIVE_BACK_AFTER_BYTES = 4 * MIB
"""How much must have been deleted before it is checked whether the file can become smaller."""


class Desired(StrEnum):
    """The user's wish for an application; the supervisor makes it true."""

    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ApplicationRecord:
    """An application in the registry.

    Attributes:
        env: not in the repr, because users put secrets there; nor are the arguments.
        concurrency: 0 for the default of its kind, see `at_once`.
        generation: 0 until the deploy is done, which raises it, as every change of `desired` does.
        request_id: of the deploy that created it, or ""; unique in its tenant otherwise.
        timings: of the deploy; None until they are known.
        allow_hosts: in the form of `AllowedHosts.texts`.
        secrets: the secret's name for each variable whose value is one.
        public: whether everybody may send messages to it.
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
    allow_hosts: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    public: bool = False
    fault: str = ""

    @property
    def artifact(self) -> str:
        """The full name of its artifact: its digest, in its tenant."""
        return beside(self.name, self.digest)

    @property
    def at_once(self) -> int:
        """How many messages or requests it handles at the same time.

        By default a command handles one per virtual CPU, because a program computes. A request
        also waits for its client and for other servers.
        """
        if self.kind is ArtifactKind.ACTOR:
            return 1
        if self.kind is ArtifactKind.HTTP_COMPONENT:
            return self.concurrency or HTTP_CONCURRENCY
        return self.concurrency or self.vm_config.vcpus


class Registry:
    """The open registry. Created by `open`; used from the event loop that opened it.

    Every method returns when its work is committed, and they take effect in the order of the calls.
    Besides the errors named, each raises what `Database.call` raises.

    Attributes:
        is_new: whether there was no file, or an empty one, before it was opened.
        quotas: the quotas of tenants and applications.
        secrets: the secrets of tenants, encrypted.
        tokens: who may call the node.
        copies: the keys and states of actors that the cluster has.
        cluster: what is remembered of the cluster's registry.
    """

    def __init__(self, database: Database, *, keyvalue_limit_bytes: int, is_new: bool) -> None:
        self.is_new = is_new
        self.quotas = QuotaRows(database)
        self.secrets = SecretRows(database)
        self.tokens = TokenRows(database)
        self.copies = StateCopies(database, keyvalue_limit_bytes=keyvalue_limit_bytes)
        self.cluster = ClusterRows(database)
        self._database = database
        self._call = database.call
        self._free = database.free
        self._keyvalue_limit = keyvalue_limit_bytes
        self._freed_bytes = 0
        self._untidy = asyncio.Event()
        # Including what a killed node had not finished removing.
        self._untidy.set()

    def __repr__(self) -> str:
        return f"<Registry {self._database!r}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        *,
        keyvalue_limit_bytes: int = DEFAULT_KEYVALUE_LIMIT_BYTES,
        bounds: Bounds = DEFAULT_BOUNDS,
        migrations: Sequence[Migration] = MIGRATIONS,
        on_damage: Callable[[Damaged], None] = lambda _: None,
    ) -> AsyncIterator[Registry]:
        """Open or create the registry's file; leaving the context writes what is pending.

        The data of removed applications is deleted in the background. Raises what `Database.open`
        raises.
        """
        is_new = not path.exists() or not path.stat().st_size
        opening = Database.open(path, migrations, bounds=bounds, on_damage=on_damage)
        async with opening as database:
            registry = cls(database, keyvalue_limit_bytes=keyvalue_limit_bytes, is_new=is_new)
            tidying = asyncio.create_task(registry._tidy(), name="tidy the registry")
            try:
                yield registry
            finally:
                tidying.cancel()
                await asyncio.wait({tidying})

    async def insert_application(self, record: ApplicationRecord) -> None:
        """Add an application; raises `AlreadyExists` if its name or request id is taken.

        An application of that name whose deploy was never done is replaced: only one deploy of a
        name can be in progress.
        """
        await self._call(Mode.DURABLE, lambda connection: _insert(connection, record))
        self._untidy.set()

    async def check_request(self, request_id: str, name: str) -> None:
        """Raise `AlreadyExists` if this request has deployed another application of the tenant."""
        await self._call(Mode.READ, lambda connection: _check_request(connection, request_id, name))

    async def replace_application(self, record: ApplicationRecord) -> None:
        """Replace the application of this name, keeping its state and keys.

        Raises `NotFound` if there is none, and `AlreadyExists` if its request id is another's.
        """
        await self._call(Mode.DURABLE, lambda connection: _replace(connection, record))

    async def list_applications(self) -> list[ApplicationRecord]:
        """Return all applications by name, also unreadable ones: see their `fault`."""
        return await self._call(Mode.READ, _list)

    async def delete_application(self, id_: str) -> None:
        """Remove an application with its snapshot and keys; does nothing if it is gone.

        By its id, so that it is never another one of the same name. Its data can no longer be
        found; large data is deleted from the disk in the background. Works on a full disk.
        """
        await self._free(Mode.DURABLE, lambda connection: _delete(connection, id_))
        self._untidy.set()

    async def set_desired(self, name: str, desired: Desired) -> ApplicationRecord:
        """Record what the user wants and return the application; raises `NotFound`.

        Idempotent: the generation is raised only if something changes.
        """
        return await self._free(
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
        """Write parts of a state that is not the saved one until `save_snapshot`.

        Raises `NotFound`.
        """
        await self._call(
            Mode.WRITE, lambda connection: snapshots.add(connection, name, taken_ns, parts)
        )

    async def save_snapshot(self, name: str, record: SnapshotRecord, parts: Parts) -> bool:
        """Write the last parts of an actor's state and make it the saved one.

        After a crash it is one of the two. Returns whether nothing is left of other states, see
        `prune_snapshots`. Raises `NotFound`.
        """
        return await self._call(
            Mode.WRITE, lambda connection: snapshots.save(connection, name, record, parts)
        )

    async def prune_snapshots(self, name: str) -> bool:
        """Delete some of what is left of states that are not the saved one; return whether all.

        In steps, because everybody's writes wait for each. Not while a state is being written.
        """
        return await self._free(Mode.WRITE, lambda connection: snapshots.prune(connection, name))

    async def load_snapshot(self, name: str) -> SnapshotRecord | None:
        """Return the description of the saved state, or None."""
        return await self._call(Mode.READ, lambda connection: snapshots.load(connection, name))

    async def read_part(self, name: str, taken_ns: int, begin: int) -> bytes:
        """Return the part of a state that begins at a byte; raises `Damaged` if it is missing."""
        return await self._call(
            Mode.READ, lambda connection: snapshots.read_part(connection, name, taken_ns, begin)
        )

    async def kv_get(self, name: str, key: str) -> bytes | None:
        """Return the value of an application's key, or None."""
        keyvalue.check_key(key)
        return await self._call(Mode.READ, lambda connection: keyvalue.get(connection, name, key))

    async def kv_put(
        self, name: str, key: str, value: Value, bound: StoreBound | None = None
    ) -> None:
        """Set an application's key.

        Raises `InvalidArgument` for a key that is empty or over `keyvalue.KEY_LIMIT_BYTES`,
        `NotFound` if the application does not exist, `ResourceExhausted` if its rows would use more
        than the limit or than a quota of `bound`; nothing is changed then.
        """
        keyvalue.check_key(key)
        limit_bytes = self._keyvalue_limit
        await self._call(
            Mode.WRITE,
            lambda connection: keyvalue.put(
                connection, name, key, value, limit_bytes=limit_bytes, bound=bound
            ),
        )

    async def kv_delete(self, name: str, key: str) -> None:
        """Remove an application's key, if it exists; raises as `kv_put` does.

        Works on a full disk.
        """
        keyvalue.check_key(key)
        self._freed_bytes += await self._free(
            Mode.WRITE, lambda connection: keyvalue.delete(connection, name, key)
        )
        if self._freed_bytes >= _GIVE_BACK_AFTER_BYTES:
            self._freed_bytes = 0
            self._untidy.set()

    async def _tidy(self) -> None:
        """Delete the data of removed applications and make the file smaller, if there is any."""
        while True:
            await self._untidy.wait()
            self._untidy.clear()
            try:
                while not await self._free(Mode.WRITE, _sweep_next):
                    await self._database.give_back()
                while await self._database.give_back():
                    pass
            except PlexSpacesError as error:
                _log.warning("leftovers of removed applications stay for now: %s", error)
                await asyncio.sleep(_AGAIN_S)
                self._untidy.set()


_COLUMNS = (
    "name, id, version, language, kind, digest, vcpus, memory_mib, env, desired, generation,"
    " request_id, created_ns, timings, args, concurrency, allow_hosts, secrets, public"
)
_PLACES = ", ".join("?" * len(_COLUMNS.split(",")))


def _insert(connection: sqlite3.Connection, record: ApplicationRecord) -> None:
    found = _find(connection, "name", record.name)
    if found is not None and found.generation == 0:
        _delete(connection, found.id)
    elif found is not None:
        raise name_taken(record.name)
    _check_request(connection, record.request_id, record.name)
    connection.execute(f"INSERT INTO applications ({_COLUMNS}) VALUES ({_PLACES})", _row(record))


def _replace(connection: sqlite3.Connection, record: ApplicationRecord) -> None:
    _check_request(connection, record.request_id, record.name)
    # Not REPLACE, which would delete the row first, and with it snapshot and keys.
    _update_one(
        connection,
        record.name,
        f"UPDATE applications SET ({_COLUMNS}) = ({_PLACES}) WHERE name = ?",
        (*_row(record), record.name),
    )


def _check_request(connection: sqlite3.Connection, request_id: str, name: str) -> None:
    # Within the tenant, for the answer tells the name: as the index has it.
    row = connection.execute(
        "SELECT name FROM applications WHERE request_id = ? AND request_id <> ''"
        " AND SUBSTR(name, 1, INSTR(name, '/')) = ?",
        (request_id, name[: name.find("/") + 1]),
    ).fetchone()
    if row is not None and row[0] != name:
        raise AlreadyExists(
            f"request id {request_id!r} has deployed application {row[0]!r}",
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
        _json(record.allow_hosts),
        _json(record.secrets),
        int(record.public),
    )


def _get(connection: sqlite3.Connection, name: str) -> ApplicationRecord:
    record = _find(connection, "name", name)
    if record is None:
        raise no_application(name)
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
    generation, request_id, created_ns, timings, args, concurrency, allow_hosts, *rest = rest
    secrets, public = rest
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
        check_full_name(name)
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
            allow_hosts=AllowedHosts.parse(
                msgspec.json.decode(allow_hosts, type=tuple[str, ...])
            ).texts,
            secrets=msgspec.json.decode(secrets, type=dict[str, str]),
            public=bool(public),
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
    row = connection.execute("SELECT number FROM applications WHERE id = ?", (id_,)).fetchone()
    if row is None:
        return
    connection.execute("DELETE FROM applications WHERE number = ?", row)
    connection.execute("DELETE FROM state_copies WHERE application = ?", row)
    # From here on nobody finds its data. A little is deleted at once, and much in steps.
    connection.execute("INSERT INTO removed (application) VALUES (?)", row)
    _sweep(connection, *row)


def _sweep(connection: sqlite3.Connection, number: int) -> None:
    """Delete some of the data of an application."""
    if keyvalue.sweep(connection, number) and snapshots.sweep(connection, number):
        connection.execute("DELETE FROM removed WHERE application = ?", (number,))


def _sweep_next(connection: sqlite3.Connection) -> bool:
    """Delete some of the data of any removed application; return whether none is left."""
    row = connection.execute("SELECT application FROM removed LIMIT 1").fetchone()
    if row is None:
        return True
    _sweep(connection, *row)
    return False


def _update_one(
    connection: sqlite3.Connection, name: str, sql: str, values: tuple[Any, ...]
) -> None:
    if connection.execute(sql, values).rowcount == 0:
        raise no_application(name)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
