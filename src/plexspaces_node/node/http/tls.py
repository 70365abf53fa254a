"""A connection of HTTP over TLS: its handshake, and the name of its client's certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from plexspaces_node.certificates import client_name
from plexspaces_node.node.http.connection import Connection

if TYPE_CHECKING:
    from plexspaces_node.node.http.server import HttpServer

HANDSHAKE_S = 10.0
"""How long a handshake may take, as for gRPC."""

FAREWELL_S = 5.0
"""How long a client has to say that it has read everything, when the node closes."""


class Handshake(asyncio.Protocol):
    """A connection from its first byte until its handshake is done, when a `Connection` takes it.

    To the server it is a connection without a request: the first to go when there are too many.
    """

    def __init__(self, server: HttpServer, context: Callable[[], ssl.SSLContext]) -> None:
        self._server = server
        self._context = context
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        server.connected(self)
        server.idle(self)
        if self._transport.is_closing():
            server.disconnected(self)
            return
        # It begins before anything is read: the loop runs what is ready before it looks for more.
        self._task = server.loop.create_task(self._shake())
        # Also when it is cancelled before it has begun, and so never runs.
        self._task.add_done_callback(lambda _: server.disconnected(self))

    def data_received(self, data: bytes) -> None:
        # Never taken for what comes after the handshake.
        self.abort()

    def expire(self, now_s: float) -> None:
        """Do nothing: the handshake has a time limit of its own."""

    def end(self) -> None:
        """Close at once: nothing was asked yet."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    async def _shake(self) -> None:
        server, first = self._server, _First()
        try:
            transport = await server.loop.start_tls(
                self._transport,
                first,
                self._context(),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=FAREWELL_S,
            )
        except OSError:
            # Of TLS too. The client has left, or is none: a scanner, or one that does not trust us.
            self._transport.abort()
        else:
            assert transport is not None
            # Before its `Connection` counts, or another one would have to go.
            server.disconnected(self)
            if server.closing:
                transport.abort()
            else:
                first.hand_over(transport, Connection(server))


class _First(asyncio.Protocol):
    """What comes between the end of a handshake and the moment in which its task learns of it."""

    def __init__(self) -> None:
        self._came: list[bytes] = []
        self._has_left = False
        self._connection: Connection | None = None

    def data_received(self, data: bytes) -> None:
        self._came.append(data)

    def eof_received(self) -> None:
        self._has_left = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_left = True
        if self._connection is not None:
            self._connection.connection_lost(exc)

    def hand_over(self, transport: asyncio.Transport, connection: Connection) -> None:
        """Let a connection have the transport, unless its client has left already."""
        if self._has_left or transport.is_closing():
            transport.abort()
            return
        self._connection = connection
        transport.set_protocol(connection)
        connection.connection_made(transport)
        for data in self._came:
            connection.data_received(data)


def peer_certificate_name(transport: asyncio.BaseTransport) -> str:
    """Return the name in a client's certificate, which was verified; "" if it has none."""
    tls = transport.get_extra_info("ssl_object")
    found = tls.getpeercert(binary_form=True) if tls is not None else None
    return client_name(found) if found else ""
