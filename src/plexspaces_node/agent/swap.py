"""Swap space of a guest, in its own memory and compressed.

A long message becomes arrays of wasmtime's values, eighty bytes for each of its bytes and each of
its reply's, in which one byte differs from the next: compressed they are a tenth. So a guest with
little memory carries them, slowly, where it would have been killed.
"""

from __future__ import annotations

import os
import struct

from plexspaces_node.agent.libc import call

MODULES = "/modules/swap"
"""Where the kernel's modules lie, each named in the order of loading."""
TIMES_MEMORY = 2
"""How many times the guest's memory may be swapped out: what it costs is what it compresses to."""

_DEVICE = "/dev/zram0"
_SYSFS = "/sys/block/zram0"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FINIT_MODULE = 313
"""Number of the system call on x86-64, the one architecture there are images for."""


def enable() -> None:
    """Load the modules, make the device and swap to it; raises `OSError`."""
    for name in sorted(os.listdir(MODULES)):
        descriptor = os.open(f"{MODULES}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            call("syscall", _FINIT_MODULE, descriptor, b"", 0, about=name)
        finally:
            os.close(descriptor)
    pages = TIMES_MEMORY * os.sysconf("SC_PHYS_PAGES")
    _write(f"{_SYSFS}/disksize", b"%d" % (pages * _PAGE_BYTES))
    # One page at a time: there is no disk whose head would have to move.
    _write("/proc/sys/vm/page-cluster", b"0")
    # Before any page of a program: those would have to be read back from the drive.
    _write("/proc/sys/vm/swappiness", b"200")
    _write(_DEVICE, header(pages))
    call("swapon", _DEVICE.encode(), 0, about=_DEVICE)


def header(pages: int) -> bytes:
    """Return the first page of a swap area of so many pages."""
    version, bad_pages = 1, 0
    page = bytearray(_PAGE_BYTES)
    struct.pack_into("<III", page, 1024, version, pages - 1, bad_pages)
    page[-10:] = b"SWAPSPACE2"
    return bytes(page)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
