"""The connection to a node: its address, whether it is open, and gRPC's failures as our errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import grpc

from plexspaces_node.address import DEFAULT_ADDRESS
from plexspaces_node.api.generated.application_pb2_grpc import ApplicationServiceStub
from plexspaces_node.api.invoke import METHOD, SERVICE
from plexspaces_node.api.options import client_options
from plexspaces_node.api.status import from_grpc
from plexspaces_node.client.address import check_address
from plexspaces_node.client.http_messages import HttpMessages
from plexspaces_node.errors import WrongState

if TYPE_CHECKING:
    # The stubs' type files have this class, but not the generated code.
    from plexspaces_node.api.generated.application_pb2_grpc import ApplicationServiceAsyncStub

_Q = TypeVar("_Q")
_T = TypeVar("_T")


class _Open(NamedTuple):
    """The parts of an open connection."""

    channel: grpc.aio.Channel
    stub: ApplicationServiceAsyncStub
    invoke: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    """Not the stub's, which would copy a payload twice."""
    http: HttpMessages | None
    """Messages go this way if they can."""


class NodeConnection:
    """A connection to one node; an async context manager that opens it."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, http: bool = True) -> None:
        """Set the address without connecting; raises `InvalidArgument` if it is invalid.

        Unless `http`, messages go by gRPC even if they could go by HTTP.
        """
        self.address = check_address(address)
        self._http = http
        self._opened: _Open | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {'open' if self._opened else 'closed'}>"

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise WrongState(f"the client of {self.address} is already open")
        channel = grpc.aio.insecure_channel(self.address, options=client_options())
        self._opened = _Open(
            channel,
            ApplicationServiceStub(channel),
            channel.unary_unary(f"/{SERVICE}/{METHOD}"),
            HttpMessages(self.address) if self._http else None,
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
            raise from_grpc(error, address=self.address) from error

    async def _stream(self, call: grpc.aio.UnaryStreamCall[_Q, _T]) -> AsyncGenerator[_T, None]:
        """Yield a node's messages; closing the generator ends the call."""
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error, address=self.address) from error
        finally:
            call.cancel()
