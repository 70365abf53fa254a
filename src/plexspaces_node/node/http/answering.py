"""Answers the requests of one connection, one at a time: from the handler to the writer.

Most requests are short, and so are their responses. Such a one costs no task: its response is
written in the step of the event loop in which it comes from the agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from plexspaces_node.errors import ActorError, PlexSpacesError
from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.http.share import Share
from plexspaces_node.node.http.writer import SHORT_BYTES, ResponseWriter
from plexspaces_node.tasks import Leave

if TYPE_CHECKING:
    from plexspaces_node.node.http.server import HttpServer

_log = logging.getLogger(__name__)
_access = logging.getLogger("plexspaces_node.access")

LEFT = 499
"""The status in the access log of a request whose response was not sent whole, as in nginx."""


class Answering:
    """The request that a connection is answering.

    Attributes:
        request: it, or the last one.
        is_busy: whether its response is not written yet.
    """

    request: Request

    def __init__(
        self,
        server: HttpServer,
        writer: ResponseWriter,
        share: Share,
        *,
        is_last: Callable[[Request, Response], bool],
        answered: Callable[[], None],
    ) -> None:
        """Call `answered` after each response.

        `is_last` returns whether a response, of which the head is about to be written, is the last
        one. Long replies are counted in `share`.
        """
        self.is_busy = False
        self._server = server
        self._writer = writer
        self._share = share
        self._is_last = is_last
        self._go_on = answered
        # Of a request that `post` does not take, of a stream, or of a long reply.
        self._task: asyncio.Task[None] | None = None
        # While a request waits for its response, or a stream for its task.
        self._leave: Leave | None = None
        self._has_left = False
        self._begin_ns = 0

    def __repr__(self) -> str:
        return f"<Answering {self.request if self.is_busy else None}>"

    def begin(self, request: Request) -> None:
        """Answer a request; the one before must have been answered."""
        self._begin_ns = perf_counter_ns()
        self.request = request
        self.is_busy = True
        self._leave = self._server.handler.post(request, self._replied)
        if self._leave is None:
            self._task = self._server.loop.create_task(self._handle())

    def leave(self, gone: Callable[[], None]) -> None:
        """End what the client, which is gone, has asked for; call `gone` when nothing is done."""
        self._has_left = True
        if self.is_busy and self._server.access_log:
            _log_access(self.request, LEFT, perf_counter_ns() - self._begin_ns)
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()
        if self._task is None:
            gone()
        else:
            # Once only: a second one would interrupt what is being undone.
            self._task.cancel()
            self._task.add_done_callback(lambda _: gone())

    async def _handle(self, response: Response | None = None) -> None:
        """Answer a request that `post` did not take, or send a stream that it answered with."""
        request, self._leave = self.request, None
        # Who sends it may lose what let it in.
        unwatch = self._server.handler.watch(request, self._writer.abort)
        try:
            response = response or await self._server.handler.answer(request)
            if response.is_stream:
                self._complete(request, response)
                await self._writer.send_stream(request, response, date=self._server.date)
                self._answered(response)
            else:
                self._reply(response)
        except Exception as error:  # noqa: BLE001 - the boundary: the connection ends, not the node
            self._failed(error)
        except asyncio.CancelledError:
            self._writer.abort()
            raise
        finally:
            unwatch()

    def _replied(self, response: Response) -> None:
        """Write a response that came without a task."""
        if response.is_stream:
            self._task = self._server.loop.create_task(self._handle(response))
            return
        self._leave = None
        try:
            self._reply(response)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        # A body that is not as long as its component said is no defect of the node.
        if not isinstance(error, PlexSpacesError | ActorError | ConnectionError):
            _log.error("internal error in an HTTP connection", exc_info=error)
        # That is logged as one whose client has left.
        self._writer.abort()

    def _reply(self, response: Response) -> None:
        """Write a response that has its length."""
        self._complete(self.request, response)
        if len(response.body) <= SHORT_BYTES and not self._writer.is_paused:  # type: ignore[arg-type]
            self._writer.send(self.request, response, date=self._server.date)
            self._answered(response)
        elif not self._has_left:
            # In a task of its own: a shutdown waits for handlers, and not for slow clients.
            self._task = self._server.loop.create_task(self._send(response))

    def _complete(self, request: Request, response: Response) -> None:
        """Release a request that has its response, and say there what becomes of the connection."""
        request.release()
        # A connection and its parser know each other: what they hold goes only with the next
        # collection.
        request.body = b""
        if self._is_last(request, response):
            response.headers.append((b"connection", b"close"))
        elif request.is_http_1_0:
            response.headers.append((b"connection", b"keep-alive"))

    async def _send(self, response: Response) -> None:
        size = len(response.body)  # type: ignore[arg-type]
        self._share.add(size)
        try:
            await self._writer.send_long(self.request, response, date=self._server.date)
        finally:
            self._share.remove(size)
        self._answered(response)

    def _answered(self, response: Response) -> None:
        if not self._has_left:
            if self._server.access_log:
                _log_access(self.request, response.status, perf_counter_ns() - self._begin_ns)
            self._task = None
            self.is_busy = False
            self._go_on()


def _log_access(request: Request, status: int, duration_ns: int) -> None:
    _access.info(
        "%s %s %s %d, %.3f ms",
        request.peer,
        request.method.decode("latin-1"),
        # As it was sent: percent-encoded, and within a line.
        ascii(request.path.decode("latin-1"))[1:-1],
        status,
        duration_ns / 1e6,
    )
