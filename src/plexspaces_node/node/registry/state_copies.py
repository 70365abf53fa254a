"""The SQL of copies: the keys and states of actors that the cluster's bucket has.

The bucket is the truth; a copy is what its owner reads. Whether a node's copy is complete, and of
which epoch, is on its disk: if the bucket is lost, it is made anew from there. Runs on the
database's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from plexspaces_node.errors import no_application
from plexspaces_node.node.registry import keyvalue, snapshots
from plexspaces_node.node.registry.database import Database, Value
from plexspaces_node.node.registry.keyvalue import StoreBound
from plexspaces_node.node.registry.sqlite_file import Mode

_ANY_BYTES = 1 << 62


class StateCopies:
    """The copies in a registry. Methods raise what `Database.call` raises."""

    def __init__(self, database: Database, *, keyvalue_limit_bytes: int) -> None:
        self._database = database
        self._limit_bytes = keyvalue_limit_bytes

    async def check_put(
        self, name: str, key: str, value_bytes: int, bound: StoreBound | None
    ) -> None:
        """Raise what `Registry.kv_put` would raise for the limits of such a value."""
        limit_bytes = self._limit_bytes

        def run(connection: sqlite3.Connection) -> None:
            keyvalue.check_put(
                connection, name, key, value_bytes, limit_bytes=limit_bytes, bound=bound
            )

        await self._database.call(Mode.READ, run)

    async def put(self, name: str, entries: Sequence[tuple[str, Value]]) -> None:
        """Set keys, whatever the limits: the bucket has them already. Raises `NotFound`."""

        def run(connection: sqlite3.Connection) -> None:
            for key, value in entries:
                keyvalue.put(connection, name, key, value, limit_bytes=_ANY_BYTES)

        await self._database.call(Mode.WRITE, run)

    async def page(self, name: str, after: str, most_bytes: int) -> list[tuple[str, bytes]]:
        """Return the keys after one, "" for the first, in order and with their values.

        As many as fit into `most_bytes`, and at least one if there is one.
        """
        return await self._database.call(
            Mode.READ, lambda connection: _page(connection, name, after, most_bytes)
        )

    async def clear_keys(self, name: str) -> None:
        """Remove all keys. Raises `NotFound`."""
        await self._in_steps(name, _clear_keys)

    async def clear_state(self, name: str) -> None:
        """Remove the saved state. Raises `NotFound`."""
        await self._in_steps(name, snapshots.sweep)

    async def epoch(self, name: str) -> int | None:
        """Return of which epoch this node's copy is; None without a complete one."""
        return await self._database.call(Mode.READ, lambda connection: _epoch(connection, name))

    async def set_epoch(self, name: str, epoch: int | None) -> None:
        """Remember that the copy is complete and follows its owner, None that it does not.

        Survives a power loss: an old copy must not be taken for the newest. Raises `NotFound`.
        """
        await self._database.free(
            Mode.DURABLE, lambda connection: _set_epoch(connection, name, epoch)
        )

    async def _in_steps(self, name: str, step: Callable[[sqlite3.Connection, int], bool]) -> None:
        # Everybody's writes wait for each.
        def run(connection: sqlite3.Connection) -> bool:
            return step(connection, _number(connection, name))

        while not await self._database.free(Mode.WRITE, run):
            pass


def _page(
    connection: sqlite3.Connection, name: str, after: str, most_bytes: int
) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    left = most_bytes
    for key, value in connection.execute(
        "SELECT key, value FROM keyvalue WHERE application = ? AND key > ? ORDER BY key",
        (_number(connection, name), after),
    ):
        left -= len(value)
        if found and left < 0:
            break
        found.append((key, value))
    return found


def _clear_keys(connection: sqlite3.Connection, number: int) -> bool:
    if not keyvalue.sweep(connection, number):
        return False
    connection.execute(
        "UPDATE applications SET keyvalue_bytes = 0, keyvalue_keys = 0 WHERE number = ?", (number,)
    )
    return True


def _epoch(connection: sqlite3.Connection, name: str) -> int | None:
    row = connection.execute(
        "SELECT epoch FROM state_copies JOIN applications ON number = application WHERE name = ?",
        (name,),
    ).fetchone()
    return None if row is None else int(row[0])


def _set_epoch(connection: sqlite3.Connection, name: str, epoch: int | None) -> None:
    number = _number(connection, name)
    connection.execute("DELETE FROM state_copies WHERE application = ?", (number,))
    if epoch is not None:
        connection.execute("INSERT INTO state_copies VALUES (?, ?)", (number, epoch))


def _number(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT number FROM applications WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise no_application(name)
    return int(row[0])
