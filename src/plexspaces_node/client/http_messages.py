"""Messages by HTTP, to a node of this user on this host: several times faster than by gRPC.

Loads neither gRPC nor protobuf. Whatever cannot be sent like this is not sent at all, so that the
caller can send it by gRPC; errors and results are the same both ways.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

from plexspaces_node.address import split_address
from plexspaces_node.client.http_connection import ConnectionEnded, HttpConnection, Response
from plexspaces_node.client.http_reply import error_of, timings_of, trace_id_of
from plexspaces_node.client.message import Message
from plexspaces_node.client.way import Way, http_address
from plexspaces_node.errors import (
    ActorError,
    DeadlineExceeded,
    InvalidArgument,
    PlexSpacesError,
    Unavailable,
)
from plexspaces_node.http_notice import TLS_SCHEME, UNIX
from plexspaces_node.info import InvokeResult
from plexspaces_node.trace_context import HEADER

MOST_CONNECTIONS = 100
"""Each carries one message at a time. Further ones go by gRPC, which has no such limit."""

MOST_BYTES = 256 * 1024
"""Longer messages go by gRPC, which is about as fast for them."""

IDLE_S = 60.0
"""After this a connection is not used any more: the node closes it after 75 s."""

LOOK_AGAIN_S = 5.0
"""Between two looks for the port of a node that had none."""

_TYPE_BYTES = 4096
"""A longer type might not fit into the head of a request."""

_OK, _TOO_LARGE = 200, 413


class HttpMessages:
    """The messages to the node at one address. Used on one event loop."""

    def __init__(self, way: Way, *, find: Callable[[str], str | None] | None = None) -> None:
        """Set the way to the node, without connecting.

        `find` returns for its address where it serves HTTP, as `way.http_address` does. Raises
        `InvalidArgument` for files of TLS that cannot be used.
        """
        self._address = way.address
        self._tls: ssl.SSLContext | None = None
        self._server_name: str | None = None
        if way.tls is not None:
            # The name that the caller knows: the notice has an address of this host.
            self._tls, self._server_name = way.tls.context(), split_address(way.address)[0]
        self._find = find or partial(http_address, tls=way.tls is not None)
        self._authorization = f"authorization: Bearer {way.token}\r\n" if way.token else ""
        self._connections: set[HttpConnection] = set()
        self._idle: list[HttpConnection] = []
        self._connecting = 0
        self._look_at_s = 0.0

    def __repr__(self) -> str:
        return f"<HttpMessages {self._address} {len(self._connections)} connections>"

    async def send(self, message: Message) -> InvokeResult | None:
        """Send a message and return its reply; None if it was not sent and has to go by gRPC.

        Raises what `NodeClient.invoke` raises. If the caller cancels, the connection is closed.
        """
        if len(message.payload) > MOST_BYTES or (head := self._head(message)) is None:
            return None
        begin_ns = time.perf_counter_ns()
        connection = await self._connection()
        if connection is None:
            return None
        try:
            async with asyncio.timeout(message.deadline_s):
                response = await connection.ask(head, message.payload)
        except TimeoutError:
            raise DeadlineExceeded(f"the node at {self._address} did not answer in time") from None
        except ConnectionEnded as error:
            raise Unavailable(
                f"the connection to the node at {self._address} was lost ({error})",
                hint="check the node's own output, then try again",
            ) from error
        finally:
            self._put_back(connection)
        if response.status != _OK:
            raise self._error_of(response, message)
        round_trip_ns = time.perf_counter_ns() - begin_ns
        return InvokeResult(
            *(response.body, timings_of(response.headers), round_trip_ns, "http"),
            trace_id_of(response.headers),
        )

    def close(self) -> None:
        """Close every connection, and end what is in progress. Idempotent."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._idle.clear()

    async def _connection(self) -> HttpConnection | None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        while self._idle:
            kept = self._idle.pop()
            if kept.is_usable and now_s - kept.idle_since_s < IDLE_S:
                return kept
            self._drop(kept)
        if now_s < self._look_at_s or len(self._connections) + self._connecting >= MOST_CONNECTIONS:
            return None
        address = self._find(self._address)
        # By gRPC, the caller learns what is wrong.
        if address is None or address.startswith(TLS_SCHEME) != (self._tls is not None):
            self._look_at_s = now_s + LOOK_AGAIN_S
            return None
        self._connecting += 1
        try:
            connection = await self._connected(address)
        except OSError:
            self._look_at_s = now_s + LOOK_AGAIN_S
            return None
        finally:
            self._connecting -= 1
        self._connections.add(connection)
        return connection

    async def _connected(self, address: str) -> HttpConnection:
        loop = asyncio.get_running_loop()
        if address.startswith(UNIX):
            return (await loop.create_unix_connection(HttpConnection, address[len(UNIX) :]))[1]
        host, port = split_address(address.removeprefix(TLS_SCHEME))
        opening = loop.create_connection(
            HttpConnection, host, port, ssl=self._tls, server_hostname=self._server_name
        )
        return (await opening)[1]

    def _put_back(self, connection: HttpConnection) -> None:
        if connection.is_usable and connection in self._connections:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: HttpConnection) -> None:
        connection.close()
        self._connections.discard(connection)

    def _head(self, message: Message) -> bytes | None:
        """Return the head of a request, None for a message that HTTP cannot carry."""
        try:
            msg_type = quote(message.type, safe="")
        except UnicodeEncodeError:
            return None
        if len(msg_type) > _TYPE_BYTES:
            return None
        name = message.name.replace("/", "%2F")
        wait = f"prefer: wait={message.timeout_ms / 1000:.3f}\r\n" if message.timeout_ms else ""
        trace = f"{HEADER}: {message.traceparent}\r\n" if message.traceparent else ""
        return (
            f"POST /apps/{name}/{msg_type} HTTP/1.1\r\nhost: localhost\r\n"
            f"plexspaces-client: 1\r\n{self._authorization}{wait}{trace}"
            f"content-length: {len(message.payload)}\r\n\r\n"
        ).encode("ascii")

    def _error_of(self, response: Response, message: Message) -> PlexSpacesError | ActorError:
        if response.status == _TOO_LARGE:
            return InvalidArgument(
                f"a message of {len(message.payload)} bytes exceeds the limit of the node at "
                f"{self._address}",
                hint="send it in parts, or raise the node's [limits] message_bytes",
            )
        error = error_of(response.status, response.body)
        if isinstance(error, ActorError):
            error.trace_id = trace_id_of(response.headers)
        return error
