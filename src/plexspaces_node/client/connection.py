"""The connection to a node: its address, whether it is open, and gRPC's failures as our errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast

import grpc

from plexspaces_node.address import DEFAULT_ADDRESS
from plexspaces_node.api.generated.application_pb2_grpc import ApplicationServiceStub
from plexspaces_node.api.invoke import METHOD, SERVICE
from plexspaces_node.api.options import client_options
from plexspaces_node.api.status import DETAILS_KEY, from_grpc
from plexspaces_node.client.address import parts_of
from plexspaces_node.client.http_messages import HttpMessages
from plexspaces_node.client.tls import ClientTls, explain
from plexspaces_node.client.way import check_tls, way_to
from plexspaces_node.errors import ActorError, PlexSpacesError, WrongState
from plexspaces_node.http_notice import UNIX

if TYPE_CHECKING:
    # The stubs' type files have this class, but not the generated code.
    from plexspaces_node.api.generated.application_pb2_grpc import ApplicationServiceAsyncStub

_KINDS = frozenset({"unary_unary", "unary_stream", "stream_unary", "stream_stream"})

_Q = TypeVar("_Q")
_T = TypeVar("_T")


class _Authorized:
    """A channel whose calls bring a token; as far as generated stubs use a channel."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        return self._bringing(found) if name in _KINDS else found

    def _bringing(self, kind: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **named: Any) -> Any:
            made = kind(*args, **named)

            def call(*args: Any, metadata: tuple[tuple[str, str], ...] = (), **named: Any) -> Any:
                return made(*args, metadata=(*self._metadata, *metadata), **named)

            return call

        return make


class _Open(NamedTuple):
    """The parts of an open connection."""

    channel: grpc.aio.Channel
    stub: ApplicationServiceAsyncStub
    invoke: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    """Not the stub's, which would copy a payload twice."""
    http: HttpMessages | None
    """Messages go this way if they can."""


class NodeConnection:
    """A connection to one node; an async context manager that opens it.

    Attributes:
        address: HOST:PORT or unix:PATH.
        tls: what it trusts and proves itself with, None for a connection without TLS.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        http: bool = True,
        tls: ClientTls | None = None,
        token: str | None = None,
    ) -> None:
        """Set the address without connecting; raises `InvalidArgument` if it is invalid.

        Unless `http`, messages go by gRPC even if they could go by HTTP. With `tls`, or an address
        that begins with `https://`, the connection is encrypted and the node has to prove its name.
        Without `token` it is the one that the commands would use: of the environment, or kept by
        `plexspaces login`; "" brings none.
        """
        self.address, is_https = parts_of(address)
        self.tls = tls or (ClientTls() if is_https else None)
        check_tls(self.address, self.tls)
        # The credentials are looked for when the client is opened.
        self._way = partial(way_to, address, tls=tls, token=token)
        self._http = http
        self._opened: _Open | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {'open' if self._opened else 'closed'}>"

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise WrongState(f"the client of {self.address} is already open")
        way = self._way()
        self.tls = way.tls
        if way.tls is None:
            channel = grpc.aio.insecure_channel(way.target, options=client_options())
        else:
            credentials = grpc.ssl_channel_credentials(*way.tls.contents())
            channel = grpc.aio.secure_channel(way.target, credentials, options=client_options())
        if way.token:
            channel = cast(grpc.aio.Channel, _Authorized(channel, way.token))
        self._opened = _Open(
            channel,
            ApplicationServiceStub(channel),
            channel.unary_unary(f"/{SERVICE}/{METHOD}"),
            HttpMessages(way) if self._http else None,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection and end the calls in progress; idempotent."""
        opened, self._opened = self._opened, None
        if opened is not None:
            if opened.http is not None:
                opened.http.close()
            await opened.channel.close()

    @property
    def _open(self) -> _Open:
        if self._opened is None:
            raise WrongState(
                f"the client of {self.address} is not open",
                hint="use it in a block: async with NodeClient(address) as node",
            )
        return self._opened

    @property
    def _stub(self) -> ApplicationServiceAsyncStub:
        return self._open.stub

    async def _answer(self, call: Awaitable[_T]) -> _T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise await self._error_of(error) from error

    async def _stream(self, call: grpc.aio.UnaryStreamCall[_Q, _T]) -> AsyncGenerator[_T, None]:
        """Yield a node's messages; closing the generator ends the call."""
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise await self._error_of(error) from error
        finally:
            call.cancel()

    async def _error_of(self, error: grpc.aio.AioRpcError) -> PlexSpacesError | ActorError:
        told = from_grpc(error, address=self.address)
        said_so = any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())
        is_silent = error.code() is grpc.StatusCode.UNAVAILABLE and not said_so
        if not is_silent or self.address.startswith(UNIX):
            return told
        return await explain(self.address, self.tls) or told
