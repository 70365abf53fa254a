"""The floor under a machine's start: a bare boot of the guest's kernel to its first user process.

The same kernel, the same QEMU, the same devices and the same initial RAM disk as a machine of the
product, but for a first program that says one word and restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from plexspaces_node.guest_image.initrd import Archive
from plexspaces_node.model import VmConfig
from plexspaces_node.vm.image import GuestImage
from plexspaces_node.vm.qemu.command import ENVIRONMENT, Descriptors, Emulator, Files, qemu_command
from plexspaces_node.vm.qemu.qmp import connect_qmp

_WORD = b"first-user-process"
_TIMEOUT_S = 60.0
_PLACE = 0x400000
"""Where the first program lies in memory, from its file's first byte on."""
_HEADS_BYTES = 64 + 56


async def bare_boot_s(image: GuestImage, emulator: Emulator, config: VmConfig) -> float:
    """Return the seconds from starting QEMU until the first user process of its guest speaks."""
    with tempfile.TemporaryDirectory(prefix="px-bare-") as directory, ExitStack() as opened:
        initrd = Path(directory, "initrd")
        initrd.write_bytes(image.initrd.read_bytes() + _other_init())
        kernel, ramdisk, root = (
            opened.enter_context(path.open("rb")).fileno()
            for path in (image.kernel, initrd, image.rootfs)
        )
        control = Path(directory, "control")
        descriptors = Descriptors(
            *Files(root, kernel, ramdisk),
            link=_listening(Path(directory, "link"), opened),
            control=_listening(control, opened),
        )
        argv = qemu_command(emulator, config, ("bare",), descriptors=descriptors)
        async with asyncio.timeout(_TIMEOUT_S):
            return await _boot_s(argv, descriptors, control)


async def _boot_s(argv: list[str], descriptors: Descriptors, control: Path) -> float:
    begin = perf_counter()
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=ENVIRONMENT,
        pass_fds=descriptors.all,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with connect_qmp(control) as qmp:
            await qmp.execute("cont")
        await process.stdout.readuntil(_WORD)
        return perf_counter() - begin
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _other_init() -> bytes:
    # Of two files of one name in what the kernel unpacks the later one stays.
    archive = Archive()
    archive.file("init", _first_program(), mode=0o755)
    return archive.finished()


def _first_program() -> bytes:
    """Return an ELF program of x86-64 that writes the word to its output and restarts."""
    restart = bytes.fromhex(
        "b8a9000000"  # mov eax, reboot
        "bfaddee1fe"  # mov edi, LINUX_REBOOT_MAGIC1
        "be69191228"  # mov esi, LINUX_REBOOT_MAGIC2
        "ba67452301"  # mov edx, LINUX_REBOOT_CMD_RESTART
        "0f05"  # syscall
    )
    length = bytes.fromhex("ba") + struct.pack("<I", len(_WORD) + 1)  # mov edx, length
    call = bytes.fromhex("0f05")  # syscall
    code = b"".join(
        (
            bytes.fromhex("b801000000"),  # mov eax, write
            bytes.fromhex("bf01000000"),  # mov edi, stdout
            # lea rsi, word
            bytes.fromhex("488d35") + struct.pack("<i", len(length + call + restart)),
            *(length, call, restart, _WORD, b"\n"),
        )
    )
    size = _HEADS_BYTES + len(code)
    # Type: a program; machine: x86-64; one header of what is loaded, which follows this one.
    elf = struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, _PLACE + _HEADS_BYTES, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    loaded = struct.pack("<IIQQQQQQ", 1, 5, 0, _PLACE, _PLACE, size, size, 0x1000)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + elf + loaded + code


def _listening(path: Path, opened: ExitStack) -> int:
    listener = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    listener.bind(str(path))
    listener.listen(1)
    return listener.fileno()
