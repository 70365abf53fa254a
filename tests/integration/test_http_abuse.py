"""Clients that abuse the HTTP port: requests to smuggle another in, odd paths, many connections."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.nodes import builder
from support.patience import patient
from support.raw_http import Caller
from support.traces import assert_nothing_left

from plexspaces_node.model import MIB
from plexspaces_node.node.api.descriptors import for_connections, most_allowed, raise_limit
from plexspaces_node.node.http.reader import HEAD_BYTES
from plexspaces_node.node.node import Node

_POST = b"POST /apps/echo/e HTTP/1.1\r\nhost: localhost\r\n"
_CHUNKED = _POST + b"transfer-encoding: chunked\r\n\r\n"
_SMUGGLED = _POST + b"content-length: 8\r\n\r\nSMUGGLED"


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with build.with_setting("limits.message_bytes", 4 * MIB).build() as node:
        yield node
    assert_nothing_left(data_dir)


# Each could be read as two requests by one reader and as one by another, or is no request at all.
MALFORMED = {
    "lengths": _POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nx",
    "same-length-twice": _POST + b"content-length: 1\r\ncontent-length: 1\r\n\r\nx",
    "length-list": _POST + b"content-length: 1, 1\r\n\r\nx",
    "length-negative": _POST + b"content-length: -1\r\n\r\n",
    "length-plus": _POST + b"content-length: +1\r\n\r\nx",
    "length-hex": _POST + b"content-length: 0x1\r\n\r\nx",
    "length-exponent": _POST + b"content-length: 1e3\r\n\r\n",
    "length-underscore": _POST + b"content-length: 1_0\r\n\r\nx",
    "length-empty": _POST + b"content-length:\r\n\r\n",
    "length-spaces": _POST + b"content-length: 1 1\r\n\r\nx",
    "length-overflow": _POST + b"content-length: 18446744073709551617\r\n\r\nx",
    "length-and-chunks": _POST
    + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks-and-length": _POST
    + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "length-and-identity": _POST + b"transfer-encoding: identity\r\ncontent-length: 1\r\n\r\nx",
    "length-in-trailers": _CHUNKED + b"1\r\nx\r\n0\r\ncontent-length: 5\r\n\r\n",
    "coding-then-identity": _POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "coding-twice": _POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "codings": _POST
    + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "coding-empty": _POST + b"transfer-encoding:\r\n\r\n0\r\n\r\n",
    "coding-vertical-tab": _POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding-space-colon": _POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "coding-folded": _POST + b"x: y\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-after-line-feed": _POST + b"x: y\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-after-return": _POST + b"x: y\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-http-1.0": _CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
    "line-feeds": _POST.replace(b"\r\n", b"\n") + b"content-length: 1\n\nx",
    "folded": _POST + b" folded: x\r\n\r\n",
    "space-before-colon": b"POST /apps/echo/e HTTP/1.1\r\nhost : localhost\r\n\r\n",
    "no-colon": _POST + b"abc\r\n\r\n",
    "no-name": _POST + b": abc\r\n\r\n",
    "nul-in-value": _POST + b"x: a\0b\r\n\r\n",
    "nul-in-name": _POST + b"x\0: a\r\n\r\n",
    "nul-in-target": b"POST /apps/echo/e\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "control-in-value": _POST + b"x: a\x01b\r\n\r\n",
    "two-hosts": _POST + b"host: other\r\n\r\n",
    "no-host": b"POST /apps/echo/e HTTP/1.1\r\n\r\n",
    "chunk-negative": _CHUNKED + b"-1\r\nx\r\n0\r\n\r\n",
    "chunk-0x": _CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n",
    "chunk-space-before": _CHUNKED + b" 1\r\nx\r\n0\r\n\r\n",
    "chunk-space-after": _CHUNKED + b"1 \r\nx\r\n0\r\n\r\n",
    "chunk-overflow": _CHUNKED + b"10000000000000001\r\nx\r\n0\r\n\r\n",
    "chunk-empty-size": _CHUNKED + b"\r\n\r\n",
    "chunk-line-feeds": _CHUNKED + b"1\nx\n0\n\n",
    "chunk-extension-line-feed": _CHUNKED + b"1;a\nb\r\nx\r\n0\r\n\r\n",
    "chunk-extension-open-quote": _CHUNKED + b'1;a="x\r\nx\r\n0\r\n\r\n',
    "chunk-longer-than-said": _CHUNKED + b"1\r\nxy\r\n0\r\n\r\n",
    "target-space": b"POST /apps/echo/e x HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target-raw-unicode": "POST /apps/grüße/e HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
    "method-lower": _POST.lower() + b"\r\n",
    "method-unknown": b"FROB /apps/echo/e HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "version-1.2": _POST.replace(b"1.1", b"1.2") + b"\r\n",
    "http-0.9": b"GET /\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.usefixtures("echo")
class TestSmuggling:
    async def test_malformed_request_ends_the_connection(self, open_: Any) -> None:
        """It is refused, and nothing behind it is read as a request of somebody else."""
        got = {}
        for name, request_ in MALFORMED.items():
            caller = await open_()
            caller.writer.write(request_ + _SMUGGLED)
            answer = await caller.answer()
            end = answer.headers["connection"], await caller.is_closed()
            got[name] = answer.status, answer.json["code"], *end
        assert got == dict.fromkeys(MALFORMED, (400, "invalid_argument", "close", True))

    @pytest.mark.parametrize(
        ("request_", "status", "code"),
        [
            (_POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "unsupported"),
            (_POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501, "unsupported"),
            (_POST + b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n', 501, "unsupported"),
            (_POST.replace(b"1.1", b"2.0") + b"\r\n", 505, "version_not_supported"),
            (_POST + b"content-length: 99999999\r\n\r\n", 413, "content_too_large"),
            (_CHUNKED + b"1;" + b"a" * 100_000, 431, "headers_too_large"),
            (_CHUNKED + b"0\r\na: " + b"a" * 100_000, 431, "headers_too_large"),
        ],
        ids=["gzip", "xchunked", "quoted", "http-2.0", "long", "chunk-extension", "trailer"],
    )
    async def test_what_the_node_does_not_take_ends_the_connection(
        self, http: Caller, request_: bytes, status: int, code: str
    ) -> None:
        """With a status of its own."""
        http.writer.write(request_ + _SMUGGLED)
        answer = await http.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert answer.json["code"] == code
        assert await http.is_closed()

    @pytest.mark.parametrize("size", [b"fffffff0", b"ffffffffffffffff"])
    async def test_chunk_that_promises_too_much_is_refused_with_its_first_bytes_too_many(
        self, http: Caller, size: bytes
    ) -> None:
        """Nothing is set aside for it before it comes."""
        http.writer.write(_CHUNKED + size + b"\r\n" + bytes(4 * MIB + 1))
        assert (await http.answer()).status == 413
        http.writer.close()

    @pytest.mark.parametrize(
        "request_",
        [
            _POST + b"content-length: 0001 \r\n\r\nx",
            _POST.replace(b"host", b"HOST")
            + b"Transfer-Encoding: CHUNKED\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            _CHUNKED + b'1;a=b;c="d"\r\nx\r\n0\r\n\r\n',
            _CHUNKED + b"1\r\nx\r\n0\r\nafter: it\r\n\r\n",
            _POST + b"content-length: 1\r\nexpect: something\r\n\r\nx",
            b"\r\n" + _POST + b"content-length: 1\r\n\r\nx",
        ],
        ids=["length", "case", "extension", "trailer", "expect", "empty-line"],
    )
    async def test_odd_and_valid_request_is_one_request(
        self, http: Caller, request_: bytes
    ) -> None:
        """Its end is where the standard says, and the next one begins there."""
        http.writer.write(request_ + _POST + b"content-length: 4\r\n\r\nnext")
        assert [(await http.answer()).body for _ in range(2)] == [b"x", b"next"]

    async def test_connection_is_not_upgraded(self, http: Caller) -> None:
        """The request is answered as any, and what comes after it is not taken for one."""
        upgrade = b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 1\r\n\r\nx"
        http.writer.write(_POST + upgrade + _SMUGGLED)
        answer = await http.answer()
        assert (answer.body, answer.headers["connection"]) == (b"x", "close")
        assert await http.is_closed()


@pytest.mark.usefixtures("echo")
class TestExpect:
    async def test_client_that_waits_is_told_to_send(self, http: Caller) -> None:
        """And then answered."""
        http.writer.write(_POST + b"content-length: 1\r\nexpect: 100-continue\r\n\r\n")
        async with asyncio.timeout(patient(30)):
            interim = await http.reader.readuntil(b"\r\n\r\n")
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        http.writer.write(b"x")
        assert (await http.answer()).body == b"x"

    async def test_client_of_http_1_0_is_not(self, http: Caller) -> None:
        """It would take it for the response."""
        old = _POST.replace(b"1.1", b"1.0")
        http.writer.write(old + b"content-length: 1\r\nexpect: 100-continue\r\n\r\nx")
        async with asyncio.timeout(patient(30)):
            assert (await http.reader.read()).startswith(b"HTTP/1.1 200 ")


HEAD_PATHS = (
    *("/", "/api", "/openapi.json", "/v1/node", "/v1/applications"),
    "/v1/applications/echo/logs",
)


PATHS: tuple[tuple[str, str, int], ...] = (
    ("GET", "/apps/%2e%2e/v1/node", 404),
    ("POST", "/apps/%2e%2e/v1/node", 404),
    ("GET", "/apps/../v1/node", 404),
    ("POST", "/apps/../v1/applications", 404),
    ("GET", "/v1/../v1/node", 404),
    ("GET", "/%2e/v1/node", 404),
    ("GET", "//v1/node", 404),
    ("GET", "/v1//node", 404),
    ("GET", "/v1/node/", 404),
    ("GET", "/V1/node", 404),
    ("GET", "/%76%31/node", 404),
    ("GET", "/v1%2fnode", 404),
    ("GET", "/v1/node%00", 404),
    ("GET", "/v1/node;x=y", 404),
    ("GET", "/v1/node#x", 404),
    ("GET", "/v1\\node", 404),
    ("GET", "/v1/applications/%2e%2e", 404),
    ("GET", "/v1/applications/echo%2flogs", 404),
    ("GET", "/v1/applications/echo%00", 404),
    ("GET", "/v1/applications/ECHO", 404),
    ("GET", "/v1/applications/%ff", 404),
    ("GET", "/v1/vms/%2e%2e%2f%2e%2e%2fetc%2fpasswd/console", 404),
    ("GET", "/v1/artifacts/%2e%2e%2fregistry.db", 400),
    ("PUT", "/v1/artifacts/", 404),
    ("POST", "/apps/", 404),
    ("POST", "//apps/echo/e", 404),
    ("POST", "/apps//echo/e", 404),
    ("POST", "/apps/ECHO/e", 404),
    ("POST", "/apps/" + quote("grüße") + "/e", 404),
    ("POST", "/apps/echo%00/e", 404),
    ("POST", "/apps/echo/%ff", 400),
    ("GET", "/ui", 404),
    ("GET", "/ui/", 404),
    ("GET", "/ui/../control.py", 404),
    ("GET", "/ui/%2e%2e/control.py", 404),
    ("GET", "/ui//index.html", 404),
    ("GET", "/ui/index.html", 404),
    ("GET", "/ui/%69ndex.html", 404),
    ("POST", "/", 405),
    ("PUT", "/", 405),
    ("GET", "localhost", 400),
    ("CONNECT", "localhost:80", 404),
    ("OPTIONS", "*", 404),
)

TYPES = {
    "/apps/echo/x/../y": "x/../y",
    "/apps/echo//x": "/x",
    "/apps/echo/x%2fy": "x/y",
    "/apps/echo/x%00y": "x\0y",
    "/apps/echo/" + quote("xgrüße"): "xgrüße",
    "/apps/echo/x?e": "x",
    "/apps/echo/": "",
    "/apps/echo": "",
}

TARGETS: tuple[tuple[str, str, int], ...] = (
    ("http://localhost/apps/echo/e", "evil.example", 200),
    ("http://echo.localhost:1/e", "localhost", 200),
    ("HTTP://ECHO.LOCALHOST/e", "localhost", 200),
    ("http://evil.example/apps/echo/e", "localhost", 421),
    ("http://user@localhost/apps/echo/e", "localhost", 421),
    ("http://localhost#/apps/echo/e", "localhost", 400),
    ("http://localhost@evil.example/apps/echo/e", "localhost", 421),
    ("http:///apps/echo/e", "localhost", 421),
    ("https://localhost/apps/echo/e", "localhost", 404),
    ("ftp://localhost/apps/echo/e", "localhost", 404),
)

HOSTS = {
    "echo.localhost": 200,
    "echo.localhost.": 200,
    "Echo.LocalHost:8080": 200,
    "echo.localhost.:8080": 200,
    "nobody.localhost": 404,
    # The application a of a tenant echo, which nobody knows.
    "a.echo.localhost": 404,
    ".localhost": 421,
    "-.localhost": 421,
    "..localhost": 421,
    "echo..localhost": 421,
    "echo_.localhost": 421,
    "echo.localhost:": 421,
    "echo.localhost:x": 421,
    "echo.localhost:80:80": 421,
    "echo.localhost evil.example": 421,
    "echo.localhost/": 421,
    "user@echo.localhost": 421,
    "%65cho.localhost": 421,
    "localhost.evil.example": 421,
    "xlocalhost": 421,
    "echo.localhos": 421,
    "127.0.0.1.evil.example": 421,
    "0.0.0.0": 421,
    "0x7f.1": 421,
    "[::2]": 421,
    "x" * 5000 + ".localhost": 421,
}


@pytest.mark.usefixtures("echo")
class TestPaths:
    @pytest.mark.parametrize("path", HEAD_PATHS)
    async def test_head_is_a_get_without_its_body(self, http: Caller, path: str) -> None:
        """The same status and headers, and the next response follows at once."""
        head = await http.send("HEAD", path)
        get = await http.send("GET", path)
        assert (head.status, head.body, get.status) == (200, b"", 200)
        assert head.headers.keys() == get.headers.keys()
        # What else there is can change from one to the other.
        if path in ("/", "/api", "/openapi.json"):
            assert head.headers["content-length"] == get.headers["content-length"]

    async def test_path_is_taken_as_it_is(self, open_: Any) -> None:
        """No step of it is undone, joined or decoded into another path."""
        got = []
        for method, path, _ in PATHS:
            answer = await (await open_()).send(method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            got.append((method, path, answer.status))
        assert got == list(PATHS)

    async def test_type_is_what_follows_the_name(self, http: Caller) -> None:
        """All of it, decoded once; the probe knows none of these and says which it got."""
        answers = {path: await http.send("POST", path) for path in TYPES}
        assert {path: answer.json["detail"] for path, answer in answers.items()} == TYPES

    async def test_absolute_target_is_of_the_host_it_names(self, open_: Any) -> None:
        """And of no other, whatever the header says."""
        got = []
        for target, host, _ in TARGETS:
            answer = await (await open_()).send("POST", target, b"x", host=host)
            got.append((target, host, answer.status))
        assert got == list(TARGETS)

    async def test_host_is_an_applications_or_nobodys(self, open_: Any) -> None:
        """A host that only looks like one of the node's reaches nothing."""
        got = {}
        for host in HOSTS:
            got[host] = (await (await open_()).send("POST", "/e", b"x", host=host)).status
        assert got == HOSTS


@pytest.mark.usefixtures("echo")
class TestBounds:
    @pytest.mark.parametrize("piece", [b"a: b\r\n", b"x" * 1000])
    async def test_head_without_an_end_is_refused(self, http: Caller, piece: bytes) -> None:
        """Many headers or one long one: what the node holds of a head is bounded."""
        http.writer.write(b"POST /apps/echo/e HTTP/1.1\r\n")
        http.writer.write(piece * (2 * HEAD_BYTES // len(piece)))
        assert (await http.answer()).status == 431
        assert await http.is_closed()

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "10.0.0.1"])
    async def test_host_that_is_nobodys_is_refused(self, open_: Any, host: str) -> None:
        """A page cannot reach the node by a name that it made point here."""
        for path in ("/apps/echo/e", "/v1/node", "/"):
            answer = await (await open_()).send("POST", path, host=host)
            assert answer.status == 421

    async def test_page_of_another_origin_is_refused(self, http: Caller, open_: Any) -> None:
        """Its request does not reach the application, and neither does it by a form."""
        crossing: list[dict[str, str]] = [
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"sec_fetch_site": "cross-site"},
        ]
        for headers in crossing:
            # Nothing that it sends is read, so its connection ends.
            answer = await (await open_()).send("POST", "/apps/echo/e", b"x", **headers)
            assert (answer.status, answer.headers["connection"]) == (403, "close")
        same = {"origin": "http://localhost", "sec_fetch_site": "same-origin"}
        assert (await http.send("POST", "/apps/echo/e", b"x", **same)).status == 200


# Connects as often as it is told, says so, then says which of them are closed, in order, until its
# input ends.
_IDLE_CLIENTS = """
import select, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
poll, numbers = select.epoll(), {}
for number in range(count):
    one = socket.create_connection((host, port))
    numbers[one.fileno()] = (number, one)
    poll.register(one, select.EPOLLIN)
poll.register(0, select.EPOLLIN | select.EPOLLHUP)
print("connected", flush=True)
while True:
    for fd, _ in poll.poll():
        if fd == 0:
            sys.exit()
        number, one = numbers.pop(fd)
        print("closed" if not one.recv(1) else "answered", number, flush=True)
        poll.unregister(fd)
        one.close()
"""

APPLICATIONS = 2
"""So that the usual limit of 20,000 descriptors is enough for nearly 10,000 for each port."""


@pytest.fixture
def connections() -> Iterator[int]:
    """How many connections a node in this process can have, which may open that many files."""
    count = for_connections(most_allowed(), APPLICATIONS, ports=2)
    if count < 9000:
        pytest.skip(f"{most_allowed()} file descriptors allow {count} connections to each port")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_limit()
    yield count
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("connections", "echo")
class TestManyConnections:
    @pytest.fixture
    async def node(self, connections: int, data_dir: Path) -> AsyncIterator[Node]:
        del connections
        build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
        async with build.with_setting("limits.applications", APPLICATIONS).build() as node:
            yield node
        assert_nothing_left(data_dir)

    async def test_messages_are_answered_while_10000_connections_idle(
        self, node: Node, open_: Any, connections: int
    ) -> None:
        """Nobody is turned away; who comes then takes the place of the one idle for longest."""
        host, _, port = node.http_address.rpartition(":")
        idle = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _IDLE_CLIENTS, host, port, str(connections - 1)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert idle.stdin is not None
        assert idle.stdout is not None
        try:
            async with asyncio.timeout(patient(60)):
                assert await idle.stdout.readline() == b"connected\n"
                first = await open_()
                for number in range(10):
                    body = json.dumps(number).encode()
                    assert (await first.send("POST", "/apps/echo/e", body)).body == body
                second = await open_()
                assert (await second.send("POST", "/apps/echo/e", b"x")).body == b"x"
                # The first that was closed, and it was one.
                assert await idle.stdout.readline() == b"closed 0\n"
                assert (await first.send("POST", "/apps/echo/e", b"y")).body == b"y"
        finally:
            idle.stdin.close()
            await idle.wait()
