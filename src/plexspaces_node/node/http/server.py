"""Listens for HTTP clients, holds their connections, and ends those that are silent or slow."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from plexspaces_node.address import split_address
from plexspaces_node.node import unix_sockets
from plexspaces_node.node.http.connection import Connection
from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.tls import Handshake, peer_certificate_name
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.tasks import Leave

if TYPE_CHECKING:
    from plexspaces_node.node.http.peer_handshake import PeerHandshake

SWEEP_S = 1.0
"""Between two looks at the clock for all connections."""

BACKLOG = 1024

_Held: TypeAlias = "Connection | Handshake | PeerHandshake"


class Handler(Protocol):
    """Answers requests; used on the event loop alone."""

    def body_limit(self, request: Request) -> int:
        """Return how long the body may be, -1 for one that is streamed to `answer`.

        Called when the head has come. Raises `HttpFault` for a request that is refused now.
        """

    def post(self, request: Request, done: Callable[[Response], None]) -> Leave | None:
        """Begin to answer a request, and call `done` with the response once there is one.

        Never before this returns. The returned function is called instead, once, when the client
        leaves. Returns None for a request that `answer` is for.
        """

    async def answer(self, request: Request) -> Response:
        """Answer a request; raises nothing but for a defect. Cancelled when the client leaves."""

    def watch(self, request: Request, ended: Callable[[], None]) -> Callable[[], None]:
        """Call `ended` once a request that takes long is no longer allowed.

        The returned function ends the watch, and may be called twice.
        """

    def refusal(self, request: Request, fault: HttpFault) -> Response:
        """Return the response for a request of which no more is read."""


class HttpServer:
    """The HTTP port of a node.

    Attributes:
        date: the header of that name, made anew each second.
        closing: whether connections are closed after what they are at.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        handler: Handler,
        *,
        in_flight: InFlight,
        most_connections: int,
        access_log: bool = False,
        tls: Callable[[], ssl.SSLContext] | None = None,
        begin: Callable[[HttpServer], _Held] | None = None,
    ) -> None:
        """Listen nowhere yet; `in_flight` counts long bodies, and replies until they are written.

        With `access_log` each request is logged once it is answered. With `tls` every connection
        begins with a handshake, in the context that it returns at that moment; with `begin`, with
        what that returns.
        """
        self._begins = begin
        self.handler = handler
        self.in_flight = in_flight
        self.access_log = access_log
        self.loop = asyncio.get_running_loop()
        self.date = _date()
        self.closing = False
        # Whether it is closing, nobody listens any more and no connection is left.
        self._gone = asyncio.Event()
        self._most_connections = most_connections
        self._tls = tls
        self._connections: set[_Held] = set()
        # Without a request, the one that has been so for longest first.
        self._idle: dict[_Held, None] = {}
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<HttpServer {len(self._connections)} connections>"

    async def bind(self, address: str) -> str:
        """Reserve HOST:PORT and return that with the port it has got; raises `OSError`.

        Clients can connect, and wait for `serve`.
        """
        host, port = split_address(address)
        server = await self.loop.create_server(
            self._begin, host, port, backlog=BACKLOG, start_serving=False
        )
        try:
            for each in server.sockets:
                with each.dup() as listening:
                    listening.listen(BACKLOG)
        except OSError:
            server.close()
            raise
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        shown = f"[{name[0]}]" if server.sockets[0].family == socket.AF_INET6 else name[0]
        return f"{shown}:{name[1]}"

    async def bind_unix(self, path: Path) -> None:
        """Reserve a unix socket for the node's own user, as `bind`; raises `OSError`."""
        listening = unix_sockets.listening(path, BACKLOG)
        try:
            self._servers.append(
                await self.loop.create_unix_server(
                    lambda: Connection(self), sock=listening, backlog=BACKLOG, start_serving=False
                )
            )
        except OSError:
            listening.close()
            raise

    async def serve(self) -> None:
        """Accept connections from now on; does nothing if nothing is bound."""
        for server in self._servers:
            await server.start_serving()
        if self._servers:
            self._sweep()

    async def drain(self, grace_s: float) -> None:
        """Accept no more, let answers finish within the grace time, and end every connection.

        Returns once the tasks of all requests have ended. Idempotent.
        """
        self.stop_listening()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._gone.wait()
        self.close()
        await self._gone.wait()

    def stop_listening(self) -> None:
        """Take no more connections, and close those that have no request. Idempotent.

        The port is free when the event loop has gone on.
        """
        if not self.closing:
            self.closing = True
            for server in self._servers:
                for each in server.sockets:
                    self.loop.remove_reader(each)
            # A client that was accepted just now has no transport before the loop goes on, and gets
            # none from a server that is closed: its socket would stay open until it is collected
            # (https://github.com/python/cpython/issues/109564).
            self.loop.call_soon(self._close_servers)
        for connection in tuple(self._idle):
            connection.end()

    def close(self) -> None:
        """Close every connection at once; the tasks of requests are cancelled. Idempotent."""
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self._connections):
            connection.abort()

    @staticmethod
    def is_local(transport: asyncio.Transport) -> bool:
        """Return whether a client came by a unix socket of the node.

        One of another user, which the socket's mode does not let in either, is closed.
        """
        connected = transport.get_extra_info("socket")
        if connected is None or connected.family != socket.AF_UNIX:
            return False
        if not unix_sockets.is_of_owner(connected):
            transport.abort()
            return False
        return True

    @staticmethod
    def certificate_of(transport: asyncio.Transport) -> str:
        """Return the name in a client's certificate, "" without one."""
        return peer_certificate_name(transport)

    # ---- called by connections ---------------------------------------------------------

    def connected(self, connection: _Held) -> None:
        """Take note of a connection; when there are too many the one idle for longest goes."""
        self._connections.add(connection)
        if self.closing:
            connection.abort()
        if len(self._connections) > self._most_connections:
            oldest = next(iter(self._idle), connection)
            oldest.abort()
            self._idle.pop(oldest, None)

    def disconnected(self, connection: _Held) -> None:
        """Forget a connection that is closed and has no request any more."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)
        self._note_end()

    def idle(self, connection: _Held) -> None:
        """Take note of a connection that has no request."""
        self._idle[connection] = None

    def busy(self, connection: _Held) -> None:
        """Take note of a connection that has one."""
        self._idle.pop(connection, None)

    def _begin(self) -> _Held:
        if self._begins is not None:
            return self._begins(self)
        return Connection(self) if self._tls is None else Handshake(self, self._tls)

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        # After the clients that were accepted last, which are told first that they are connected.
        self.loop.call_soon(self._forget_servers)

    def _forget_servers(self) -> None:
        self._servers.clear()
        self._note_end()

    def _note_end(self) -> None:
        if self.closing and not self._servers and not self._connections:
            self._gone.set()

    def _sweep(self) -> None:
        self.date = _date()
        now_s = self.loop.time()
        for connection in tuple(self._connections):
            connection.expire(now_s)
        self._timer = self.loop.call_later(SWEEP_S, self._sweep)


def _date() -> bytes:
    return f"date: {formatdate(usegmt=True)}\r\n".encode()
