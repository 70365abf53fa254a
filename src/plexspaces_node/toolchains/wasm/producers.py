"""Records in an artifact what made it: the `producers` section of the tool conventions.

A compiler that embeds an interpreter names the interpreter's language, or none: a component made
from Python only says "Rust". The section is put first, before any nested module's.
"""

from __future__ import annotations

from plexspaces_node.errors import Internal, InvalidArgument
from plexspaces_node.wasm_binary import (
    HEADER_BYTES,
    leb,
    number,
    section,
    sections,
    string,
    with_size,
)

_CUSTOM = 0
_NAME = "producers"

Fields = dict[str, dict[str, str]]
"""Field (``language``, ``processed-by``, ``sdk``) to name to version."""


def with_producers(binary: bytes, added: Fields) -> bytes:
    """Return the binary with `added` merged into its outermost `producers` section.

    Raises `Internal` if a compiler's output is not WebAssembly.
    """
    try:
        return _merge(binary, added)
    except InvalidArgument as exc:
        raise Internal("the compiler's output is incomplete WebAssembly") from exc


def _merge(binary: bytes, added: Fields) -> bytes:
    fields: Fields = {field: dict(values) for field, values in added.items()}
    kept: list[bytes] = []
    begin = HEADER_BYTES
    for part in sections(binary):
        name, at = string(binary, part.body) if part.kind == _CUSTOM else ("", 0)
        if name != _NAME:
            continue
        for field, values in _fields(binary, at).items():
            fields[field] = {**values, **fields.get(field, {})}
        kept.append(binary[begin : part.start])
        begin = part.end
    kept.append(binary[begin:])
    return b"".join([binary[:HEADER_BYTES], _encode(fields), *kept])


def _fields(binary: bytes, at: int) -> Fields:
    fields: Fields = {}
    count, at = number(binary, at)
    for _ in range(count):
        field, at = string(binary, at)
        values, at = number(binary, at)
        for _ in range(values):
            name, at = string(binary, at)
            version, at = string(binary, at)
            fields.setdefault(field, {})[name] = version
    return fields


def _encode(fields: Fields) -> bytes:
    body = with_size(_NAME.encode()) + leb(len(fields))
    for field, values in fields.items():
        body += with_size(field.encode()) + leb(len(values))
        for name, version in values.items():
            body += with_size(name.encode()) + with_size(version.encode())
    return section(_CUSTOM, body)
