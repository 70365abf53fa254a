"""The node's unix sockets: for its own user and root, by the kernel's word.

They lie in the data directory, with mode 0600 from the first moment on. While a node holds the
directory, one that is there already is of a node that was killed.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plexspaces_node.vm.bundle import SOCKET_PATH_LIMIT_BYTES

_log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group: `struct ucred`."""

_FOR_THE_OWNER = 0o077
"""The umask that leaves a file to its owner. It is that of all threads: others make directories."""
_MODE = 0o600


@contextmanager
def for_the_owner(path: Path) -> Iterator[None]:
    """Have the socket that is made in the body for its owner alone, from the first moment on.

    So is every file that any thread makes meanwhile.
    """
    before = os.umask(_FOR_THE_OWNER)
    try:
        yield
    finally:
        os.umask(before)
    path.chmod(_MODE)


def has_room(path: Path) -> bool:
    """Remove a socket that a killed node has left; return whether there can be one.

    Says in the log why not: its path is too long, or something else is in its place.
    """
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_LIMIT_BYTES:
        _log.warning(
            "no unix socket %s: its path has %d bytes, and the kernel takes %d; a shorter data "
            "directory gives one",
            *(path, size, SOCKET_PATH_LIMIT_BYTES),
        )
        return False
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError as error:
        _log.warning("no unix socket %s: %s", path, error.strerror)
        return False
    return not path.exists()


def listening(path: Path, backlog: int) -> socket.socket:
    """Return a socket that listens there, for its owner alone; raises `OSError`."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with for_the_owner(path):
            made.bind(os.fspath(path))
        made.listen(backlog)
    except OSError:
        made.close()
        raise
    return made


def remove(path: Path) -> None:
    """Remove a socket, if it is there."""
    with suppress(OSError):
        path.unlink()


def is_of_owner(connected: socket.socket) -> bool:
    """Return whether the process at the other end was of this node's user, or root's."""
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(raw)[1] in (0, os.geteuid())
