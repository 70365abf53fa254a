"""Kernels and modules as distributions pack them, made up: small, and nothing that would run."""

from __future__ import annotations

import ctypes
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

NEEDS = {
    "libcrc32c": "",
    "erofs": "libcrc32c",
    "virtio": "",
    "virtio_ring": "",
    "virtio_mmio": "virtio_ring,virtio",
    "virtio_blk": "virtio,virtio_ring",
    "virtio_console": "virtio_ring,virtio",
    "vsock": "",
    "vmw_vsock_virtio_transport_common": "vsock",
    "vmw_vsock_virtio_transport": "vmw_vsock_virtio_transport_common,virtio,vsock,virtio_ring",
}
"""The modules of a guest, each with those it names as its needs."""
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00" + bytes(range(256)) * 64


def lz4(data: bytes) -> bytes:
    """Compress as Linux does, without finding anything to compress."""
    rest = len(data) - 15
    block = b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + data
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


def vmlinuz(payload: bytes, *, version: int = 0x20F) -> bytes:
    """Wrap a payload as a bzImage: boot sector, two setup sectors, some code, the payload."""
    header = bytearray(3 * 512)
    header[0x1F1] = 2
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, version)
    struct.pack_into("<II", header, 0x248, 64, len(payload))
    return bytes(header) + bytes(64) + payload + b"the end"


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data) + bytes(4),
    "xz": lambda data: lzma.compress(data) + struct.pack("<I", len(data)),
    "lz4": lambda data: lz4(data) + struct.pack("<I", len(data)),
}


def module(name: str, *, types: bytes = b"BTF of it", signed: bool = False) -> bytes:
    """A module as a kernel takes it: three sections, one of them describes its types."""
    names = b"\0.text\0.BTF\0.shstrtab\0"
    information = f"{name}\0depends={NEEDS.get(name, '')}\0".encode()
    contents = [b"", information, types, names]
    at, headers, body = 64, b"", b""
    for title, content in zip((b"", b".text", b".BTF", b".shstrtab"), contents, strict=True):
        place = names.index(title) if title else 0
        type_ = 1 if title else 0
        headers += struct.pack("<IIQQQQIIQQ", place, type_, 0, 0, at, len(content), 0, 0, 1, 0)
        body += content
        at += len(content)
    kind = struct.pack("<16sHHI", b"\x7fELF\x02\x01\x01", 1, 62, 1)
    head = kind + struct.pack("<QQQIHHHHHH", 0, 0, at, 0, 64, 0, 0, 64, 4, 3)
    whole = head + body + headers
    if signed:
        signer, key, signature = b"signer", b"key", bytes(range(200))
        lengths = struct.pack(">3x2B3xI", len(signer), len(key), len(signature))
        whole += signer + key + signature + lengths + b"~Module signature appended~\n"
    return whole


def zstd(data: bytes) -> bytes:
    """Compress as Ubuntu does, by the library that is to undo it."""
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compress.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(len(data) + 1024)
    length = library.ZSTD_compress(
        out, ctypes.c_size_t(len(out)), data, ctypes.c_size_t(len(data)), 3
    )
    return out.raw[:length]


LAYOUTS: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "Debian 12": ("lib/modules/6.1.0-1-cloud-amd64", ".ko", bytes),
    "Debian 13": ("usr/lib/modules/6.12.1-cloud-amd64", ".ko.xz", lzma.compress),
    "Ubuntu": ("lib/modules/6.8.0-1-generic", ".ko.zst", zstd),
}
"""Where each has its modules, under which ending, and how compressed."""


def lay_out(name: str, root: Path) -> None:
    """Unpack the packages of a distribution's kernel; one of its modules is built in."""
    place, ending, compress = LAYOUTS[name]
    tree = root / place / "kernel" / "drivers"
    tree.mkdir(parents=True)
    for wanted in NEEDS:
        (tree / f"{wanted}{ending}").write_bytes(compress(module(wanted, signed=True)))
    (tree / f"virtio{ending}").unlink()
    (root / place / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    (root / "boot").mkdir()
    (root / "boot" / "vmlinuz-6").write_bytes(vmlinuz(COMPRESSIONS["xz"](ELF)))
