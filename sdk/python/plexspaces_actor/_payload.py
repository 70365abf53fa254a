"""Converts bytes to typed values and back: the table in the package's documentation.

Knows nothing of actors or of the host.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from functools import cache
from itertools import accumulate
from typing import Any, Literal, Union

MAX_DEPTH = 200
"""How deep JSON can be nested. WebAssembly has no guard page that Python could catch: from about
1,500 levels on, parsing would end the instance instead of raising an error."""

# Possessive, and matching an unclosed string to the end: linear in the length of any input.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS = bytes(set(range(256)) - set(_STEP))
_SCALARS = (bool, int, float, str)
_UNIONS = (Union, types.UnionType)
_ANYTHING = (Any, object, None, type(None), *_SCALARS)


class BadValue(ValueError):
    """A payload does not match the type; the message says where and why."""


def encode(value: object) -> bytes:
    """Return the bytes of `value`; raises TypeError or ValueError if JSON cannot represent it."""
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return to_json(value)


def decode(payload: bytes, kind: Any) -> Any:
    """Return `payload` as a value of type `kind`; raises `BadValue`.

    If `kind` allows None, an empty payload is None.
    """
    options = _options(kind)
    if not payload and type(None) in options:
        return None
    if bytes in options:
        return payload
    if str in options:
        return _text(payload)
    return convert(from_json(payload), kind)


def to_json(value: object) -> bytes:
    """Return `value` as compact JSON; dataclasses become objects."""
    text = json.dumps(
        value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode()


def from_json(payload: bytes) -> Any:
    """Parse strict JSON in UTF-8; raises `BadValue`, also for NaN and for deep nesting."""
    if not payload:
        raise BadValue("the payload is empty; JSON was expected")
    if _too_deep(payload):
        raise BadValue(f"JSON nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(_text(payload), parse_constant=_refuse_constant)
    except BadValue:
        raise
    except ValueError as exc:
        raise BadValue(f"not JSON: {exc}") from exc


def convert(value: Any, kind: Any, where: str = "") -> Any:
    """Return parsed JSON as a value of type `kind`; raises `BadValue`, which names the place."""
    if kind is Any or kind is object:
        return value
    if kind is None or kind is type(None):
        return value if value is None else _refuse(value, "null", where)
    if kind in _SCALARS:
        return _scalar(value, kind, where)
    if _is_record(kind):
        return _record(value, kind, where)
    origin = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if origin in _UNIONS:
        return _one_of(value, arguments, where)
    if origin is Literal:
        return value if value in arguments else _refuse(value, f"one of {arguments}", where)
    return _container(value, origin, arguments, where)


def check(kind: Any, *, nested: bool = False) -> None:
    """Raise TypeError unless values of type `kind` can be decoded.

    `nested` means that they are inside JSON, where there are no raw bytes.
    """
    _check(kind, nested, frozenset())


def _check(kind: Any, nested: bool, seen: frozenset[Any]) -> None:
    if kind in _ANYTHING or kind in seen or (kind is bytes and not nested):
        return
    options = typing.get_args(kind)
    if typing.get_origin(kind) in _UNIONS:
        raw = {bytes, str} & set(options)
        if raw and not nested and set(options) - raw - {type(None)}:
            raise TypeError(f"{_name(kind)} cannot be read: a payload is raw or JSON, not both")
        for option in options:
            _check(option, nested, seen)
        return
    for part in _parts(kind):
        _check(part, True, seen | {kind})


def _parts(kind: Any) -> tuple[Any, ...]:
    if _is_record(kind):
        return tuple(hint for _field, hint in _fields(kind))
    origin = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if origin is Literal:
        return ()
    if origin not in (list, tuple, dict):
        raise TypeError(f"{_name(kind)} cannot be read from a payload")
    if origin is dict and arguments and arguments[0] is not str:
        raise TypeError(f"{_name(kind)} cannot be read from JSON: its keys are strings")
    return tuple(argument for argument in arguments if argument is not ...)


def _options(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in _UNIONS:
        return typing.get_args(kind)
    return (type(None),) if kind is None else (kind,)


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as exc:
        raise BadValue(f"not UTF-8: {exc}") from exc


def _too_deep(payload: bytes) -> bool:
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", payload).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH


def _scalar(value: Any, kind: type, where: str) -> Any:
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as exc:
            raise BadValue(f"{_at(where)}a number too large for float") from exc
    # Exact types: JSON's true must not pass as the number 1.
    return value if type(value) is kind else _refuse(value, kind.__name__, where)


def _record(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, dict):
        return _refuse(value, f"an object for {kind.__name__}", where)
    known = dict(_fields(kind))
    names = {field.name: field for field in known}
    if unknown := sorted(set(value) - set(names)):
        raise BadValue(f"{_at(where)}{kind.__name__} has no field {unknown[0]!r}")
    for name, field in names.items():
        if name not in value and not _has_default(field):
            raise BadValue(f"{_at(where)}field {name!r} of {kind.__name__} is missing")
    values = {n: convert(v, known[names[n]], _below(where, n)) for n, v in value.items()}
    try:
        return kind(**values)
    except ValueError as exc:
        # The class's own check, in __post_init__.
        raise BadValue(f"{_at(where)}{exc}") from exc


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@cache
def _fields(kind: Any) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((f, hints[f.name]) for f in dataclasses.fields(kind) if f.init)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )


def _one_of(value: Any, options: tuple[Any, ...], where: str) -> Any:
    reasons = []
    for option in options:
        try:
            return convert(value, option, where)
        except BadValue as exc:
            reasons.append(str(exc))
    raise BadValue(" or ".join(reasons))


def _container(value: Any, origin: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if origin is dict:
        if not isinstance(value, dict):
            return _refuse(value, "an object", where)
        kind = arguments[1] if arguments else Any
        return {key: convert(item, kind, _below(where, key)) for key, item in value.items()}
    if not isinstance(value, list):
        return _refuse(value, "a list", where)
    if origin is list or not arguments or arguments[-1] is ...:
        kind = arguments[0] if arguments else Any
        return origin(convert(item, kind, _below(where, i)) for i, item in enumerate(value))
    if len(value) != len(arguments):
        return _refuse(value, f"a list of {len(arguments)}", where)
    pairs = zip(value, arguments, strict=True)
    return tuple(convert(item, kind, _below(where, i)) for i, (item, kind) in enumerate(pairs))


def _refuse(value: Any, wanted: str, where: str) -> Any:
    shown = json.dumps(value, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise BadValue(f"{_at(where)}expected {wanted}, not {shown}")


def _refuse_constant(name: str) -> Any:
    raise BadValue(f"not JSON: {name} is not a number")


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _below(where: str, key: object) -> str:
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if where else str(key)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
