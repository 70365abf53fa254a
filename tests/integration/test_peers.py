"""Two real nodes: what an application on one is to clients and actors of the other."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.actors import http_component, probe
from support.cluster_view import FakeView
from support.peering import joined, peering_of
from support.raw_http import Caller, callers
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import ActorFailed, ActorTrapped, NotFound, Unavailable
from plexspaces_node.node.node import Node


@pytest.fixture
def view() -> FakeView:
    """What both nodes know of the cluster."""
    return FakeView()


@pytest.fixture
async def nodes(data_dir: Path, view: FakeView) -> AsyncIterator[tuple[Node, Node]]:
    """The nodes a and b, which are left without connections and tasks in the end."""
    token = ClusterToken.new()
    data_dir.mkdir()
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(joined(data_dir, "a", view, token))
        b = await stack.enter_async_context(joined(data_dir, "b", view, token))
        yield a, b
    for node in (a, b):
        peering = peering_of(node)
        assert peering.peers.connections == 0
        assert peering.nodes.in_flight.bytes == 0
        assert peering.routes._in_flight == {}
        assert peering.ports.door.calls == 0
        assert_nothing_left(data_dir / node.id)
    before.add(asyncio.current_task())  # type: ignore[arg-type]
    assert asyncio.all_tasks() - before == set()


@pytest.fixture
async def a(nodes: tuple[Node, Node]) -> AsyncIterator[NodeClient]:
    """A client of the node a."""
    async with NodeClient(nodes[0].address) as client:
        yield client


@pytest.fixture
async def b(nodes: tuple[Node, Node]) -> AsyncIterator[NodeClient]:
    """A client of the node b."""
    async with NodeClient(nodes[1].address) as client:
        yield client


@pytest.fixture
async def echo(b: NodeClient, view: FakeView, probe_wasm: Path) -> None:
    """The probe, on b alone."""
    await b.deploy("echo", probe_wasm)
    view.place("echo", "b")


@pytest.fixture
async def http(nodes: tuple[Node, Node]) -> AsyncIterator[Caller]:
    """A connection to the HTTP port of the node a."""
    async with callers(nodes[0].http_address) as connect:
        yield await connect()


@pytest.fixture
async def hello(b: NodeClient, view: FakeView, tmp_path: Path) -> None:
    """An HTTP component, on b alone."""
    wasm = tmp_path / "hello.wasm"
    wasm.write_bytes(http_component())
    await b.deploy("hello", wasm)
    view.place("hello", "b", kind="http-component")


@pytest.mark.usefixtures("echo")
async def test_invoke_when_the_application_is_elsewhere_then_as_if_it_were_here(
    a: NodeClient, b: NodeClient
) -> None:
    """The reply, the times, and each kind of failure."""
    result = await a.invoke("echo", b"hello", type="e")
    assert result.payload == b"hello"
    times = result.timings
    assert times.compute_ns > 0
    assert times.total_ns >= times.compute_ns + times.wait_ns + times.queue_ns
    for msg_type, kind in (("f", ActorFailed), ("t", ActorTrapped)):
        with pytest.raises(kind) as here:
            await b.invoke("echo", b"why", type=msg_type)
        with pytest.raises(kind) as there:
            await a.invoke("echo", b"why", type=msg_type)
        same = ("message", "code", "retryable", "hint", "output")
        assert [getattr(there.value, each) for each in same] == [
            getattr(here.value, each) for each in same
        ]
    with pytest.raises(NotFound, match="there is no application 'nobody'"):
        await a.invoke("nobody", b"", type="e")
    long = bytes(range(256)) * 8192
    assert (await a.invoke("echo", long, type="e")).payload == long


@pytest.mark.usefixtures("echo")
async def test_http_message_when_the_application_is_elsewhere_then_as_if_it_were_here(
    http: Caller, nodes: tuple[Node, Node]
) -> None:
    """Byte for byte, but for the times."""
    async with callers(nodes[1].http_address) as connect:
        beside = await connect()
        for path, body in (("e", b'{"a": 1}'), ("f", b"why"), ("t", b""), ("e", b"")):
            there = await http.send("POST", f"/apps/echo/{path}", body)
            here = await beside.send("POST", f"/apps/echo/{path}", body)
            assert (there.status, there.body) == (here.status, here.body)
            assert set(there.headers) == set(here.headers)
    refused = await http.send("GET", "/apps/echo/e")
    assert (refused.status, refused.headers["allow"]) == (405, "POST")


@pytest.mark.usefixtures("hello")
async def test_http_request_when_the_component_is_elsewhere_then_as_if_it_were_here(
    http: Caller, nodes: tuple[Node, Node], a: NodeClient
) -> None:
    """By its path and by its host, with its times; as a message too."""
    async with callers(nodes[1].http_address) as connect:
        beside = await connect()
        for method, path in (("GET", "/apps/hello/x?y=1"), ("HEAD", "/apps/hello/"), ("POST", "/")):
            told = [
                await caller.send(method, path, b"body" if method == "POST" else b"", host=host)
                for caller in (http, beside)
                for host in ("hello.localhost" if path == "/" else "localhost",)
            ]
            assert told[0].status == told[1].status == 200
            assert told[0].body == told[1].body == (b"" if method == "HEAD" else b"hello")
            assert sorted(told[0].headers) == sorted(told[1].headers)
            times = told[0].headers["server-timing"]
            assert float(times.partition("compute;dur=")[2].partition(",")[0]) > 0
    assert (await a.invoke("hello", b"x", type="any")).payload == b"hello"


async def test_actors_when_they_are_on_two_nodes_then_ask_and_tell(
    a: NodeClient, b: NodeClient, view: FakeView, probe_wasm: Path
) -> None:
    """With the sender's name; a cycle over both is found out; a tell that fails is in a log."""
    for client, name, node in ((a, "left", "a"), (b, "right", "b")):
        await client.deploy(name, probe_wasm)
        view.place(name, node)

    def to(name: str, msg_type: bytes, payload: bytes = b"") -> bytes:
        return bytes([len(name)]) + name.encode() + msg_type + payload

    assert (await a.invoke("left", to("right", b"w"), type="a")).payload == b"left"
    assert (await b.invoke("right", to("left", b"e", b"hi"), type="a")).payload == b"hi"
    with pytest.raises(ActorFailed) as cycle:
        await a.invoke("left", to("right", b"a", to("left", b"e")), type="a")
    assert cycle.value.code == "call-cycle"
    with pytest.raises(ActorFailed) as cycle:
        await b.invoke("right", to("left", b"a", to("right", b"e")), type="a")
    assert cycle.value.code == "call-cycle"
    await a.invoke("left", to("right", b"o", b"told"), type="s")
    async for line in b.logs("right", follow=True):
        if "told" in line.message:
            break
    with pytest.raises(ActorFailed, match="there is no application 'nobody'"):
        await a.invoke("left", to("nobody", b"e"), type="a")


@pytest.mark.usefixtures("echo")
async def test_calls_about_an_application_when_it_is_elsewhere_then_passed_on(
    a: NodeClient, b: NodeClient, view: FakeView, http: Caller
) -> None:
    """By gRPC and by the control API over HTTP."""
    await a.invoke("echo", b"in the log", type="o")
    here = await b.inspect("echo")
    there = await a.inspect("echo")
    assert here.vm is not None
    assert there.vm is not None
    vm_id = here.vm.id
    assert (there.name, there.vm.id) == (here.name, vm_id)
    async for line in a.logs("echo", follow=True):
        if "in the log" in line.message:
            break
    view.set_state("echo", "b", "Running", vm_id=vm_id)
    assert (await a.inspect_vm("echo")).vm.id == vm_id
    assert (await a.inspect_vm(vm_id)).vm.id == vm_id
    assert (await http.send("GET", "/v1/applications/echo")).json["vm"]["id"] == vm_id
    assert b"in the log" in (await http.send("GET", "/v1/applications/echo/logs")).body
    activity = await http.send("GET", "/v1/applications/echo/activity")
    assert activity.status == 200
    with pytest.raises(NotFound):
        await a.inspect("nobody")
    with pytest.raises(NotFound):
        await a.inspect_vm("nobody")


@pytest.mark.usefixtures("echo")
async def test_node_when_it_has_not_what_the_registry_says_then_another_is_asked(
    a: NodeClient, b: NodeClient, view: FakeView, nodes: tuple[Node, Node], http: Caller
) -> None:
    """Nothing is passed on a second time, and messages wait until it is somewhere."""
    artifact = await http.send("PUT", "/v1/artifacts/app.wasm", probe())
    await b.undeploy("echo")
    waiting = asyncio.create_task(a.invoke("echo", b"hi", type="e"))
    async with asyncio.timeout(20):
        while not peering_of(nodes[0]).routes._waiting:
            await asyncio.sleep(0)
    asked = json.dumps({"name": "echo", "digest": artifact.json["digest"]}).encode()
    assert (await http.send("POST", "/v1/applications", asked)).status == 201
    view.place("echo", "a")
    assert (await waiting).payload == b"hi"
    assert (await b.invoke("echo", b"hi", type="e")).payload == b"hi"


@pytest.mark.usefixtures("echo")
async def test_node_when_it_cannot_be_reached_then_a_replica_is_asked(
    a: NodeClient, view: FakeView, nodes: tuple[Node, Node]
) -> None:
    """Nothing was sent, so that it can be sent elsewhere."""
    view.add_node("c", http="127.0.0.1:1", grpc="127.0.0.1:1")
    view.place("echo", "c", "b")
    for _ in range(4):
        assert (await a.invoke("echo", b"hi", type="e")).payload == b"hi"
    view.place("echo", "c")
    with pytest.raises(Unavailable, match="no node serves"):
        await a.invoke("echo", b"hi", type="e", timeout_s=0.3)


@pytest.mark.usefixtures("echo")
async def test_artifact_when_it_is_pulled_then_whole(
    view: FakeView, nodes: tuple[Node, Node], probe_wasm: Path, a: NodeClient
) -> None:
    """As it was uploaded; nobody gets one that is not there."""
    digest = hashlib.sha256(probe_wasm.read_bytes()).hexdigest()
    pulls = peering_of(nodes[0]).pulls
    assert not await a.find_artifact(digest)
    await pulls.fetch("b", digest)
    assert await a.find_artifact(digest)
    await pulls.fetch("b", digest)
    with pytest.raises(NotFound):
        await pulls.fetch("b", "0" * 64)
    with pytest.raises(Unavailable):
        await pulls.fetch("nobody", "1" * 64)
