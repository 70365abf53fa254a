"""One SQLite file on one thread of its own: batches, durability, and what its errors mean.

This file owns the connection and its settings. It knows no table: `migrations` makes them and
`registry` uses them, by handing in functions that run on the thread.

Whatever waits when the thread is free goes into one transaction, each operation in its own
savepoint, so that many small writes cost one commit.

A disk that is full must not keep anybody from making room on it: a reserve of it lies beside the
file, which only operations that free something may use. As long as it is used up, everything that
wants more room is refused.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from plexspaces_node.errors import (
    Internal,
    InvalidArgument,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    WrongState,
    quoted,
)
from plexspaces_node.node.disk import DiskFull, Reserve, sync
from plexspaces_node.node.registry.migrations import Migration, migrate

QUEUE_LIMIT = 4096
"""Operations of `Mode.WRITE` that may wait; past this the disk is too slow for the load."""

RESERVE_BYTES = 8 * 1024 * 1024
"""Room on the disk for what frees room: the largest step of that writes two or three mebibytes."""

_BATCH_LIMIT = 256
_PAGES_AT_ONCE = 256
_KEPT_PAGES = 1024
_BUSY_TIMEOUT_S = 5.0
_WAL_KEPT_BYTES = 16 * 1024 * 1024

Value: TypeAlias = bytes | bytearray | memoryview
"""What is written; read it is always bytes."""

_T = TypeVar("_T")


class Damaged(WrongState):
    """The file, or what is in it, is not what was written."""


class Mode(IntEnum):
    """What an operation does, and what its result survives."""

    READ = 0
    WRITE = 1
    """Survives `kill -9` of the node; the last moments may be lost with the power."""
    DURABLE = 2
    """Survives a power loss: its commit is synced, and with it all that came before."""


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    mode: Mode
    future: asyncio.Future[Any]
    frees: bool = False

    @property
    def grows(self) -> bool:
        """Whether it is refused while the disk is full."""
        return self.mode is not Mode.READ and not self.frees


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class Database:
    """An open file. Made by `open`; used from the event loop that opened it."""

    def __init__(self, path: Path, limit_bytes: int, on_damage: Callable[[Damaged], None]) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._on_damage = on_damage
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=path.stem)
        self._queue: deque[_Job] = deque()
        self._closed = False
        # Owned by the executor's thread alone.
        self._connection: sqlite3.Connection | None = None
        self._synchronous = ""
        self._page_bytes = 0
        self._reserve = Reserve(path.with_suffix(".reserve"), RESERVE_BYTES)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._queue)} waiting"
        return f"<Database {self._path} {state}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        migrations: Sequence[Migration],
        *,
        limit_bytes: int,
        on_damage: Callable[[Damaged], None] = lambda _: None,
    ) -> AsyncIterator[Database]:
        """Open or make the file, readable by its owner only, and bring its schema up to date.

        Once `limit_bytes` of it are used, what is under way then aside, nothing that wants more
        room is taken. `on_damage` is called on the event loop for each damage that an operation
        meets. Leaving the context finishes what was asked for and closes the file. Raises
        `InvalidArgument` when the path cannot be used, `Damaged`, `WrongState` for a file of a
        newer version, `ResourceExhausted` when there is no room for what a new version changes in
        it.
        """
        database = cls(path, limit_bytes, on_damage)
        try:
            await database._loop.run_in_executor(database._executor, database._open, migrations)
            yield database
        finally:
            database._closed = True
            closing = database._loop.run_in_executor(database._executor, database._close)
            database._executor.shutdown(wait=False)
            # A cancelled wait leaves the thread to finish; the interpreter joins it at exit.
            await asyncio.shield(closing)

    async def call(self, mode: Mode, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a function on the thread, inside a transaction, and return once it is committed.

        Operations take effect in the order of the calls. One that raises a `PlexSpacesError` or
        a `ValueError` is undone alone. A cancelled call may still take effect. Raises
        `Unavailable` once closed, `ResourceExhausted` when too much waits, the file has reached
        its limit or the disk is full, `Damaged` when the file is found damaged.
        """
        if mode is Mode.WRITE and len(self._queue) >= QUEUE_LIMIT:
            raise ResourceExhausted(
                f"{len(self._queue)} writes are waiting for the disk, the limit is {QUEUE_LIMIT}",
                hint="make the applications write less, or use a faster disk",
            )
        return cast(_T, await self._run(_Job(run, mode, self._loop.create_future())))

    async def free(self, mode: Mode, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """As `call`, for what frees room or takes next to none: it may use the reserve."""
        job = _Job(run, mode, self._loop.create_future(), frees=True)
        return cast(_T, await self._run(job))

    async def give_back(self) -> bool:
        """Make the file smaller by a step, if much of it is unused; tell whether it was.

        In steps, as everybody waits for each. Raises what `call` does.
        """
        self._check_open()
        return await self._loop.run_in_executor(self._executor, self._give_back)

    async def _run(self, job: _Job) -> Any:
        self._check_open()
        self._queue.append(job)
        # One drain a job: the first takes all that wait and the others find nothing, so that
        # neither thread has to know whether the other is at work.
        self._executor.submit(self._drain)
        return await job.future

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self._path.name} is closed", hint="the node is stopping")

    # ---- from here on everything runs on the executor's thread ------------------------------

    def _open(self, migrations: Sequence[Migration]) -> None:
        try:
            # Made here because SQLite would make it readable by all; the files beside it (WAL,
            # shared memory) take their mode from it.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise InvalidArgument(
                f"{self._path} cannot be opened: {error.strerror}",
                hint="choose a writable directory with --data-dir",
            ) from error
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        self._connection = connection
        try:
            if not _number(connection, "page_count"):
                # Before there is a table: later it takes a VACUUM.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
            # As some distributions build SQLite, deleting would else write as much as is deleted.
            connection.execute("PRAGMA secure_delete = FAST")
            migrate(connection, migrations)
            if not _number(connection, "auto_vacuum"):
                _allow_to_shrink(connection)
            # Only the table without which nothing can start: checking every value of every
            # application would take as long as they are big.
            faults = connection.execute("PRAGMA quick_check(applications)").fetchall()
            self._page_bytes = _number(connection, "page_size")
        except sqlite3.Error as error:
            raise _translate(error, self._path) from error
        if faults != [("ok",)]:
            raise _damaged(self._path, str(faults[0][0]))
        sync(self._path.parent)
        self._reserve.fill()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _drain(self) -> None:
        jobs = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH_LIMIT))]
        if not jobs:
            return
        # What is sent when a defect ends the batch: nobody may wait for ever.
        outcomes: list[Any] = [_Failure(Internal(f"the thread of {self._path} failed"))] * len(jobs)
        try:
            outcomes = self._transact(jobs)
        finally:
            self._loop.call_soon_threadsafe(_settle, jobs, outcomes)

    def _transact(self, jobs: list[_Job]) -> list[Any]:
        try:
            return self._commit(jobs)
        except ResourceExhausted as error:
            return [_Failure(error) if job.grows else self._commit_at_need(job) for job in jobs]
        except Damaged as error:
            # What is damaged is one application's, as a rule, and the others' jobs are not.
            if len(jobs) == 1:
                return [self._failure(error)]
            return [self._commit_at_need(job) for job in jobs]
        except PlexSpacesError as error:
            # Who only reads can do so while another program holds the file for writing.
            return [_Failure(error) if job.mode else self._commit_at_need(job) for job in jobs]

    def _check_room(self) -> None:
        if not self._reserve.fill():
            raise DiskFull(self._path)
        pages, free = self._pages()
        if (pages - free) * self._page_bytes >= self._limit_bytes:
            raise ResourceExhausted(
                "the keys and states of all applications have reached the limit of "
                f"{self._limit_bytes} bytes",
                hint="plexspaces undeploy --name X, or raise [limits] registry_bytes",
            )

    def _pages(self) -> tuple[int, int]:
        """Return how many pages the file has, and how many of them are unused."""
        connection = self._opened()
        return _number(connection, "page_count"), _number(connection, "freelist_count")

    def _commit_at_need(self, job: _Job) -> Any:
        try:
            try:
                (outcome,) = self._commit([job])
            except DiskFull:
                if job.grows:
                    raise
                self._reserve.spend()
                with suppress(sqlite3.Error):  # what room there is will do then, or it fails
                    self._checkpoint()
                (outcome,) = self._commit([job])
        except PlexSpacesError as error:
            return self._failure(error)
        finally:
            self._reserve.fill()
        return outcome

    def _commit(self, jobs: list[_Job]) -> list[Any]:
        connection = self._opened()
        mode = max(job.mode for job in jobs)
        try:
            self._set_synchronous(connection, "FULL" if mode is Mode.DURABLE else "NORMAL")
            connection.execute("BEGIN" if mode is Mode.READ else "BEGIN IMMEDIATE")
            if any(job.grows for job in jobs):
                # Inside, where to ask for the file's size takes no lock of its own.
                self._check_room()
            outcomes = [self._outcome(connection, job) for job in jobs]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _translate(error, self._path) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return outcomes

    def _outcome(self, connection: sqlite3.Connection, job: _Job) -> Any:
        connection.execute("SAVEPOINT job")
        try:
            outcome = job.run(connection)
        except (PlexSpacesError, ValueError, OverflowError) as error:
            # What the arguments of one job cause is that job's alone.
            connection.execute("ROLLBACK TO job")
            outcome = self._failure(error)
        connection.execute("RELEASE job")
        return outcome

    def _give_back(self) -> bool:
        connection = self._opened()
        try:
            pages, free = self._pages()
            # What is written next needs some of it again; unless the disk has no more.
            if not free or (free <= max(_KEPT_PAGES, pages // 4) and self._reserve.fill()):
                return False
            # As a script: as a statement without columns it would be left after its first page.
            connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
            self._checkpoint()
        except sqlite3.Error as error:
            raise _translate(error, self._path) from error
        return _number(connection, "freelist_count") < free

    def _checkpoint(self) -> None:
        connection = self._opened()
        # Not waiting for whoever reads the file, a backup for example: the next one does it.
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Internal(f"{self._path} is not open")
        return self._connection

    def _failure(self, error: Exception) -> _Failure:
        if isinstance(error, Damaged):
            self._loop.call_soon_threadsafe(self._on_damage, error)
        return _Failure(error)

    def _set_synchronous(self, connection: sqlite3.Connection, level: str) -> None:
        if level != self._synchronous:
            connection.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level


def _settle(jobs: list[_Job], outcomes: list[Any]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.future.done():
            continue
        if isinstance(outcome, _Failure):
            job.future.set_exception(outcome.error)
        else:
            job.future.set_result(outcome)


def _allow_to_shrink(connection: sqlite3.Connection) -> None:
    # A file of an older version. It works as it is, too: then it is tried at the next start.
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    number: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return number


def _translate(error: sqlite3.Error, path: Path) -> PlexSpacesError:
    # The low byte of the code is its class; the rest says where it happened.
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(path, str(error))
        case sqlite3.SQLITE_FULL:
            return DiskFull(path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"another program is using {path}", hint=f"fuser {quoted(path)}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return InvalidArgument(
                f"{path} cannot be written: {error}",
                hint="choose a writable directory with --data-dir",
            )
        case sqlite3.SQLITE_IOERR if not os.statvfs(path.parent).f_bavail:
            return DiskFull(path)
        case sqlite3.SQLITE_IOERR:
            return Unavailable(f"disk error in {path}: {error}", hint="dmesg")
    return Internal(f"SQLite failed on {path}: {error}")


def _damaged(path: Path, reason: str) -> Damaged:
    return Damaged(f"{path} is damaged: {reason}", hint=how_to_restore(path.parent))


def how_to_restore(data_dir: Path) -> str:
    """Return the hint for a data directory that is damaged."""
    away = f"mv {quoted(data_dir)} {quoted(f'{data_dir}.damaged')}"
    return f"stop the node, {away}, then plexspaces restore BACKUP --data-dir {quoted(data_dir)}"
