"""Outgoing calls: who may call what, what goes over the wire, and every way in which it ends.

Servers are the other ends of socket pairs, names and addresses are the test's, and time passes only
where everything waits.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from socket import socketpair
from typing import Any

import pytest

from plexspaces_node.allowed_hosts import Address, AllowedHosts
from plexspaces_node.node.outgoing import outgoing as bounds
from plexspaces_node.node.outgoing.call import CallFailed, Code, Headers, Piece, Request
from plexspaces_node.node.outgoing.connector import ATTEMPT_S, CONNECT_S, RESOLVE_S, Stream
from plexspaces_node.node.outgoing.exchange import (
    HEAD_BYTES,
    MOST_INTERIM,
    PIECES_PER_TURN,
    SILENCE_S,
)
from plexspaces_node.node.outgoing.idle import IDLE_S, MOST_IDLE, IdleStreams
from plexspaces_node.node.outgoing.outgoing import CALL_S, RESPONSE_S, Outgoing, OutgoingHttp

pytestmark = pytest.mark.virtual_time

PUBLIC = "93.184.216.34"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answering(*answers: bytes) -> Handler:
    """Return a server that reads a head for each of its answers, then closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    return handle


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read everything and say nothing."""
    while await reader.read(1 << 16):
        pass


class Resolver:
    """Answers as a test says; an application's names are asked in order."""

    def __init__(self) -> None:
        self.names: dict[str, list[Sequence[str] | OSError]] = {}
        self.asked: list[str] = []

    async def resolve(self, name: str, share: asyncio.Semaphore) -> Sequence[Address]:
        self.asked.append(name)
        answers = self.names[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        if not answer:
            await asyncio.Event().wait()
        return [ip_address(text) for text in answer]


class World:
    """The network around one application.

    Attributes:
        servers: what answers at an address; an error is what connecting to it raises.
        opened: the addresses and ports that were connected to, and with TLS its name.
        lines: what was logged.
    """

    def __init__(self) -> None:
        self.resolver = Resolver()
        self.servers: dict[str, Handler | OSError | None] = {}
        self.opened: list[tuple[str, int, str | None]] = []
        self.lines: list[tuple[str, str]] = []
        self.streams: list[Stream] = []
        self.received = bytearray()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.http = OutgoingHttp(
            resolver=self.resolver,  # type: ignore[arg-type]
            open_stream=self.open,
            tls=self.tls,
        )
        self.serve("example.com", answering(OK))

    def serve(self, name: str, handler: Handler | OSError | None, *at: str) -> None:
        """Have a name lead to addresses, all of them this server's."""
        self.resolver.names[name] = [at or (PUBLIC,)]
        for address in at or (PUBLIC,):
            self.servers[address] = handler

    def outgoing(self, *allowed: str) -> Outgoing:
        """Return the calls of an application that may call these."""
        return Outgoing(
            self.http, AllowedHosts.parse(allowed), lambda *line: self.lines.append(line)
        )

    async def tls(self) -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def open(
        self, address: Address, port: int, tls: ssl.SSLContext | None, name: str
    ) -> Stream:
        self.opened.append((str(address), port, name if tls else None))
        handler = self.servers[str(address)]
        if handler is None:
            await asyncio.Event().wait()
        if isinstance(handler, OSError):
            raise handler
        assert handler is not None
        ours, theirs = socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs, limit=1 << 20)
        self._writers.append(writer)
        task = asyncio.create_task(self._handle(handler, reader, writer))
        self._tasks.add(task)
        stream = Stream(*await asyncio.open_connection(sock=ours, limit=1 << 16))
        self.streams.append(stream)
        return stream

    async def _handle(
        self, handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await handler(_Recording(reader, self.received), writer)  # type: ignore[arg-type]
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        self.http.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    def all_closed(self) -> bool:
        """Whether the node has no connection any more."""
        return all(stream.writer.transport.is_closing() for stream in self.streams)


class _Recording:
    """A reader that keeps what it reads."""

    def __init__(self, reader: asyncio.StreamReader, into: bytearray) -> None:
        self._reader = reader
        self._into = into

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._reader, name)

        async def read(*arguments: Any) -> bytes:
            data: bytes = await method(*arguments)
            self._into.extend(data)
            return data

        return read


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()
    assert made.all_closed()


def request(
    authority: str = "example.com",
    *,
    method: str = "GET",
    scheme: str = "http",
    path: str = "/",
    headers: Headers = (),
    length: int | None = 0,
    timeout_s: float = 0.0,
) -> Request:
    return Request(method, scheme, authority, path, headers, length, timeout_s)


async def pieces(*data: Piece) -> AsyncIterator[Piece]:
    for piece in data:
        yield piece


async def read(outgoing: Outgoing, asked: Request, *body: bytes) -> tuple[int, Headers, bytes]:
    """Make a call and return all of its response."""
    async with outgoing.call(asked, pieces(*body)) as response:
        data, whole = response.at_hand()
        while not whole and (more := await response.more()):
            data += more
        return response.status, response.headers, data


async def failure(outgoing: Outgoing, asked: Request, *body: bytes) -> CallFailed:
    """Make a call that fails, and return how."""
    with pytest.raises(CallFailed) as raised:
        await read(outgoing, asked, *body)
    return raised.value


# ---- what is allowed ------------------------------------------------------------------------


async def test_call_when_nothing_is_allowed_then_refused_before_anything_is_asked(
    world: World,
) -> None:
    """Not even the name is looked up, which would tell somebody something."""
    failed = await failure(world.outgoing(), request())
    assert failed.code == "http-request-denied"
    assert failed.hint == "plexspaces deploy --replace … --allow-host example.com:80"
    assert (world.resolver.asked, world.opened) == ([], [])
    ((level, line),) = world.lines
    assert level == "warn"
    assert line.startswith("HTTP GET http://example.com: 0 ms, http-request-denied: ")
    assert "--allow-host example.com:80" in line


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request("example.com:8080"), "example.com:8080 is not a host"),
        (request("other.com"), "other.com:80 is not a host"),
        (request("example.com.evil.org"), "is not a host"),
        (request("user:secret@example.com"), "user name"),
        (request("example.com@127.0.0.1"), "user name"),
        (request("example.com:0"), "port"),
        (request("127.0.0.1"), "127.0.0.1:80 is not a host"),
        (request("0x7f000001"), "IPv4 address"),
        (request("127.1"), "IPv4 address"),
        (request("[::1]"), "[::1]:80 is not a host"),
        (request("example.com/evil"), "path"),
        (request(""), "no name"),
        (request("exa\r\nmple.com"), "not valid"),
        (request(scheme="ftp"), "scheme"),
        (request(scheme="HTTP"), "scheme"),
        (request(method="CONNECT"), "CONNECT"),
        (request(method="connect"), "CONNECT"),
    ],
)
async def test_call_when_it_is_not_what_is_allowed_then_denied(
    world: World, asked: Request, why: str
) -> None:
    """However a host is written, only what was named is open."""
    failed = await failure(world.outgoing("example.com", "*.example.com"), asked)
    assert failed.code == "http-request-denied"
    assert why in failed.message
    assert world.opened == []
    assert "secret" not in str(world.lines)
    assert "\n" not in world.lines[0][1]


@pytest.mark.parametrize(
    ("addresses", "code"),
    [
        (["127.0.0.1"], "destination-ip-prohibited"),
        (["10.1.2.3"], "destination-ip-prohibited"),
        (["169.254.169.254"], "destination-ip-prohibited"),
        (["fd00:ec2::254"], "destination-ip-prohibited"),
        (["::ffff:10.0.0.1", "fe80::1"], "destination-ip-prohibited"),
        (["64:ff9b::7f00:1"], "destination-ip-prohibited"),
    ],
)
async def test_call_when_a_name_leads_near_then_prohibited(
    world: World, addresses: list[str], code: str
) -> None:
    """Whoever has the name does not decide what it opens."""
    world.serve("example.com", answering(OK), *addresses)
    failed = await failure(world.outgoing("example.com"), request())
    assert failed.code == code
    assert "not a public address" in failed.message
    assert "--allow-host" in failed.hint
    assert world.opened == []


async def test_call_when_one_of_the_addresses_is_public_then_only_that_is_used(
    world: World,
) -> None:
    """A name with two kinds of addresses does not lead near by a failure of the other."""
    world.resolver.names["example.com"] = [["10.0.0.1", PUBLIC]]
    world.servers[PUBLIC] = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    failed = await failure(world.outgoing("example.com"), request())
    assert failed.code == "connection-refused"
    assert world.opened == [(PUBLIC, 80, None)]


async def test_call_when_the_address_is_named_then_the_name_may_lead_there(world: World) -> None:
    """A host of one's own network is opened by naming both, at the port that is named."""
    world.serve("intranet", answering(OK), "10.0.0.5")
    outgoing = world.outgoing("intranet:80", "intranet:81", "10.0.0.5:80")
    assert (await read(outgoing, request("intranet")))[0] == 200
    failed = await failure(outgoing, request("intranet:81"))
    assert failed.code == "destination-ip-prohibited"
    assert failed.hint.endswith("--allow-host intranet:81 --allow-host 10.0.0.5:81")
    assert world.opened == [("10.0.0.5", 80, None)]


@pytest.mark.parametrize("authority", ["127.0.0.1:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080"])
async def test_call_when_an_address_is_named_then_it_is_called_without_a_lookup(
    world: World, authority: str
) -> None:
    """An address needs no name server."""
    world.servers = dict.fromkeys(("127.0.0.1", "::1"), answering(OK))
    outgoing = world.outgoing("127.0.0.1:8080", "[::1]:8080")
    assert (await read(outgoing, request(authority)))[0] == 200
    assert world.resolver.asked == []


async def test_name_when_it_changes_its_address_then_it_is_checked_each_time(
    world: World,
) -> None:
    """What was public a moment ago is connected to, or checked again: there is no second lookup."""
    world.resolver.names["example.com"] = [[PUBLIC], ["127.0.0.1"]]
    outgoing = world.outgoing("example.com")
    assert (await read(outgoing, request()))[0] == 200
    await asyncio.sleep(IDLE_S + 1)
    assert (await failure(outgoing, request())).code == "destination-ip-prohibited"
    assert world.resolver.asked == ["example.com"] * 2
    assert world.opened == [(PUBLIC, 80, None)]


async def test_redirect_when_answered_then_the_application_gets_it(world: World) -> None:
    """Nobody is led where a server says: the next request is checked as any other."""
    there = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9000/\r\nContent-Length: 0\r\n\r\n"
    world.serve("example.com", answering(there))
    outgoing = world.outgoing("example.com")
    status, headers, _ = await read(outgoing, request())
    assert status == 302
    assert (b"location", b"http://127.0.0.1:9000/") in headers
    assert len(world.opened) == 1
    assert (await failure(outgoing, request("127.0.0.1:9000"))).code == "http-request-denied"


# ---- what is sent and received --------------------------------------------------------------


async def test_call_when_made_then_the_head_is_what_the_application_means(world: World) -> None:
    """The node writes the host and how the body is framed; what is of a connection is left out."""
    headers = [
        (b"host", b"other.com"),
        (b"accept", b"*/*"),
        (b"connection", b"x-secret, close"),
        (b"x-secret", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"transfer-encoding", b"gzip"),
        (b"te", b"trailers"),
        (b"upgrade", b"websocket"),
        (b"proxy-authorization", b"Basic x"),
        (b"expect", b"100-continue"),
        (b"authorization", b"Bearer s3cret"),
    ]
    asked = request(path="/a%20b?c=d", headers=headers)
    assert await read(world.outgoing("example.com"), asked) == (
        200,
        [(b"content-length", b"2")],
        b"ok",
    )
    assert bytes(world.received).splitlines() == [
        b"GET /a%20b?c=d HTTP/1.1",
        b"Host: example.com" if b"Host:" in world.received else b"host: example.com",
        b"accept: */*",
        b"authorization: Bearer s3cret",
        b"",
    ]
    assert world.lines == [
        ("info", "HTTP GET http://example.com:80: 200, 0 bytes out, 2 bytes in, 0 ms")
    ]


async def test_call_when_by_https_then_tls_is_for_the_name(world: World) -> None:
    """The address is the checked one, the certificate is that of the name."""
    asked = request("EXAMPLE.com.:8443", scheme="https")
    assert (await read(world.outgoing("example.com:8443"), asked))[0] == 200
    assert world.opened == [(PUBLIC, 8443, "example.com")]
    assert b"ost: example.com:8443\r\n" in world.received


@pytest.mark.parametrize(
    ("method", "headers", "framing"),
    [
        ("POST", (), b"content-length: 5"),
        ("POST", [(b"content-length", b"5")], b"content-length: 5"),
        ("GET", (), b"content-length: 5"),
    ],
)
async def test_body_when_its_length_is_known_then_told(
    world: World, method: str, headers: Headers, framing: bytes
) -> None:
    """A short body is sent in one piece with its length."""
    world.serve("example.com", answering(OK))
    asked = request(method=method, headers=headers, length=5)
    await read(world.outgoing("example.com"), asked, b"he", b"llo")
    assert framing in world.received.lower()
    assert world.received.lower().count(b"content-length") == 1
    assert world.lines[0][1].endswith("200, 5 bytes out, 2 bytes in, 0 ms")


async def test_body_when_long_then_sent_in_chunks_while_the_response_comes(world: World) -> None:
    """Both directions are open at once: an echo needs no end of the request."""
    gate = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (line := await reader.readline()) != b"0\r\n":
            data = await reader.readexactly(int(line, 16))
            await reader.readline()
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        writer.write(b"0\r\nX-Trailer: 1\r\n\r\n")

    async def body() -> AsyncIterator[Piece]:
        yield memoryview(b"one")
        await gate.wait()
        yield bytearray(b"two")

    world.serve("example.com", echo)
    outgoing = world.outgoing("example.com")
    async with outgoing.call(request(method="POST", length=None), body()) as response:
        data, whole = response.at_hand()
        assert not whole
        while data != b"one":
            data += await response.more()
        gate.set()
        assert await response.more() == b"two"
        assert await response.more() == await response.more() == b""
        assert b"transfer-encoding" not in dict(response.headers)
    assert b"transfer-encoding: chunked" in world.received.lower()


async def test_body_when_it_is_not_as_long_as_told_then_it_fails(world: World) -> None:
    """No server takes the rest of one request for the beginning of another."""
    told = [(b"content-length", b"4")]
    outgoing = world.outgoing("example.com")
    failed = await failure(outgoing, request(method="POST", headers=told, length=5), b"hello")
    assert failed.code == "http-protocol-error"
    assert world.opened == []
    for body in ((b"he", b"llo"), (b"hel",)):
        world.serve("example.com", silent)
        failed = await failure(outgoing, request(method="POST", headers=told, length=None), *body)
        assert failed.code == "http-protocol-error"
    two = [*told, (b"content-length", b"5")]
    failed = await failure(outgoing, request(method="POST", headers=two, length=None), b"hello")
    assert failed.code == "http-protocol-error"


@pytest.mark.parametrize(
    "asked",
    [
        request(path="/a b"),
        request(path="/a\r\nx: y"),
        request(path="http://127.0.0.1/"),
        request(path="*"),
        request(method="GE T"),
        request(method=""),
        request(headers=[(b"a b", b"c")]),
        request(headers=[(b"a", b"b\r\nc: d")]),
        request(headers=[(b"a", b"b\0")]),
        request(path="/ü"),
    ],
)
async def test_request_when_it_is_not_http_then_nothing_is_sent(
    world: World, asked: Request
) -> None:
    """No line of an application becomes two on the wire."""
    failed = await failure(world.outgoing("example.com"), asked)
    assert failed.code == "http-protocol-error"
    assert world.received == b""


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"ok",
        ),
    ],
)
async def test_response_when_framed_in_any_way_then_it_is_whole(
    world: World, method: str, answer: bytes, body: bytes
) -> None:
    """What HTTP knows of bodies, an application need not."""
    world.serve("example.com", answering(answer))
    assert (await read(world.outgoing("example.com"), request(method=method)))[2] == body


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "connection-terminated"),
        (b"HTTP/1.1 200", "connection-terminated"),
        (b"nonsense\r\n\r\n", "http-protocol-error"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 2 * HEAD_BYTES, "http-protocol-error"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "http-protocol-error",
        ),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "http-protocol-error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "connection-terminated"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok", "connection-terminated"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "http-protocol-error"),
    ],
)
async def test_response_when_it_is_broken_then_it_fails_and_the_connection_is_closed(
    world: World, answer: bytes, code: str
) -> None:
    """Half a response never looks like a whole one."""
    world.serve("example.com", answering(answer))
    failed = await failure(world.outgoing("example.com"), request())
    assert failed.code == code
    assert world.all_closed()
    assert world.lines[0][0] == "warn"
    assert f", {code}: " in world.lines[0][1]


async def test_response_when_it_is_in_pieces_of_a_byte_then_others_have_their_turn(
    world: World,
) -> None:
    """A server cannot have the node parse for long without a pause, and its pieces are joined."""
    count = 10 * PIECES_PER_TURN
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    world.serve("example.com", answering(head + b"1\r\nx\r\n" * count + b"0\r\n\r\n"))
    turns, sizes = 0, []

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with world.outgoing("example.com").call(request(), pieces()) as response:
        data, whole = response.at_hand()
        assert (len(data), whole) == (PIECES_PER_TURN, False)
        task = asyncio.create_task(other())
        while data := await response.more():
            sizes.append(len(data))
        assert turns >= len(sizes) == 9
        task.cancel()
    assert sizes == [PIECES_PER_TURN] * 9


async def test_response_when_interim_ones_do_not_end_then_it_fails(world: World) -> None:
    """Each of them costs the node, and none the server."""
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    world.serve("example.com", answering(early * MOST_INTERIM + OK, early * 1000 + OK))
    outgoing = world.outgoing("example.com")
    assert (await read(outgoing, request()))[0] == 200
    assert (await failure(outgoing, request())).code == "http-protocol-error"


# ---- bounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "code", "within_s"),
    [
        ("resolving", "dns-timeout", RESOLVE_S),
        ("connecting", "connection-timeout", CONNECT_S),
        ("answering", "http-response-timeout", RESPONSE_S),
        ("answering, as asked", "http-response-timeout", 2.0),
        ("resolving, as asked", "http-response-timeout", 2.0),
        ("going on", "connection-read-timeout", SILENCE_S),
    ],
)
async def test_server_when_it_is_slow_then_the_call_ends_in_time(
    world: World, what: str, code: str, within_s: float
) -> None:
    """No call waits without a bound, and none leaves a connection."""

    async def begins(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok")
        await asyncio.Event().wait()

    world.serve("example.com", {"going on": begins, "connecting": None}.get(what, silent))
    if "resolving" in what:
        world.resolver.names["example.com"] = [()]
    loop = asyncio.get_running_loop()
    begin = loop.time()
    asked = request(timeout_s=2.0 if "as asked" in what else 0.0)
    failed = await failure(world.outgoing("example.com"), asked)
    assert failed.code == code
    assert loop.time() - begin == pytest.approx(within_s)
    assert world.all_closed()
    assert f"{within_s * 1000:.0f} ms, {code}" in world.lines[0][1]


async def test_upload_when_it_moves_then_its_time_begins_again(world: World) -> None:
    """A long upload is not too slow because it is long."""

    async def body() -> AsyncIterator[Piece]:
        for _ in range(5):
            await asyncio.sleep(RESPONSE_S - 1)
            yield b"piece"

    async def after_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(OK)

    world.serve("example.com", after_all)
    outgoing = world.outgoing("example.com")
    async with outgoing.call(request(method="POST", length=None), body()) as response:
        assert response.status == 200


async def test_call_when_it_goes_on_for_ever_then_it_ends(world: World) -> None:
    """A stream of events has an end too, however often something comes."""

    async def ticks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"tick")
            await asyncio.sleep(SILENCE_S - 1)

    world.serve("example.com", ticks)
    begin = asyncio.get_running_loop().time()
    failed = await failure(world.outgoing("example.com"), request())
    assert failed.code == "connection-read-timeout"
    assert asyncio.get_running_loop().time() - begin == pytest.approx(CALL_S)
    assert world.all_closed()


async def test_bodies_when_too_long_then_they_are_cut(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither direction is without a bound."""
    world.serve("example.com", answering(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001)))
    world.http = OutgoingHttp(
        resolver=world.resolver,  # type: ignore[arg-type]
        open_stream=world.open,
        request_bytes=10,
        response_bytes=1000,
    )
    outgoing = world.outgoing("example.com")
    assert (await failure(outgoing, request())).code == "http-response-body-size"
    world.serve("example.com", silent)
    failed = await failure(outgoing, request(method="POST", length=None), b"12345", b"678901")
    assert failed.code == "http-request-body-size"
    assert world.all_closed()


async def test_calls_when_the_node_has_many_then_one_more_fails(world: World) -> None:
    """Applications together cannot take all of a node's descriptors."""
    world.serve("example.com", silent)
    outgoing = world.outgoing("example.com")
    calls = [asyncio.create_task(read(outgoing, request())) for _ in range(bounds.MOST_CALLS)]
    await asyncio.sleep(1)
    assert (await failure(outgoing, request())).code == "connection-limit-reached"
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert world.all_closed()
    assert world.lines[-1][1].endswith("ended by the application")


# ---- connections ----------------------------------------------------------------------------


async def test_connection_when_the_next_request_comes_soon_then_used_again(world: World) -> None:
    """A second request to a host costs no handshake."""
    world.serve("example.com", answering(OK, OK, OK))
    outgoing = world.outgoing("example.com")
    for _ in range(3):
        assert (await read(outgoing, request(method="POST", length=1), b"x"))[0] == 200
    assert len(world.opened) == 1
    assert len(world.http.idle) == 1
    await asyncio.sleep(IDLE_S + 0.1)
    assert len(world.http.idle) == 0
    assert world.all_closed()


async def test_connection_when_it_is_of_another_application_or_scheme_then_not_used(
    world: World,
) -> None:
    """What one application was allowed, and has sent, is nobody else's."""
    world.serve("example.com", answering(OK, OK))
    for outgoing in (world.outgoing("example.com:443"), world.outgoing("example.com:443")):
        for scheme in ("http", "https"):
            await read(outgoing, request("example.com:443", scheme=scheme))
    assert len(world.opened) == 4
    outgoing.close()
    assert len(world.http.idle) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ],
    ids=["close", "HTTP/1.0", "more than the response"],
)
async def test_connection_when_it_is_not_clean_then_closed(world: World, answer: bytes) -> None:
    """No response is taken for the answer to another request."""
    world.serve("example.com", answering(answer, OK))
    outgoing = world.outgoing("example.com")
    for _ in range(2):
        assert (await read(outgoing, request()))[2] == b"ok"
    assert len(world.opened) == 2


@pytest.mark.parametrize(("method", "repeated"), [("GET", True), ("POST", False)])
async def test_connection_when_its_server_closed_it_just_then_then_only_what_may_is_repeated(
    world: World, method: str, repeated: bool
) -> None:
    """The server closes when it sees the second request: nobody knows whether it was done."""

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")

    world.serve("example.com", closes)
    outgoing = world.outgoing("example.com")
    await read(outgoing, request())
    if repeated:
        assert (await read(outgoing, request(method=method)))[0] == 200
        assert len(world.opened) == 2
    else:
        assert (await failure(outgoing, request(method=method))).code == "connection-terminated"
        assert len(world.opened) == 1


async def test_idle_when_there_are_many_then_the_oldest_is_closed() -> None:
    """Connections that wait are bounded for the node."""
    idle, streams = IdleStreams(most=2), []
    for number in range(3):
        ours, theirs = socketpair()
        theirs.close()
        stream = Stream(*await asyncio.open_connection(sock=ours))
        idle.put("owner", number, stream)  # type: ignore[arg-type]
        streams.append(stream)
    assert [stream.writer.transport.is_closing() for stream in streams] == [True, False, False]
    assert MOST_IDLE > 2
    idle.close()
    await asyncio.sleep(0)


async def test_addresses_when_the_first_does_not_answer_then_the_next_is_tried(
    world: World,
) -> None:
    """One broken way does not make a host unreachable, nor wait for the whole time."""
    world.serve("example.com", answering(OK))
    world.resolver.names["example.com"] = [["2606::1", "2606::2", PUBLIC]]
    world.servers["2606::1"] = None
    world.servers["2606::2"] = OSError(errno.ENETUNREACH, "Network is unreachable")
    begin = asyncio.get_running_loop().time()
    assert (await read(world.outgoing("example.com"), request()))[0] == 200
    assert asyncio.get_running_loop().time() - begin == pytest.approx(ATTEMPT_S)
    assert [address for address, *_ in world.opened] == ["2606::1", "2606::2", PUBLIC]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "connection-refused", "refused"),
        (OSError(errno.EMFILE, "too many"), "connection-limit-reached", "descriptor"),
        (ssl.SSLCertVerificationError("bad"), "tls-certificate-error", "certificate"),
        (ssl.SSLError("bad"), "tls-protocol-error", "no TLS"),
    ],
)
async def test_server_when_it_cannot_be_reached_then_the_code_tells_why(
    world: World, error: OSError, code: str, said: str
) -> None:
    """An application can tell a wrong certificate from a closed port."""
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = "self-signed certificate"
    elif isinstance(error, ssl.SSLError):
        error.reason = "WRONG_VERSION_NUMBER"
    world.serve("example.com", error)
    failed = await failure(world.outgoing("example.com"), request(scheme="https"))
    assert failed.code == code
    assert said in failed.message


async def test_name_when_it_does_not_exist_then_dns_error(world: World) -> None:
    """A typing error is told apart from a server that is down."""
    world.resolver.names["example.com"] = [OSError(-2, "Name or service not known")]
    failed = await failure(world.outgoing("example.com"), request())
    assert (failed.code, "Name or service not known" in failed.message) == ("dns-error", True)


async def test_call_when_cancelled_then_everything_is_closed_and_logged(world: World) -> None:
    """An application that leaves ends the work."""
    world.serve("example.com", silent)
    outgoing = world.outgoing("example.com")

    async def body() -> AsyncIterator[Piece]:
        yield b"piece"
        await asyncio.Event().wait()

    @asynccontextmanager
    async def calling() -> AsyncIterator[None]:
        async with outgoing.call(request(method="POST", length=None), body()):
            yield

    task = asyncio.create_task(calling().__aenter__())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.all_closed()
    ((level, line),) = world.lines
    assert level == "warn"
    assert line == (
        "HTTP POST http://example.com:80: 5 bytes out, 0 bytes in, 1000 ms, "
        "ended by the application"
    )


class Allowed:
    """An allowance of so many bytes that are free, each further one costs a millisecond."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.calls = 0
        self.refusal: CallFailed | None = None

    def begin_call(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.calls += 1

    def end_call(self) -> None:
        self.calls -= 1

    def spend(self, count: int) -> float:
        self.free -= count
        return max(0, -self.free) / 1000


async def test_bodies_when_over_the_allowance_then_they_pause_and_are_whole(world: World) -> None:
    """Both directions pay for their bytes, and the call counts until it ends."""
    allowance = Allowed(free=0)

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b"r" * 20)

    world.serve("example.com", respond)
    outgoing = Outgoing(
        world.http,
        AllowedHosts.parse(["example.com"]),
        lambda *line: world.lines.append(line),
        allowance=allowance,
    )
    async with outgoing.call(request(method="POST", length=None), pieces(b"s" * 10)) as response:
        assert allowance.calls == 1
        body, whole = response.at_hand()
        while not whole and (more := await response.more()):
            body += more
    assert body == b"r" * 20
    assert allowance.free == -30
    assert allowance.calls == 0


async def test_calls_when_they_wait_for_their_allowance_then_others_have_room(
    world: World,
) -> None:
    """What one tenant has to pay for does not keep the node's calls from another."""
    world.serve("example.com", answering(OK))
    poor = Outgoing(
        world.http,
        AllowedHosts.parse(["example.com"]),
        lambda *line: None,
        allowance=Allowed(free=-1_000_000),
    )
    waiting = [asyncio.create_task(read(poor, request())) for _ in range(bounds.MOST_CALLS)]
    await asyncio.sleep(1)
    assert (await read(world.outgoing("example.com"), request()))[0] == 200
    for call in waiting:
        call.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_call_when_the_allowance_refuses_then_nothing_is_sent(world: World) -> None:
    """The application is told why."""
    allowance = Allowed(free=0)
    allowance.refusal = CallFailed(Code.CONNECTION_LIMIT_REACHED, "one too many")
    outgoing = Outgoing(
        world.http, AllowedHosts.parse(["example.com"]), lambda *line: None, allowance=allowance
    )
    with pytest.raises(CallFailed, match="one too many"):
        async with outgoing.call(request(), pieces()):
            pass
    assert world.opened == []
