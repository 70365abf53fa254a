"""The outer structure of a WebAssembly binary, module or component: sections, numbers and names.

Reads and writes them without knowing what a section means. The binary can be anyone's: anything
that is malformed or exceeds its container raises `InvalidArgument`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from plexspaces_node.errors import InvalidArgument

HEADER_BYTES = 8

_HINT = "build it again, or copy it again"
_LAST_SHIFT = 28
"""Numbers in sections have 32 bits, which take up to five groups of seven."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its kind, and where it and its body are in the binary."""

    kind: int
    start: int
    body: int
    end: int


def sections(binary: bytes | memoryview) -> Iterator[Section]:
    """Yield the outermost sections in order."""
    at = HEADER_BYTES
    while at < len(binary):
        size, body = number(binary, at + 1)
        end = body + size
        if end > len(binary):
            raise InvalidArgument(
                f"truncated: a section needs {end} bytes, there are {len(binary)}", hint=_HINT
            )
        yield Section(binary[at], at, body, end)
        at = end


def string(binary: bytes | memoryview, at: int) -> tuple[str, int]:
    """Return the name that begins at `at`, and where it ends."""
    size, start = number(binary, at)
    end = start + size
    if end > len(binary):
        raise InvalidArgument("truncated: a name ends beyond its section", hint=_HINT)
    try:
        return bytes(binary[start:end]).decode(), end
    except UnicodeDecodeError as exc:
        raise InvalidArgument(f"a name in it is not UTF-8: {exc}", hint=_HINT) from exc


def number(binary: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the unsigned LEB128 number that begins at `at`, and where it ends."""
    result = 0
    for shift in range(0, _LAST_SHIFT + 1, 7):
        if at >= len(binary):
            raise InvalidArgument("truncated: a number ends beyond its section", hint=_HINT)
        byte = binary[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
    raise InvalidArgument("a number in it has more than 32 bits", hint=_HINT)


def section(kind: int, body: bytes) -> bytes:
    """Return a section with its header."""
    return bytes([kind]) + with_size(body)


def with_size(data: bytes) -> bytes:
    """Return the bytes preceded by their length, as names and bodies are written."""
    return leb(len(data)) + data


def leb(number: int) -> bytes:
    """Return an unsigned number in LEB128."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
