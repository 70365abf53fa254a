"""The initial RAM disk: busybox, the kernel's modules and `guest/init`, as one cpio archive.

Not compressed: it is two megabytes, and unpacking costs an emulated CPU more than loading.
"""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from plexspaces_node.errors import InvalidArgument

MODULES = {
    "base": ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk"),
    "virtio-serial": ("virtio_console",),
    "vsock": ("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
}
"""What `guest/init` loads: always, and for each kind of link; each after those it needs."""

_DIRECTORIES = ("bin", "dev", "modules", "proc", "root")
_CONSOLE = (5, 1)
_ALIGNMENT = 4


@dataclass
class Archive:
    """A cpio archive of the form the kernel unpacks; the same entries give the same bytes."""

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
        """Return the archive; nothing may be added afterwards."""
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


def make_initrd(init: bytes, busybox: bytes, modules: Path) -> bytes:
    """Return the initial RAM disk for the kernel whose modules lie below `modules`.

    Blocks for a moment. Raises `InvalidArgument` when a module is missing.
    """
    archive = Archive()
    for name in _DIRECTORIES:
        archive.directory(name)
    # Where the kernel opens the standard streams of the first program, before anything is mounted.
    archive.device("dev/console", *_CONSOLE)
    archive.file("init", init, mode=0o755)
    archive.file("bin/busybox", busybox, mode=0o755)
    for group, names in MODULES.items():
        archive.directory(f"modules/{group}")
        for name, content in modules_of(modules, names):
            archive.file(f"modules/{group}/{name}", content)
    return archive.finished()


def modules_of(tree: Path, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Give the modules of a kernel's package by names that sort in the order of loading.

    What is built into the kernel is left out. Raises `InvalidArgument` for one that is missing.
    """
    built_in = {
        Path(line).stem
        for listing in tree.rglob("modules.builtin")
        for line in listing.read_text().splitlines()
    }
    order = 0
    for name in names:
        found = sorted([*tree.rglob(f"{name}.ko"), *tree.rglob(f"{name}.ko.xz")])
        if found:
            content = found[0].read_bytes()
            unpacked = lzma.decompress(content) if found[0].suffix == ".xz" else content
            yield f"{order}-{name}.ko", unpacked
            order += 1
        elif name not in built_in:
            raise InvalidArgument(f"the kernel's package has no module {name}")


def _padding(length: int) -> bytes:
    return b"\0" * (-length % _ALIGNMENT)
