"""What a WebAssembly binary says of itself before it is compiled.

Reads the header and the `producers` sections, also of modules nested in a component. Owns no
judgement: `compile` decides what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.sections import number, sections, string

MAGIC = b"\0asm"
CORE_LAYER = b"\x01\x00\x00\x00"
COMPONENT_LAYER = b"\x0d\x00\x01\x00"

_CUSTOM = 0
_CORE_MODULE = 1
_COMPONENT = 4
_NESTED = (_CORE_MODULE, _COMPONENT)
_MAX_DEPTH = 16


def is_component(binary: bytes) -> bool:
    """Tell a component from a core module; raises `InvalidArgument` when it is neither."""
    if binary[:4] != MAGIC:
        raise InvalidArgument(f"not WebAssembly: the file begins with {binary[:4]!r}")
    layer = binary[4:8]
    if layer == COMPONENT_LAYER:
        return True
    if layer == CORE_LAYER:
        return False
    raise InvalidArgument(f"unknown WebAssembly version {layer.hex()}")


def languages(binary: bytes) -> list[str]:
    """Return the languages the `producers` sections name, outermost first, each once.

    A component with CPython inside is Python, whatever its producers say: componentize-py's own
    output names only the language of an adapter. Raises `InvalidArgument` when a section ends
    beyond its container: the file is truncated.
    """
    found: dict[str, None] = {}
    for name, body in _custom_sections(memoryview(binary), is_component(binary), 0):
        if name == "producers":
            for language in _producer_values(body, "language"):
                found.setdefault(language)
        elif name == "dylink.0" and b"libpython3" in bytes(body):
            found.setdefault("Python")
    return list(found)


def processed_by(binary: bytes) -> list[str]:
    """Return the tools the `producers` sections name under `processed-by`, each once."""
    found: dict[str, None] = {}
    for name, body in _custom_sections(memoryview(binary), is_component(binary), 0):
        if name == "producers":
            for tool in _producer_values(body, "processed-by"):
                found.setdefault(tool)
    return list(found)


def _custom_sections(
    binary: memoryview, component: bool, depth: int
) -> Iterator[tuple[str, memoryview]]:
    if depth > _MAX_DEPTH:
        raise InvalidArgument(f"components nested deeper than {_MAX_DEPTH}")
    for part in sections(binary):
        body = binary[part.body : part.end]
        if part.kind == _CUSTOM:
            name, rest = string(body, 0)
            yield name, body[rest:]
        elif component and part.kind in _NESTED:
            yield from _custom_sections(body, part.kind == _COMPONENT, depth + 1)


def _producer_values(body: memoryview, wanted: str) -> Iterator[str]:
    fields, at = number(body, 0)
    for _ in range(fields):
        field, at = string(body, at)
        count, at = number(body, at)
        for _ in range(count):
            value, at = string(body, at)
            _version, at = string(body, at)
            if field == wanted:
                yield value
