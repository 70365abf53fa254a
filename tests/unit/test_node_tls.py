"""The certificate of a node's doors: taken anew, what the log says of it, and clients' names."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from support.certificates import ended, of_client
from support.patience import patient

from plexspaces_node.address import split_address
from plexspaces_node.certificates import (
    Pair,
    client_name,
    make_authority,
    make_client_certificate,
    make_node_certificate,
)
from plexspaces_node.client import ClientTls
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.node.api.listen import bind, peer_certificate_name
from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.server import HttpServer
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.node.tls import NodeTls
from plexspaces_node.private_file import replace
from plexspaces_node.settings import DAY_S, TlsSection
from plexspaces_node.tasks import Leave


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make_authority("CA")


@pytest.fixture
def pair(authority: Pair) -> Pair:
    return make_node_certificate(authority, ["node.example", "*.node.example", "127.0.0.1", "::2"])


class Files:
    """A pair as two files."""

    def __init__(self, directory: Path, name: str, pair: Pair) -> None:
        self.certificate, self.key = directory / f"{name}.pem", directory / f"{name}-key.pem"
        self.put(pair)

    def put(self, pair: Pair) -> None:
        """Put another pair in place."""
        replace(self.key, pair.key)
        replace(self.certificate, pair.certificate)


@pytest.fixture
def files(tmp_path: Path, pair: Pair) -> Files:
    return Files(tmp_path, "node", pair)


class Lines(logging.Handler):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the log says, in a list that grows."""
    caplog.set_level(logging.INFO, logger="plexspaces_node.node.tls")
    handler, logger = Lines(), logging.getLogger("plexspaces_node.node.tls")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


def test_settings_when_there_is_no_certificate_then_no_tls(files: Files) -> None:
    """Both files make it; the names are for the HTTP door, without wildcards."""
    assert NodeTls.of(TlsSection()) is None
    tls = NodeTls.of(TlsSection(certificate=files.certificate, key=files.key))
    assert tls is not None
    assert (tls.hosts, tls.asks_clients) == (("node.example", "127.0.0.1", "[::2]"), False)


def test_files_when_unchanged_then_nothing_is_made_anew(files: Files, said: list[str]) -> None:
    """The same objects, with the sessions of clients in them."""
    tls = NodeTls(files.certificate, files.key)
    first = tls.current()
    assert tls.current() is first
    assert tls.context() is first.context
    assert said == []


def test_files_when_replaced_then_taken_once_they_fit(
    files: Files, authority: Pair, pair: Pair, said: list[str]
) -> None:
    """Missing, half written, cut off, open to others: each is said once, and the former stays."""
    tls = NodeTls(files.certificate, files.key)
    first, renewed = tls.current(), make_node_certificate(authority, ["node.example"])
    replace(files.certificate, renewed.certificate)
    assert tls.current() is tls.current() is first
    files.certificate.unlink()
    assert tls.current() is tls.current() is first
    replace(files.certificate, renewed.certificate[:100])
    assert tls.current() is first
    files.put(renewed)
    files.key.chmod(0o644)
    assert tls.current() is tls.current() is first
    assert [line.partition(": ")[0] for line in said] == [
        "the certificate before is kept, for the new one"
    ] * 4
    files.key.chmod(0o600)
    taken = tls.current()
    assert taken is tls.current() is not first
    assert said[4:] == [f"certificate renewed: node.example, valid until {taken.info.not_after}"]


def test_authorities_when_they_are_no_certificates_then_refused(
    files: Files, tmp_path: Path
) -> None:
    """A node that asks nobody by mistake would be open to everybody."""
    for text in (b"", b"hello"):
        (tmp_path / "ca.pem").write_bytes(text)
        with pytest.raises(InvalidArgument, match="is not a certificate in PEM"):
            NodeTls(files.certificate, files.key, tmp_path / "ca.pem")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        NodeTls(files.certificate, files.key, tmp_path / "none.pem")


@pytest.mark.virtual_time
async def test_certificate_when_it_ends_then_the_log_says_it_daily(
    files: Files, authority: Pair, pair: Pair, said: list[str]
) -> None:
    """At once, then each day, until it is renewed; a good one is not spoken of."""
    files.put(ended(pair, authority))
    tls = NodeTls(files.certificate, files.key)
    watching = asyncio.create_task(tls.watch())
    await asyncio.sleep(2.5 * DAY_S)
    assert len(said) == 3
    end = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    start = f"the node's certificate {files.certificate} has expired on {end}"
    assert all(line.startswith(start) for line in said)
    assert said[0].endswith("; renew it: plexspaces tls renew")
    files.put(pair)
    await asyncio.sleep(2 * DAY_S)
    assert [line.partition(":")[0] for line in said[3:]] == ["certificate renewed"]
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


class NameOf(grpc.GenericRpcHandler):
    """Answers every call with the name in the client's certificate."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            return peer_certificate_name(context).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
async def server() -> AsyncIterator[grpc.aio.Server]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((NameOf(),))
    yield server
    await server.stop(0)


@pytest.mark.parametrize("name", ["admin", "", None])
async def test_name_when_a_client_has_a_certificate_then_grpc_tells_it(
    files: Files, authority: Pair, tmp_path: Path, server: grpc.aio.Server, name: str | None
) -> None:
    """Of a client without one, or of a node that does not ask, there is none."""
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    client = ClientTls(tmp_path / "ca.pem")
    asked = tmp_path / "ca.pem" if name else None
    if name is not None:
        bundle = Files(tmp_path, "client", make_client_certificate(authority, name or "ci"))
        client = ClientTls(tmp_path / "ca.pem", bundle.certificate, bundle.key)
    tls = NodeTls(files.certificate, files.key, asked)
    address = bind(server, "127.0.0.1:0", tls.credentials())
    await server.start()
    credentials = grpc.ssl_channel_credentials(*client.contents())
    async with grpc.aio.secure_channel(address, credentials) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any/call")
        assert await call(b"") == (name or "").encode()


@pytest.mark.parametrize(
    "names", [("root\0.example",), ("\0root",), ("ci", "root"), ("root", "ci"), ()]
)
async def test_name_when_it_could_be_read_in_two_ways_then_there_is_none(
    files: Files,
    authority: Pair,
    tmp_path: Path,
    server: grpc.aio.Server,
    asking: tuple[str, HttpServer],
    names: tuple[str, ...],
) -> None:
    """By both doors: whoever may choose a part of a name is not who the other part is."""
    bundle = Files(tmp_path, "client", of_client(authority, *names))
    client = ClientTls(tmp_path / "ca.pem", bundle.certificate, bundle.key)
    tls = NodeTls(files.certificate, files.key, tmp_path / "ca.pem")
    address = bind(server, "127.0.0.1:0", tls.credentials())
    await server.start()
    credentials = grpc.ssl_channel_credentials(*client.contents())
    async with grpc.aio.secure_channel(address, credentials) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/any/call")
        assert await call(b"") == b""
    context = client.context()
    reader, writer = await asyncio.open_connection(*split_address(asking[0]), ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert b"\r\nx-certificate: \r\n" in await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


def test_name_when_it_is_no_certificate_then_there_is_none() -> None:
    """Never an error on the way of a call."""
    for text in (b"", b"x", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
        assert client_name(text) == ""


class Naming:
    """Answers every request with the name in the client's certificate."""

    def body_limit(self, request: Request) -> int:
        return 0

    def post(self, request: Request, done: Callable[[Response], None]) -> Leave | None:
        return None

    async def answer(self, request: Request) -> Response:
        return Response(200, [(b"x-certificate", request.certificate.encode())])

    def watch(self, request: Request, ended: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def refusal(self, request: Request, fault: HttpFault) -> Response:
        return Response(fault.status, [])


@pytest.fixture
async def asking(
    files: Files, authority: Pair, tmp_path: Path
) -> AsyncIterator[tuple[str, HttpServer]]:
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    tls = NodeTls(files.certificate, files.key, tmp_path / "ca.pem")
    server = HttpServer(Naming(), in_flight=InFlight(1 << 20), most_connections=8, tls=tls.context)
    address = await server.bind("127.0.0.1:0")
    await server.serve()
    yield address, server
    await server.drain(0)


async def connected(
    address: str, directory: Path, authority: Pair, name: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as the client of this name."""
    bundle = Files(directory, "client", make_client_certificate(authority, name))
    context = ClientTls(directory / "ca.pem", bundle.certificate, bundle.key).context()
    return await asyncio.open_connection(*split_address(address), ssl=context)


async def test_name_when_a_client_has_a_certificate_then_http_tells_it(
    asking: tuple[str, HttpServer], authority: Pair, tmp_path: Path
) -> None:
    """With each request of the connection."""
    reader, writer = await connected(asking[0], tmp_path, authority, "shop-ci")
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nx-certificate: shop-ci\r\n" in head
    writer.transport.abort()


async def test_connection_when_its_request_is_refused_then_the_answer_arrives(
    asking: tuple[str, HttpServer], authority: Pair, tmp_path: Path
) -> None:
    """TLS cannot close one half: the client is told that it is the last, and closes."""
    reader, writer = await connected(asking[0], tmp_path, authority, "ci")
    writer.write(b"NONSENSE\r\n\r\n" + b"x" * 100_000)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nconnection: close\r\n" in head
    writer.transport.abort()


async def test_server_when_it_drains_then_handshakes_and_idle_connections_end(
    asking: tuple[str, HttpServer], authority: Pair, tmp_path: Path
) -> None:
    """None of them is waited for, and nothing is accepted afterwards."""
    address, server = asking
    silent, silent_writer = await asyncio.open_connection(*split_address(address))
    idle, idle_writer = await connected(address, tmp_path, authority, "ci")
    async with asyncio.timeout(patient(5)):
        await server.drain(patient(4))
        for reader in (silent, idle):
            with suppress(ConnectionError):
                assert await reader.read() == b""
    assert repr(server) == "<HttpServer 0 connections>"
    for writer in (silent_writer, idle_writer):
        writer.close()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(*split_address(address))


@pytest.mark.parametrize("turns", range(6))
async def test_server_when_it_drains_while_a_client_connects_then_it_is_not_waited_for(
    asking: tuple[str, HttpServer], turns: int
) -> None:
    """However far it is: its handshake may be cancelled before it has begun."""
    address, server = asking
    with socket.create_connection(split_address(address)) as client:
        client.settimeout(patient(5))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(server.drain(0), patient(5))
        with suppress(ConnectionError):
            assert client.recv(1) == b""
    gc.collect()


async def test_server_when_there_are_too_many_handshakes_then_the_oldest_goes(
    asking: tuple[str, HttpServer], authority: Pair, tmp_path: Path
) -> None:
    """Silent connections take the room of nobody who has something to ask."""
    silent = [await asyncio.open_connection(*split_address(asking[0])) for _ in range(20)]
    reader, writer = await connected(asking[0], tmp_path, authority, "ci")
    writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert repr(asking[1]) == "<HttpServer 8 connections>"
    first, _ = silent[0]
    with suppress(ConnectionError):
        assert await first.read() == b""
    for each in (writer, *(one for _, one in silent)):
        each.transport.abort()
