"""TLS between nodes by itself: what arrives, in which pieces, and how a connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.node.cluster.peer_tls import PeerTls
from plexspaces_node.node.cluster.short_tls import ShortTls, TlsTransport, connected

MANY = bytes(range(256)) * 1024
"""More than one record of TLS, and than one read."""


class Above(asyncio.Protocol):
    """What is above TLS; keeps what it hears."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.pieces = 0
        self.is_ended = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()
        self.pause_after: int | None = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data
        self.pieces += 1
        self.received += data
        if self.pieces == self.pause_after:
            self.transport.pause_reading()
        self.changed.set()

    def eof_received(self) -> None:
        self.is_ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self.changed.set()

    async def until(self, size: int) -> bytes:
        """Wait for so many bytes."""
        while len(self.received) < size:
            assert not self.lost.done()
            self.changed.clear()
            await self.changed.wait()
        return bytes(self.received)


class Server:
    """Listens, with the certificate of the node `b`."""

    def __init__(self, token: ClusterToken) -> None:
        self.token = token
        self.address = ("", 0)
        self.accepted: asyncio.Queue[Above] = asyncio.Queue()
        self.failed: asyncio.Queue[OSError] = asyncio.Queue()

    def accept(self, _transport: TlsTransport) -> Above:
        above = Above()
        self.accepted.put_nowait(above)
        return above

    async def connect(self, hostname: str = "b", token: ClusterToken | None = None) -> Above:
        """Connect as the node `a`."""
        context = self.tls("a", token).calling
        return await connected(context, self.address, hostname, Above)

    def tls(self, node: str, token: ClusterToken | None = None) -> PeerTls:
        """Return the certificate of a node."""
        return PeerTls((token or self.token).authority("shop"), node, ["127.0.0.1"])

    async def pair(self) -> tuple[Above, Above]:
        """Return both ends of a connection: who called, and who was called."""
        calling = await self.connect()
        return calling, await self.accepted.get()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server, which has no connection in the end that its client has closed."""
    server = Server(ClusterToken.new())
    context = server.tls("b").serving
    made = await asyncio.get_running_loop().create_server(
        lambda: ShortTls(context, server.accept, failed=server.failed.put_nowait), "127.0.0.1", 0
    )
    server.address = made.sockets[0].getsockname()
    async with asyncio.timeout(30), made:
        yield server


async def test_bytes_when_they_are_many_records_then_whole_both_ways(server: Server) -> None:
    """A record has 16 KiB; what is written before the other side has read is kept."""
    calling, called = await server.pair()
    calling.transport.writelines([MANY, b"", MANY[:7]])
    assert await called.until(len(MANY) + 7) == MANY + MANY[:7]
    called.transport.write(memoryview(MANY))
    assert await calling.until(len(MANY)) == MANY
    assert called.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    calling.transport.abort()
    await called.lost


async def test_pause_when_it_is_within_what_has_come_then_nothing_more_until_resumed(
    server: Server,
) -> None:
    """Records that have come with the one that made it pause are kept."""
    calling, called = await server.pair()
    called.pause_after = 1
    calling.transport.write(MANY)
    await called.until(1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert called.pieces == 1
    called.pause_after = 3
    called.transport.resume_reading()
    while called.pieces < 3:
        called.changed.clear()
        await called.changed.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert called.pieces == 3
    called.pause_after = None
    called.transport.resume_reading()
    assert await called.until(len(MANY)) == MANY
    calling.transport.abort()
    await called.lost


async def test_close_when_something_was_written_then_it_arrives_before_the_end(
    server: Server,
) -> None:
    """And nothing that is written later."""
    calling, called = await server.pair()
    calling.transport.write(MANY)
    calling.transport.close()
    assert calling.transport.is_closing()
    calling.transport.write(b"late")
    await called.lost
    assert called.received == MANY
    await calling.lost


async def test_connection_when_it_ends_without_a_word_then_the_protocol_above_hears_it(
    server: Server,
) -> None:
    """A network ends connections in the middle of a record."""
    calling, called = await server.pair()
    below = calling.transport._below
    below.write(b"\x17\x03\x03\x01\x00half of a record")
    below.close()
    await called.lost
    assert called.received == b""


async def test_bytes_when_they_are_no_records_then_the_connection_is_closed(
    server: Server,
) -> None:
    """Nothing of them reaches the protocol above."""
    calling, called = await server.pair()
    calling.transport._below.write(b"GET / HTTP/1.1\r\n\r\n")
    await called.lost
    assert called.received == b""
    await calling.lost


@pytest.mark.parametrize("case", ["of another node", "of another cluster"])
async def test_connect_when_it_is_not_that_node_then_refused(server: Server, case: str) -> None:
    """By whom it connects to, or by the node itself."""
    is_known = case == "of another node"
    connecting = server.connect("c" if is_known else "b", None if is_known else ClusterToken.new())
    with pytest.raises(OSError, match="certificate"):
        await connecting
    assert isinstance(await server.failed.get(), OSError)


async def test_handshake_when_the_client_says_nothing_then_ended(server: Server) -> None:
    """Whoever connects has only so long."""
    failed: asyncio.Queue[OSError] = asyncio.Queue()
    context = server.tls("b").serving
    made = await asyncio.get_running_loop().create_server(
        lambda: ShortTls(context, server.accept, handshake_s=0.01, failed=failed.put_nowait),
        *("127.0.0.1", 0),
    )
    async with made:
        reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
        assert await reader.read() == b""
        assert isinstance(await failed.get(), TimeoutError)
        writer.close()


async def test_connect_when_it_is_cancelled_then_nothing_is_left(server: Server) -> None:
    """The other side hears that it was closed."""
    silent: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    made = await asyncio.start_server(lambda *streams: silent.put_nowait(streams), "127.0.0.1", 0)
    async with made:
        address = made.sockets[0].getsockname()
        connecting = asyncio.create_task(connected(server.tls("a").calling, address, "b", Above))
        reader, writer = await silent.get()
        await reader.readexactly(1)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await reader.read()
        writer.close()
