"""Where an agent connects: a unix socket that accepts connections slowly.

Code in a VM can connect as often as it likes. One connection is accepted at a time, then none for a
while: the others wait in the kernel, or are refused by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger(__name__)

PAUSE_S = 0.25
"""The time between one connection and the next."""

_BACKLOG = 4


class Acceptor:
    """Accepts connections at a path, which must be free or a stale socket's."""

    def __init__(self, path: Path, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accept connections from now on; raises `OSError` if the socket cannot be created."""
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._path = path
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.setblocking(False)
            self._socket.bind(str(path))
            path.chmod(0o600)
            self._socket.listen(_BACKLOG)
        except BaseException:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._accept)

    def __repr__(self) -> str:
        return f"<Acceptor {self._path}>"

    def close(self) -> None:
        """Accept no more connections and remove the socket; accepted ones stay. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        try:
            taken, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            _log.warning("cannot accept a connection at %s: %s", self._path, error.strerror)
        else:
            connecting = self._loop.connect_accepted_socket(self._protocol, taken)
            task: asyncio.Task[object] = self._loop.create_task(connecting)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._loop.remove_reader(self._socket)
        self._timer = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._loop.add_reader(self._socket, self._accept)
