"""Gives a TypeScript component a stack of a fixed size, and its engine the limit of it.

QuickJS throws a RangeError if its stack is full, but for WebAssembly it is built without a limit: a
recursion runs into the end of the memory, which traps (componentize-qjs 0.4.5). The component's
memory gets a stack of our size behind everything in it, where nothing else can be damaged, and the
limit is written where the engine has it.

componentize-qjs makes one core module that contains the memory as it was after the application
started, and the stack pointer; at that time no function is on the stack.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from plexspaces_node.errors import Internal
from plexspaces_node.wasm_binary import HEADER_BYTES, leb, number, section, sections, string

STACK_BYTES = 1536 * 1024
"""More than 5,000 calls of a small function, which take 276 bytes each. The native stack, which the
agent gives, must hold whatever fits: see `Stack` in agent/src/runner.rs."""
RESERVE_BYTES = 128 * 1024
"""How much is left below the limit, for functions of the engine that do not check it."""

_PAGE_BYTES = 64 * 1024
_CORE_MODULE, _COMPONENT = 1, 4
_MEMORY, _GLOBAL, _EXPORT, _DATA = 5, 6, 7, 11
_POINTER = "__stack_pointer"
_EXPORTED_GLOBAL = 3
_VARIABLE = b"\x7f\x01\x41"
"""A mutable 32-bit global that starts with a constant."""
_CONSTANT, _END = 0x41, 0x0B

_NEAR_TOP_BYTES = 4096
"""How near the stack's top the engine was started."""
_NO_LIMIT = (0, 0, 4)
"""What follows the top in the engine's memory: no limit, and no exception, which has a tag of 4."""

_UNKNOWN = "componentize-qjs made a component of a form that is not known"


def with_stack(component: bytes) -> bytes:
    """Return the component with a stack of `STACK_BYTES` whose end throws a RangeError.

    Raises `Internal` if it does not have the known form.
    """
    changed, found = _with_stack(component)
    if found != 1:
        raise Internal(f"{_UNKNOWN}: {found} of its modules have a stack")
    return changed


def _with_stack(component: bytes) -> tuple[bytes, int]:
    parts, found = [component[:HEADER_BYTES]], 0
    for part in sections(component):
        body = component[part.body : part.end]
        if part.kind == _COMPONENT:
            body, inside = _with_stack(body)
            found += inside
        elif part.kind == _CORE_MODULE and _has_stack(body):
            body = _module(body)
            found += 1
        parts.append(section(part.kind, body))
    return b"".join(parts), found


def _has_stack(module: bytes) -> bool:
    """Return whether a module's first global is the stack pointer for all others."""
    for part in sections(module):
        if part.kind == _EXPORT:
            count, at = number(module, part.body)
            for _ in range(count):
                name, at = string(module, at)
                kind = module[at]
                index, at = number(module, at + 1)
                if (name, kind, index) == (_POINTER, _EXPORTED_GLOBAL, 0):
                    return True
    return False


def _module(module: bytes) -> bytes:
    bodies = {part.kind: module[part.body : part.end] for part in sections(module)}
    try:
        memory, top = _Memory.read(bodies[_MEMORY]), _top(bodies[_GLOBAL])
        segments = _segments(bodies[_DATA])
    except (LookupError, ValueError) as exc:
        raise Internal(_UNKNOWN) from exc
    begin = memory.pages * _PAGE_BYTES
    limit = _data(_limit(segments, begin, top), begin + RESERVE_BYTES)
    changed = {
        _MEMORY: memory.grown(),
        _GLOBAL: _pointing(bodies[_GLOBAL], begin + STACK_BYTES),
        _DATA: _with_segment(bodies[_DATA], limit),
    }
    parts = [module[:HEADER_BYTES]]
    for part in sections(module):
        body = module[part.body : part.end]
        parts.append(section(part.kind, changed.get(part.kind, body)))
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Memory:
    """The module's only memory, which may grow without limit."""

    pages: int

    @classmethod
    def read(cls, body: bytes) -> _Memory:
        count, at = number(body, 0)
        pages, end = number(body, at + 1)
        if (count, body[at], end) != (1, 0, len(body)):
            raise ValueError("another memory")
        return cls(pages)

    def grown(self) -> bytes:
        return leb(1) + b"\x00" + leb(self.pages + STACK_BYTES // _PAGE_BYTES)


def _top(body: bytes) -> int:
    _, at = number(body, 0)
    if body[at : at + len(_VARIABLE)] != _VARIABLE:
        raise ValueError("another global")
    return _signed(body, at + len(_VARIABLE))[0]


def _pointing(body: bytes, top: int) -> bytes:
    _, at = number(body, 0)
    value = at + len(_VARIABLE)
    return body[:value] + _constant(top) + body[_signed(body, value)[1] :]


def _segments(body: bytes) -> list[tuple[int, bytes]]:
    """Return the initial memory, as pieces with their addresses."""
    count, at = number(body, 0)
    segments = []
    for _ in range(count):
        if body[at] != 0 or body[at + 1] != _CONSTANT:
            raise ValueError("another segment")
        address, at = _signed(body, at + 2)
        if body[at] != _END:
            raise ValueError("another segment")
        size, at = number(body, at + 1)
        segments.append((address, body[at : at + size]))
        at += size
    return segments


def _limit(segments: list[tuple[int, bytes]], length: int, top: int) -> int:
    """Return the address of the engine's limit: the first match, because it is created first."""
    memory = bytearray(length)
    for address, data in segments:
        memory[address : address + len(data)] = data
    words = memoryview(memory).cast("I")
    for at in range(top // 4, len(words) - len(_NO_LIMIT)):
        after = slice(at + 1, at + 1 + len(_NO_LIMIT))
        if top - _NEAR_TOP_BYTES < words[at] < top and tuple(words[after]) == _NO_LIMIT:
            return (at + 1) * 4
    raise Internal(f"{_UNKNOWN}: its engine has another stack")


def _data(address: int, value: int) -> bytes:
    content = struct.pack("<I", value)
    return bytes([0, _CONSTANT]) + _constant(address) + bytes([_END]) + leb(len(content)) + content


def _with_segment(body: bytes, segment: bytes) -> bytes:
    count, at = number(body, 0)
    return leb(count + 1) + body[at:] + segment


def _constant(value: int) -> bytes:
    """Return a positive number as signed LEB128."""
    whole = leb(value)
    # The highest of the last seven bits would be read as the sign.
    return whole[:-1] + bytes([whole[-1] | 0x80, 0]) if whole[-1] & 0x40 else whole


def _signed(body: bytes, at: int) -> tuple[int, int]:
    """Return the positive number that begins at `at` in signed LEB128, and where it ends."""
    value, end = number(body, at)
    if body[end - 1] & 0x40:
        raise ValueError("a negative number")
    return value, end
