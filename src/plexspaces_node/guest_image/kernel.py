"""From a distribution's compressed kernel to the ELF file that a microVM boots.

Knows where the packages of Debian 12, Debian 13 and Ubuntu have it. Every error names the file.
"""

from __future__ import annotations

import struct
from pathlib import Path

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.guest_image.compression import GZIP, decompress, naming

_SETUP_SECTORS_OFFSET = 0x1F1
_MAGIC_OFFSET = 0x202
_VERSION_OFFSET = 0x206
_PAYLOAD_OFFSET = 0x248
_PAYLOAD_SINCE = 0x0208
_SECTOR_BYTES = 512
_ELF_MAGIC = b"\x7fELF"

_KERNELS = ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz")


def read_kernel(tree: Path) -> bytes:
    """Return the uncompressed ELF kernel of the packages that were unpacked below `tree`.

    Blocks for half a second. Raises `InvalidArgument` if there is not exactly one, or if it cannot
    boot, and `Unsupported` for a compression that this host cannot decompress.
    """
    found = [file for pattern in _KERNELS for file in sorted(tree.glob(pattern))]
    if len(found) != 1:
        raise InvalidArgument(
            f"the packages contain {len(found)} kernels, not one, at {' or '.join(_KERNELS)}"
        )
    with naming(found[0], tree):
        return extract_vmlinux(found[0].read_bytes())


def extract_vmlinux(image: bytes) -> bytes:
    """Return the uncompressed ELF kernel in a `vmlinuz` of x86; raises as `read_kernel` does.

    A `vmlinuz` is a boot sector, a loader and a compressed `vmlinux`, whose place is in the boot
    sector.
    """
    if image[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] != b"HdrS":
        raise InvalidArgument("it is not a bzImage: its header is missing")
    (version,) = struct.unpack_from("<H", image, _VERSION_OFFSET)
    if version < _PAYLOAD_SINCE:
        raise InvalidArgument(f"its boot protocol {version:#06x} is too old")
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = ((image[_SETUP_SECTORS_OFFSET] or 4) + 1) * _SECTOR_BYTES + offset
    payload = image[start : start + length]
    if len(payload) != length or length < 8:
        raise InvalidArgument("it is truncated")
    # Except for gzip, which has the length inside, the length of the content follows it.
    (size,) = struct.unpack_from("<I", payload, len(payload) - 4)
    kernel = decompress(payload, None if payload.startswith(GZIP) else size)
    if kernel[:4] != _ELF_MAGIC:
        raise InvalidArgument("its payload is not an ELF file")
    return kernel
