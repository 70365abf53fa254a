"""The outgoing HTTP of a node's applications: who may call what, how often, and what is logged.

Redirects are not followed: the application gets the response, and its next request is checked like
any other. Proxies that the node's environment names are not used, because a proxy would resolve the
name again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11

from plexspaces_node.allowed_hosts import DEFAULT_PORTS, AllowedHosts, NotAHost, split_host
from plexspaces_node.node.outgoing.call import (
    UNBOUNDED,
    Allowance,
    CallFailed,
    Code,
    Piece,
    Request,
)
from plexspaces_node.node.outgoing.connector import (
    Connector,
    Destination,
    Open,
    Stream,
    Tls,
    open_stream,
)
from plexspaces_node.node.outgoing.exchange import REQUEST_BYTES, RESPONSE_BYTES, Exchange
from plexspaces_node.node.outgoing.headers import head_of
from plexspaces_node.node.outgoing.idle import IdleStreams
from plexspaces_node.node.outgoing.resolver import MOST_LOOKUPS_OF_ONE, Resolver

RESPONSE_S = 300.0
"""How long a server may take to the head of its response; begins again with each part of the
request's body that was sent. A request can set less."""

CALL_S = 3600.0
"""How long a call may take as a whole."""

MOST_CALLS = 256
"""The maximum number of calls of a node at once; another one fails."""

MOST_OF_TENANT = MOST_CALLS * 3 // 4
"""That of one tenant's applications, so that another's have some."""

_SHOWN = 200
_METHOD = 16
_SAFE_TO_REPEAT = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, eq=False)
class OutgoingHttp:
    """What the calls of a node share. Used on its event loop."""

    resolver: Resolver = field(default_factory=Resolver)
    open_stream: Open = open_stream
    tls: Callable[[], Awaitable[ssl.SSLContext]] = field(default_factory=lambda: Tls().context)
    idle: IdleStreams = field(default_factory=IdleStreams)
    request_bytes: int = REQUEST_BYTES
    response_bytes: int = RESPONSE_BYTES
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_CALLS))

    def exchange(self, stream: Stream, allowance: Allowance) -> Exchange:
        """Return a request to be sent on a connection."""
        return Exchange(
            stream,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            allowance=allowance,
        )

    def close(self) -> None:
        """Close the idle connections. Idempotent."""
        self.idle.close()


@dataclass(slots=True)
class _Report:
    """What is logged of a call."""

    what: str
    begin_s: float
    exchange: Exchange | None = None
    problem: str = "ended by the application"

    def text(self, now_s: float) -> str:
        """Return the line."""
        words = []
        if (exchange := self.exchange) is not None:
            words += [str(exchange.status)] if exchange.status else []
            words += [f"{exchange.sent_bytes} bytes out", f"{exchange.received_bytes} bytes in"]
        words.append(f"{(now_s - self.begin_s) * 1000:.0f} ms")
        if self.problem:
            words.append(self.problem)
        return f"HTTP {self.what}: {', '.join(words)}"


class Outgoing:
    """The calls of one application, as far as it is allowed any. Used on the event loop."""

    def __init__(
        self,
        shared: OutgoingHttp,
        allowed: AllowedHosts,
        log: Callable[[str, str], None],
        *,
        allowance: Allowance = UNBOUNDED,
    ) -> None:
        """`log` gets a level and a line for each call, without paths and headers."""
        self._allowance = allowance
        self._shared = shared
        self._allowed = allowed
        self._log = log
        self._connector = Connector(
            allowed,
            resolver=shared.resolver,
            share=asyncio.Semaphore(MOST_LOOKUPS_OF_ONE),
            tls=shared.tls,
            open_stream=shared.open_stream,
        )

    def __repr__(self) -> str:
        return f"<Outgoing to {', '.join(self._allowed.texts) or 'nothing'}>"

    def close(self) -> None:
        """Close the idle connections. Idempotent."""
        self._shared.idle.end(self)

    @asynccontextmanager
    async def call(self, request: Request, body: AsyncIterator[Piece]) -> AsyncIterator[Exchange]:
        """Make a call; see `call.Call`."""
        loop = asyncio.get_running_loop()
        report = _Report(_shown(request), loop.time())
        try:
            async with asyncio.timeout(CALL_S) as until:
                destination = self._checked(request)
                report.what = f"{request.method[:_METHOD]} {destination}"
                async with self._slot(), self._begun(request, destination, body, report) as begun:
                    yield begun
                report.problem = ""
        except TimeoutError as error:
            failed = CallFailed(Code.CONNECTION_READ_TIMEOUT, f"it took longer than {CALL_S:g} s")
            report.problem = failed.message
            if not until.expired():
                raise
            raise failed from error
        except CallFailed as failed:
            hint = f" ({failed.hint})" if failed.hint else ""
            report.problem = f"{failed.code}: {failed.message}{hint}"
            raise
        except Exception as error:
            report.problem = f"broke off: {type(error).__name__}"
            raise
        finally:
            self._log("warn" if report.problem else "info", report.text(loop.time()))

    def _checked(self, request: Request) -> Destination:
        """Return where a request goes, if it may; raises `CallFailed`."""
        if request.scheme not in DEFAULT_PORTS:
            raise CallFailed(Code.REQUEST_DENIED, "the scheme is not http or https")
        try:
            host, port = split_host(request.authority)
        except NotAHost as error:
            raise CallFailed(Code.REQUEST_DENIED, f"the host is not valid: {error}") from error
        destination = Destination(request.scheme, host, port or DEFAULT_PORTS[request.scheme])
        if not self._allowed.cover(host, destination.port):
            raise CallFailed(
                Code.REQUEST_DENIED,
                f"{host}:{destination.port} is not a host that the application may call",
                hint=f"plexspaces deploy --replace … --allow-host {host}:{destination.port}",
            )
        return destination

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        self._allowance.begin_call()
        try:
            # Bytes of earlier calls may not be paid for yet. Meanwhile others can make calls.
            if pause_s := self._allowance.spend(0):
                await asyncio.sleep(pause_s)
            if self._shared.slots.locked():
                raise CallFailed(
                    Code.CONNECTION_LIMIT_REACHED,
                    f"{MOST_CALLS} HTTP requests of this node's applications are in progress",
                    hint="try again",
                )
            async with self._shared.slots:
                yield
        finally:
            self._allowance.end_call()

    @asynccontextmanager
    async def _begun(
        self,
        request: Request,
        destination: Destination,
        body: AsyncIterator[Piece],
        report: _Report,
    ) -> AsyncIterator[Exchange]:
        """Send a request and yield its exchange when the head of the response is there."""
        sending = _Sending(head_of(request, destination), request, body)
        loop, within_s = asyncio.get_running_loop(), request.timeout_s or RESPONSE_S
        within_s = min(within_s, RESPONSE_S)
        try:
            async with asyncio.timeout(within_s) as deadline:
                sending.renew = lambda: deadline.reschedule(loop.time() + within_s)
                exchange = await self._answered(sending, destination, report)
        except TimeoutError as error:
            message = f"no response within {within_s:g} s"
            raise CallFailed(Code.RESPONSE_TIMEOUT, message) from error
        try:
            yield exchange
        finally:
            await exchange.close()
            if exchange.is_reusable:
                self._shared.idle.put(self, destination, exchange.stream)
            else:
                exchange.stream.close()

    async def _answered(
        self, sending: _Sending, destination: Destination, report: _Report
    ) -> Exchange:
        """Send a request, on a connection that waits if there is one; return its exchange."""
        if (stream := self._shared.idle.take(self, destination)) is not None:
            report.exchange = exchange = self._shared.exchange(stream, self._allowance)
            try:
                await sending.send(exchange)
                return exchange
            except CallFailed:
                # Its server has closed it since; no other request was ever on its way.
                if exchange.heard or not sending.is_repeatable:
                    raise
        stream = await self._connector.connect(destination)
        report.exchange = exchange = self._shared.exchange(stream, self._allowance)
        await sending.send(exchange)
        return exchange


def _shown(request: Request) -> str:
    """Return a request that was not checked yet, as far as it is no secret."""
    host = request.authority.rpartition("@")[2][:_SHOWN]
    shown = f"{request.method[:_METHOD]} {request.scheme[:_METHOD]}://{host}"
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


class _Sending:
    """A request that is sent, perhaps once more.

    Attributes:
        renew: makes the time until the response begin again.
    """

    renew: Callable[[], None]

    def __init__(self, head: h11.Request, request: Request, body: AsyncIterator[Piece]) -> None:
        self._head = head
        self._is_whole = request.length is not None
        self._body = body
        self.is_repeatable = request.length == 0 and request.method in _SAFE_TO_REPEAT

    async def send(self, exchange: Exchange) -> None:
        """Send it and wait for the head of the response; closes the connection on any failure."""
        try:
            if self._is_whole:
                exchange.send_whole(self._head, b"".join([piece async for piece in self._body]))
            else:
                exchange.send(self._head, self._body, self.renew)
            await exchange.read_head()
        except BaseException:
            await exchange.close()
            exchange.stream.close()
            raise
