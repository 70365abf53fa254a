"""What a service tells its manager: ready, stopping, still alive (the protocol of sd_notify).

A manager that wants to know gives a datagram socket in `$NOTIFY_SOCKET`: the path of a file, or an
abstract name after an @. A message is lines of NAME=VALUE. Without the variable nobody listens, and
nothing is sent. Nothing here fails: a node runs whether or not it is heard.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_SEND_TIMEOUT_S = 0.5
"""How long a manager that does not read may delay a node."""
_STATUS_LIMIT = 200

_log = logging.getLogger(__name__)


class ServiceManager:
    """Whoever started this process and wants to know how it is; perhaps nobody."""

    def __init__(self, address: str = "", *, watchdog_s: float = 0.0) -> None:
        """Set its socket, "" for nobody, and how often it must hear something, 0 for never."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int | None = None) -> ServiceManager:
        """Return the manager that an environment names; `pid` is this process by default.

        Sockets that are neither of a file nor abstract are ignored, and so is a watchdog that is
        meant for another process.
        """
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        try:
            period_us = int(environ.get("WATCHDOG_USEC", "0"))
            watched = int(environ.get("WATCHDOG_PID", "0"))
        except ValueError:
            period_us = watched = 0
        mine = watched in (0, os.getpid() if pid is None else pid)
        return cls(address, watchdog_s=max(0, period_us) / 1e6 if mine else 0.0)

    def ready(self, status: str) -> None:
        """Tell that the service has started."""
        self._tell("READY=1", _status(status))

    def stopping(self, status: str, *, within_s: float) -> None:
        """Tell that the service ends, and that this may take so long from now on.

        The manager then waits so long, whatever its own limit is.
        """
        extended = f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}"
        self._tell("STOPPING=1", extended, _status(status))

    @contextmanager
    def kept_informed(self) -> Iterator[None]:
        """Tell the manager's watchdog that the running event loop is alive, as often as it wants.

        It hears nothing more if the loop hangs, and can then end the process.
        """
        if not self._address or not self._watchdog_s:
            yield
            return
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.TimerHandle] = []

        def tell() -> None:
            self._tell("WATCHDOG=1")
            waiting[:] = [loop.call_later(self._watchdog_s / 2, tell)]

        tell()
        try:
            yield
        finally:
            waiting[0].cancel()

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto("\n".join(lines).encode(), self._address)
        except (OSError, ValueError) as error:
            _log.debug("the service manager cannot be told %s: %s", lines[0], error)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:_STATUS_LIMIT]}"
