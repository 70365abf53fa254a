"""One connection of an HTTP client: requests are answered one after the other, in order."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from functools import partial
from math import inf
from typing import TYPE_CHECKING, cast

from plexspaces_node.node.http.answering import Answering
from plexspaces_node.node.http.message import Request, Response, Seen
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.reader import RequestReader
from plexspaces_node.node.http.share import Share
from plexspaces_node.node.http.writer import CONTINUE, STALL_S, ResponseWriter

if TYPE_CHECKING:
    from plexspaces_node.node.http.server import HttpServer

IDLE_S = 75.0
"""How long a connection without a request is kept."""

LINGER_S = 2.0
"""How long a client that was refused has to read why."""

PIPELINED = 16
"""The most requests of one connection that wait for their turn."""


class Connection(asyncio.Protocol):
    """A connection from its first byte to its end.

    A client that closes its side has left: what it asked for is cancelled.
    """

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._peer = ""
        self._seen = Seen()
        self._idle_until_s = inf
        self._queue: deque[Request] = deque()
        self._ends = False
        # All is said: what still comes is dropped, so that the client reads the answer.
        self._lingers = False

    def __repr__(self) -> str:
        return f"<Connection {self._peer}, {len(self._queue)} requests wait>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        share = Share(server.in_flight)
        self._writer = ResponseWriter(self._transport, server.loop)
        self._answering = Answering(
            server, self._writer, share, is_last=self._is_last, answered=self._go_on
        )
        self._reader = RequestReader(
            self._transport,
            body_limit=self._limit_of,
            on_request=self._received,
            # Not within a response, which says enough.
            proceed=lambda: None if self._answering.is_busy else self._writer.write(CONTINUE),
            share=share,
            clock=server.loop.time,
        )
        peer = self._transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix:"
        self._is_local = server.is_local(self._transport)
        self._scheme = "https" if self._transport.get_extra_info("ssl_object") else "http"
        self._certificate = server.certificate_of(self._transport)
        server.connected(self)
        self._idle()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._reader.close()
        for request in self._queue:
            request.release()
        self._queue.clear()
        self._writer.resume()
        self._answering.leave(partial(self._server.disconnected, self))

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        # What follows the last request is dropped, and not the rest of its body.
        if self._lingers or (self._ends and reader.is_between):
            return
        reader.feed(data)
        is_busy = self._answering.is_busy
        if is_busy or not reader.is_between:
            self._idle_until_s = inf
            self._server.busy(self)
        if reader.fault is not None and not is_busy:
            self._refuse(reader.fault)

    def eof_received(self) -> None:
        if self._answering.is_busy and not self._lingers:
            self.abort()

    def pause_writing(self) -> None:
        self._writer.pause()

    def resume_writing(self) -> None:
        self._writer.resume()

    def expire(self, now_s: float) -> None:
        """End the connection if its client has been silent, or slow, for too long."""
        if now_s >= self._reader.due_s:
            self._reader.expire()
            if not self._answering.is_busy and self._reader.fault is not None:
                self._refuse(self._reader.fault)
        elif now_s >= self._writer.due_s or now_s >= self._idle_until_s or self._has_left():
            self.abort()

    def _has_left(self) -> bool:
        """Return whether the client has closed its side while nothing is read from it."""
        if not self._reader.is_paused or self._transport.is_closing():
            return False
        socket = self._transport.get_extra_info("socket")
        if socket is None:
            return False
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def end(self) -> None:
        """Close once the client has read what was written, or had its time for it."""
        if not self._answering.is_busy:
            self._transport.close()
            self._idle_until_s = self._server.loop.time() + STALL_S

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _limit_of(self, request: Request) -> int:
        """Return how long the body of a request may be, of which the head has come."""
        request.peer = self._peer
        request.certificate = self._certificate
        request.is_local = self._is_local
        request.scheme = self._scheme
        request.seen = self._seen
        return self._server.handler.body_limit(request)

    def _received(self, request: Request) -> None:
        if not self._answering.is_busy:
            self._answering.begin(request)
            return
        self._queue.append(request)
        if len(self._queue) >= PIPELINED:
            self._reader.pause()

    def _is_last(self, request: Request, response: Response) -> bool:
        """Return whether nothing follows a response."""
        in_line = self._queue or not self._reader.is_last
        self._ends = self._server.closing or not in_line or _is_final(request, response)
        return self._ends

    def _go_on(self) -> None:
        reader, stream = self._reader, self._answering.request.stream
        if stream is not None and not stream.is_complete:
            self._linger()
        elif self._ends or self._server.closing:
            self.end()
        elif self._queue:
            self._answering.begin(self._queue.popleft())
            if len(self._queue) == PIPELINED - 1:
                reader.resume()
        elif reader.fault is not None:
            self._refuse(reader.fault)
        elif reader.is_between:
            self._idle()

    def _refuse(self, fault: HttpFault) -> None:
        """Tell why nothing more is read, and close."""
        request = self._reader.refused
        response = self._server.handler.refusal(request, fault)
        response.headers.append((b"connection", b"close"))
        self._writer.send(request, response, date=self._server.date)
        self._linger()

    def _linger(self) -> None:
        """Close once the client has read what was said, which a reset would take from it."""
        self._lingers = True
        self._idle_until_s = self._server.loop.time() + LINGER_S
        self._reader.close()
        self._reader.resume()
        # TLS knows no half of a connection that is closed; the response says that it is the last.
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _idle(self) -> None:
        self._idle_until_s = self._server.loop.time() + IDLE_S
        self._server.idle(self)


def _is_final(request: Request, response: Response) -> bool:
    """Return whether nothing can follow a response on its connection."""
    if response.is_stream:
        # The rest of the request may come while it is sent.
        return request.is_http_1_0
    return request.stream is not None and not request.stream.is_complete
