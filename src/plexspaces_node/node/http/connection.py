"""One connection of an HTTP client: requests are answered one after the other, in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from math import inf
from time import perf_counter_ns
from typing import TYPE_CHECKING, cast

from plexspaces_node.errors import ActorError, PlexSpacesError
from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.reader import RequestReader
from plexspaces_node.node.http.share import Share
from plexspaces_node.node.http.writer import CONTINUE, SHORT_BYTES, STALL_S, ResponseWriter

if TYPE_CHECKING:
    from plexspaces_node.node.http.server import HttpServer

_log = logging.getLogger(__name__)
_access = logging.getLogger("plexspaces_node.access")

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
        self._idle_until_s = inf
        self._queue: deque[Request] = deque()
        # Of one request, or of a long reply.
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None
        self._ends = self._is_lost = False
        # All is said: what still comes is dropped, so that the client reads the answer.
        self._lingers = False

    def __repr__(self) -> str:
        return f"<Connection {self._peer}, {len(self._queue)} requests wait>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        self._share = Share(server.in_flight)
        self._writer = ResponseWriter(self._transport, server.loop)
        self._reader = RequestReader(
            self._transport,
            body_limit=server.handler.body_limit,
            on_request=self._received,
            # Not within a response, which says enough.
            proceed=lambda: None if self._task else self._writer.write(CONTINUE),
            share=self._share,
            clock=server.loop.time,
        )
        peer = self._transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        server.connected(self)
        self._idle()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._is_lost = True
        self._reader.close()
        for request in self._queue:
            request.release()
        self._queue.clear()
        self._writer.resume()
        if self._task is None:
            self._server.disconnected(self)
        else:
            # Once only: a second one would interrupt what is being undone.
            self._task.cancel()
            self._task.add_done_callback(lambda _: self._server.disconnected(self))

    def data_received(self, data: bytes) -> None:
        if self._lingers or self._ends:
            return
        reader = self._reader
        reader.feed(data)
        if self._task is not None or not reader.is_between:
            self._idle_until_s = inf
            self._server.busy(self)
        if reader.fault is not None and self._task is None:
            self._refuse(reader.fault)

    def eof_received(self) -> None:
        if self._task is not None and not self._lingers:
            self.abort()

    def pause_writing(self) -> None:
        self._writer.pause()

    def resume_writing(self) -> None:
        self._writer.resume()

    def expire(self, now_s: float) -> None:
        """End the connection if its client has been silent, or slow, for too long."""
        if now_s >= self._reader.due_s:
            self._reader.expire()
            if self._task is None and self._reader.fault is not None:
                self._refuse(self._reader.fault)
        elif now_s >= self._writer.due_s or now_s >= self._idle_until_s:
            self.abort()

    def end(self) -> None:
        """Close once the client has read what was written, or had its time for it."""
        if self._task is None:
            self._transport.close()
            self._idle_until_s = self._server.loop.time() + STALL_S

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _received(self, request: Request) -> None:
        request.peer = self._peer
        if self._task is None:
            self._task = self._server.loop.create_task(self._handle(request))
            return
        self._queue.append(request)
        if len(self._queue) >= PIPELINED:
            self._reader.pause()

    async def _handle(self, request: Request) -> None:
        begin_ns = perf_counter_ns()
        self._request = request
        try:
            response = await self._server.handler.answer(request)
            request.release()
            # A connection and its parser know each other: what they hold goes only with the next
            # collection.
            request.body = b""
            is_long = await self._reply(request, response)
        except Exception as error:  # noqa: BLE001 - the boundary: the connection ends, not the node
            if not isinstance(error, PlexSpacesError | ActorError):
                _log.error("internal error in an HTTP connection", exc_info=error)
            self.abort()
        except asyncio.CancelledError:
            self.abort()
            raise
        else:
            if is_long:
                # In a task of its own: a shutdown waits for handlers, and not for slow clients.
                self._task = self._server.loop.create_task(self._send(request, response, begin_ns))
            else:
                self._answered(request, response, begin_ns)

    async def _reply(self, request: Request, response: Response) -> bool:
        """Write a response; return whether it is one that a client has to read meanwhile."""
        in_line = self._queue or not self._reader.is_last
        self._ends = self._server.closing or not in_line or _is_final(request, response)
        if self._ends:
            response.headers.append((b"connection", b"close"))
        elif request.is_http_1_0:
            response.headers.append((b"connection", b"keep-alive"))
        writer, date = self._writer, self._server.date
        if response.is_stream:
            await writer.send_stream(request, response, date=date)
        elif len(response.body) > SHORT_BYTES or writer.is_paused:  # type: ignore[arg-type]
            return not self._is_lost
        else:
            writer.send(request, response, date=date)
        return False

    async def _send(self, request: Request, response: Response, begin_ns: int) -> None:
        size = len(response.body)  # type: ignore[arg-type]
        self._share.add(size)
        try:
            await self._writer.send_long(request, response, date=self._server.date)
        finally:
            self._share.remove(size)
        self._answered(request, response, begin_ns)

    def _answered(self, request: Request, response: Response, begin_ns: int) -> None:
        if self._server.access_log:
            _log_access(request, response, perf_counter_ns() - begin_ns)
        if not self._is_lost:
            self._task = None
            self._go_on()

    def _go_on(self) -> None:
        reader, stream = self._reader, self._request.stream if self._request else None
        if stream is not None and not stream.is_complete:
            self._linger()
        elif self._ends or self._server.closing:
            self.end()
        elif self._queue:
            self._task = self._server.loop.create_task(self._handle(self._queue.popleft()))
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
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _idle(self) -> None:
        self._idle_until_s = self._server.loop.time() + IDLE_S
        self._server.idle(self)


def _is_final(request: Request, response: Response) -> bool:
    """Return whether nothing can follow a response on its connection."""
    if response.is_stream and request.is_http_1_0:
        return True
    return request.stream is not None and not request.stream.is_complete


def _log_access(request: Request, response: Response, duration_ns: int) -> None:
    _access.info(
        "%s %s %s %d, %.3f ms",
        request.peer,
        request.method.decode("latin-1"),
        # As it was sent: percent-encoded, and within a line.
        ascii(request.path.decode("latin-1"))[1:-1],
        response.status,
        duration_ns / 1e6,
    )
