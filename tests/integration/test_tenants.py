"""Tenants on a real node: the same names in two of them, by both doors, and on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.actors import http_component, routed
from support.nodes import builder, reached
from support.raw_http import Caller
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import ActorFailed, AlreadyExists, NotFound
from plexspaces_node.node.backup.read import restore, verify
from plexspaces_node.node.backup.write import back_up
from plexspaces_node.node.node import Node


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as node:
        yield node
    assert_nothing_left(data_dir)


@pytest.fixture
async def carts(client: NodeClient, probe_wasm: Path) -> None:
    """The probe as `cart` in three tenants, and a peer of it in one."""
    for name in ("cart", "shop/cart", "rival/cart", "shop/till"):
        await client.deploy(name, probe_wasm)


async def said_of(client: NodeClient, name: str, payload: bytes, msg_type: str) -> str:
    """Send a message that fails; return what its application says."""
    with pytest.raises(ActorFailed) as caught:
        await client.invoke(name, payload, type=msg_type)
    return f"{caught.value.code}: {caught.value.message}"


@pytest.mark.usefixtures("carts")
async def test_names_when_the_same_in_two_tenants_then_two_applications(
    client: NodeClient, data_dir: Path
) -> None:
    """Each with its own state, keys and log; `default` is written without."""
    for name, count in (("cart", 1), ("shop/cart", 2), ("rival/cart", 3)):
        await client.invoke(name, b"key", type="p")
        await client.invoke(name, name.encode(), type="o")
        for _ in range(count):
            reply = await client.invoke(name, type="c")
        assert reply.payload[0] == count
        lines = [line.message async for line in client.logs(name)]
        assert lines == [name]
        assert (await client.inspect(name)).tenant == name.rpartition("/")[0] or "default"
    assert (await client.inspect("default/cart")).name == "cart"
    logs = {path.name for path in (data_dir / "logs").iterdir()}
    assert {"cart.log", "shop~cart.log", "rival~cart.log"} <= logs
    listed = [one.name for one in (await client.list()).applications]
    assert listed == ["cart", "rival/cart", "shop/cart", "shop/till"]
    of_shop = await client.list(tenant="shop")
    assert [one.name for one in of_shop.applications] == ["shop/cart", "shop/till"]
    await client.undeploy("shop/cart")
    assert (await client.invoke("rival/cart", type="c")).payload[0] == 4
    with pytest.raises(NotFound):
        await client.inspect("shop/cart")


async def test_artifact_when_another_tenant_has_it_then_nobody_is_told(
    client: NodeClient, probe_wasm: Path
) -> None:
    """It is uploaded and compiled again: neither an answer nor a time tells that it is there."""
    first = await client.deploy("shop/cart", probe_wasm)
    for tenant, found in (("shop", True), ("rival", False), ("default", False), ("", False)):
        assert await client.find_artifact(first.digest, tenant=tenant) is found
    for name in ("rival/cart", "cart"):
        again = await client.deploy(name, probe_wasm)
        assert again.timings.upload_ns > 0
        assert not again.timings.compile_cached
    assert (await client.deploy("shop/till", probe_wasm)).timings.compile_cached


async def test_deploy_when_another_tenant_used_the_request_id_then_it_is_free(
    client: NodeClient, probe_wasm: Path
) -> None:
    """A request id is of one tenant, and no answer tells of another's."""
    options = DeployOptions(request_id="once")
    first = await client.deploy("shop/cart", probe_wasm, options=options)
    for name in ("rival/cart", "cart"):
        await client.deploy(name, probe_wasm, options=options)
    with pytest.raises(AlreadyExists, match="has deployed application 'shop/cart'"):
        await client.deploy("shop/till", probe_wasm, options=options)
    again = await client.deploy("shop/cart", probe_wasm, options=options)
    assert again.id == first.id


@pytest.mark.usefixtures("carts")
async def test_application_when_it_asks_then_within_its_tenant(client: NodeClient) -> None:
    """It knows no names but those beside it, and is known by its own."""
    reply = await client.invoke("shop/cart", routed("till", "w"), type="a")
    assert reply.payload == b"cart"
    missing = "not-found: there is no application {!r}"
    for sender, to in (
        ("cart", "till"),
        ("cart", "shop/till"),
        ("rival/cart", "till"),
        ("rival/cart", "shop/till"),
        ("rival/cart", "none"),
        ("rival/cart", "default/cart"),
        ("shop/cart", "shop/till"),
        ("shop/cart", "../rival/cart"),
    ):
        for msg_type in ("a", "s"):
            said = await said_of(client, sender, routed(to, "w"), msg_type)
            assert said == missing.format(to)


@pytest.mark.usefixtures("carts")
async def test_application_when_it_asks_itself_then_a_cycle_by_its_own_name(
    client: NodeClient,
) -> None:
    """Another tenant's of that name is another one."""
    said = await said_of(client, "shop/cart", routed("cart", "w"), "a")
    assert said == "call-cycle: 'cart' asks 'cart', which would wait for 'cart' itself"
    way = routed("till", "a", routed("cart", "w"))
    said = await said_of(client, "shop/cart", way, "a")
    assert said.startswith("call-cycle: 'till' asks 'cart'")


@pytest.mark.usefixtures("carts")
async def test_message_when_sent_by_http_then_by_path_and_by_host(http: Caller) -> None:
    """A full name is one segment of a path, and a host below the node's."""
    for path, host in (
        ("/apps/shop%2Fcart/c", "localhost"),
        ("/apps/shop%2fcart/c", "localhost"),
        ("/c", "cart.shop.localhost"),
        ("/c", "Cart.Shop.LOCALHOST:80"),
    ):
        answer = await http.send("POST", path, host=host)
        assert answer.status == 200
    assert answer.body[0] == 4
    answer = await http.send("POST", "/c", host="cart.default.localhost")
    assert answer.body[0] == 1
    found = await http.send("GET", "/v1/applications/shop%2Fcart")
    assert (found.json["name"], found.json["tenant"]) == ("shop/cart", "shop")
    listed = await http.send("GET", "/v1/applications?tenant=rival")
    assert [one["name"] for one in listed.json["applications"]] == ["rival/cart"]


@pytest.mark.usefixtures("carts")
@pytest.mark.parametrize(
    "segment",
    [
        "shop%252Fcart",
        "shop%2F..%2Frival%2Fcart",
        "..%2Frival%2Fcart",
        "shop%2F%2Fcart",
        "%2Fcart",
        "SHOP%2Fcart",
        "shop%2Fcart%2F",
        "shop%00%2Fcart",
        "sh%C3%B6p%2Fcart",
        "shop%5Ccart",
        "a" * 500 + "%2Fcart",
    ],
)
async def test_name_when_it_is_none_then_nobody_has_it(http: Caller, segment: str) -> None:
    """What is decided about is what is looked up: once, and never cleaned."""
    for method, path in (
        ("POST", f"/apps/{segment}/c"),
        ("GET", f"/v1/applications/{segment}"),
        ("DELETE", f"/v1/applications/{segment}"),
        ("GET", f"/v1/applications/{segment}/logs"),
        ("GET", f"/v1/vms/{segment}/console"),
    ):
        answer = await http.send(method, path)
        assert answer.status == 404, (method, path, answer.body)
    for name in ("cart", "shop/cart", "rival/cart"):
        found = await http.send("GET", "/v1/applications/" + name.replace("/", "%2F"))
        assert found.json["counters"]["messages"] == 0


async def test_component_when_of_a_tenant_then_it_is_told_where_it_is(
    client: NodeClient, open_: Any, tmp_path: Path
) -> None:
    """By a host of its own, below its path, and with a message."""
    wasm = tmp_path / "http.wasm"
    wasm.write_bytes(http_component())
    await client.deploy("shop/web", wasm)
    http = await open_()
    for path, host in (("/echo", "web.shop.localhost"), ("/apps/shop%2Fweb/echo", "localhost")):
        answer = await http.send("POST", path, b"body", host=host)
        assert (answer.status, answer.body) == (200, b"hello")
    assert (await client.invoke("shop/web", b"body", type="echo")).payload == b"hello"


async def test_node_when_killed_then_tenants_are_as_before(
    data_dir: Path, probe_wasm: Path, tmp_path: Path
) -> None:
    """Rows, logs and artifacts; and a backup has all of it."""
    names = ("cart", "shop/cart", "rival/cart")
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        for number, name in enumerate(names, 1):
            await client.deploy(name, probe_wasm)
            for _ in range(number):
                await client.invoke(name, type="c")
            await client.invoke(name, name.encode(), type="o")
    copy, restored = tmp_path / "backup.tar", data_dir.parent / "restored"
    assert back_up(data_dir, copy).missing == ()
    assert verify(copy).applications == tuple(sorted(names))
    assert restore(copy, restored).missing == ()
    for directory in (data_dir, restored):
        async with builder(directory).build() as node, NodeClient(node.address) as client:
            assert sorted(node.recovered) == sorted(names)
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(reached(client, name))
            for number, name in enumerate(names, 1):
                assert (await client.invoke(name, type="c")).payload[0] == number + 1
                lines = [line.message async for line in client.logs(name)]
                assert lines[:1] == [name]
