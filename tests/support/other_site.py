"""A web site of somebody else, for what pages of it may do with a node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.server import HttpServer
from plexspaces_node.node.machines.in_flight import InFlight


class _OnePage:
    """Answers every request with a page that is empty."""

    def body_limit(self, request: Request) -> int:
        """Say how long the body of a form may be."""
        del request
        return 1 << 10

    def post(self, request: Request, done: Callable[[Response], None]) -> None:
        """Leave it to `answer`."""

    async def answer(self, request: Request) -> Response:
        del request
        page = b"<!doctype html><title>other</title><body>"
        return Response(200, [(b"content-type", b"text/html")], page)

    def watch(self, request: Request, ended: Callable[[], None]) -> Callable[[], None]:
        """Nobody's token ends."""
        return lambda: None

    def refusal(self, request: Request, fault: HttpFault) -> Response:
        del request
        return fault.response


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """Serve the site in the body, at a port of this host.

    A browser connects to it more often than it asks, also while it ends. A server of asyncio alone
    would leave these connections open; the node's ends each.
    """
    server = HttpServer(_OnePage(), in_flight=InFlight(1 << 20), most_connections=100)
    address = await server.bind("127.0.0.1:0")
    await server.serve()
    try:
        yield int(address.rpartition(":")[2])
    finally:
        await server.drain(0)
