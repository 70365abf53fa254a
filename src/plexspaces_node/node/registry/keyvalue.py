"""The SQL of the applications' keys and values, and how much space their rows use.

Runs on the database's thread, for `registry`. Rows belong to an application's number, which is
never reused: the rest of a removed application belongs to nobody else.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from plexspaces_node.errors import InvalidArgument, ResourceExhausted, no_application
from plexspaces_node.model import DEFAULT_TENANT
from plexspaces_node.node.registry.database import Value
from plexspaces_node.quota import Key, application_of, check_total, tenant_of

KEY_LIMIT_BYTES = 512
"""The longest key, in bytes of UTF-8."""

_ROW_BYTES = 32
_PAGE_BYTES = 4096
_SWEPT_AT_ONCE = 500
"""The maximum number of pages, two mebibytes: few enough to fit into a reserve when written, and
for other writes to wait for."""


@dataclass(frozen=True, slots=True)
class StoreBound:
    """The quotas of an application's keys and of its tenant's, each 0 for none."""

    application_bytes: int = 0
    application_keys: int = 0
    tenant_bytes: int = 0
    tenant_keys: int = 0


@dataclass(frozen=True, slots=True)
class StoreUse:
    """What an application's keys and values use."""

    bytes: int
    keys: int


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


def put(  # noqa: PLR0913 - what is written, and what bounds it
    connection: sqlite3.Connection,
    name: str,
    key: str,
    value: Value,
    *,
    limit_bytes: int,
    bound: StoreBound | None = None,
) -> None:
    """Set an application's key; raises `NotFound`, and `ResourceExhausted` over a limit."""
    number, total, id_ = check_put(
        connection, name, key, len(value), limit_bytes=limit_bytes, bound=bound
    )
    if id_ is None:
        connection.execute(
            "INSERT INTO keyvalue (application, key, value) VALUES (?, ?, ?)", (number, key, value)
        )
    else:
        connection.execute("UPDATE keyvalue SET value = ? WHERE id = ?", (value, id_))
    _charge(connection, number, total, keys=id_ is None)


def check_put(  # noqa: PLR0913 - what would be written, and what bounds it
    connection: sqlite3.Connection,
    name: str,
    key: str,
    value_bytes: int,
    *,
    limit_bytes: int,
    bound: StoreBound | None = None,
) -> tuple[int, int, int | None]:
    """Return the application's number, its usage with such a value, and the key's row.

    Raises `NotFound`, and `ResourceExhausted` if the value would exceed a limit.
    """
    number, used, id_, old_bytes = _find(connection, name, key)
    new_bytes = row_bytes(len(key.encode()), value_bytes)
    total = used - old_bytes + new_bytes
    if total > limit_bytes and new_bytes > old_bytes:
        raise ResourceExhausted(
            f"the key-value store of {name!r} would take {total} bytes, its limit is {limit_bytes}"
            " (a row costs 32 bytes more than its value and twice its key)",
            hint="delete keys, or raise [limits] keyvalue_bytes",
        )
    if bound is not None:
        _check(connection, name, bound, more_bytes=new_bytes - old_bytes, more_keys=id_ is None)
    return number, total, id_


def delete(connection: sqlite3.Connection, name: str, key: str) -> int:
    """Remove an application's key, if it exists; return how many bytes that frees.

    Raises `NotFound` if the application does not exist.
    """
    number, used, id_, old_bytes = _find(connection, name, key)
    if id_ is not None:
        connection.execute("DELETE FROM keyvalue WHERE id = ?", (id_,))
        _charge(connection, number, used - old_bytes, keys=-1)
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


def _check(
    connection: sqlite3.Connection, name: str, bound: StoreBound, *, more_bytes: int, more_keys: int
) -> None:
    """Raise `ResourceExhausted` if so much more would exceed a quota."""
    own = use_of(connection, "WHERE name = ?", name)
    for subject, used, most_bytes, most_keys in (
        (application_of(name), own, bound.application_bytes, bound.application_keys),
        (tenant_of(name), None, bound.tenant_bytes, bound.tenant_keys),
    ):
        if not (most_bytes or most_keys):
            continue
        had = used or use_of_tenant(connection, subject.tenant)
        for key, most, before, more in (
            (Key.KEYVALUE_BYTES, most_bytes, had.bytes, more_bytes),
            (Key.KEYVALUE_KEYS, most_keys, had.keys, more_keys),
        ):
            check_total(subject, key, most, had=before, wanted=before + more)


def use_of_tenant(connection: sqlite3.Connection, tenant: str) -> StoreUse:
    """Return what the keys and values of a tenant's applications use."""
    if tenant == DEFAULT_TENANT:
        return use_of(connection, "WHERE INSTR(name, '/') = 0")
    return use_of(connection, "WHERE name > ? AND name < ?", f"{tenant}/", f"{tenant}0")


def use_of(connection: sqlite3.Connection, where: str, *values: str) -> StoreUse:
    """Return what the keys and values of some applications use."""
    row = connection.execute(
        "SELECT COALESCE(SUM(keyvalue_bytes), 0), COALESCE(SUM(keyvalue_keys), 0)"
        f" FROM applications {where}",
        values,
    ).fetchone()
    return StoreUse(*row)


def _charge(connection: sqlite3.Connection, number: int, total: int, *, keys: int) -> None:
    connection.execute(
        "UPDATE applications SET keyvalue_bytes = ?, keyvalue_keys = keyvalue_keys + ?"
        " WHERE number = ?",
        (total, keys, number),
    )
