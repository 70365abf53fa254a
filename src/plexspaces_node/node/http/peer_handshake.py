"""A connection of another node, from its first byte: its handshake, then its requests."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast

from plexspaces_node.node.cluster.short_tls import ShortTls, TlsTransport
from plexspaces_node.node.http.connection import Connection

if TYPE_CHECKING:
    from plexspaces_node.node.http.server import HttpServer


class PeerHandshake(ShortTls):
    """A connection until its handshake is done, when a `Connection` takes it.

    To the server it is a connection without a request: the first to go when there are too many.
    """

    def __init__(self, server: HttpServer, context: ssl.SSLContext) -> None:
        super().__init__(context, self._taken, failed=self._ended)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.connected(self)
        self._server.idle(self)
        super().connection_made(cast(asyncio.Transport, transport))

    def expire(self, now_s: float) -> None:
        """Do nothing: the handshake has a time limit of its own."""

    def end(self) -> None:
        """Close at once: nothing was asked yet."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def _taken(self, transport: TlsTransport) -> asyncio.Protocol:
        # Before its `Connection` counts, or another one would have to go.
        self._server.disconnected(self)
        del transport
        return Connection(self._server)

    def _ended(self, error: OSError) -> None:
        del error
        self._server.disconnected(self)
