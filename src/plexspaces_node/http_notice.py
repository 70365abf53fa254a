"""A node's notice: its unix sockets and where it serves HTTP, for clients of the same user here.

A node that runs keeps its notice locked, so a notice of a node that was killed is not believed. It
is a file in the user's cache directory, named after the node's address.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from plexspaces_node.address import is_loopback, split_address
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.programs import cache_home

_LOOPBACK = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""The addresses at which clients on this host reach a node that is said to be there."""

GRPC_SOCKET, HTTP_SOCKET = "node.sock", "http.sock"
"""The names of a node's unix sockets in its data directory."""

UNIX = "unix:"
"""What an address begins with that is the path of a unix socket."""

TLS_SCHEME = "https://"
"""What the HTTP address begins with if a node serves HTTP over TLS."""

_BYTES = 4096
_BEING_WRITTEN = ".new-"


class Notice(NamedTuple):
    """Where a node of this host is reached, besides the address that its users give.

    Attributes:
        http_address: HOST:PORT, or https://HOST:PORT if that speaks TLS; "" for nowhere.
        grpc_socket: the path of its unix socket for gRPC, "" without.
        http_socket: that for HTTP.
    """

    http_address: str = ""
    grpc_socket: str = ""
    http_socket: str = ""


def find(address: str, directory: Path | None = None) -> Notice | None:
    """Return where else the node at `address` is reached; None if no notice says it.

    Reads one small file; never raises. The node that wrote it runs, and on this host.
    """
    try:
        path = _path(directory, address)
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, ValueError, InvalidArgument):
        return None
    try:
        if not _is_held(opened) or os.fstat(opened).st_uid != os.geteuid():
            return None
        said = os.read(opened, _BYTES).decode().split("\n")
        host = _this_host()
    except (OSError, ValueError):
        return None
    finally:
        os.close(opened)
    is_right = said[:2] == [_reached_at(address), host] and len(said) == 2 + len(Notice._fields)
    return Notice(*said[2:]) if is_right else None


def is_answering(path: Path) -> bool:
    """Return whether a unix socket is there that this user may use, and somebody listens."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect(os.fspath(path))
    except OSError:
        return False
    return True


@contextmanager
def posted(address: str, notice: Notice, directory: Path | None = None) -> Iterator[None]:
    """Keep a notice of the node at `address`; removed at the end.

    An HTTP address that is not of this host only is left out; nothing is done if nothing is left.
    Raises OSError if the notice cannot be written. Notices of nodes that were killed are removed.
    """
    notice = notice._replace(http_address=_here(notice.http_address))
    if not any(notice):
        yield
        return
    path = _path(directory, address)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(path.parent)
    with ExitStack() as stack:
        file = stack.enter_context(
            NamedTemporaryFile(dir=path.parent, prefix=_BEING_WRITTEN, delete=False)
        )
        stack.callback(_remove, Path(file.name))
        # Before it has its name: nobody finds it without its lock.
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = (_reached_at(address), _this_host(), *notice)
        file.write("\n".join(lines).encode())
        file.flush()
        os.rename(file.name, path)
        mine = os.fstat(file.fileno())
        stack.callback(_remove, path, mine.st_ino)
        yield


def _path(directory: Path | None, address: str) -> Path:
    name = hashlib.sha256(_reached_at(address).encode()).hexdigest()[:32]
    return (directory or cache_home() / "plexspaces" / "nodes") / name


def _reached_at(address: str) -> str:
    """Return the one form of an address that its node and its clients use for the name."""
    if address.startswith(UNIX):
        return f"{UNIX}{Path(address[len(UNIX) :]).absolute()}"
    host, port = split_address(address)
    host = _LOOPBACK.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _here(http_address: str) -> str:
    """Return the address by which this host reaches it, "" if it is not of this host only."""
    scheme = TLS_SCHEME if http_address.startswith(TLS_SCHEME) else ""
    try:
        reached = _reached_at(http_address.removeprefix(TLS_SCHEME))
        return scheme + reached if is_loopback(split_address(reached)[0]) else ""
    except ValueError:
        return ""


def _this_host() -> str:
    # A home directory may be shared with other hosts and containers.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.stat('/proc/self/ns/net').st_ino}"


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _sweep(directory: Path) -> None:
    for path in directory.iterdir():
        with suppress(OSError), path.open("rb") as file:
            if not path.name.startswith(_BEING_WRITTEN) and not _is_held(file.fileno()):
                path.unlink()


def _remove(path: Path, inode: int | None = None) -> None:
    with suppress(OSError):
        # The next node at this address may have its own by now.
        if inode is None or path.stat().st_ino == inode:
            path.unlink()
