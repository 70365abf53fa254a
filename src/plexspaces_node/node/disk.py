"""Disk errors with hints; and how a file is made durable.

Shared by everything that writes artifacts. Does not know what is written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from plexspaces_node.errors import ResourceExhausted, Unavailable, quoted
from plexspaces_node.vm.host.vmm import NO_SPACE

_log = logging.getLogger(__name__)

FULL_SIGNS = tuple(map(os.strerror, NO_SPACE))
"""Texts with which programs report a full disk."""

_BLOCK_BYTES = 4096


class DiskFull(ResourceExhausted):
    """There was no space left for a write."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no space left in {path}", hint=f"df -h {quoted(path)}")


class Reserve:
    """Disk space reserved by a file, and released when it is needed.

    Every method blocks for a few file operations.

    Attributes:
        is_filled: whether all of the space is reserved.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.is_filled = False
        self._path = path
        self._size_bytes = size_bytes

    def fill(self) -> bool:
        """Reserve the space, or as much of it as there is; return whether it is all of it.

        If no file can be created for another reason there is no reserve, with a warning.
        """
        size = self._size_bytes
        while not self.is_filled and size >= _BLOCK_BYTES:
            try:
                self._take(size)
            except OSError as error:
                if not is_full(error):
                    _log.warning(
                        "cannot reserve space for a full disk: %s: %s", self._path, error.strerror
                    )
                    self.is_filled = True
                size //= 2
            else:
                self.is_filled = size == self._size_bytes
                break
        return self.is_filled

    def spend(self) -> None:
        """Release the space."""
        self.is_filled = False
        with suppress(OSError):
            self._path.unlink()

    def _take(self, size: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)


def is_full(error: OSError) -> bool:
    """Return whether an error means that the disk is full."""
    return error.errno in NO_SPACE


@contextmanager
def using_disk(path: Path) -> Iterator[None]:
    """Turn an `OSError` of file operations below `path` into `DiskFull` or `Unavailable`."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DiskFull(path) from error
        raise Unavailable(f"disk error in {path}: {error.strerror}", hint="dmesg") from error


def lay_out(directory: Path) -> None:
    """Create a directory for its owner alone, safe from a power loss; nothing if there is one.

    Blocks; raises `OSError`.
    """
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return
    sync(directory.parent)


def sync(path: Path) -> None:
    """Return when a file or directory is on the disk, safe from a power loss. Blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_whole(path: Path, sha256: str) -> bool:
    """Return whether a file has this digest; False if the disk cannot read it. Blocks.

    Raises `OSError` if the file cannot be opened.
    """
    with path.open("rb") as file:
        return has_digest(file, sha256)


def has_digest(file: BufferedReader, sha256: str) -> bool:
    """Return whether the rest of an open file has this digest; see `is_whole`. Blocks."""
    try:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def clear(path: Path) -> None:
    """Remove a file or directory; what cannot be removed is logged and stays. Blocks."""
    try:
        try:
            path.unlink(missing_ok=True)
        except IsADirectoryError:
            shutil.rmtree(path)
    except OSError as error:
        _log.warning("%s does not belong there and cannot be removed: %s", path, error.strerror)


def room_of(size_bytes: int) -> int:
    """Return how many bytes of the disk a file uses: whole blocks."""
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
