"""Answers scrapes: at the HTTP port what the caller may see, at a port of its own everything.

Nothing here is on any message's path: a scrape is answered on a thread.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import socketserver
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.node.metrics.page import Page
from plexspaces_node.node.metrics.readings import Readings, Viewer, write
from plexspaces_node.quota import SubjectUse

SCRAPES = 16
"""The maximum number of connections; one more ends the oldest."""

SCRAPE_S = 10.0
"""How long a connection can last: one that asks for nothing holds a thread and a descriptor."""

QUOTAS_S = 2.0
"""How long a scrape waits for what is used of quotas; without it, it has none of them."""

_SETTLED_AT_ONCE = 16
"""Applications whose messages are counted without a pause for others: each takes 70 µs at most."""

_OPENMETRICS = "application/openmetrics-text"
_OPENMETRICS_VERSIONS = ("", "1.0.0")
"""Those of a scraper that gets version 1.0.0: one that names none takes any."""
_NOT_TAKEN = re.compile(r"0(\.0*)?")
_COMPRESSION = 1
"""As good as any for what repeats so much, in a twentieth of the time."""


class Scraped(NamedTuple):
    """What a scrape gets."""

    headers: Sequence[tuple[str, str]]
    body: bytes


class Scrapes:
    """Answers scrapes of one node, each on a thread."""

    def __init__(
        self, readings: Readings, quotas: Callable[[], Awaitable[Sequence[SubjectUse]]]
    ) -> None:
        """`quotas` returns those that are set with what is used of them, on the event loop."""
        self._readings = readings
        self._quotas = quotas
        self.calls = readings.calls
        """For each protocol, what returns how many calls are handled now; on any thread."""

    def __repr__(self) -> str:
        return f"<Scrapes of {self._readings.info.node_id}>"

    async def answer(self, viewer: Viewer | None, *, accept: str, encodings: str) -> Scraped:
        """Return what a viewer may see, None for everything; the headers are of the request."""
        return await asyncio.to_thread(
            self.text, await self._uses(), viewer, accept=accept, encodings=encodings
        )

    def answer_outside(
        self, loop: asyncio.AbstractEventLoop, *, accept: str, encodings: str
    ) -> Scraped:
        """Return everything, on a thread that is not the event loop's."""
        uses: Sequence[SubjectUse] = ()
        # It ends: what there is of it is still good.
        with suppress(RuntimeError, CancelledError, TimeoutError):
            future = asyncio.run_coroutine_threadsafe(self._uses(), loop)
            uses = future.result(2 * QUOTAS_S)
        return self.text(uses, None, accept=accept, encodings=encodings)

    def text(
        self, uses: Sequence[SubjectUse], viewer: Viewer | None, *, accept: str, encodings: str
    ) -> Scraped:
        """Write it, in the format and the encoding that the request's headers ask for. Blocks."""
        takes_it = any(
            kind == _OPENMETRICS and parameters.get("version", "") in _OPENMETRICS_VERSIONS
            for kind, parameters in _accepted(accept)
        )
        page = Page(is_openmetrics=takes_it)
        kind = CONTENT_TYPE_LATEST if takes_it else CONTENT_TYPE_PLAIN_0_0_4
        write(page, self._readings, uses, viewer)
        body, headers = page.text(), [("Content-Type", kind)]
        if any(encoding == "gzip" for encoding, _ in _accepted(encodings)):
            body = gzip.compress(body, _COMPRESSION)
            headers.append(("Content-Encoding", "gzip"))
        return Scraped(headers, body)

    async def _uses(self) -> Sequence[SubjectUse]:
        for number, supervisor in enumerate(self._readings.roster.supervisors()):
            if number and number % _SETTLED_AT_ONCE == 0:
                await asyncio.sleep(0)
            supervisor.activity.settle()
        with suppress(PlexSpacesError, TimeoutError):
            async with asyncio.timeout(QUOTAS_S):
                return await self._quotas()
        return ()


def _accepted(header: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield what a header such as `Accept` takes, with its parameters, whatever is in it."""
    for part in header.lower().split(","):
        name, *rest = (word.strip() for word in part.split(";"))
        parameters = {key: value for key, _, value in (word.partition("=") for word in rest)}
        if not _NOT_TAKEN.fullmatch(parameters.get("q", "")):
            yield name, parameters


@contextmanager
def serve_metrics(
    address: str, scrapes: Scrapes, *, scrape_s: float = SCRAPE_S
) -> Iterator[int | None]:
    """Serve metrics over HTTP at HOST:PORT in the body, and yield the port; "" serves nothing.

    Raises `Unavailable` if the port is in use. Call it on the event loop; scrapes run on threads.
    """
    if not address:
        yield None
        return
    host, _, port = address.rpartition(":")
    application = _Application(scrapes, asyncio.get_running_loop())
    try:
        server = _listen(host.strip("[]"), int(port), application, scrape_s)
    except OSError as error:
        raise Unavailable(
            f"cannot serve metrics on {address}: {error.strerror}",
            hint="choose another [node] metrics_address, or none",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Application:
    """Answers every GET, whatever its path, as WSGI has it."""

    def __init__(self, scrapes: Scrapes, loop: asyncio.AbstractEventLoop) -> None:
        self._scrapes = scrapes
        self._loop = loop

    def __call__(self, request: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
        if request["REQUEST_METHOD"] != "GET":
            start("405 Method Not Allowed", [("Allow", "GET")])
            return [b""]
        accept = request.get("HTTP_ACCEPT", "")
        encodings = request.get("HTTP_ACCEPT_ENCODING", "")
        headers, body = self._scrapes.answer_outside(self._loop, accept=accept, encodings=encodings)
        start("200 OK", list(headers))
        return [body]


def _listen(host: str, port: int, application: Any, lasts_s: float) -> WSGIServer:
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

    class Server(ScrapeServer):
        address_family = places[0][0]
        scrape_s = lasts_s

    return make_server(host, port, application, Server, _Handler)


class ScrapeServer(socketserver.ThreadingMixIn, WSGIServer):
    """Answers each scrape on its own thread; limited in number and time."""

    daemon_threads = True
    scrape_s = SCRAPE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Start times by connection. Changed by the accepting thread and by those that answer.
        self._since_s: dict[socket.socket, float] = {}
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, and end the oldest connection if there are too many."""
        # In order of arrival.
        open_ones = list(self._since_s)
        if len(open_ones) >= SCRAPES:
            self._end(open_ones[0])
        self._since_s[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._since_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that have lasted too long; called twice a second."""
        oldest_s = time.monotonic() - self.scrape_s
        for request, since_s in list(self._since_s.items()):
            if since_s < oldest_s:
                self._end(request)

    def _end(self, request: socket.socket) -> None:
        # Its thread then reads the end and closes it.
        self._since_s.pop(request, None)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not report a client that disconnected."""


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Do not report a scrape."""
