"""Files that only their owner may read: private keys, secrets, tokens.

Written so that nobody else can read them at any moment, and read only if nobody else could.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from plexspaces_node.errors import AlreadyExists, InvalidArgument, quoted

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ALL_BUT_GROUP_READS = _OTHERS & ~stat.S_IRGRP
_LARGEST_BYTES = 1024 * 1024


def read_private(path: Path, *, what: str, of_user: bool = False) -> bytes:
    """Return the content of a file of at most 1 MiB; blocks for one small read.

    Raises `InvalidArgument` if it cannot be read, or if others than its owner may read or write it.
    A group may read a file of root, as services have it. With `of_user` its owner is this user or
    root. `what` says in the error what it is.
    """
    try:
        # Without waiting: nobody may ever write to what is a pipe.
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(opened, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidArgument(f"{what} {str(path)!r} is not a regular file")
            forbidden = _OTHERS if status.st_uid else _ALL_BUT_GROUP_READS
            if status.st_mode & forbidden:
                raise InvalidArgument(
                    f"{what} {str(path)!r} can be read or written by others: its mode is "
                    f"{stat.S_IMODE(status.st_mode):04o}",
                    hint=f"chmod 600 {quoted(path)}",
                )
            if of_user and status.st_uid not in (0, os.geteuid()):
                raise InvalidArgument(
                    f"{what} {str(path)!r} is another user's",
                    hint=f"chown {os.geteuid()} {quoted(path)}",
                )
            return file.read(_LARGEST_BYTES)
    except OSError as error:
        raise InvalidArgument(
            f"{what} {str(path)!r} cannot be read: {error.strerror}", hint=f"ls -l {quoted(path)}"
        ) from error


def make_private_directory(path: Path) -> None:
    """Make a directory, and those above it, that its owner alone may enter; does nothing if it is.

    Raises `InvalidArgument` if it cannot be made, or others than its owner may enter it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise InvalidArgument(
            f"the directory {str(path)!r} cannot be made: {error.strerror}",
            hint=f"ls -ld {quoted(path.parent)}",
        ) from error
    if mode & _OTHERS:
        raise InvalidArgument(
            f"the directory {str(path)!r} is open to others: its mode is {mode:04o}",
            hint=f"chmod 700 {quoted(path)}",
        )


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that is not there yet, complete or not at all, also if power is lost.

    Raises `AlreadyExists` for one that is there, `InvalidArgument` if it cannot be written.
    """
    _write(path, content, mode, replace=False)


def replace(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file in place of one that may be there: a reader finds the one or the other.

    Raises `InvalidArgument` if it cannot be written.
    """
    _write(path, content, mode, replace=True)


def _write(path: Path, content: bytes, mode: int, *, replace: bool) -> None:
    try:
        with ExitStack() as stack:
            # Made with mode 0600, whatever the umask.
            file = stack.enter_context(
                NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False)
            )
            stack.callback(_remove, file.name)
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            if replace:
                os.rename(file.name, path)
            else:
                # Unlike a rename, it takes no file's place.
                os.link(file.name, path)
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise AlreadyExists(
            f"{str(path)!r} is there already", hint=f"ls -l {quoted(path)}"
        ) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InvalidArgument(
            f"{str(path)!r} cannot be written: {error.strerror}",
            hint="df -h, and free some space" if full else f"ls -ld {quoted(path.parent)}",
        ) from error


def _remove(name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name)


def _sync_directory(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
