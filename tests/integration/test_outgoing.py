"""Outgoing calls to real servers on this computer: addresses, names, TLS, and much data.

By the node's own parts, without an application.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.patience import patient

from plexspaces_node.allowed_hosts import AllowedHosts
from plexspaces_node.model import MIB
from plexspaces_node.node.outgoing.call import CallFailed, Piece, Request
from plexspaces_node.node.outgoing.outgoing import Outgoing, OutgoingHttp

LONG = 64 * MIB


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request: with its own body, or with a redirect, or with much."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"GET /away"):
                writer.write(b"HTTP/1.1 307 Away\r\nLocation: http://localhost/\r\n")
                writer.write(b"Content-Length: 0\r\n\r\n")
            elif head.startswith(b"POST"):
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await _echo(reader, writer)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        line = await reader.readuntil(b"\r\n")
        data = await reader.readexactly(int(line, 16) + 2)
        writer.write(line + data)
        await writer.drain()
        if line == b"0\r\n":
            return


@asynccontextmanager
async def server(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a free port, and return that."""
    served = await asyncio.start_server(serve_one, host, 0, ssl=tls, limit=1 << 20)
    try:
        yield served.sockets[0].getsockname()[1]
    finally:
        served.close()


class Node:
    """The outgoing HTTP of a node, of which each application is allowed something else."""

    def __init__(self, trusted: Path | None = None) -> None:
        self._trusted = trusted
        self.http = OutgoingHttp(tls=self._tls) if trusted else OutgoingHttp()
        self.lines: list[str] = []

    async def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._trusted)

    async def get(self, url: str, *allowed: str) -> tuple[int, bytes]:
        """Return status and body."""
        scheme, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        outgoing = Outgoing(self.http, AllowedHosts.parse(allowed), self._log)
        async with (
            asyncio.timeout(patient(30)),
            outgoing.call(Request("GET", scheme, authority, f"/{path}", ()), pieces()) as response,
        ):
            data, whole = response.at_hand()
            while not whole and (more := await response.more()):
                data += more
            return response.status, data

    async def failure(self, url: str, *allowed: str) -> str:
        """Return the code of the failure."""
        with pytest.raises(CallFailed) as raised:
            await self.get(url, *allowed)
        return raised.value.code

    def _log(self, level: str, line: str) -> None:
        self.lines.append(f"{level} {line}")


async def pieces(*data: Piece) -> AsyncIterator[Piece]:
    for piece in data:
        yield piece


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield made
    made.http.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_server_of_this_computer_when_its_address_is_named_then_reached(
    node: Node, host: str
) -> None:
    """An address that somebody names is open, and only at its port."""
    shown = f"[{host}]" if ":" in host else host
    try:
        async with server(host) as port:
            assert await node.get(f"http://{shown}:{port}/", f"{shown}:{port}") == (200, b"hello")
            other = await node.failure(f"http://{shown}:{port}/", f"{shown}:{port + 1}")
            assert other == "http-request-denied"
            node.http.close()
            await asyncio.sleep(0)
    except OSError:
        if host == "127.0.0.1":
            raise
        pytest.skip("this host has no IPv6")
    assert node.lines[0].startswith(f"info HTTP GET http://{shown}:{port}: 200, 0 bytes out, 5")


async def test_server_of_this_computer_when_only_a_name_is_allowed_then_prohibited(
    node: Node,
) -> None:
    """Localhost is a name like any other: where it leads counts."""
    async with server() as port:
        url = f"http://localhost:{port}/"
        assert await node.failure(url, f"localhost:{port}") == "destination-ip-prohibited"
        both = (f"localhost:{port}", f"127.0.0.1:{port}")
        assert await node.get(url, *both) == (200, b"hello")
        assert (await node.get(f"{url}away", *both))[0] == 307
        node.http.close()
        await asyncio.sleep(0)


async def test_port_when_nobody_listens_then_refused(node: Node, free_port: int) -> None:
    """An application learns it at once."""
    where = f"127.0.0.1:{free_port}"
    assert await node.failure(f"http://{where}/", where) == "connection-refused"


@pytest.fixture
def free_port() -> int:
    served = asyncio.new_event_loop()
    try:
        probe = served.run_until_complete(asyncio.start_server(serve_one, "127.0.0.1", 0))
        port: int = probe.sockets[0].getsockname()[1]
        probe.close()
        served.run_until_complete(probe.wait_closed())
        return port
    finally:
        served.close()


async def test_body_when_long_then_it_comes_back_whole_in_little_memory(node: Node) -> None:
    """Both directions at once, neither faster than the other end reads."""
    ahead, most_ahead = 0, 0

    async def body() -> AsyncIterator[Piece]:
        nonlocal ahead, most_ahead
        for _ in range(LONG // (256 * 1024)):
            ahead += 256 * 1024
            most_ahead = max(most_ahead, ahead)
            yield memoryview(bytes(256 * 1024))

    async with server() as port:
        where = f"127.0.0.1:{port}"
        outgoing = Outgoing(node.http, AllowedHosts.parse([where]), lambda *line: None)
        asked = Request("POST", "http", where, "/", (), None)
        async with asyncio.timeout(patient(60)), outgoing.call(asked, body()) as response:
            data, whole = response.at_hand()
            received = len(data)
            ahead -= len(data)
            while not whole and (more := await response.more()):
                received += len(more)
                ahead -= len(more)
        assert received == LONG
        # Besides what the kernel's buffers of four ends hold.
        assert most_ahead < LONG // 2
        node.http.close()
        await asyncio.sleep(0)


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """What makes the certificate and key of a name or an address."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")

    def make(subject: str) -> tuple[Path, Path]:
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=test", "-addext", f"subjectAltName={subject}"),
                *("-keyout", str(key), "-out", str(cert)),
            ],
            check=True,
            capture_output=True,
        )
        return cert, key

    return make


@pytest.mark.parametrize(
    ("subject", "host", "trusts", "outcome"),
    [
        ("DNS:localhost", "localhost", True, "hello"),
        ("IP:127.0.0.1", "127.0.0.1", True, "hello"),
        ("DNS:localhost", "127.0.0.1", True, "tls-certificate-error"),
        ("DNS:example.com", "localhost", True, "tls-certificate-error"),
        ("DNS:localhost", "localhost", False, "tls-certificate-error"),
    ],
)
async def test_https_when_the_certificate_is_checked_then_for_the_name(
    certificate: Callable[[str], tuple[Path, Path]],
    subject: str,
    host: str,
    trusts: bool,
    outcome: str,
) -> None:
    """Who is at the checked address proves to be the one who was asked for."""
    cert, key = certificate(subject)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    node = Node(cert if trusts else None)
    async with server(tls=context) as port:
        url, allowed = f"https://{host}:{port}/", (f"{host}:{port}", f"127.0.0.1:{port}")
        if outcome == "hello":
            assert await node.get(url, *allowed) == (200, b"hello")
        else:
            assert await node.failure(url, *allowed) == outcome
        node.http.close()
        await asyncio.sleep(0)


async def test_https_when_the_server_speaks_none_then_tls_error(node: Node) -> None:
    """A plain server at the port of a secure one is told apart from a wrong certificate."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    served = await asyncio.start_server(plain, "127.0.0.1", 0)
    where = f"127.0.0.1:{served.sockets[0].getsockname()[1]}"
    assert await node.failure(f"https://{where}/", where) == "tls-protocol-error"
    served.close()
