"""Reads a VM's console output from its bundle, with limits.

At every level it is the output of the VM's process: a VMM's is its guest's serial port, an agent's
without a guest its own stdout and stderr. The file is not trusted: whoever broke out of a guest may
own files around it, so it is opened without following links and must be a plain file.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator

from plexspaces_node.errors import NotFound, Unavailable, WrongState, quoted
from plexspaces_node.vm.bundle import Bundle

CHUNK_BYTES = 32 * 1024
"""How much is read, held and yielded at once."""

POLL_S = 0.2
"""The interval between checks of a console that is followed."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe that somebody put there must not wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


async def read_console(
    bundle: Bundle, *, tail: int = 0, follow: bool = False, chunk_bytes: int = CHUNK_BYTES
) -> AsyncGenerator[bytes, None]:
    """Yield the output, or its last `tail` lines, in chunks; with `follow` also new output.

    Follows until the bundle is removed. Close it with `aclosing`. Raises `NotFound` for a VM
    without a console, `WrongState` if it is not a plain file, `Unavailable`.
    """
    file = _open(bundle)
    try:
        size = os.fstat(file).st_size
        position = await _tail_start(file, size, tail, chunk_bytes) if tail else 0
        while True:
            removed = os.fstat(file).st_nlink == 0
            most = chunk_bytes if follow else min(chunk_bytes, size - position)
            # From the page cache, and short: not worth a thread, which could not be cancelled.
            chunk = os.pread(file, most, position)
            if chunk:
                position += len(chunk)
                yield chunk
            elif removed or not follow:
                return
            else:
                await asyncio.sleep(POLL_S)
    except OSError as error:
        raise Unavailable(f"{bundle.console_log} cannot be read: {error.strerror}") from error
    finally:
        os.close(file)


def _open(bundle: Bundle) -> int:
    path = bundle.console_log
    try:
        directory = os.open(path.parent, _DIRECTORY)
        try:
            file = os.open(path.name, _FILE, dir_fd=directory)
        finally:
            os.close(directory)
    except FileNotFoundError as error:
        raise NotFound(
            f"VM {bundle.vm_id} has no console log", hint=f"plexspaces vms inspect {bundle.vm_id}"
        ) from error
    except OSError as error:
        # ENXIO: a socket, which cannot be opened at all.
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _not_plain(bundle) from error
        raise Unavailable(f"{path} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _not_plain(bundle)
    return file


def _not_plain(bundle: Bundle) -> WrongState:
    path = bundle.console_log
    return WrongState(
        f"the console log {path} is not a regular file: it is not read",
        hint=f"see what put it there: ls -la {quoted(path.parent)}",
    )


async def _tail_start(file: int, size: int, lines: int, chunk_bytes: int) -> int:
    """Return where the last lines begin; an unfinished line is one of them."""
    end, wanted = size, lines
    if size and os.pread(file, 1, size - 1) != b"\n":
        wanted -= 1
    # The newline before the first wanted line is the last but `wanted` of all.
    while end:
        start = max(0, end - chunk_bytes)
        block = os.pread(file, end - start, start)
        count = block.count(b"\n")
        if count > wanted:
            at = len(block)
            for _ in range(wanted + 1):
                at = block.rindex(b"\n", 0, at)
            return start + at + 1
        wanted -= count
        end = start
        await asyncio.sleep(0)
    return 0
