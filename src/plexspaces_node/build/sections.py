"""The outer form of a WebAssembly binary: sections, numbers and names.

What the sections mean is not known here. Reading beyond the end raises `IndexError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HEADER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its kind, and where it and its body lie in the binary."""

    kind: int
    start: int
    body: int
    end: int


def sections(binary: bytes) -> Iterator[Section]:
    """Return the outermost sections, in their order."""
    at = HEADER_BYTES
    while at < len(binary):
        size, body = number(binary, at + 1)
        if body + size > len(binary):
            raise IndexError(body + size)
        yield Section(binary[at], at, body, body + size)
        at = body + size


def section(kind: int, body: bytes) -> bytes:
    """Return a section with its header."""
    return bytes([kind]) + with_size(body)


def with_size(data: bytes) -> bytes:
    """Return the bytes with their number before them, as names and bodies are written."""
    return leb(len(data)) + data


def leb(number: int) -> bytes:
    """Return an unsigned number in LEB128."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def string(binary: bytes, at: int) -> tuple[str, int]:
    """Return the name that begins at `at`, and where it ends."""
    size, at = number(binary, at)
    if at + size > len(binary):
        raise IndexError(at + size)
    return binary[at : at + size].decode(), at + size


def number(binary: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned LEB128 number that begins at `at`, and where it ends."""
    result = shift = 0
    while binary[at] & 0x80:
        result |= (binary[at] & 0x7F) << shift
        shift += 7
        at += 1
    return result | binary[at] << shift, at + 1
