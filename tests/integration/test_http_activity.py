"""The stream of activity as a browser gets it, on a real node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support.actors import routed
from support.nodes import builder
from support.patience import patient
from support.raw_http import Caller
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.node.access.identity import Scope
from plexspaces_node.node.api.telemetry import MOST_WATCHERS
from plexspaces_node.node.node import Node


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as node:
        yield node
    assert_nothing_left(data_dir)


class Watching:
    """A client that reads events."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    async def begin(self, token: str = "") -> bytes:
        """Ask for the stream, and return the head of the response."""
        lines = ["host: localhost", "accept: text/event-stream"]
        lines += [f"authorization: Bearer {token}"] if token else []
        path = "/v1/activity?interval_ms=500"
        self.caller.writer.write("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
        async with asyncio.timeout(patient(30)):
            return await self.caller.reader.readuntil(b"\r\n\r\n")

    async def event(self) -> dict[str, Any]:
        """Return the next event's data."""
        async with asyncio.timeout(patient(30)):
            while True:
                chunk = await self.chunk()
                assert chunk, "the stream has ended"
                if chunk.startswith(b"data: "):
                    told: dict[str, Any] = json.loads(chunk[6:])
                    return told

    async def until(self, is_wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Read events until one is as wanted."""
        while not is_wanted(await self.event()):
            pass

    async def chunk(self) -> bytes:
        """Return what is sent next, b"" at the end."""
        size = int(await self.caller.reader.readline(), 16)
        return (await self.caller.reader.readexactly(size + 2))[:-2]


@pytest.fixture
async def watching(http: Caller) -> Watching:
    return Watching(http)


@pytest.mark.usefixtures("echo")
async def test_activity_when_watched_then_first_all_and_later_what_changed(
    watching: Watching, client: NodeClient
) -> None:
    """Each as one event; what has not changed is not told again."""
    head = await watching.begin()
    assert b"content-type: text/event-stream\r\n" in head
    first = await watching.event()
    assert [each["name"] for each in first["applications"]] == ["echo"]
    assert first["node"]["node_id"] == "node-test"
    for _ in range(3):
        await client.invoke("echo", b"x", type="e")
    await watching.until(
        lambda told: [each["total"]["messages"] for each in told["applications"]] == [3]
    )
    await client.undeploy("echo")
    await watching.until(lambda told: told["removed"] == ["echo"])
    await watching.caller.leave()


async def test_watchers_when_too_many_then_refused_until_one_leaves(
    open_: Any, watching: Watching
) -> None:
    """Before the head; a client that has closed its side has left."""
    others = [Watching(await open_()) for _ in range(MOST_WATCHERS)]
    for each in others:
        assert b" 200 " in await each.begin()
    refused = await watching.begin()
    assert b" 429 " in refused
    await watching.caller.reader.readexactly(_length(refused))
    await others[0].caller.leave()
    async with asyncio.timeout(patient(30)):
        while b" 429 " in (head := await watching.begin()):
            await watching.caller.reader.readexactly(_length(head))
    assert b" 200 " in head
    for each in (*others, watching):
        each.caller.writer.transport.abort()


async def test_watchers_when_of_one_tenant_then_leave_some_to_others(
    open_: Any, watching: Watching, node: Node, data_dir: Path
) -> None:
    """One tenant has half of them."""
    del node
    async with NodeClient(f"unix:{data_dir}/node.sock") as owner:
        tokens = [
            (await owner.create_token("watch", scopes=[Scope.READ], tenant=tenant)).secret
            for tenant in ("shop", "rival")
        ]
    half = [Watching(await open_()) for _ in range(MOST_WATCHERS // 2)]
    for each in half:
        assert b" 200 " in await each.begin(tokens[0])
    refused = await watching.begin(tokens[0])
    assert b" 429 " in refused
    await watching.caller.reader.readexactly(_length(refused))
    assert b" 200 " in await watching.begin(tokens[1])
    for each in (*half, watching):
        each.caller.writer.transport.abort()


async def test_node_when_it_ends_then_so_does_the_stream_in_order(data_dir: Path) -> None:
    """With its last chunk, and without that the node waits for the client."""
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as node:
        watching = Watching(await Caller.connect(node.http_address))
        await watching.begin()
        await watching.event()
    async with asyncio.timeout(patient(10)):
        while await watching.chunk():
            pass
        assert await watching.caller.is_closed()
    watching.caller.writer.close()
    assert_nothing_left(data_dir)


async def test_token_when_for_some_applications_then_hears_only_the_times_of_others(
    node: Node, data_dir: Path, probe_wasm: Path, http: Caller
) -> None:
    """What an application asks is named, and told of, to those who may see it."""
    del node
    async with NodeClient(f"unix:{data_dir}/node.sock") as owner:
        for name in ("shop/cart", "shop/prices"):
            await owner.deploy(name, probe_wasm)
        for _ in range(2):
            await owner.invoke("shop/cart", routed("prices", "e", b"12345"), type="a")
        made = [
            await owner.create_token(
                pattern.strip("*") + "r", scopes=[Scope.READ], tenant="shop", applications=pattern
            )
            for pattern in ("*", "cart*")
        ]
    for token, asked, told in (
        (made[0].secret, ["prices"], ["shop/prices", "e", "0.1.0", 5]),
        (made[1].secret, [""], ["", "", "", 0]),
    ):
        path, bearer = "/v1/applications/cart/", f"Bearer {token}"
        activity = (await http.send("GET", path + "activity", authorization=bearer)).json
        assert [each["to"] for each in activity["asks"]] == asked
        assert activity["asks"][0]["asks"] == 2
        for trace in (await http.send("GET", path + "traces", authorization=bearer)).json["traces"]:
            first, second = trace["spans"]
            assert first["version"] == "0.1.0"
            assert [second[each] for each in _TOLD] == told
            assert bool(second["vm_id"]) is bool(asked[0])
            assert second["total_ns"] > 0


_TOLD = ("application", "name", "version", "payload_bytes")


def _length(head: bytes) -> int:
    name = b"content-length: "
    return int(head[head.index(name) + len(name) :].split(b"\r\n")[0])
