"""Bodies that stream through HTTP components, of every language's example, on a real node.

A language whose compiler is missing is skipped, unless `--languages` names it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.languages import built_from
from support.nodes import builder
from support.patience import patient
from support.raw_http import Caller
from support.traces import agents_of, assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorFailed, Unsupported
from plexspaces_node.model import MIB, Language
from plexspaces_node.node.node import Node

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_OF = {
    Language.RUST: "rust-hello-http",
    Language.TYPESCRIPT: "ts-hello-http",
    Language.PYTHON: "python-hello-http",
}


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as node:
        yield node
    assert_nothing_left(data_dir)


@pytest.fixture(scope="module", params=list(EXAMPLE_OF))
def wasm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of a language."""
    language: Language = request.param
    output = tmp_path_factory.mktemp("wasm") / "hello.wasm"
    try:
        return built_from(EXAMPLES / EXAMPLE_OF[language], output).path
    except Unsupported as missing:
        why = f"{missing.message} (hint: {missing.hint})"
        if language in request.config.getoption("--languages").split(","):
            pytest.fail(f"--languages names {language}, but: {why}")
        pytest.skip(why)


@pytest.fixture
async def hello(client: NodeClient, wasm: Path) -> None:
    await client.deploy("hello", wasm)


class Stream(Caller):
    """A client that reads a response as it comes."""

    async def begin(self, head: str) -> int:
        """Send a head and return the status of the response, whose body is not read."""
        self.writer.write(f"{head}\r\nhost: hello.localhost\r\n\r\n".encode())
        return await self.status()

    async def status(self) -> int:
        async with asyncio.timeout(patient(30)):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1])

    async def chunk(self) -> bytes:
        """Return the next chunk, b"" for the last one."""
        async with asyncio.timeout(patient(30)):
            size = int(await self.reader.readline(), 16)
            chunk = await self.reader.readexactly(size + 2)
        return chunk[:-2]

    async def rest(self) -> None:
        """Read to the end."""
        while await self.chunk():
            pass


@pytest.fixture
async def stream(node: Node) -> AsyncIterator[Stream]:
    stream = await Stream.connect(node.http_address)
    yield stream
    stream.writer.transport.abort()


async def in_flight(client: NodeClient, count: int) -> None:
    async with asyncio.timeout(patient(30)):
        while (await client.inspect("hello")).counters.in_flight != count:
            await asyncio.sleep(0)


@pytest.mark.usefixtures("hello")
async def test_body_comes_back_while_it_is_sent(stream: Stream) -> None:
    """Whole, much longer than what anybody on its way may hold."""
    body = bytes(range(256)) * (8 * MIB // 256)
    stream.writer.write(
        b"POST /echo HTTP/1.1\r\nhost: hello.localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    )

    async def send() -> None:
        for at in range(0, len(body), 64 * 1024):
            stream.writer.write(body[at : at + 64 * 1024])
            await stream.writer.drain()

    sending = asyncio.create_task(send())
    assert await stream.status() == 200
    back = bytearray()
    while chunk := await stream.chunk():
        back += chunk
    await sending
    assert back == body


@pytest.mark.usefixtures("hello")
async def test_part_comes_back_before_the_next_is_sent(stream: Stream) -> None:
    """Nobody waits for the end of a body to pass on its beginning."""
    head = "POST /echo HTTP/1.1\r\ntransfer-encoding: chunked"
    stream.writer.write(f"{head}\r\nhost: hello.localhost\r\n\r\n5\r\nfirst\r\n".encode())
    assert await stream.status() == 200
    assert await stream.chunk() == b"first"
    stream.writer.write(b"6\r\nsecond\r\n")
    assert await stream.chunk() == b"second"
    stream.writer.write(b"0\r\n\r\n")
    assert await stream.chunk() == b""


@pytest.mark.usefixtures("hello")
async def test_event_arrives_when_it_is_sent(stream: Stream, client: NodeClient) -> None:
    """The first while the component sleeps before the second."""
    assert await stream.begin("GET /events HTTP/1.1") == 200
    assert await stream.chunk() == b"data: tick 1\n\n"
    assert (await client.inspect("hello")).counters.in_flight == 1


@pytest.mark.usefixtures("hello")
async def test_client_that_leaves_ends_the_component(stream: Stream, client: NodeClient) -> None:
    """In the middle of its response, and of the request."""
    assert await stream.begin("GET /events HTTP/1.1") == 200
    await in_flight(client, 1)
    stream.writer.transport.abort()
    await in_flight(client, 0)


@pytest.mark.usefixtures("hello")
async def test_body_that_breaks_off_ends_the_component(stream: Stream, client: NodeClient) -> None:
    """It is not taken for a whole one."""
    stream.writer.write(
        b"POST /echo HTTP/1.1\r\nhost: hello.localhost\r\ncontent-length: 1000000\r\n\r\nbegin"
    )
    assert await stream.status() == 200
    assert await stream.chunk() == b"begin"
    stream.writer.transport.abort()
    await in_flight(client, 0)


@pytest.mark.usefixtures("hello")
async def test_replacement_does_not_wait_for_streams(
    stream: Stream, client: NodeClient, open_: Any, wasm: Path
) -> None:
    """Their clients hear that they broke off, and the next request goes to the next version."""
    assert await stream.begin("GET /events HTTP/1.1") == 200
    replacing = asyncio.create_task(
        client.deploy("hello", wasm, options=DeployOptions(replace=True))
    )
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
        await stream.rest()
    await replacing
    http: Caller = await open_()
    assert (await http.send("GET", "/", host="hello.localhost")).status == 200


@pytest.mark.usefixtures("hello")
async def test_machine_that_is_killed_breaks_off_its_streams(
    stream: Stream, client: NodeClient, open_: Any, data_dir: Path
) -> None:
    """And nothing is left of them in the node."""
    assert await stream.begin("GET /events HTTP/1.1") == 200
    await in_flight(client, 1)
    [pid] = agents_of(data_dir)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
        await stream.rest()
    http: Caller = await open_()
    assert (await http.send("GET", "/", host="hello.localhost")).status == 200
    await in_flight(client, 0)


@pytest.mark.usefixtures("hello")
@pytest.mark.parametrize("http", [False, True], ids=["grpc", "http"])
async def test_message_is_a_request_to_the_path_of_its_type(node: Node, http: bool) -> None:
    """Its body goes there and back, also a long one; a status of an error is a failure."""
    async with NodeClient(node.address, http=http) as sender:
        for body in (b"short", bytes(range(256)) * (MIB // 256)):
            answer = await sender.invoke("hello", body, type="echo")
            assert answer.payload == body
            assert answer.transport == ("http" if http and len(body) < MIB else "grpc")
        with pytest.raises(ActorFailed) as failed:
            await sender.invoke("hello", b"", type="nosuch")
    assert (failed.value.code, failed.value.message) == ("http-404", "nothing here")
