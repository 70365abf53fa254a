"""The SQL of the applications' keys and values, and how much space their rows use.

Runs on the database's thread, for `registry`. Rows belong to an application's number, which is
never reused: the rest of a removed application belongs to nobody else.
"""

from __future__ import annotations

import sqlite3

from plexspaces_node.errors import InvalidArgument, ResourceExhausted, no_application
from plexspaces_node.node.registry.database import Value

KEY_LIMIT_BYTES = 512
"""The longest key, in bytes of UTF-8."""

_ROW_BYTES = 32
_PAGE_BYTES = 4096
_SWEPT_AT_ONCE = 500
"""The maximum number of pages, two mebibytes: few enough to fit into a reserve when written, and
for other writes to wait for."""


def check_key(key: str) -> None:
    """Raise `InvalidArgument` for a key that is empty or over `KEY_LIMIT_BYTES`."""
    size = len(key.encode())
    if not 1 <= size <= KEY_LIMIT_BYTES:
        raise InvalidArgument(
            f"a key of {size} bytes is not valid",
            hint=f"use keys of 1 to {KEY_LIMIT_BYTES} bytes of UTF-8",
        )


def row_bytes(key_bytes: int, value_bytes: int) -> int:
    """Return how much disk space a row uses, rather a little more than less.

    The key is in the table and in its index. Half a page or more takes whole pages, because no two
    such rows fit into one. The migration that numbered the rows calculates the same.
    """
    size = _ROW_BYTES + 2 * key_bytes + value_bytes
    return size if size < _PAGE_BYTES // 2 else -(-size // _PAGE_BYTES) * _PAGE_BYTES


def get(connection: sqlite3.Connection, name: str, key: str) -> bytes | None:
    """Return the value of an application's key, or None."""
    row = connection.execute(
        "SELECT value FROM keyvalue"
        " WHERE application = (SELECT number FROM applications WHERE name = ?) AND key = ?",
        (name, key),
    ).fetchone()
    return None if row is None else row[0]


def put(
    connection: sqlite3.Connection, name: str, key: str, value: Value, *, limit_bytes: int
) -> None:
    """Set an application's key; raises `NotFound`, and `ResourceExhausted` over the limit."""
    number, used, id_, old_bytes = _find(connection, name, key)
    new_bytes = row_bytes(len(key.encode()), len(value))
    total = used - old_bytes + new_bytes
    if total > limit_bytes and new_bytes > old_bytes:
        raise ResourceExhausted(
            f"the key-value store of {name!r} would take {total} bytes, its limit is {limit_bytes}"
            " (a row costs 32 bytes more than its value and twice its key)",
            hint="delete keys, or raise [limits] keyvalue_bytes",
        )
    if id_ is None:
        connection.execute(
            "INSERT INTO keyvalue (application, key, value) VALUES (?, ?, ?)", (number, key, value)
        )
    else:
        connection.execute("UPDATE keyvalue SET value = ? WHERE id = ?", (value, id_))
    _charge(connection, number, total)


def delete(connection: sqlite3.Connection, name: str, key: str) -> int:
    """Remove an application's key, if it exists; return how many bytes that frees.

    Raises `NotFound` if the application does not exist.
    """
    number, used, id_, old_bytes = _find(connection, name, key)
    if id_ is not None:
        connection.execute("DELETE FROM keyvalue WHERE id = ?", (id_,))
        _charge(connection, number, used - old_bytes)
    return old_bytes


def sweep(connection: sqlite3.Connection, number: int) -> bool:
    """Remove some keys of a removed application; return whether none is left."""
    removed = connection.execute(
        "DELETE FROM keyvalue WHERE id IN (SELECT id FROM keyvalue WHERE application = ? LIMIT ?)",
        (number, _SWEPT_AT_ONCE),
    ).rowcount
    return removed < _SWEPT_AT_ONCE


def _find(connection: sqlite3.Connection, name: str, key: str) -> tuple[int, int, int | None, int]:
    """Return the application's number and usage, the key's row and how much that uses."""
    row = connection.execute(
        "SELECT number, keyvalue_bytes, keyvalue.id, LENGTH(value) FROM applications"
        " LEFT JOIN keyvalue ON application = number AND key = ? WHERE name = ?",
        (key, name),
    ).fetchone()
    if row is None:
        raise no_application(name)
    number, used, id_, value_bytes = row
    return number, used, id_, 0 if id_ is None else row_bytes(len(key.encode()), value_bytes)


def _charge(connection: sqlite3.Connection, number: int, total: int) -> None:
    connection.execute(
        "UPDATE applications SET keyvalue_bytes = ? WHERE number = ?", (total, number)
    )
