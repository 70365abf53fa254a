"""Between gRPC and the services: what cannot be read, what is too much, and how errors are told."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from support.patience import patient

from plexspaces_node.api.generated.application_pb2 import StopVmRequest
from plexspaces_node.api.options import client_options, server_options
from plexspaces_node.api.status import from_grpc
from plexspaces_node.errors import PlexSpacesError, ResourceExhausted, Unavailable
from plexspaces_node.node.access.audit import Event
from plexspaces_node.node.access.gate import Gate, Grants, NoGrants
from plexspaces_node.node.access.identity import Identity, Kind, Scope
from plexspaces_node.node.access.policy import Rule
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.node.api.boundary import SHORT_BYTES, Boundary

SERVICE = "grpc.test.Echo"
"""Of gRPC itself by its name: its methods get the context, which one of them writes to."""
UNREADABLE = b"\x0a\xff"
REQUEST = StopVmRequest(vm_id="x").SerializeToString()


class Echo:
    """Answers with the id it was sent, in every form of a call."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.handled = 0
        self.error: Exception | None = None

    async def one(self, request: StopVmRequest, context: Any) -> bytes:
        if self.error is not None:
            raise self.error
        self.handled += 1
        return request.vm_id.encode()

    async def wait(self, request: StopVmRequest, context: Any) -> bytes:
        self.arrived.set()
        await self.go_on.wait()
        return await self.one(request, context)

    async def stream(self, request: StopVmRequest, context: Any) -> AsyncIterator[bytes]:
        yield request.vm_id.encode()

    async def writes(self, request: StopVmRequest, context: Any) -> None:
        await context.write(request.vm_id.encode())

    async def joined(self, requests: AsyncIterator[StopVmRequest], context: Any) -> bytes:
        return b"".join([request.vm_id.encode() async for request in requests])

    async def each(
        self, requests: AsyncIterator[StopVmRequest], context: Any
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.vm_id.encode()


def handlers(echo: Echo) -> dict[str, Any]:
    read = StopVmRequest.FromString
    return {
        "one": grpc.unary_unary_rpc_method_handler(echo.one, request_deserializer=read),
        "wait": grpc.unary_unary_rpc_method_handler(echo.wait, request_deserializer=read),
        "stream": grpc.unary_stream_rpc_method_handler(echo.stream, request_deserializer=read),
        "writes": grpc.unary_stream_rpc_method_handler(echo.writes, request_deserializer=read),
        "joined": grpc.stream_unary_rpc_method_handler(echo.joined, request_deserializer=read),
        "each": grpc.stream_stream_rpc_method_handler(echo.each, request_deserializer=read),
    }


@asynccontextmanager
async def served(
    echo: Echo,
    *,
    calls: int = 100,
    connections: int = 100,
    grants: Grants | None = None,
    refused_after_s: float = 0.0,
) -> AsyncIterator[str]:
    options = server_options(calls=calls, connections=connections)
    server = grpc.aio.server(options=options)
    recorder = Recorder(list[Event]().append)
    rule = Rule(None if grants is None or isinstance(grants, _Named) else frozenset(Scope))
    gate = Gate(grants or NoGrants(), recorder, defaultdict(lambda: rule))
    if refused_after_s:
        gate.pace = cast(Any, SimpleNamespace(next_s=lambda: refused_after_s))
    Boundary(server, gate, most_calls=calls).add_registered_method_handlers(SERVICE, handlers(echo))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture
def echo() -> Echo:
    return Echo()


def channel_to(address: str) -> Any:
    return grpc.aio.insecure_channel(address, options=client_options())


async def call(channel: Any, method: str, *requests: bytes) -> list[bytes]:
    path, sent = f"/{SERVICE}/{method}", iter(requests)
    match method:
        case "one" | "wait":
            return [await channel.unary_unary(path)(requests[0])]
        case "stream" | "writes":
            return [reply async for reply in channel.unary_stream(path)(requests[0])]
        case "joined":
            return [await channel.stream_unary(path)(sent)]
        case _:
            return [reply async for reply in channel.stream_stream(path)(sent)]


async def refused(answer: Awaitable[Any]) -> PlexSpacesError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    error = from_grpc(caught.value, address="127.0.0.1:9000")
    assert isinstance(error, PlexSpacesError)
    return error


@pytest.mark.parametrize("method", ["one", "stream", "writes", "joined", "each"])
async def test_request_when_it_cannot_be_read_then_its_sender_alone_hears_of_it(
    echo: Echo, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever sends rubbish is told so, and fills nobody's log."""
    with caplog.at_level(logging.DEBUG):
        async with served(echo) as address, channel_to(address) as channel:
            assert await call(channel, method, REQUEST) == [b"x"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, method, UNREADABLE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request cannot be read" in (caught.value.details() or "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("method", ["joined", "each"])
async def test_stream_when_a_later_part_cannot_be_read_then_it_ends_in_the_same_words(
    echo: Echo, method: str
) -> None:
    """Every part of a stream is read in the same way."""
    async with served(echo) as address, channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="the request cannot be read"):
            await call(channel, method, REQUEST, UNREADABLE)


async def test_calls_when_as_many_are_handled_as_may_be_then_the_next_is_told(echo: Echo) -> None:
    """An overload says so, names the bound, and is over once a call has ended."""
    async with served(echo, calls=1) as address, channel_to(address) as channel:
        waiting = asyncio.create_task(call(channel, "wait", REQUEST))
        await echo.arrived.wait()
        for method in ("one", "stream"):
            error = await refused(call(channel, method, REQUEST))
            assert isinstance(error, ResourceExhausted)
            assert "[limits] calls" in (error.hint or "")
        assert echo.handled == 0
        echo.go_on.set()
        assert await waiting == [b"x"]
        assert await call(channel, "one", REQUEST) == [b"x"]


class _Named(NoGrants):
    """Grants in which the name of a tenant is a token of it."""

    def exist(self) -> bool:
        return True

    def by_token(self, token: bytes) -> Identity:
        return Identity(Kind.TOKEN, "ci", frozenset(), token.decode())


async def test_calls_when_a_tenant_makes_very_many_then_others_still_can(echo: Echo) -> None:
    """Over however many connections: half of those that the node handles are left."""

    def begin(channel: Any, tenant: str) -> Any:
        metadata = (("authorization", f"Bearer {tenant}"),)
        return channel.unary_unary(f"/{SERVICE}/wait")(REQUEST, metadata=metadata)

    options = [*client_options(), ("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(served(echo, calls=8, grants=_Named()))
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for _ in range(3)
        ]
        calls = {
            asyncio.create_task(refused(begin(channel, "shop")))
            for channel in channels
            for _ in range(4)
        }
        told = set[asyncio.Task[PlexSpacesError]]()
        while len(told) < 8:
            done, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            told |= done
        assert all("tenant 'shop'" in task.result().message for task in told)
        echo.arrived.clear()
        theirs = asyncio.ensure_future(begin(channels[0], "rival"))
        await echo.arrived.wait()
        echo.go_on.set()
        assert await theirs == b"x"
        assert len(calls) == 4
        # They were answered, which is what these tasks do not expect.
        await asyncio.gather(*calls, return_exceptions=True)


class _NoOne(NoGrants):
    """Grants of which nobody here has one."""

    def exist(self) -> bool:
        return True


async def test_refusals_when_many_then_nobody_waits_with_a_long_request(echo: Echo) -> None:
    """Strangers would fill the memory with what they sent while they wait to be refused."""
    async with (
        served(echo, grants=_NoOne(), refused_after_s=3600) as address,
        channel_to(address) as channel,
        channel_to(address) as other,
        asyncio.timeout(patient(20)),
    ):
        short = asyncio.create_task(call(channel, "one", REQUEST))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(other, "one", b"\xff" * (SHORT_BYTES + 1))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert not short.done()
        short.cancel()


async def test_method_when_nobody_has_written_it_then_it_is_no_defect(
    echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    """The generated classes have each method of their service, and say so; the log has nothing."""
    echo.error = NotImplementedError("Method not implemented!")
    async with served(echo) as address, channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "one", REQUEST)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_calls_when_thousands_come_on_one_connection_then_each_is_handled_or_told(
    echo: Echo,
) -> None:
    """An overload is always said to be one, whether the node or gRPC turns a call away."""
    told = []

    async def one(channel: Any) -> None:
        try:
            await call(channel, "wait", REQUEST)
        except grpc.aio.AioRpcError as error:
            told.append(from_grpc(error, address="127.0.0.1:9000"))
            # So that those that wait at the client see what becomes of them.
            echo.go_on.set()

    async with served(echo, calls=100) as address, channel_to(address) as channel:
        await asyncio.gather(*(one(channel) for _ in range(3000)))
    assert told
    assert {type(error) for error in told} == {ResourceExhausted}
    assert echo.handled + len(told) == 3000


async def test_error_when_caused_by_a_lack_of_descriptors_then_it_says_so(echo: Echo) -> None:
    """Whatever it kept from being done, an operator is told what to give the node more of."""
    echo.error = Unavailable("disk error")
    echo.error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    async with served(echo) as address, channel_to(address) as channel:
        error = await refused(call(channel, "one", REQUEST))
    assert isinstance(error, ResourceExhausted)
    assert "has used all of its" in error.message
    assert "LimitNOFILE" in (error.hint or "")


async def test_error_when_it_is_a_defect_then_the_log_has_it(
    echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody expected is the node's fault, and is logged with its traceback."""
    echo.error = ZeroDivisionError("oops")
    async with served(echo) as address, channel_to(address) as channel:
        error = await refused(call(channel, "one", REQUEST))
    assert "internal error: ZeroDivisionError('oops')" in error.message
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_connections_when_as_many_are_open_as_may_be_then_the_next_is_closed(
    echo: Echo,
) -> None:
    """Descriptors are kept for the node; who is turned away is told the likely reason."""
    async with served(echo, connections=1) as address, channel_to(address) as first:
        assert await call(first, "one", REQUEST) == [b"x"]
        async with channel_to(address) as second:
            error = await refused(call(second, "one", REQUEST))
        assert await call(first, "one", REQUEST) == [b"x"]
    assert isinstance(error, Unavailable)
    assert "closes connections at once" in error.message


@pytest.mark.parametrize(
    ("option", "milliseconds"),
    [
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 90_000),
        ("grpc.keepalive_time_ms", 60_000),
    ],
)
def test_options_when_a_connection_says_nothing_then_it_has_an_end(
    option: str, milliseconds: int
) -> None:
    """One that is not used does not hold a descriptor for ever."""
    assert dict(server_options())[option] == milliseconds


def test_options_when_a_client_is_idle_then_it_lets_go_before_its_node_does() -> None:
    """A client whose node ends its connection is told on stderr, which nobody wants to read."""
    server, client = dict(server_options()), dict(client_options())
    assert client["grpc.client_idle_timeout_ms"] < server["grpc.max_connection_idle_ms"]


def test_log_when_a_client_left_while_it_was_answered_then_grpc_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever hangs up fills nobody's log; a defect is still told."""
    Boundary(cast(Any, None), Gate(NoGrants(), Recorder(list[Event]().append)), most_calls=1)

    class ExecuteBatchError(Exception):
        pass

    log = logging.getLogger("grpc._cython.cygrpc")
    for error in (ExecuteBatchError("execute_batch"), ZeroDivisionError("oops")):
        log.error("raised in core", exc_info=error)
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [
        ZeroDivisionError
    ]
