"""The initial RAM disk: the guest's first program and the kernel's modules, in one cpio archive.

Not compressed: it is half a megabyte, and decompressing costs an emulated CPU more than loading it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from plexspaces_node.guest_image.modules import Modules

MODULES = {
    "base": ("virtio_mmio", "virtio_blk", "erofs"),
    "virtio-serial": ("virtio_console",),
    "vsock": ("vmw_vsock_virtio_transport",),
}
"""The modules that `agent/init` loads, with all their dependencies: always, and for each kind of
link."""

_DIRECTORIES = ("dev", "modules", "proc", "root")
_CONSOLE = (5, 1)
_ALIGNMENT = 4


@dataclass
class Archive:
    """A cpio archive for the kernel; the same entries give the same bytes."""

    _parts: list[bytes] = field(default_factory=list)
    _entries: int = 0

    def directory(self, name: str) -> None:
        """Add an empty directory."""
        self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, content: bytes, *, mode: int = 0o644) -> None:
        """Add a file."""
        self._add(name, stat.S_IFREG | mode, content)

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finished(self) -> bytes:
        """Return the archive; nothing can be added afterwards."""
        self._add("TRAILER!!!", 0)
        return b"".join(self._parts)

    def _add(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._entries += 1
        path = name.encode() + b"\0"
        fields = (
            *(self._entries, mode, 0, 0, 1, 0, len(content), 0, 0),
            *(*device, len(path), 0),
        )
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + path
        self._parts += [head, _padding(len(head)), content, _padding(len(content))]


def make_initrd(init: bytes, packages: Path) -> bytes:
    """Return the initial RAM disk for the kernel whose packages were unpacked below `packages`.

    Blocks for a moment. Raises as `Modules` does.
    """
    archive = Archive()
    for name in _DIRECTORIES:
        archive.directory(name)
    # The kernel opens the first program's standard streams here, before anything is mounted.
    archive.device("dev/console", *_CONSOLE)
    archive.file("init", init, mode=0o755)
    modules = Modules(packages)
    base = modules.with_needs(MODULES["base"])
    for group, names in MODULES.items():
        wanted = base if group == "base" else modules.with_needs(names, already=base)
        for name, content in wanted.items():
            archive.file(f"modules/{name}.ko", content)
        paths = (f"/modules/{name}.ko\0" for name in wanted)
        archive.file(f"modules/{group}", "".join(paths).encode())
    return archive.finished()


def _padding(length: int) -> bytes:
    return b"\0" * (-length % _ALIGNMENT)
