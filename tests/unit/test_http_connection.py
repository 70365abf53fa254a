"""A connection of an HTTP client over a transport that is none, with a handler that waits."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from support.patience import patient

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.applications.task_scope import TaskScope
from plexspaces_node.node.http.connection import IDLE_S, LINGER_S, PIPELINED, Connection
from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.http.problem import HttpFault, of_error
from plexspaces_node.node.http.reader import BODY_S, HEAD_S, SLICE_BYTES
from plexspaces_node.node.http.server import HttpServer
from plexspaces_node.node.http.writer import STALL_S
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.tasks import Leave

POST = b"POST /x HTTP/1.1\r\nhost: a\r\n"
GET = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n"


class Transport:
    """Keeps what is written; its client reads when told."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = self.is_paused = False
        self.connection: Connection

    def get_extra_info(self, name: str) -> None:
        del name

    def write(self, data: bytes) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.written += b"<eof>"

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    abort = close


class Waiting:
    """A handler whose requests wait until they are let go, in a scope if there is one."""

    def __init__(self, reply: bytes = b"reply") -> None:
        self.scope: TaskScope | None = None
        self.reply = reply
        self.asked: list[Request] = []
        self.cancelled = 0
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()

    def body_limit(self, request: Request) -> int:
        del request
        return 1 << 20

    def post(self, request: Request, done: Callable[[Response], None]) -> Leave | None:
        del request, done
        return None

    async def answer(self, request: Request) -> Response:
        self.asked.append(request)
        self.begun.set()
        try:
            if self.scope is not None and len(self.asked) == 1:
                async with self.scope.cancellable():
                    await self.gate.wait()
            else:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except Unavailable as error:
            return of_error(error)
        return Response(200, [], self.reply)

    def watch(self, request: Request, ended: Callable[[], None]) -> Callable[[], None]:
        """Nobody's token ends."""
        return lambda: None

    def refusal(self, request: Request, fault: HttpFault) -> Response:
        del request
        return fault.response


class Held:
    """A server with one connection."""

    def __init__(self, reply: bytes = b"reply", *, handler: Waiting | None = None) -> None:
        self.handler = handler or Waiting(reply)
        self.in_flight = InFlight(1 << 20)
        self.server = HttpServer(self.handler, in_flight=self.in_flight, most_connections=8)
        self.transport = Transport()
        self.connection = self.transport.connection = Connection(self.server)
        transport: Any = self.transport
        self.connection.connection_made(transport)

    async def asked(self, count: int) -> None:
        """Wait until the handler has so many requests."""
        async with asyncio.timeout(30):
            while len(self.handler.asked) < count:
                self.handler.begun.clear()
                await self.handler.begun.wait()


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    held = Held()
    yield held
    await held.server.drain(0)


async def test_client_that_closes_its_side_has_left(held: Held) -> None:
    """What it asked for is cancelled, once, and what was in line is not begun."""
    held.connection.data_received(GET * 3)
    await held.asked(1)
    held.connection.eof_received()
    await held.server.drain(60)
    assert (held.handler.cancelled, len(held.handler.asked)) == (1, 1)
    assert (held.transport.written, held.transport.is_closed) == (b"", True)


async def test_body_is_held_no_longer_than_it_is_answered(held: Held) -> None:
    """A connection that stays, or waits to be collected, holds none."""
    held.connection.data_received(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
    await held.asked(1)
    assert held.handler.asked[0].body == b"abc"
    held.handler.gate.set()
    async with asyncio.timeout(30):
        while not held.transport.written:
            await asyncio.sleep(0)
    assert held.handler.asked[0].body == b""


async def test_shutdown_waits_for_one_request_and_not_for_its_connection(held: Held) -> None:
    """The one behind it would otherwise hold up the node for as long as it lasts."""
    held.handler.scope = scope = TaskScope()
    held.connection.data_received(GET * 2)
    await held.asked(1)
    await asyncio.wait_for(scope.close(), 30)
    await held.asked(2)
    assert held.transport.written.startswith(b"HTTP/1.1 503 ")
    assert held.handler.cancelled == 0


async def test_shutdown_does_not_wait_for_a_client_that_reads_nothing(held: Held) -> None:
    """The reply is written by a task of its own."""
    held.handler.scope = scope = TaskScope()
    held.connection.pause_writing()
    held.connection.data_received(GET)
    await held.asked(1)
    await asyncio.wait_for(scope.close(), 30)
    held.connection.resume_writing()
    await held.server.drain(60)
    assert held.transport.written.startswith(b"HTTP/1.1 503 ")


async def test_drain_lets_a_reply_finish_and_leaves_the_rest(held: Held) -> None:
    """It says that it is the last one."""
    held.connection.data_received(GET * 3)
    await held.asked(1)
    draining = asyncio.create_task(held.server.drain(60))
    await asyncio.sleep(0)
    held.handler.gate.set()
    await draining
    assert len(held.handler.asked) == 1
    assert held.transport.written.count(b"HTTP/1.1 200 ") == 1
    assert b"connection: close" in held.transport.written


async def test_drain_ends_what_does_not_finish(held: Held) -> None:
    """And returns when its task has ended."""
    held.connection.data_received(GET)
    await held.asked(1)
    await held.server.drain(0)
    assert (held.handler.cancelled, held.transport.is_closed) == (1, True)


async def test_reply_counts_until_it_is_written() -> None:
    """A client that does not read holds memory of the node; when it leaves it does not."""
    held = Held(reply=b"x" * (1 << 19))
    held.connection.pause_writing()
    held.handler.gate.set()
    held.connection.data_received(GET)
    async with asyncio.timeout(30):
        while not held.in_flight.bytes:
            await asyncio.sleep(0)
    assert held.in_flight.bytes == 1 << 19
    held.transport.close()
    await held.server.drain(60)
    assert held.in_flight.bytes == 0


@pytest.mark.parametrize(
    ("sent", "late_s", "said"),
    [
        (b"GET /x HTTP/1.1\r\nho", HEAD_S, b"The head of the request did not come in time"),
        (POST + b"content-length: 9\r\n\r\nslow", BODY_S, b"The body of the request"),
        (POST + b"transfer-encoding: chunked\r\n\r\n9\r\nsl", BODY_S, b"The body of the request"),
    ],
    ids=["head", "body", "chunk"],
)
async def test_slow_sender_is_told_and_let_go(
    held: Held, sent: bytes, late_s: float, said: bytes
) -> None:
    """It has its time, is told when that is over, and may read that; what it sends is dropped."""
    now_s = held.server.loop.time()
    held.connection.data_received(sent)
    held.connection.expire(now_s + late_s - 1)
    assert held.transport.written == b""
    held.connection.expire(now_s + late_s + 1)
    assert held.transport.written.startswith(b"HTTP/1.1 408 ")
    assert said in held.transport.written
    assert held.transport.written.endswith(b"<eof>")
    held.connection.data_received(b"more" * 1000)
    assert held.handler.asked == []
    assert not held.transport.is_closed
    held.connection.expire(held.server.loop.time() + LINGER_S + 1)
    assert held.transport.is_closed


async def test_head_that_trickles_gets_no_more_time(held: Held) -> None:
    """A byte now and then, as slowloris sends, does not keep a connection."""
    now_s = held.server.loop.time()
    for byte in GET[:-2]:
        held.connection.data_received(bytes([byte]))
        held.connection.expire(now_s + 1)
    held.connection.expire(now_s + HEAD_S + 1)
    assert held.transport.written.startswith(b"HTTP/1.1 408 ")
    held.connection.abort()


async def test_slow_sender_behind_a_request_waits_for_its_reply(held: Held) -> None:
    """The one before it is answered first, and then it is told."""
    now_s = held.server.loop.time()
    held.connection.data_received(GET + b"GET /y HT")
    await held.asked(1)
    held.connection.expire(now_s + HEAD_S + 1)
    assert held.transport.written == b""
    held.handler.gate.set()
    async with asyncio.timeout(30):
        while b"<eof>" not in held.transport.written:
            await asyncio.sleep(0)
    assert re.findall(rb"HTTP/1.1 (\d+)", held.transport.written) == [b"200", b"408"]
    held.connection.abort()


async def test_slow_reader_is_let_go() -> None:
    """Who takes nothing of a long reply for 30 s holds it no longer; who takes some may go on."""
    held = Held(reply=b"x" * (1 << 19))
    held.handler.gate.set()
    held.connection.pause_writing()
    held.connection.data_received(GET)
    async with asyncio.timeout(30):
        while not held.in_flight.bytes:
            await asyncio.sleep(0)
    now_s = held.server.loop.time()
    held.connection.expire(now_s + STALL_S - 1)
    assert not held.transport.is_closed
    held.connection.resume_writing()
    held.connection.pause_writing()
    held.connection.expire(held.server.loop.time() + STALL_S - 1)
    assert not held.transport.is_closed
    held.connection.expire(held.server.loop.time() + STALL_S + 1)
    assert held.transport.is_closed
    await held.server.drain(60)
    assert held.in_flight.bytes == 0


async def test_bytes_that_begin_no_request_keep_no_connection(held: Held) -> None:
    """It is as idle as before, and ended at the same time."""
    idle_until_s = held.server.loop.time() + IDLE_S
    held.connection.data_received(b"\r\n")
    held.connection.expire(idle_until_s + 1)
    assert held.transport.is_closed


async def test_few_more_requests_than_may_wait_are_made_of_a_read(held: Held) -> None:
    """The rest stays bytes until there is room, and all are answered."""
    held.connection.data_received(GET * 5000)
    assert held.transport.is_paused
    waiting = int(repr(held.connection).split()[-3])
    assert PIPELINED <= waiting <= PIPELINED + SLICE_BYTES // len(GET)
    held.handler.gate.set()
    await held.asked(5000)
    assert not held.transport.is_paused


async def test_client_of_http_1_0_that_keeps_its_connection_is_told(held: Held) -> None:
    """Without the header it would wait for the end of the connection."""
    held.handler.gate.set()
    held.connection.data_received(b"GET /x HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
    async with asyncio.timeout(30):
        while not held.transport.written:
            await asyncio.sleep(0)
    assert b"connection: keep-alive" in held.transport.written


async def test_refused_head_request_gets_no_body(held: Held) -> None:
    """As any HEAD."""
    held.connection.data_received(b"HEAD /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
    assert held.transport.written.startswith(b"HTTP/1.1 400 ")
    assert held.transport.written.endswith(b"\r\n\r\n<eof>")
    held.connection.abort()


async def pieces(*them: bytes) -> AsyncIterator[bytes]:
    for each in them:
        yield each


class Posting(Waiting):
    """A handler whose requests are all messages.

    Attributes:
        waiting: what is called with the response to each request that still waits.
        left: how many were left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[Response], None]] = []
        self.left = 0

    def post(self, request: Request, done: Callable[[Response], None]) -> Leave:
        self.asked.append(request)
        self.waiting.append(done)

        def leave() -> None:
            if done in self.waiting:
                self.waiting.remove(done)
            self.left += 1

        return leave

    def respond(self, response: Response) -> None:
        """Answer the oldest request."""
        self.waiting.pop(0)(response)


@pytest.fixture
async def posting() -> AsyncIterator[tuple[Held, Posting]]:
    handler = Posting()
    held = Held(handler=handler)
    yield held, handler
    await held.server.drain(0)


async def test_messages_are_answered_in_order_without_a_task(
    posting: tuple[Held, Posting],
) -> None:
    """One after the other, each in the step in which its reply comes."""
    held, handler = posting
    before = asyncio.all_tasks()
    held.connection.data_received(GET * 3)
    for number in range(3):
        assert len(handler.asked) == number + 1
        handler.respond(Response(200, [], b"<%d>" % number))
    assert held.transport.written.count(b"HTTP/1.1 200 ") == 3
    assert [held.transport.written.index(b"<%d>" % number) for number in range(3)] == sorted(
        held.transport.written.index(b"<%d>" % number) for number in range(3)
    )
    assert asyncio.all_tasks() == before


async def test_client_that_leaves_takes_its_message_with_it(
    posting: tuple[Held, Posting],
) -> None:
    """Once, and what was in line is not begun; the connection is gone at once."""
    held, handler = posting
    held.connection.data_received(GET * 3)
    held.connection.eof_received()
    await held.server.drain(60)
    assert (handler.left, handler.waiting, len(handler.asked)) == (1, [], 1)
    assert (held.transport.written, held.transport.is_closed) == (b"", True)


async def test_stream_that_answers_a_request_is_sent_by_a_task(
    posting: tuple[Held, Posting],
) -> None:
    """And the next request waits for its end."""
    held, handler = posting
    held.connection.data_received(GET * 2)
    handler.respond(Response(200, [], pieces(b"one", b"two"), length=6))
    async with asyncio.timeout(30):
        while len(handler.asked) < 2:
            await asyncio.sleep(0)
    assert held.transport.written.endswith(b"\r\n\r\nonetwo")
    assert handler.left == 0


async def test_client_that_leaves_before_a_stream_has_begun_ends_it(
    posting: tuple[Held, Posting],
) -> None:
    """Its task never runs, so nobody else would."""
    held, handler = posting
    held.connection.data_received(GET)
    handler.respond(Response(200, [], pieces(b"one")))
    held.transport.is_closed = True
    held.connection.connection_lost(None)
    await held.server.drain(60)
    assert (handler.left, held.transport.written) == (1, b"")


async def test_drain_lets_a_message_finish(posting: tuple[Held, Posting]) -> None:
    """Its reply says that it is the last one."""
    held, handler = posting
    held.connection.data_received(GET * 2)
    draining = asyncio.create_task(held.server.drain(60))
    await asyncio.sleep(0)
    handler.respond(Response(200, [], b"reply"))
    await draining
    assert len(handler.asked) == 1
    assert b"connection: close" in held.transport.written


async def test_long_reply_to_a_message_is_written_by_a_task(
    posting: tuple[Held, Posting],
) -> None:
    """It counts until the client has read it, and the next request waits for that."""
    held, handler = posting
    held.connection.pause_writing()
    held.connection.data_received(GET * 2)
    handler.respond(Response(200, [], b"x" * (1 << 19)))
    await asyncio.sleep(0)
    assert (held.in_flight.bytes, len(handler.asked)) == (1 << 19, 1)
    held.connection.resume_writing()
    async with asyncio.timeout(30):
        while len(handler.asked) < 2:
            await asyncio.sleep(0)
    assert held.in_flight.bytes == 0


async def test_reply_that_cannot_be_written_ends_its_connection_alone(
    posting: tuple[Held, Posting], caplog: pytest.LogCaptureFixture
) -> None:
    """A defect here must not reach the link that the reply came by."""
    held, handler = posting
    held.connection.data_received(GET)
    not_bytes: Any = "x-header"
    handler.respond(Response(200, [(not_bytes, b"")], b""))
    assert held.transport.is_closed
    assert [record.message for record in caplog.records] == ["internal error in an HTTP connection"]


async def test_client_that_leaves_while_nothing_is_read_is_noticed() -> None:
    """Too many of its requests wait, so nobody would see the end of what it sends."""
    handler = Waiting()
    server = HttpServer(handler, in_flight=InFlight(1 << 20), most_connections=8)
    host, _, port = (await server.bind("127.0.0.1:0")).rpartition(":")
    await server.serve()
    try:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(GET * (PIPELINED + 1))
        await handler.begun.wait()
        [connection] = server._connections
        connection.expire(0)
        assert not handler.cancelled
        writer.close()
        async with asyncio.timeout(20):
            while not handler.cancelled:
                connection.expire(0)
                await asyncio.sleep(0)
    finally:
        await server.drain(0)


@pytest.mark.parametrize("turns", range(6))
async def test_client_that_connects_while_the_server_stops_is_left_by_it(turns: int) -> None:
    """However far it is: accepting takes some turns of the event loop.

    What is left open warns when it is collected, which fails this.
    """
    server = HttpServer(Waiting(), in_flight=InFlight(1 << 20), most_connections=8)
    host, _, port = (await server.bind("127.0.0.1:0")).rpartition(":")
    await server.serve()
    with socket.create_connection((host, int(port))) as client:
        client.settimeout(patient(5))
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.drain(0)
        # At once: nothing is left for the event loop to do.
        with suppress(ConnectionError):
            assert client.recv(1) == b""
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((host, int(port)))
    gc.collect()


class Short(Waiting):
    """Answers with a body that is shorter than it says."""

    async def answer(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"abc"

        self.asked.append(request)
        return Response(200, [], pieces(), length=5)


async def test_body_of_another_length_ends_its_connection_and_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A component could fill the node's log with them."""
    held = Held(handler=Short())
    held.connection.data_received(GET)
    async with asyncio.timeout(30):
        while not held.transport.is_closed:
            await asyncio.sleep(0)
    assert held.transport.written.endswith(b"abc")
    assert not caplog.records
    await held.server.drain(0)


async def test_every_request_is_in_the_access_log(
    posting: tuple[Held, Posting], caplog: pytest.LogCaptureFixture
) -> None:
    """With its status, or 499 where its client has left."""
    held, handler = posting
    held.server.access_log = True
    with caplog.at_level(logging.INFO, logger="plexspaces_node.access"):
        held.connection.data_received(GET * 2)
        handler.respond(Response(200, [], b"reply"))
        await held.server.drain(0)
    statuses = [record.message.split(",")[0].split()[-1] for record in caplog.records]
    assert statuses == ["200", "499"]
