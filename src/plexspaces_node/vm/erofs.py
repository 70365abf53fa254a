"""Read-only file systems for guests: a few files in one directory, in the format EROFS.

Written here without a tool. Such a file system is one block of headers, the directories, and then
the files as they are. So making one costs as much as copying, needs nothing installed, and gives
the same bytes for the same files. A guest's kernel maps its files directly from the drive. This
module does not know what the files are for.

The kernel's sources describe the format in `fs/erofs/erofs_fs.h`. Only features of Linux 5.4 are
used: no compression, no checksums, one device.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import MIB

MAGIC_OFFSET = 1024
MAGIC = struct.pack("<I", 0xE0F5E1E2)
BLOCK_BYTES = 4096

_BLOCK_BITS = 12
_SUPER = struct.Struct("<4sIIBBHQQIIII16s16s48x")
_NODE = struct.Struct("<HHHHQIIIIQII16x")
_ENTRY = struct.Struct("<QHBx")
# A node's number is its position in the first block, in units of half its length.
_NODE_UNIT_BYTES = _NODE.size // 2
_ROOT = (MAGIC_OFFSET + _SUPER.size) // _NODE_UNIT_BYTES
_MOST_NODES = (BLOCK_BYTES - _ROOT * _NODE_UNIT_BYTES) // _NODE.size
_EXTENDED_PLAIN = 1
"""A node's flags: the long form, with its bytes in consecutive blocks of their own."""
_FILE, _DIRECTORY = 1, 2
"""Kinds of a directory's entries."""
_EPOCH_S = 315_532_800
"""The time of everything: 1 January 1980."""

_Node = tuple[int, int, int, int]
"""Mode, number of links, length in bytes, first block."""


def write_erofs(
    target: Path, files: Mapping[str, Path], directories: Sequence[str] = (), *, mode: int = 0o444
) -> None:
    """Create the file `target`, for its owner only: a file system with these in its root.

    `files` gives the content by name; `directories` are empty. Root owns everything, and files have
    `mode`. Blocks for about as long as copying the files. On failure there is no `target`. Raises
    `OSError`, and `InvalidArgument` if there are more names than fit.
    """
    try:
        with open(target, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as drive:
            _write(drive, files, directories, mode)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _write(
    drive: BinaryIO, files: Mapping[str, Path], directories: Sequence[str], mode: int
) -> None:
    # The root's node comes first, and its entries are the first block after the nodes.
    kinds = dict.fromkeys(directories, _DIRECTORY) | dict.fromkeys(files, _FILE)
    names = sorted(kinds, key=os.fsencode)
    numbers = {name: _ROOT + 2 * place for place, name in enumerate(names, 1)}
    root = {".": (_ROOT, _DIRECTORY), "..": (_ROOT, _DIRECTORY)}
    entries = _entries(root | {name: (numbers[name], kinds[name]) for name in names})
    if len(names) >= _MOST_NODES or len(entries) > BLOCK_BYTES:
        raise InvalidArgument(f"{len(names)} files do not fit into a guest's file system")
    nodes: list[_Node] = [(stat.S_IFDIR | 0o755, 2 + len(directories), len(entries), 1)]
    heads = [entries]
    block = 2 + len(directories)
    places: list[tuple[Path, int]] = []
    for name in names:
        if name in files:
            length = files[name].stat().st_size
            nodes.append((stat.S_IFREG | mode, 1, length, block))
            places.append((files[name], block))
            block += -(-length // BLOCK_BYTES)
        else:
            own = _entries(root | {".": (numbers[name], _DIRECTORY)})
            nodes.append((stat.S_IFDIR | 0o755, 2, len(own), 1 + len(heads)))
            heads.append(own)
    drive.write(_first_block(nodes, block))
    for number, content in enumerate(heads, 1):
        drive.seek(number * BLOCK_BYTES)
        drive.write(content)
    for file, first in places:
        drive.seek(first * BLOCK_BYTES)
        with file.open("rb") as opened:
            shutil.copyfileobj(opened, drive, MIB)
    drive.truncate(block * BLOCK_BYTES)


def _first_block(nodes: Sequence[_Node], blocks: int) -> bytes:
    first = bytearray(BLOCK_BYTES)
    count = (_ROOT, len(nodes), _EPOCH_S, 0, blocks)
    head = (MAGIC, 0, 0, _BLOCK_BITS, 0, *count, 0, 0, b"", b"plexspaces")
    _SUPER.pack_into(first, MAGIC_OFFSET, *head)
    for place, (mode, links, length, block) in enumerate(nodes):
        node = (_EXTENDED_PLAIN, 0, mode, 0, length, block, place + 1, 0, 0, _EPOCH_S, 0, links)
        _NODE.pack_into(first, _ROOT * _NODE_UNIT_BYTES + place * _NODE.size, *node)
    return bytes(first)


def _entries(entries: Mapping[str, tuple[int, int]]) -> bytes:
    """Return a directory's content: number and kind in the order of the names, then the names."""
    found = sorted((os.fsencode(name), entry) for name, entry in entries.items())
    heads, names, at = b"", b"", _ENTRY.size * len(found)
    for name, (number, kind) in found:
        heads += _ENTRY.pack(number, at + len(names), kind)
        names += name
    return heads + names
