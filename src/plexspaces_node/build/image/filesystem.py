"""From a tree of files to an ext4 image, the same bytes for the same tree.

Made by e2fsprogs without privileges. The files are written one by one in the order of their names
and not by `mke2fs -d`, whose order, times and owners are those of the disk it reads from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from plexspaces_node.build.image.packages import Tools
from plexspaces_node.errors import Unavailable
from plexspaces_node.model import MIB

EPOCH_S = 315_532_800
"""The time of everything in an image: the first of January 1980."""
UUID = "8f0d8a5c-6c3b-4e0e-9d53-6b1f5f6f7a10"
"""Of every image's file system, and the seed of its directory hashes."""

_BLOCK_BYTES = 4096
_FEATURES = "none,extent,filetype,sparse_super,large_file"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._+-]+")
_BANNER = re.compile(r"debugfs \d.*|debugfs: .*|Allocated inode: \d+")


async def make_filesystem(tools: Tools, tree: Path, image: Path, *, label: str) -> None:
    """Write the files below `tree` to the ext4 file system `image`, which is made.

    Owner and group are root, directories have mode 755, times are `EPOCH_S`. Raises `Unavailable`
    when the tools refuse; then a part of `image` may be there.
    """
    more = {"E2FSPROGS_FAKE_TIME": str(EPOCH_S), "MKE2FS_CONFIG": "/dev/null"}
    entries = sorted(tree.rglob("*"))
    blocks = _blocks(entries)
    await tools.run(
        "mke2fs",
        *("-q", "-F", "-t", "ext4", "-O", _FEATURES, "-b", str(_BLOCK_BYTES), "-I", "128"),
        *("-m", "0", "-N", str(len(entries) + 64), "-U", UUID, "-L", label),
        *("-E", f"hash_seed={UUID},root_owner=0:0,lazy_itable_init=0,nodiscard"),
        *(str(image), str(blocks)),
        cwd=tree.parent,
        more=more,
    )
    script = image.with_suffix(".script")
    script.write_text("".join(f"{line}\n" for line in _script(tree, entries)))
    said = await tools.run("debugfs", "-w", "-f", str(script), str(image), cwd=tree, more=more)
    script.unlink()
    # It ends with status 0 whatever its commands did.
    wrong = [line for line in said.splitlines() if line and not _BANNER.fullmatch(line)]
    if wrong:
        raise Unavailable(f"debugfs could not write the guest's root: {wrong[0]}")


def _blocks(entries: list[Path]) -> int:
    # One block more a file than its bytes need, for directories and the map of a long file.
    used = sum(-(-path.stat().st_size // _BLOCK_BYTES) + 1 for path in entries)
    inode_blocks = (len(entries) + 64) * 128 // _BLOCK_BYTES
    return used + inode_blocks + used // 64 + MIB // _BLOCK_BYTES


def _script(tree: Path, entries: list[Path]) -> Iterator[str]:
    for path in entries:
        name = path.relative_to(tree).as_posix()
        if not all(_PLAIN_NAME.fullmatch(part) for part in name.split("/")):
            raise Unavailable(f"a file of the guest's root has a name that cannot be: {name!r}")
        if path.is_dir():
            yield f"mkdir {name}"
        else:
            yield f"write {name} {name}"
            yield f"set_inode_field {name} mode {0o100000 | path.stat().st_mode & 0o777:07o}"
            yield f"set_inode_field {name} uid 0"
            yield f"set_inode_field {name} gid 0"
