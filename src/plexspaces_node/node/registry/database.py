"""One SQLite file on its own thread, for the event loop.

Passes the functions of `registry` to the thread, and batches them: everything that waits when the
thread is free goes into one transaction, so that many small writes cost one commit. `sqlite_file`
defines how transactions are made and how much space they may use.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from plexspaces_node.errors import Internal, ResourceExhausted, Unavailable
from plexspaces_node.node.registry.migrations import Migration
from plexspaces_node.node.registry.sqlite_errors import Damaged
from plexspaces_node.node.registry.sqlite_file import (
    DEFAULT_BOUNDS,
    Bounds,
    Failure,
    Job,
    Mode,
    SqliteFile,
)

_BATCH_LIMIT = 256

Value: TypeAlias = bytes | bytearray | memoryview
"""A value that is written; values that are read are always bytes."""

_T = TypeVar("_T")

_Waiting: TypeAlias = tuple[Job, asyncio.Future[Any]]


class Database:
    """An open file. Created by `open`; used from the event loop that opened it."""

    def __init__(
        self, path: Path, file: SqliteFile, executor: ThreadPoolExecutor, waiting_writes: int
    ) -> None:
        """Use a file that was opened on the only thread of an executor."""
        self._waiting_writes = waiting_writes
        self._path = path
        self._file = file
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Waiting] = deque()
        self._closed = False

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
        bounds: Bounds = DEFAULT_BOUNDS,
        on_damage: Callable[[Damaged], None] = lambda _: None,
    ) -> AsyncIterator[Database]:
        """Open or create the file, readable by its owner only, and migrate its schema.

        When `bounds.file_bytes` of it are used, not counting operations in progress, further ones
        that need space are refused. `on_damage` is called on the event loop for each damage that an
        operation finds. Leaving the context finishes the pending operations and closes the file.
        Raises `InvalidArgument` if the path cannot be used, `Damaged`, `WrongState` for a file of a
        newer version, `ResourceExhausted` if there is no space for a migration.
        """
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=path.stem)
        # Used on the thread: closes what was opened, even if nobody waited for that.
        stack = ExitStack()

        def damage(error: Damaged) -> None:
            loop.call_soon_threadsafe(on_damage, error)

        def opened() -> SqliteFile:
            file = SqliteFile.open(path, migrations, bounds=bounds, on_damage=damage)
            return stack.enter_context(closing(file))

        database: Database | None = None
        try:
            file = await loop.run_in_executor(executor, opened)
            database = cls(path, file, executor, bounds.waiting_writes)
            yield database
        finally:
            if database is not None:
                database._closed = True
            ending = loop.run_in_executor(executor, stack.close)
            executor.shutdown(wait=False)
            # If the wait is cancelled, the thread finishes; the interpreter joins it at exit.
            await asyncio.shield(ending)

    async def call(self, mode: Mode, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a function on the thread, in a transaction, and return when it is committed.

        Operations take effect in the order of the calls. One that raises a `PlexSpacesError` or a
        `ValueError` is rolled back alone. A cancelled call may still take effect. Raises
        `Unavailable` after the database was closed, `ResourceExhausted` if too many operations
        wait, the file has reached its limit or the disk is full, `Damaged` if the file is damaged.
        """
        if mode is Mode.WRITE and len(self._queue) >= self._waiting_writes:
            raise ResourceExhausted(
                f"{len(self._queue)} writes are waiting for the disk, "
                f"the limit is {self._waiting_writes}",
                hint="make the applications write less, or use a faster disk",
            )
        return cast(_T, await self._run(Job(run, mode)))

    async def free(self, mode: Mode, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """Like `call`, for operations that free space or use almost none: with the reserve."""
        return cast(_T, await self._run(Job(run, mode, frees=True)))

    async def give_back(self) -> bool:
        """Make the file smaller by a step, if much of it is unused; return whether it was.

        In steps, because everybody waits for each. Raises what `call` raises.
        """
        self._check_open()
        return await self._loop.run_in_executor(self._executor, self._file.give_back)

    async def _run(self, job: Job) -> Any:
        self._check_open()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((job, future))
        # One drain per job: the first takes all that wait and the others find nothing, so neither
        # thread has to know whether the other is active.
        self._executor.submit(self._drain)
        return await future

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self._path.name} is closed", hint="the node is stopping")

    def _drain(self) -> None:
        """On the executor's thread: run what waits in one transaction."""
        waiting = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH_LIMIT))]
        if not waiting:
            return
        # Sent if a bug ends the batch: nobody may wait forever.
        failure = Failure(Internal(f"the thread of {self._path} failed"))
        outcomes: list[Any] = [failure] * len(waiting)
        try:
            outcomes = self._file.transact([job for job, _ in waiting])
        finally:
            self._loop.call_soon_threadsafe(_settle, waiting, outcomes)


def _settle(waiting: list[_Waiting], outcomes: list[Any]) -> None:
    for (_, future), outcome in zip(waiting, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Failure):
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome)
