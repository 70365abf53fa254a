"""One SQLite file on one thread of its own: batches, durability, and what its errors mean.

This file owns the connection and its settings. It knows no table: `migrations` makes them and
`registry` uses them, by handing in functions that run on the thread.

Whatever waits when the thread is free goes into one transaction, each operation in its own
savepoint, so that many small writes cost one commit.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

from plexspaces_node.errors import (
    Internal,
    InvalidArgument,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    WrongState,
    quoted,
)
from plexspaces_node.node.migrations import Migration, migrate

QUEUE_LIMIT = 4096
"""Operations of `Mode.WRITE` that may wait; past this the disk is too slow for the load."""

_BATCH_LIMIT = 256
_BUSY_TIMEOUT_S = 5.0
_WAL_KEPT_BYTES = 16 * 1024 * 1024

_T = TypeVar("_T")


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


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class Database:
    """An open file. Made by `open`; used from the event loop that opened it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=path.stem)
        self._queue: deque[_Job] = deque()
        self._closed = False
        # Owned by the executor's thread alone.
        self._connection: sqlite3.Connection | None = None
        self._synchronous = ""

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._queue)} waiting"
        return f"<Database {self._path} {state}>"

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, migrations: Sequence[Migration]) -> AsyncIterator[Database]:
        """Open or make the file, readable by its owner only, and bring its schema up to date.

        Leaving the context finishes what was asked for and closes the file. Raises
        `InvalidArgument` when the path cannot be used, `WrongState` for a damaged file or one of
        a newer version.
        """
        database = cls(path)
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
        `Unavailable` once closed, `ResourceExhausted` when too much waits or the disk is full,
        `WrongState` when the file is found damaged.
        """
        if self._closed:
            raise Unavailable(f"{self._path.name} is closed", hint="the node is stopping")
        if mode is Mode.WRITE and len(self._queue) >= QUEUE_LIMIT:
            raise ResourceExhausted(
                f"{len(self._queue)} writes wait for the disk, the most allowed is {QUEUE_LIMIT}",
                hint="let the applications write less, or use a faster disk",
            )
        future: asyncio.Future[_T] = self._loop.create_future()
        self._queue.append(_Job(run, mode, future))
        # One drain a job: the first takes all that wait and the others find nothing, so that
        # neither thread has to know whether the other is at work.
        self._executor.submit(self._drain)
        return await future

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
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
            # As some distributions build SQLite, deleting would else write as much as is deleted.
            connection.execute("PRAGMA secure_delete = FAST")
            migrate(connection, migrations)
            # Only the table without which nothing can start: checking every value of every
            # application would take as long as they are big.
            faults = connection.execute("PRAGMA quick_check(applications)").fetchall()
        except sqlite3.Error as error:
            raise _translate(error, self._path) from error
        if faults != [("ok",)]:
            raise _damaged(self._path, str(faults[0][0]))
        _sync_directory(self._path.parent)

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
        connection = self._connection
        if connection is None:
            raise Internal(f"{self._path} is not open")
        mode = max(job.mode for job in jobs)
        try:
            self._set_synchronous(connection, "FULL" if mode is Mode.DURABLE else "NORMAL")
            connection.execute("BEGIN" if mode is Mode.READ else "BEGIN IMMEDIATE")
            outcomes = [_run(connection, job) for job in jobs]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            return [_Failure(_translate(error, self._path))] * len(jobs)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return outcomes

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


def _run(connection: sqlite3.Connection, job: _Job) -> Any:
    connection.execute("SAVEPOINT job")
    try:
        outcome = job.run(connection)
    except (PlexSpacesError, ValueError, OverflowError) as error:
        # What the arguments of one job cause is that job's alone.
        connection.execute("ROLLBACK TO job")
        outcome = _Failure(error)
    connection.execute("RELEASE job")
    return outcome


def _translate(error: sqlite3.Error, path: Path) -> PlexSpacesError:
    # The low byte of the code is its class; the rest says where it happened.
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(path, str(error))
        case sqlite3.SQLITE_FULL:
            return ResourceExhausted(
                f"no space left for {path}", hint=f"df -h {quoted(path.parent)}"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"another program holds {path}", hint=f"fuser {quoted(path)}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return InvalidArgument(
                f"{path} cannot be written: {error}",
                hint="choose a writable directory with --data-dir",
            )
        case sqlite3.SQLITE_IOERR:
            return Unavailable(f"the disk failed under {path}: {error}", hint="dmesg")
    return Internal(f"SQLite failed on {path}: {error}")


def _damaged(path: Path, reason: str) -> WrongState:
    begin_empty = f"mv {quoted(path)} {quoted(f'{path}.damaged')}"
    return WrongState(
        f"{path} is damaged: {reason}",
        hint=f"put a backup in its place, or begin empty: {begin_empty}",
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
