"""Reads back what `vm/erofs.py` writes, from the kernel's description of the format alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4096


@dataclass(frozen=True)
class Node:
    """A file or a directory of the image."""

    mode: int
    links: int
    owner: tuple[int, int]
    content: bytes


def read_erofs(image: Path) -> dict[str, Node]:
    """Return everything in a file system by its path, the root as ``/``."""
    with image.open("rb") as opened:
        data = opened.read(BLOCK)
        (blocks,) = struct.unpack_from("<I", data, 1024 + 36)
        # A drive may be longer: what is behind its end is nobody's.
        data += opened.read((blocks - 1) * BLOCK)
    magic, _, incompatible_before = struct.unpack_from("<3I", data, 1024)
    (block_bits,) = struct.unpack_from("<B", data, 1024 + 12)
    (root,) = struct.unpack_from("<H", data, 1024 + 14)
    (nodes_at,) = struct.unpack_from("<I", data, 1024 + 40)
    (incompatible,) = struct.unpack_from("<I", data, 1024 + 80)
    assert (magic, block_bits) == (0xE0F5E1E2, 12)
    assert incompatible_before == incompatible == 0
    assert len(data) == blocks * BLOCK
    found: dict[str, Node] = {}

    def walk(number: int, path: str, parent: int) -> None:
        at = nodes_at * BLOCK + 32 * number
        (form,) = struct.unpack_from("<H", data, at)
        (mode,) = struct.unpack_from("<H", data, at + 4)
        size, block = struct.unpack_from("<QI", data, at + 8)
        owner = struct.unpack_from("<II", data, at + 24)
        (links,) = struct.unpack_from("<I", data, at + 44)
        assert form == 1, "the long form, its blocks one after another"
        content = data[block * BLOCK : block * BLOCK + size]
        assert len(content) == size
        found[path] = Node(mode, links, (owner[0], owner[1]), content)
        if mode >> 12 == 4:
            for name, child in entries(content).items():
                if name in (".", ".."):
                    assert child == (number if name == "." else parent)
                else:
                    walk(child, f"{path.rstrip('/')}/{name}", number)

    def entries(content: bytes) -> dict[str, int]:
        # The first name begins where the entries end.
        (end,) = struct.unpack_from("<H", content, 8)
        heads = [struct.unpack_from("<QHB", content, at) for at in range(0, end, 12)]
        ends = [head[1] for head in heads[1:]] + [len(content)]
        named = {content[h[1] : e].decode(): h[0] for h, e in zip(heads, ends, strict=True)}
        assert list(named) == sorted(named), "the kernel looks for a name by halves"
        return named

    walk(root, "/", root)
    return found
