"""Components of wasi:http on a real node: what clients of their addresses get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.actors import http_async, http_component
from support.nodes import builder
from support.raw_http import Caller
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.node.node import Node


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as node:
        yield node
    assert_nothing_left(data_dir)


@pytest.fixture(params=[http_component, http_async], ids=["0.2", "0.3"])
async def hello(request: pytest.FixtureRequest, client: NodeClient, tmp_path: Path) -> None:
    """A component that answers `hello`, deployed under that name."""
    make: Callable[[], bytes] = request.param
    wasm = tmp_path / "hello.wasm"
    wasm.write_bytes(make())
    await client.deploy("hello", wasm)


@pytest.mark.usefixtures("hello")
class TestHello:
    @pytest.mark.parametrize(
        ("path", "host"),
        [
            ("/apps/hello", "localhost"),
            ("/apps/hello/", "127.0.0.1"),
            ("/apps/hello/a/b?c=d", "localhost"),
            ("/", "hello.localhost"),
            ("/any/path?query", "hello.localhost:8080"),
        ],
    )
    async def test_component_answers_at_both_its_addresses(
        self, http: Caller, path: str, host: str
    ) -> None:
        """With any method; below the node's paths its pages are sandboxed."""
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = await http.send(method, path, host=host)
            assert (answer.status, answer.body) == (200, b"hello")
            assert "compute;dur=" in answer.headers["server-timing"]
            is_sandboxed = "sandbox" in answer.headers.get("content-security-policy", "")
            assert is_sandboxed is path.startswith("/apps/")

    async def test_head_has_no_body(self, http: Caller) -> None:
        """And the connection goes on."""
        assert (await http.send("HEAD", "/apps/hello/")).status == 200
        assert (await http.send("GET", "/apps/hello/")).body == b"hello"

    async def test_body_that_is_not_read_is_no_fault(self, http: Caller) -> None:
        """The response comes, and nothing is left of the rest."""
        answer = await http.send("POST", "/apps/hello/", bytes(1 << 20))
        assert (answer.status, answer.body) == (200, b"hello")

    async def test_message_is_a_request(self, client: NodeClient) -> None:
        """Over gRPC, and from other applications: POST to the path of its type."""
        assert (await client.invoke("hello", b"x", type="greet")).payload == b"hello"
        assert (await client.inspect("hello")).counters.messages == 1

    async def test_query_of_a_request_is_not_in_its_trace(
        self, http: Caller, client: NodeClient
    ) -> None:
        """There may be a secret in it, and whoever may read the log may read traces."""
        await http.send("GET", "/apps/hello/a/b?key=secret")
        (trace,) = await client.traces("hello")
        assert [span.name for span in trace.spans] == ["GET /a/b"]

    async def test_many_requests_at_once(self, open_: Any, client: NodeClient) -> None:
        """Each in an instance of its own."""
        callers = [await open_() for _ in range(40)]
        answers = await asyncio.gather(*(each.send("GET", "/apps/hello/") for each in callers))
        assert {(each.status, each.body) for each in answers} == {(200, b"hello")}
        counters = (await client.inspect("hello")).counters
        assert (counters.messages, counters.failures, counters.in_flight) == (40, 0, 0)
