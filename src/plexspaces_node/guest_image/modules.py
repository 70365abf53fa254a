"""The kernel modules that a guest's devices need.

Knows where the packages of Debian 12, Debian 13 and Ubuntu have them, and how they are compressed.
Every error names the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.guest_image.compression import decompress, naming

_ENDINGS = ("", ".xz", ".zst", ".gz")
_ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
_SECTIONS_OFFSET = 0x28
_SECTION_COUNTS_OFFSET = 0x3A
_SECTION_BYTES = 64
_NEEDS = re.compile(rb"\0depends=([^\0]*)\0")
_TYPES = b".BTF"
_SIGNED = b"~Module signature appended~\n"
_SIGNATURE_LENGTHS = struct.Struct(">3x2B3xI")


class Modules:
    """The modules of the packages that were unpacked below a directory."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._built_in = {
            _plain_name(Path(line).stem)
            for listing in tree.rglob("modules.builtin")
            for line in listing.read_text().splitlines()
        }

    def with_needs(self, names: Sequence[str], already: Iterable[str] = ()) -> dict[str, bytes]:
        """Return these modules and their dependencies, in an order in which they can be loaded.

        Leaves out what is built into the kernel and what is `already` loaded. Blocks for some
        milliseconds. Raises `InvalidArgument` for a module that is missing or damaged,
        `Unsupported` for a compression that this host cannot decompress.
        """
        found: dict[str, bytes] = {}
        known = {*already} | self._built_in
        for name in names:
            if name in known or name in found:
                continue
            module = self._read(name)
            needs = _NEEDS.search(module)
            if needs and needs[1]:
                needed = [_plain_name(need) for need in needs[1].decode().split(",")]
                found |= self.with_needs(needed, known | {*found, name})
            found[name] = module
        return found

    def _read(self, name: str) -> bytes:
        file = self._find(name)
        if file is None:
            raise InvalidArgument(
                f"the kernel's packages have no module {name}: neither {name}.ko below "
                "lib/modules or usr/lib/modules, also compressed, nor a line in modules.builtin"
            )
        content = file.read_bytes()
        with naming(file, self._tree):
            return plain(content if file.suffix == ".ko" else decompress(content))

    def _find(self, name: str) -> Path | None:
        for spelled in (name, name.replace("_", "-")):
            for ending in _ENDINGS:
                found = sorted(self._tree.rglob(f"{spelled}.ko{ending}"))
                if found:
                    return found[0]
        return None


def _plain_name(name: str) -> str:
    # A module's file name can have dashes where the kernel uses underscores.
    return name.replace("-", "_")


def plain(module: bytes) -> bytes:
    """Return a module without what is only used when it is loaded: its signature and its types.

    Kernel and modules come from the same packages. Checking five signatures and reading the
    kernel's type information takes an emulated CPU a twentieth of a boot. Raises `InvalidArgument`
    if the file is not a module.
    """
    if not module.startswith(_ELF64_LITTLE_ENDIAN):
        raise InvalidArgument("it is not a 64-bit ELF file")
    try:
        return _without_types(_without_signature(module))
    except (struct.error, IndexError, ValueError) as error:
        raise InvalidArgument(f"it is damaged: {error}") from error


def _without_signature(module: bytes) -> bytes:
    if not module.endswith(_SIGNED):
        return module
    end = len(module) - len(_SIGNED) - _SIGNATURE_LENGTHS.size
    return module[: end - sum(_SIGNATURE_LENGTHS.unpack_from(module, end))]


def _without_types(module: bytes) -> bytes:
    (sections,) = struct.unpack_from("<Q", module, _SECTIONS_OFFSET)
    size, count, names_index = struct.unpack_from("<3H", module, _SECTION_COUNTS_OFFSET)
    if size != _SECTION_BYTES:
        raise ValueError(f"its sections' headers have {size} bytes")
    changed = bytearray(module)
    (names,) = struct.unpack_from("<Q", module, sections + names_index * size + 24)
    for header in range(sections, sections + count * size, size):
        (name,) = struct.unpack_from("<I", module, header)
        if module[names + name : module.index(0, names + name)] == _TYPES:
            # A section without a type or name, which nothing reads.
            changed[header : header + size] = bytes(size)
    return bytes(changed)
