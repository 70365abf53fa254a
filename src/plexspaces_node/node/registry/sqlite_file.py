"""One SQLite file: transactions of many jobs, durability, and a reserve for freeing space.

This module owns the connection and its settings. Everything here blocks, and is called on one
thread: see `database`. It knows no table: `migrations` makes them, and jobs use them.

Freeing space must be possible on a full disk: a reserve beside the file can only be used by
operations that free something. While it is used up, everything that needs more space is refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from plexspaces_node.errors import InvalidArgument, PlexSpacesError, ResourceExhausted
from plexspaces_node.model import MIB
from plexspaces_node.node.disk import DiskFull, Reserve, sync
from plexspaces_node.node.registry.migrations import Migration, migrate
from plexspaces_node.node.registry.sqlite_errors import Damaged, damaged, translated

RESERVE_BYTES = 8 * 1024 * 1024
"""The reserve for freeing space: the largest step of that writes two or three mebibytes."""

_PAGES_AT_ONCE = 256
_KEPT_PAGES = 1024
_WAL_KEPT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a file, and the timeout for locks.

    Attributes:
        file_bytes: for the keys and states of all applications: once so many are used, nothing
            that wants more room is taken.
        waiting_writes: operations of `Mode.WRITE` that may wait; past this the disk is too slow
            for the load.
        busy_s: how long to wait for another program that holds the file.
    """

    file_bytes: int = 16 * 1024 * MIB
    waiting_writes: int = 4096
    busy_s: float = 5.0


DEFAULT_BOUNDS = Bounds()


class Mode(IntEnum):
    """What an operation does, and how durable its result is."""

    READ = 0
    WRITE = 1
    """Survives `kill -9` of the node; the last moments may be lost in a power failure."""
    DURABLE = 2
    """Survives a power loss: its commit is synced, and with it everything before."""


@dataclass(frozen=True, slots=True)
class Job:
    """A function to run in a transaction.

    Attributes:
        frees: it frees space or uses almost none, and may use the reserve.
    """

    run: Callable[[sqlite3.Connection], Any]
    mode: Mode
    frees: bool = False

    @property
    def grows(self) -> bool:
        """Whether it is refused while the disk is full."""
        return self.mode is not Mode.READ and not self.frees


@dataclass(frozen=True, slots=True)
class Failure:
    """The result of a job that failed."""

    error: Exception


class SqliteFile:
    """An open file. Created by `open`; every call is on the thread that opened it."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        bounds: Bounds,
        on_damage: Callable[[Damaged], None],
    ) -> None:
        self._path = path
        self._connection = connection
        self._bounds = bounds
        self._on_damage = on_damage
        self._synchronous = ""
        self._page_bytes = _number(connection, "page_size")
        self._reserve = Reserve(path.with_suffix(".reserve"), RESERVE_BYTES)
        self._reserve.fill()

    def __repr__(self) -> str:
        return f"<SqliteFile {self._path}>"

    @classmethod
    def open(
        cls,
        path: Path,
        migrations: Sequence[Migration],
        *,
        bounds: Bounds,
        on_damage: Callable[[Damaged], None],
    ) -> SqliteFile:
        """Open or create a file, and migrate its schema; see `Database.open`.

        `on_damage` is called for each damage that a job finds.
        """
        _make(path)
        connection = sqlite3.connect(path, timeout=bounds.busy_s, isolation_level=None)
        try:
            try:
                _prepare(connection, migrations)
                _check(connection, path)
                file = cls(path, connection, bounds=bounds, on_damage=on_damage)
            except sqlite3.Error as error:
                raise translated(error, path) from error
        except BaseException:
            connection.close()
            raise
        return file

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def transact(self, jobs: Sequence[Job]) -> list[Any]:
        """Run jobs in one transaction, or one by one if one of them fails the others.

        Returns the result of each, or a `Failure`. A job that raises a `PlexSpacesError` or a
        `ValueError` is rolled back alone.
        """
        try:
            return self._commit(jobs)
        except ResourceExhausted as error:
            return [Failure(error) if job.grows else self._commit_at_need(job) for job in jobs]
        except Damaged as error:
            # Usually only one application's data is damaged, and the others' jobs are not affected.
            if len(jobs) == 1:
                return [self._failure(error)]
            return [self._commit_at_need(job) for job in jobs]
        except PlexSpacesError as error:
            # Readers can continue while another program holds the file for writing.
            return [Failure(error) if job.mode else self._commit_at_need(job) for job in jobs]

    def give_back(self) -> bool:
        """Make the file smaller by a step, if much of it is unused; return whether it was."""
        connection = self._connection
        try:
            pages, free = self._pages()
            # Later writes need some of it again, unless the disk is full.
            if not free or (free <= max(_KEPT_PAGES, pages // 4) and self._reserve.fill()):
                return False
            # As a script: a statement without columns would stop after its first page.
            connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
            self._checkpoint()
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        return _number(connection, "freelist_count") < free

    def _check_room(self) -> None:
        if not self._reserve.fill():
            raise DiskFull(self._path)
        pages, free = self._pages()
        if (pages - free) * self._page_bytes >= self._bounds.file_bytes:
            raise ResourceExhausted(
                "the keys and states of all applications have reached the limit of "
                f"{self._bounds.file_bytes} bytes",
                hint="plexspaces undeploy --name X, or raise [limits] registry_bytes",
            )

    def _pages(self) -> tuple[int, int]:
        """Return how many pages the file has, and how many of them are unused."""
        free = _number(self._connection, "freelist_count")
        return _number(self._connection, "page_count"), free

    def _commit_at_need(self, job: Job) -> Any:
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

    def _commit(self, jobs: Sequence[Job]) -> list[Any]:
        connection = self._connection
        mode = max(job.mode for job in jobs)
        try:
            self._set_synchronous(connection, "FULL" if mode is Mode.DURABLE else "NORMAL")
            connection.execute("BEGIN" if mode is Mode.READ else "BEGIN IMMEDIATE")
            if any(job.grows for job in jobs):
                # Inside, where reading the file's size takes no lock of its own.
                self._check_room()
            outcomes = [self._outcome(connection, job) for job in jobs]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return outcomes

    def _outcome(self, connection: sqlite3.Connection, job: Job) -> Any:
        connection.execute("SAVEPOINT job")
        try:
            outcome = job.run(connection)
        except (PlexSpacesError, ValueError, OverflowError) as error:
            # An error caused by a job's arguments concerns that job alone.
            connection.execute("ROLLBACK TO job")
            outcome = self._failure(error)
        connection.execute("RELEASE job")
        return outcome

    def _checkpoint(self) -> None:
        connection = self._connection
        # Does not wait for readers of the file, such as a backup: the next one does it.
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        connection.execute(f"PRAGMA busy_timeout = {int(self._bounds.busy_s * 1000)}")

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, Damaged):
            self._on_damage(error)
        return Failure(error)

    def _set_synchronous(self, connection: sqlite3.Connection, level: str) -> None:
        if level != self._synchronous:
            connection.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level


def _make(path: Path) -> None:
    try:
        # Created here because SQLite would make it readable by all. The files beside it (WAL,
        # shared memory) get the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise InvalidArgument(
            f"{path} cannot be opened: {error.strerror}",
            hint="choose a writable directory with --data-dir",
        ) from error


def _prepare(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    if not _number(connection, "page_count"):
        # Before there is a table: later it takes a VACUUM.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
    # As some distributions build SQLite, a delete would otherwise write as much as it deletes.
    connection.execute("PRAGMA secure_delete = FAST")
    migrate(connection, migrations)
    if not _number(connection, "auto_vacuum"):
        _allow_to_shrink(connection)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    # Only the table without which nothing can start: checking every value of every application
    # would take long.
    faults = connection.execute("PRAGMA quick_check(applications)").fetchall()
    if faults != [("ok",)]:
        raise damaged(path, str(faults[0][0]))
    sync(path.parent)


def _allow_to_shrink(connection: sqlite3.Connection) -> None:
    # A file of an older version works as it is, so this is tried again at the next start.
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    number: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return number
