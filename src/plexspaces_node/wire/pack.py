"""Records as msgpack arrays: what the link's frames are made of.

A `Record` declares its fields like a dataclass, of the few types in `_CHECKS`, and travels as the
array of their values. The peer is not believed: every value's type is checked. Fields missing at
the end take their defaults and surplus ones are ignored, so that fields can be added. Written for
the agent, which starts with every machine: a library for this costs it a third of its start.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import islice

# As type checkers know it, without importing `typing`, which costs as much as all of this package.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        """Leave a class as it is."""
        return lambda made: made


NESTING = 3
"""How deep arrays and maps may lie in one another; a frame needs one, with a failure two."""

Size = int
"""A field's type: an int that is not negative and fits a signed 64-bit one."""


class Malformed(ValueError):
    """Bytes that are not what was to be read, or a value that cannot be written."""


@dataclass_transform(frozen_default=True)
class Record:
    """Base of what is sent as an array; made with positional or named values, and not changed.

    The fields of a kind are those of its own class: none are inherited.
    """

    _fields: tuple[str, ...] = ()
    _checks: tuple[tuple[str, type | None, Callable[[object], Any]], ...] = ()

    def __init_subclass__(cls) -> None:
        kinds = cls.__annotations__
        cls._fields = tuple(kinds)
        cls._checks = tuple((name, *_CHECKS[kind]) for name, kind in kinds.items())

    def __init__(self, *values: Any, **named: Any) -> None:
        own = self.__dict__
        own.update(zip(self._fields, values, strict=False))
        own.update(named)
        given = len(values) + len(named)
        for name in self._fields[len(values) :]:
            if name not in own and hasattr(type(self), name):
                own[name] = getattr(type(self), name)
                given += 1
        if given != len(self._fields) or own.keys() != set(self._fields):
            raise TypeError(f"{type(self).__name__} takes {self._fields}, each once")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._fields)
        return f"{type(self).__name__}({values})"

    def values(self) -> list[Any]:
        """Return the values of the fields in their order."""
        own = self.__dict__
        return [own[name] for name in self._fields]

    @classmethod
    def of(cls, values: list[Any]) -> Any:
        """Return the record of these values, read by `unpack`; raises `Malformed`."""
        made = cls.__new__(cls)
        own = made.__dict__
        for (name, kind, check), value in zip(cls._checks, values, strict=False):
            own[name] = value if type(value) is kind else check(value)
        for name in islice(cls._fields, len(values), None):
            try:
                own[name] = getattr(cls, name)
            except AttributeError:
                raise Malformed(f"{cls.__name__} without {name}") from None
        return made


_Check = tuple[type | None, Callable[[object], object]]
"""The type of which every value is right, and what is asked of others: it returns or raises."""


def _only(kind: type) -> _Check:
    def refuse(value: object) -> object:
        raise Malformed(f"{type(value).__name__} in place of {kind.__name__}")

    return kind, refuse


def _or_none(check: _Check) -> _Check:
    kind, look = check
    return kind, lambda value: None if value is None else look(value)


def _size(value: object) -> object:
    if type(value) is not int or not 0 <= value < 2**63:
        raise Malformed(f"{value!r} is no size")
    return value


def _texts(value: object) -> object:
    if type(value) is not dict or not all(type(text) is str for text in value.values()):
        raise Malformed("no texts by name")
    return value


_CHECKS: dict[str, _Check] = {
    "int": _only(int),
    "bool": _only(bool),
    "str": _only(str),
    "bytes": _only(bytes),
    "str | None": _or_none(_only(str)),
    "bytes | None": _or_none(_only(bytes)),
    "dict[str, str]": (None, _texts),
    "Size": (None, _size),
}
"""By the text of a field's annotation: what checks a value that was read."""


def nestable(kind: type[Record]) -> type[Record]:
    """Let a kind of record be the type of a field of those declared after it."""

    def check(value: object) -> object:
        if type(value) is not list:
            raise Malformed(f"{type(value).__name__} in place of {kind.__name__}")
        return kind.of(value)

    _CHECKS[kind.__name__] = None, check
    _CHECKS[f"{kind.__name__} | None"] = _or_none((None, check))
    return kind


# ---- msgpack -------------------------------------------------------------------------------

_U16, _U32, _U64, _I64 = (struct.Struct(f">{letter}") for letter in "HIQq")


def pack(value: object, into: bytearray) -> None:
    """Append a value; raises `Malformed` for one of another type, or an int beyond 64 bits."""
    kind = type(value)
    if kind is str:
        data = value.encode()  # type: ignore[attr-defined]
        _pack_head(len(data), into, short=(0xA0, 32), long=0xD9)
        into += data
    elif kind is int:
        _pack_int(value, into)  # type: ignore[arg-type]
    elif value is None:
        into.append(0xC0)
    elif kind is bytes:
        _pack_head(len(value), into, short=(0, 0), long=0xC4)  # type: ignore[arg-type]
        into += value  # type: ignore[arg-type]
    elif kind is bool:
        into.append(0xC3 if value else 0xC2)
    elif isinstance(value, str):
        # An enumeration's, for one.
        pack(str(value), into)
    elif isinstance(value, list):
        _pack_head(len(value), into, short=(0x90, 16), long=0xDB)
        for item in value:
            pack(item, into)
    elif isinstance(value, dict):
        _pack_head(len(value), into, short=(0x80, 16), long=0xDD)
        for name, item in value.items():
            pack(name, into)
            pack(item, into)
    elif isinstance(value, Record):
        pack(value.values(), into)
    else:
        raise Malformed(f"a {type(value).__name__} cannot be sent")


def _pack_head(length: int, into: bytearray, *, short: tuple[int, int], long: int) -> None:
    # Of texts and bytes there is a form with one byte of length; arrays and maps, whose `long`
    # is one less than their form with two, have none.
    base, below = short
    if length < below:
        into.append(base | length)
    elif length < 0x100 and long < 0xDB:
        into += bytes((long, length))
    elif length < 0x10000:
        into.append(long + 1)
        into += _U16.pack(length)
    else:
        into.append(long + 2)
        into += _U32.pack(length)


def _pack_int(value: int, into: bytearray) -> None:
    if 0 <= value < 0x80:
        into.append(value)
    elif 0 <= value < 0x10000:
        into.append(0xCD)
        into += _U16.pack(value)
    elif 0 <= value < 2**64:
        into.append(0xCF)
        into += _U64.pack(value)
    elif -(2**63) <= value < 0:
        into.append(0xD3)
        into += _I64.pack(value)
    else:
        raise Malformed(f"{value} does not fit 64 bits")


def unpack(data: bytes, *, items: int = 1 << 32) -> Any:
    """Return the one value in `data`: None, bool, int, str, bytes, list or dict.

    Raises `Malformed` for anything else, also for what lies deeper than `NESTING`, or has more
    than `items` items in all its arrays and maps: a megabyte of them takes seconds to be read.
    """
    try:
        value, end = _unpack(data, 0, NESTING, [items])
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    if end != len(data):
        raise Malformed(f"{len(data) - end} bytes too many")
    return value


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_U8 = struct.Struct(">B")
_NUMBERS = {
    **{0xCC + i: struct.Struct(f">{letter}") for i, letter in enumerate("BHIQ")},
    **{0xD0 + i: struct.Struct(f">{letter}") for i, letter in enumerate("bhiq")},
}
_LONG: dict[int, tuple[type, struct.Struct]] = {
    **{0xC4 + i: (bytes, width) for i, width in enumerate((_U8, _U16, _U32))},
    **{0xD9 + i: (str, width) for i, width in enumerate((_U8, _U16, _U32))},
    **{0xDC + i: (list, width) for i, width in enumerate((_U16, _U32))},
    **{0xDE + i: (dict, width) for i, width in enumerate((_U16, _U32))},
}


def _unpack(data: bytes, at: int, nesting: int, left: list[int]) -> tuple[Any, int]:
    first = data[at]
    at += 1
    if first < 0x80:
        return first, at
    if first >= 0xE0:
        return first - 0x100, at
    if first in _NUMBERS:
        number = _NUMBERS[first]
        return number.unpack_from(data, at)[0], at + number.size
    if first in _CONSTANTS:
        return _CONSTANTS[first], at
    if first >= 0xC0:
        if first not in _LONG:
            raise Malformed(f"nothing begins with {first:#x}")
        kind, width = _LONG[first]
        (length,) = width.unpack_from(data, at)
        at += width.size
    elif first >= 0xA0:
        kind, length = str, first & 0x1F
    else:
        kind, length = list if first >= 0x90 else dict, first & 0x0F
    if kind is list or kind is dict:
        # Every item takes a byte at least: a length beyond that is a lie.
        left[0] -= length
        if nesting == 0 or length > len(data) - at or left[0] < 0:
            raise Malformed("arrays too deep or too long")
        items = _unpack_map if kind is dict else _unpack_array
        return items(data, at, nesting - 1, left, length)
    end = at + length
    if end > len(data):
        raise Malformed(f"{length} bytes were to come and {len(data) - at} did")
    return (data[at:end] if kind is bytes else str(data[at:end], "utf-8")), end


def _unpack_array(
    data: bytes, at: int, nesting: int, left: list[int], length: int
) -> tuple[Any, int]:
    items = []
    for _ in range(length):
        item, at = _unpack(data, at, nesting, left)
        items.append(item)
    return items, at


def _unpack_map(
    data: bytes, at: int, nesting: int, left: list[int], length: int
) -> tuple[Any, int]:
    named = {}
    for _ in range(length):
        name, at = _unpack(data, at, nesting, left)
        if type(name) is not str:
            raise Malformed("a name that is no text")
        named[name], at = _unpack(data, at, nesting, left)
    return named, at
