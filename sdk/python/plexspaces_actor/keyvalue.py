"""A small durable store that belongs to the application.

A value that `put` has stored survives the actor, its VM and the node. Values are encoded like
replies and decoded like payloads (see the package's documentation).
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

from . import _host
from ._errors import KeyValueError
from ._payload import BadValue, decode, encode

T = TypeVar("T")


@overload
def get(key: str) -> bytes | None: ...
@overload
def get(key: str, kind: type[T]) -> T | None: ...
def get(key: str, kind: Any = bytes) -> Any:
    """Return the value of `key` as a `kind`, or None.

    Raises `KeyValueError` if the store fails or the value is not of that kind.
    """
    value = _host.current().get(key)
    if value is None:
        return None
    try:
        return decode(value, kind)
    except BadValue as exc:
        raise KeyValueError(f"the value of {key!r}: {exc}") from exc


def put(key: str, value: object) -> None:
    """Store `value`, replacing an existing one; raises `KeyValueError`."""
    _host.current().put(key, encode(value))


def delete(key: str) -> None:
    """Delete `key`, if it exists; raises `KeyValueError`."""
    _host.current().delete(key)
