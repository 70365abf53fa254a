"""Decompresses kernels and modules as distributions compress them.

Recognises formats by their first bytes; runs no program. LZ4 and zstd use the system's own
libraries, which apt and systemd need too.
"""

from __future__ import annotations

import ctypes
import lzma
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plexspaces_node.errors import InvalidArgument, Unsupported

LZ4 = b"\x02\x21\x4c\x18"
ZSTD = b"\x28\xb5\x2f\xfd"
GZIP = b"\x1f\x8b"
XZ = b"\xfd7zXZ\x00"

_LZ4_BLOCK_BYTES = 8 * 1024 * 1024
_LONGEST_BYTES = 256 * 1024 * 1024
_UNKNOWN_SIZES = (2**64 - 1, 2**64 - 2)
"""zstd's answers for a frame of unknown length, and for data that is not a frame."""


@contextmanager
def naming(file: Path, tree: Path) -> Iterator[None]:
    """Add the name of a package's file below `tree` to errors."""
    try:
        yield
    except (InvalidArgument, Unsupported) as error:
        raise type(error)(
            f"{file.relative_to(tree)} of the kernel's packages: {error.message}", hint=error.hint
        ) from error


def decompress(data: bytes, size: int | None = None) -> bytes:
    """Return the decompressed content of `data`. Blocks for up to half a second.

    Bytes after the compressed data are ignored. `size` is the decompressed length if the data does
    not contain it, as in LZ4 as kernels use it. Raises `InvalidArgument` for damaged bytes, and
    `Unsupported` for a format that this host cannot decompress.
    """
    if size is not None and size > _LONGEST_BYTES:
        raise InvalidArgument(f"a size of {size} bytes is not plausible")
    try:
        if data.startswith(LZ4) and size is not None:
            return _lz4(data, size)
        if data.startswith(ZSTD):
            return _zstd(data, size)
        if data.startswith(GZIP):
            return zlib.decompressobj(wbits=31).decompress(data)
        if data.startswith(XZ):
            return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise InvalidArgument(f"it does not decompress: {error}") from error
    raise Unsupported(f"its compression is unknown: it starts with {data[:6].hex()}")


def _lz4(data: bytes, size: int) -> bytes:
    library = _library("liblz4.so.1", "liblz4-1")
    out = ctypes.create_string_buffer(size)
    done, position = 0, len(LZ4)
    while position + 4 <= len(data) and done < size:
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        block = data[position : position + length]
        room = min(size - done, _LZ4_BLOCK_BYTES)
        written = library.LZ4_decompress_safe(
            block, ctypes.byref(out, done), ctypes.c_int(len(block)), ctypes.c_int(room)
        )
        if written < 0:
            raise ValueError("a broken LZ4 block")
        position += length
        done += written
    if done != size:
        raise ValueError(f"{done} bytes, not {size}")
    return out.raw


def _zstd(data: bytes, size: int | None) -> bytes:
    library = _library("libzstd.so.1", "libzstd1")
    for name in ("findFrameCompressedSize", "decompress"):
        getattr(library, f"ZSTD_{name}").restype = ctypes.c_size_t
    library.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    frame = library.ZSTD_findFrameCompressedSize(data, ctypes.c_size_t(len(data)))
    told = library.ZSTD_getFrameContentSize(data, ctypes.c_size_t(len(data)))
    length = told if size is None else size
    if frame > len(data) or length in _UNKNOWN_SIZES or length > _LONGEST_BYTES:
        raise ValueError("a broken zstd frame")
    out = ctypes.create_string_buffer(length)
    written = library.ZSTD_decompress(out, ctypes.c_size_t(length), data, ctypes.c_size_t(frame))
    if written != length:
        raise ValueError("a broken zstd frame")
    return out.raw


def _library(name: str, package: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise Unsupported(
            f"{name}, which decompresses it, is not installed",
            hint=f"apt-get install {package}",
        ) from error
