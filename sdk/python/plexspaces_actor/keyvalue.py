"""A small durable store of the application's own.

What `put` returned for survives the actor, its machine and the node. Values are encoded like
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
    """Return the value of `key` as a `kind`, None when there is none.

    Raises `KeyValueError` when the store fails or the value is not of that kind.
    """
    value = _host.current().get(key)
    if value is None:
        return None
    try:
        return decode(value, kind)
    except BadValue as exc:
        raise KeyValueError(f"the value of {key!r}: {exc}") from exc


def put(key: str, value: object) -> None:
    """Store `value`, replacing what was there; raises `KeyValueError`."""
    _host.current().put(key, encode(value))


def delete(key: str) -> None:
    """Forget `key`, silently when it is not there; raises `KeyValueError`."""
    _host.current().delete(key)
