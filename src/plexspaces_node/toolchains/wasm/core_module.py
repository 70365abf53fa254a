"""A WebAssembly core module as a compiler wrote it: its imports and exports.

Does not know what the names mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

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

_HEADER = b"\0asm\1\0\0\0"
_IMPORTS = 2
_EXPORTS = 7
_FUNCTION = 0


@dataclass(frozen=True, slots=True)
class Import:
    """One import.

    Attributes:
        type: index of its type; None if it is not a function.
    """

    module: str
    name: str
    type: int | None


@dataclass(frozen=True, slots=True)
class CoreModule:
    """A module with its imports and the names of its exports.

    Imports that follow one that is not a function are left out.
    """

    binary: bytes
    imports: tuple[Import, ...]
    exports: frozenset[str]


def read_core_module(binary: bytes) -> CoreModule:
    """Return the module; raises `Internal` if it is not one or incomplete."""
    if binary[:HEADER_BYTES] != _HEADER:
        raise Internal("the compiler's output is not a WebAssembly core module")
    imports: tuple[Import, ...] = ()
    exports: frozenset[str] = frozenset()
    try:
        for part in sections(binary):
            if part.kind == _IMPORTS:
                imports = tuple(_imports(binary, part.body))
            elif part.kind == _EXPORTS:
                exports = frozenset(_exports(binary, part.body))
    except InvalidArgument as exc:
        raise Internal("the compiler's output is incomplete WebAssembly") from exc
    return CoreModule(binary, imports, exports)


def with_distinct_imports(module: CoreModule) -> CoreModule:
    """Return the module with unique imports: Go writes one for each package that declares it.

    The second of one name is imported from ``MODULE#2``, and so on: a component cannot contain a
    module with one import twice. All imports must be functions.
    """
    seen: Counter[tuple[str, str]] = Counter()
    imports = []
    for entry in module.imports:
        seen[entry.module, entry.name] += 1
        again = seen[entry.module, entry.name]
        imports.append(entry if again == 1 else replace(entry, module=f"{entry.module}#{again}"))
    if len(seen) == len(imports):
        return module
    old = next(part for part in sections(module.binary) if part.kind == _IMPORTS)
    new = section(_IMPORTS, leb(len(imports)) + b"".join(map(_encoded, imports)))
    binary = module.binary[: old.start] + new + module.binary[old.end :]
    return replace(module, binary=binary, imports=tuple(imports))


def _imports(binary: bytes, at: int) -> Iterator[Import]:
    count, at = number(binary, at)
    for _ in range(count):
        module, at = string(binary, at)
        name, at = string(binary, at)
        if binary[at] != _FUNCTION:
            # Forms that are not needed here.
            yield Import(module, name, None)
            return
        index, at = number(binary, at + 1)
        yield Import(module, name, index)


def _encoded(entry: Import) -> bytes:
    assert entry.type is not None
    names = with_size(entry.module.encode()) + with_size(entry.name.encode())
    return names + bytes([_FUNCTION]) + leb(entry.type)


def _exports(binary: bytes, at: int) -> Iterator[str]:
    count, at = number(binary, at)
    for _ in range(count):
        name, at = string(binary, at)
        _index, at = number(binary, at + 1)
        yield name
