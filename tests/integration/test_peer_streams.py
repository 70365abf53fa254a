"""Bodies over a hop, and another node that does not do what a node does: the test is that node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.actors import http_component
from support.cluster_view import FakeView
from support.peering import joined, peering_of
from support.raw_http import Caller, callers
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.model import MIB
from plexspaces_node.node.cluster.peer_connection import PeerConnection
from plexspaces_node.node.cluster.peer_tls import PeerTls
from plexspaces_node.node.node import Node

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
MUCH = 32 * MIB
"""More than all buffers between the client and the other node together."""
PIECE = bytes(64 * 1024)

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Other:
    """The node c, which answers each request as a test says.

    Attributes:
        answer: called when the head of a request has come; afterwards the connection is closed.
    """

    def __init__(self) -> None:
        self.answer: Answer
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await self.answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            # What was written is sent.
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
async def node(data_dir: Path, view: FakeView) -> AsyncIterator[Node]:
    """The node a, which is left without connections and tasks in the end."""
    data_dir.mkdir()
    token = ClusterToken.new()
    async with joined(data_dir, "a", view, token) as node:
        node_tls = PeerTls(token.authority("shop"), "c", ["127.0.0.1"])
        view.tls = node_tls  # type: ignore[attr-defined]
        yield node
    peering = peering_of(node)
    assert peering.peers.connections == 0
    assert peering.nodes.in_flight.bytes == 0
    assert peering.routes._in_flight == {}
    assert_nothing_left(data_dir / "a")


@pytest.fixture
async def other(node: Node, view: FakeView) -> AsyncIterator[Other]:
    """The node c, that has the component `up` and the actor `echo`."""
    del node
    other = Other()
    tls: PeerTls = view.tls  # type: ignore[attr-defined]
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0, ssl=tls.serving)
    async with server:
        host, port = server.sockets[0].getsockname()
        view.add_node("c", http=f"{host}:{port}", grpc="127.0.0.1:1")
        view.place("up", "c", kind="http-component")
        view.place("echo", "c")
        async with asyncio.timeout(60):
            yield other


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Caller]:
    """A connection to the HTTP port of the node a."""
    async with callers(node.http_address) as connect:
        yield await connect()


def connection_of(node: Node) -> PeerConnection:
    """Return the only connection to the node c."""
    (connection,) = peering_of(node).peers._peers["c"].all
    return connection


async def until(said: Callable[[], object]) -> None:
    """Let others go on until something is so."""
    while not said():
        await asyncio.sleep(0)


async def send_much(writer: asyncio.StreamWriter) -> None:
    """Send a long body in chunks, no faster than it is taken."""
    for _ in range(MUCH // len(PIECE)):
        writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def read_much(reader: asyncio.StreamReader) -> int:
    """Read a body in chunks, and return how long it was."""
    size = 0
    while piece := int(await reader.readline(), 16):
        size += len(await reader.readexactly(piece))
        await reader.readline()
    await reader.readline()
    return size


async def test_upload_when_the_other_node_does_not_read_then_neither_is_the_client_read(
    node: Node, other: Other, client: Caller
) -> None:
    """The whole body would fill the memory of the node in between."""
    reads = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reads.wait()
        size = await read_much(reader)
        writer.write(OK + b"content-length: 8\r\n\r\n%08d" % size)
        await writer.drain()

    other.answer = answer
    client.writer.write(b"POST /apps/up/x HTTP/1.1\r\nhost: localhost\r\n" + CHUNKED)
    sending = asyncio.create_task(send_much(client.writer))
    await until(lambda: peering_of(node).peers.connections)
    await until(lambda: connection_of(node)._drained is not None)
    assert not sending.done()
    reads.set()
    assert int((await client.answer()).body) == MUCH
    await sending


async def test_download_when_the_client_does_not_read_then_neither_is_the_other_node(
    node: Node, other: Other, client: Caller
) -> None:
    """And all of it comes once the client reads."""
    sent = asyncio.Event()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + CHUNKED)
        await send_much(writer)
        sent.set()

    other.answer = answer
    client.writer.write(b"GET /apps/up/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await client.reader.readuntil(b"\r\n\r\n")
    await until(lambda: connection_of(node)._is_paused)
    assert not sent.is_set()
    assert await read_much(client.reader) == MUCH
    await sent.wait()


@pytest.mark.parametrize("way", ["upload", "download"])
async def test_client_when_it_leaves_in_the_middle_then_the_other_node_knows(
    way: str, other: Other, client: Caller, node: Node
) -> None:
    """What it does for the client is ended by that."""
    begun, gone = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if way == "upload":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        else:
            writer.write(OK + CHUNKED + b"5\r\nhello\r\n")
        begun.set()
        try:
            while await reader.read(1024):
                pass
        except ConnectionError:
            pass
        gone.set()

    other.answer = answer
    head = b"POST /apps/up/x HTTP/1.1\r\nhost: localhost\r\n"
    client.writer.write(head + (CHUNKED if way == "upload" else b"content-length: 0\r\n\r\n"))
    await begun.wait()
    if way == "download":
        await client.reader.readuntil(b"hello\r\n")
    client.writer.transport.abort()
    await gone.wait()
    await until(lambda: not peering_of(node).peers.connections)


async def test_other_node_when_it_dies_in_a_long_response_then_the_client_sees_it_end(
    other: Other, client: Caller
) -> None:
    """Not as if it were whole."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + CHUNKED + b"5\r\nhello\r\n")
        await writer.drain()

    other.answer = answer
    client.writer.write(b"GET /apps/up/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
    told = await client.reader.read()
    assert told.startswith(b"HTTP/1.1 200")
    assert b"hello" in told
    assert not told.endswith(b"0\r\n\r\n")


BROKEN = {
    "nothing": b"",
    "half a head": OK + b"content-ty",
    "half a body": OK + b"content-length: 9\r\n\r\nhello",
    "garbage": bytes(range(256)),
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a huge head": OK + b"x: " + b"a" * MIB,
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("path", ["/apps/echo/e", "/apps/up/x"])
async def test_other_node_when_it_answers_nonsense_then_unavailable_and_not_sent_again(
    path: str, said: bytes, other: Other, client: Caller
) -> None:
    """Whether it was handled is not known; the client's connection stays."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    other.answer = answer
    told = await client.send("POST", path, b"payload")
    assert told.status == 503
    assert told.json["code"] == "unavailable"
    assert len(other.heads) == 1
    assert (await client.send("GET", "/v1/node")).status == 200


async def test_message_when_passed_on_then_what_is_for_nodes_is_not_the_clients(
    other: Other, client: Caller
) -> None:
    """Neither can a client say it to the other node, nor is it told what that says of the hop."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            OK + b"plexspaces-caller: {}\r\nkeep-alive: 5\r\ndate: then\r\nretry-after: 7\r\n"
            b"content-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
        )
        await writer.drain()

    other.answer = answer
    forged = {"plexspaces_caller": "{}", "plexspaces_sender": "x/y", "plexspaces_hop": "2"}
    told = await client.send("POST", "/apps/echo/e", b"payload", **forged)
    assert (told.status, told.body) == (200, b"hello")
    assert told.headers["retry-after"] == "7"
    assert not {"plexspaces-caller", "keep-alive"} & set(told.headers)
    assert told.headers["date"] != "then"
    head = other.heads[0]
    assert head.count(b"plexspaces-caller") == head.count(b"plexspaces-hop: 1") == 1
    assert b"plexspaces-sender" not in head


@pytest.mark.parametrize("body", [b"", b"x" * 100, b"x" * 100_000], ids=len)
async def test_request_when_its_component_comes_here_meanwhile_then_served_here(
    body: bytes, node: Node, view: FakeView, client: Caller, tmp_path: Path
) -> None:
    """It had waited for a node that serves it; nothing of its body was read."""
    view.place("hello", "c", state="Ready", kind="http-component")
    waiting = asyncio.create_task(client.send("POST", "/apps/hello/x", body))
    await until(lambda: peering_of(node).routes._waiting)
    wasm = tmp_path / "hello.wasm"
    wasm.write_bytes(http_component())
    async with asyncio.timeout(60), NodeClient(node.address) as beside:
        await beside.deploy("hello", wasm)
        view.place("hello", "a", kind="http-component")
        told = await waiting
    assert (told.status, told.body) == (200, b"hello")
