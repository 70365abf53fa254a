"""Writes into an artifact what made it: the `producers` section of the tool conventions.

A compiler that embeds an interpreter names the interpreter's language, or none: a component made
from Python says "Rust" only. The section is put first, before any nested module's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from plexspaces_node.errors import Internal

_HEADER_BYTES = 8
_CUSTOM = 0
_NAME = b"producers"

Fields = dict[str, dict[str, str]]
"""Field (``language``, ``processed-by``, ``sdk``) to name to version."""


@dataclass(frozen=True, slots=True)
class _Section:
    start: int
    body: int
    end: int


def with_producers(binary: bytes, added: Fields) -> bytes:
    """Return the binary with `added` merged into its outermost `producers` section.

    Raises `Internal` when a compiler's output is not WebAssembly.
    """
    try:
        return _merge(binary, added)
    except (IndexError, UnicodeDecodeError) as exc:
        raise Internal("the compiler's output is not whole WebAssembly") from exc


def _merge(binary: bytes, added: Fields) -> bytes:
    fields: Fields = {field: dict(values) for field, values in added.items()}
    kept: list[bytes] = []
    begin = _HEADER_BYTES
    for section in _sections(binary):
        name, at = _string(binary, section.body) if binary[section.start] == _CUSTOM else ("", 0)
        if name.encode() != _NAME:
            continue
        for field, values in _fields(binary, at).items():
            fields[field] = {**values, **fields.get(field, {})}
        kept.append(binary[begin : section.start])
        begin = section.end
    kept.append(binary[begin:])
    return b"".join([binary[:_HEADER_BYTES], _encode(fields), *kept])


def _sections(binary: bytes) -> Iterator[_Section]:
    at = _HEADER_BYTES
    while at < len(binary):
        size, body = _number(binary, at + 1)
        if body + size > len(binary):
            raise IndexError(body + size)
        yield _Section(at, body, body + size)
        at = body + size


def _fields(binary: bytes, at: int) -> Fields:
    fields: Fields = {}
    count, at = _number(binary, at)
    for _ in range(count):
        field, at = _string(binary, at)
        values, at = _number(binary, at)
        for _ in range(values):
            name, at = _string(binary, at)
            version, at = _string(binary, at)
            fields.setdefault(field, {})[name] = version
    return fields


def _encode(fields: Fields) -> bytes:
    body = _bytes(_NAME) + _leb(len(fields))
    for field, values in fields.items():
        body += _bytes(field.encode()) + _leb(len(values))
        for name, version in values.items():
            body += _bytes(name.encode()) + _bytes(version.encode())
    return bytes([_CUSTOM]) + _bytes(body)


def _bytes(data: bytes) -> bytes:
    return _leb(len(data)) + data


def _leb(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _string(binary: bytes, at: int) -> tuple[str, int]:
    size, at = _number(binary, at)
    return binary[at : at + size].decode(), at + size


def _number(binary: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while binary[at] & 0x80:
        number |= (binary[at] & 0x7F) << shift
        shift += 7
        at += 1
    return number | binary[at] << shift, at + 1
