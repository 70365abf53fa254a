"""One connection of an HTTP client: requests are answered one after the other, in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from math import inf
from time import perf_counter_ns
from typing import TYPE_CHECKING, cast

from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.reader import RequestReader
from plexspaces_node.node.http.writer import CONTINUE, ResponseWriter

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
    """A connection from its first byte to its end."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._peer = ""
        self._idle_until_s = inf
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        # All is said: what still comes is dropped, so that the client reads the answer.
        self._lingers = False

    def __repr__(self) -> str:
        return f"<Connection {self._peer}, {len(self._queue)} requests wait>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        self._writer = ResponseWriter(self._transport, server.loop)
        self._reader = RequestReader(
            self._transport,
            body_limit=server.handler.body_limit,
            on_request=self._received,
            proceed=self._proceed,
            in_flight=server.in_flight,
            clock=server.loop.time,
        )
        peer = self._transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        server.connected(self)
        self._idle()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._reader.close()
        if self._task is not None:
            self._task.cancel()
        self._writer.resume()
        self._server.disconnected(self)

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        self._idle_until_s = inf
        self._server.busy(self)
        reader = self._reader
        reader.feed(data)
        if reader.fault is not None and self._task is None:
            self._refuse(reader.fault)

    def eof_received(self) -> bool:
        # A client may close its half, and read on.
        self._reader.is_last = True
        return self._task is not None and not self._lingers

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
        """Close once what is being answered is."""
        if self._task is None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _received(self, request: Request) -> None:
        request.peer = self._peer
        if self._task is None:
            self._task = self._server.loop.create_task(self._answer(request))
            return
        self._queue.append(request)
        if len(self._queue) >= PIPELINED:
            self._reader.pause()

    async def _answer(self, request: Request) -> None:
        handler, queue = self._server.handler, self._queue
        try:
            while True:
                begin = perf_counter_ns()
                try:
                    response = await handler.answer(request)
                except HttpFault as fault:
                    response = fault.response
                await self._send(request, response)
                if self._server.access_log:
                    _log_access(request, response, perf_counter_ns() - begin)
                if not queue:
                    break
                request = queue.popleft()
                if len(queue) == PIPELINED - 1:
                    self._reader.resume()
        except asyncio.CancelledError:
            # The client has left.
            self.abort()
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: the connection ends, not the node
            _log.error("internal error in an HTTP connection", exc_info=error)
            self.abort()
        self._task = None
        if self._reader.fault is not None:
            self._refuse(self._reader.fault)
        elif request.stream is not None and not request.stream.is_complete:
            self._linger()
        elif self._reader.is_last or self._server.closing:
            self._transport.close()
        elif self._reader.is_between:
            self._idle()

    async def _send(self, request: Request, response: Response) -> None:
        writer, date = self._writer, self._server.date
        is_stream = isinstance(response.body, AsyncIterator)
        is_chunked = is_stream and not self._reader.is_http_1_0
        is_unread = request.stream is not None and not request.stream.is_complete
        if response.close or self._server.closing or is_unread or (is_stream and not is_chunked):
            self._reader.is_last = True
        if self._reader.is_last and not self._queue:
            response.headers.append((b"connection", b"close"))
        if is_stream:
            await writer.send_stream(request, response, date=date, is_chunked=is_chunked)
        else:
            await writer.send(request, response, date=date)

    def _refuse(self, fault: HttpFault) -> None:
        """Tell why nothing more is read, and close."""
        response = fault.response
        response.headers.append((b"connection", b"close"))
        self._task = self._server.loop.create_task(self._tell(response))

    async def _tell(self, response: Response) -> None:
        await self._writer.send(Request(b"", b"", []), response, date=self._server.date)
        self._linger()

    def _linger(self) -> None:
        """Close once the client has read what was said, which a reset would take from it."""
        self._lingers = True
        self._idle_until_s = self._server.loop.time() + LINGER_S
        self._reader.resume()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _proceed(self) -> None:
        if self._task is None:
            self._writer.write(CONTINUE)

    def _idle(self) -> None:
        self._idle_until_s = self._server.loop.time() + IDLE_S
        self._server.idle(self)


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
