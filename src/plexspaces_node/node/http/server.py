"""Listens for HTTP clients, holds their connections, and ends those that are silent or slow."""

from __future__ import annotations

import asyncio
import socket
from email.utils import formatdate
from typing import Protocol

from plexspaces_node.address import split_address
from plexspaces_node.node.http.connection import Connection
from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.machines.in_flight import InFlight

SWEEP_S = 1.0
"""Between two looks at the clock for all connections."""

BACKLOG = 1024


class Handler(Protocol):
    """Answers requests; used on the event loop alone."""

    def body_limit(self, request: Request) -> int:
        """Return how long the body may be, -1 for one that is streamed to `answer`.

        Called when the head has come. Raises `HttpFault` for a request that is refused now.
        """

    async def answer(self, request: Request) -> Response:
        """Answer a request; raises `HttpFault`. Cancelled when the client leaves."""


class HttpServer:
    """The HTTP port of a node.

    Attributes:
        date: the header of that name, made anew each second.
        closing: whether connections are closed after what they are at.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        in_flight: InFlight,
        most_connections: int,
        access_log: bool = False,
    ) -> None:
        """Listen nowhere yet; `in_flight` counts long bodies while they come.

        With `access_log` each request is logged once it is answered.
        """
        self.handler = handler
        self.in_flight = in_flight
        self.access_log = access_log
        self.loop = asyncio.get_running_loop()
        self.date = _date()
        self.closing = False
        self._most_connections = most_connections
        self._connections: set[Connection] = set()
        # Without a request, the one that has been so for longest first.
        self._idle: dict[Connection, None] = {}
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<HttpServer {len(self._connections)} connections>"

    async def listen(self, address: str) -> str:
        """Listen at HOST:PORT and return that with the port it has got; raises `OSError`."""
        host, port = split_address(address)
        self._server = await self.loop.create_server(
            lambda: Connection(self), host, port, backlog=BACKLOG
        )
        self._sweep()
        name = self._server.sockets[0].getsockname()
        shown = f"[{name[0]}]" if self._server.sockets[0].family == socket.AF_INET6 else name[0]
        return f"{shown}:{name[1]}"

    def stop_listening(self) -> None:
        """Take no more connections, and close those that have no request. Idempotent."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._idle):
            connection.end()

    def close(self) -> None:
        """Close every connection at once. Idempotent."""
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self._connections):
            connection.abort()

    # ---- called by connections ---------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """Take note of a connection; when there are too many the one idle for longest goes."""
        self._connections.add(connection)
        if len(self._connections) > self._most_connections:
            oldest = next(iter(self._idle), connection)
            oldest.abort()
            self._idle.pop(oldest, None)

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """Take note of a connection that has no request."""
        self._idle[connection] = None

    def busy(self, connection: Connection) -> None:
        """Take note of a connection that has one."""
        self._idle.pop(connection, None)

    def _sweep(self) -> None:
        self.date = _date()
        now_s = self.loop.time()
        for connection in tuple(self._connections):
            connection.expire(now_s)
        self._timer = self.loop.call_later(SWEEP_S, self._sweep)


def _date() -> bytes:
    return f"date: {formatdate(usegmt=True)}\r\n".encode()
