"""From the compressed kernel of a distribution to the ELF file a microVM boots.

A `vmlinuz` is a boot sector, a loader and a compressed `vmlinux`, whose place the boot sector's
header gives. Knows the formats that distributions use; runs no program.
"""

from __future__ import annotations

import ctypes
import lzma
import struct
import zlib
from collections.abc import Callable

from plexspaces_node.errors import InvalidArgument, Unsupported

_SETUP_SECTORS_OFFSET = 0x1F1
_MAGIC_OFFSET = 0x202
_VERSION_OFFSET = 0x206
_PAYLOAD_OFFSET = 0x248
_PAYLOAD_SINCE = 0x0208
_SECTOR_BYTES = 512
_ELF_MAGIC = b"\x7fELF"
_LZ4_BLOCK_BYTES = 8 * 1024 * 1024
_LONGEST_KERNEL_BYTES = 256 * 1024 * 1024


def extract_vmlinux(image: bytes) -> bytes:
    """Return the uncompressed ELF kernel inside a `vmlinuz` of x86; blocks for half a second.

    Raises `InvalidArgument` for bytes that are no such kernel, `Unsupported` for a compression
    that this machine cannot undo.
    """
    if image[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] != b"HdrS":
        raise InvalidArgument("the kernel is no bzImage: its header is missing")
    (version,) = struct.unpack_from("<H", image, _VERSION_OFFSET)
    if version < _PAYLOAD_SINCE:
        raise InvalidArgument(f"the kernel's boot protocol {version:#06x} is too old")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = ((image[_SETUP_SECTORS_OFFSET] or 4) + 1) * _SECTOR_BYTES + offset
    payload = image[start : start + length]
    if len(payload) != length or length < 8:
        raise InvalidArgument("the kernel is cut short")
    kernel = _decompress(payload)
    if kernel[:4] != _ELF_MAGIC:
        raise InvalidArgument("the kernel's payload is no ELF file")
    return kernel


def _decompress(payload: bytes) -> bytes:
    for magic, undo in _FORMATS:
        if payload.startswith(magic):
            # Every format but gzip is followed by the length of what it holds.
            (size,) = struct.unpack_from("<I", payload, len(payload) - 4)
            if size > _LONGEST_KERNEL_BYTES:
                raise InvalidArgument(f"a kernel of {size} bytes is not believable")
            try:
                return undo(payload, size)
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
                raise InvalidArgument(f"the kernel does not decompress: {error}") from error
    raise Unsupported(f"the kernel's compression is not known: it begins with {payload[:6].hex()}")


def _gzip(payload: bytes, size: int) -> bytes:
    # Only the first member: the length that follows it is no gzip.
    return zlib.decompressobj(wbits=31).decompress(payload)


def _xz(payload: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)


def _lz4(payload: bytes, size: int) -> bytes:
    library = _library("liblz4.so.1", "liblz4-1")
    out = ctypes.create_string_buffer(size)
    done, position, end = 0, 4, len(payload) - 4
    while position < end and done < size:
        (length,) = struct.unpack_from("<I", payload, position)
        position += 4
        block = payload[position : position + length]
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


def _zstd(payload: bytes, size: int) -> bytes:
    library = _library("libzstd.so.1", "libzstd1")
    library.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
    library.ZSTD_decompress.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(size)
    frame = library.ZSTD_findFrameCompressedSize(payload, ctypes.c_size_t(len(payload)))
    if frame > len(payload):
        raise ValueError("a broken zstd frame")
    written = library.ZSTD_decompress(out, ctypes.c_size_t(size), payload, ctypes.c_size_t(frame))
    if written != size:
        raise ValueError("a broken zstd frame")
    return out.raw


def _library(name: str, package: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise Unsupported(
            f"{name}, which undoes the kernel's compression, is not on this machine",
            hint=f"apt-get install {package}",
        ) from error


_FORMATS: tuple[tuple[bytes, Callable[[bytes, int], bytes]], ...] = (
    (b"\x02\x21\x4c\x18", _lz4),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\x00", _xz),
)
