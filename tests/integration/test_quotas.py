"""Quotas of a real node: set by gRPC and HTTP, enforced at once, there after a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.actors import http_component
from support.nodes import builder, node_process, reached
from support.raw_http import Caller

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import DeadlineExceeded, ResourceExhausted
from plexspaces_node.node.node import Node
from plexspaces_node.quota import Key, SubjectUse


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as node:
        yield node


@pytest.fixture
async def client(node: Node) -> AsyncIterator[NodeClient]:
    async with NodeClient(node.address, http=False) as client:
        yield client


def used(use: SubjectUse, key: Key) -> int:
    return next(one.used for one in use.quotas if one.key is key)


@pytest.mark.usefixtures("echo")
async def test_rate_when_over_it_then_both_doors_say_when_to_come_back(
    client: NodeClient, http: Caller
) -> None:
    """RetryInfo in gRPC, Retry-After in HTTP; after that time the message is taken."""
    await client.set_quota({"messages_per_s": 2}, application="echo")
    for _ in range(2):
        assert (await client.invoke("echo", b"hi", type="e")).payload == b"hi"
    with pytest.raises(ResourceExhausted, match="messages_per_s=2") as caught:
        await client.invoke("echo", b"hi", type="e")
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 0.5
    assert caught.value.hint == "plexspaces quota show --tenant default --application echo"
    refused = await http.send("POST", "/apps/echo/e", b"hi")
    assert refused.status == 429
    assert refused.headers["retry-after"] == "1"
    problem = refused.json
    assert 0 < problem["retry_after_s"] <= 0.5
    assert problem["hint"] == "GET /v1/quotas?tenant=default&application=echo"
    after_s = problem["retry_after_s"]
    await asyncio.sleep(after_s)
    assert (await client.invoke("echo", b"hi", type="e")).payload == b"hi"
    await client.set_quota({"messages_per_s": 0}, application="echo")
    for _ in range(5):
        await client.invoke("echo", b"hi", type="e")


@pytest.mark.usefixtures("echo")
async def test_quotas_when_set_by_http_then_shown_with_what_is_used(
    client: NodeClient, http: Caller, probe_wasm: Path
) -> None:
    """Of the tenant: memory, applications, artifacts, keys, as they are."""
    body = json.dumps({"tenant": "default", "values": {"applications": 1, "keyvalue_keys": 1}})
    answer = await http.send("POST", "/v1/quotas", body.encode())
    assert answer.status == 200
    with pytest.raises(ResourceExhausted, match="tenant 'default' has reached its quota"):
        await client.deploy("more", probe_wasm)
    await client.invoke("echo", b"value", type="p")
    [use] = await client.quotas(tenant="default")
    assert used(use, Key.APPLICATIONS) == 1
    assert used(use, Key.MEMORY_MIB) == 256
    assert used(use, Key.ARTIFACT_BYTES) == probe_wasm.stat().st_size
    told = (await http.send("GET", "/v1/quotas?tenant=default")).json
    assert told["subjects"][0]["quotas"][0] == {
        "key": "applications",
        "limit": 1,
        "used": 1,
        "enforced": True,
        "note": "",
    }
    assert (await http.send("POST", "/v1/quotas", b'{"values": {"memory": 1}}')).status == 400


@pytest.mark.usefixtures("echo")
async def test_artifacts_and_memory_when_over_a_quota_then_the_deploy_is_refused_and_nothing_left(
    client: NodeClient, probe_wasm: Path
) -> None:
    """An application that is there can still be replaced by one as large."""
    size = probe_wasm.stat().st_size
    await client.set_quota({"artifact_bytes": size, "memory_mib": 256})
    with pytest.raises(ResourceExhausted, match="memory_mib=256"):
        await client.deploy("more", probe_wasm)
    again = DeployOptions(replace=True)
    await client.deploy("echo", probe_wasm, options=again)
    larger = probe_wasm.read_bytes() + b"\x00\x03\x01x."
    with pytest.raises(ResourceExhausted, match=f"artifact_bytes={size}"):
        await client.deploy("echo", larger, options=again)
    assert [one.name for one in (await client.list()).applications] == ["echo"]


async def test_quotas_when_lower_than_what_there_is_then_it_starts_again_all_the_same(
    data_dir: Path, probe_wasm: Path
) -> None:
    """After `kill -9` too: what was deployed is never refused, and the quotas hold again."""
    with node_process(data_dir) as (process, address):
        async with NodeClient(address, http=False) as client:
            await client.deploy("one", probe_wasm)
            await client.deploy("two", probe_wasm)
            values = {"applications": 1, "memory_mib": 64, "messages_per_s": 1}
            await client.set_quota(values)
            process.kill()
            process.wait()
    async with (
        builder(data_dir).build() as node,
        NodeClient(node.address, http=False) as client,
    ):
        for name in ("one", "two"):
            await reached(client, name)
        assert (await client.invoke("one", b"hi", type="e")).payload == b"hi"
        with pytest.raises(ResourceExhausted, match="messages_per_s=1"):
            await client.invoke("two", b"hi", type="e")
        with pytest.raises(ResourceExhausted, match="applications=1"):
            await client.deploy("three", probe_wasm)


@pytest.mark.usefixtures("echo")
async def test_in_flight_when_reached_then_one_more_is_refused(client: NodeClient) -> None:
    """Counted as they are, also those that came before the quota."""
    running = asyncio.ensure_future(client.invoke("echo", type="l", timeout_s=1))
    async with asyncio.timeout(10):
        while not (await client.inspect("echo")).counters.in_flight:
            await asyncio.sleep(0.01)
    await client.set_quota({"in_flight": 1}, tenant="default")
    with pytest.raises(ResourceExhausted, match="in_flight=1: 1 are in flight"):
        await client.invoke("echo", b"hi", type="e")
    with pytest.raises(DeadlineExceeded):
        await running
    assert (await client.invoke("echo", b"hi", type="e")).payload == b"hi"


@pytest.mark.usefixtures("echo")
async def test_vm_when_there_are_no_cgroups_then_every_listing_says_so(client: NodeClient) -> None:
    """Where there are some, none does."""
    [application] = (await client.list()).applications
    assert application.vm is not None
    [use] = await client.quotas(tenant="default")
    [cpu] = [one for one in use.quotas if one.key is Key.CPU_PERCENT]
    assert application.vm.cpu_not_enforced == cpu.note
    assert cpu.enforced is (not cpu.note)


async def test_tenant_when_at_its_quotas_then_another_is_not_touched(
    client: NodeClient, probe_wasm: Path
) -> None:
    """Rate, applications and keys, which the applications of a tenant share."""
    for name in ("shop/one", "shop/two", "blog/one"):
        await client.deploy(name, probe_wasm)
    values = {"messages_per_s": 2, "applications": 2, "memory_mib": 512}
    await client.set_quota(values, tenant="shop")
    await client.invoke("shop/one", b"hi", type="e")
    await client.invoke("shop/two", b"hi", type="e")
    for name in ("shop/one", "shop/two"):
        with pytest.raises(ResourceExhausted, match="tenant 'shop'"):
            await client.invoke(name, b"hi", type="e")
    with pytest.raises(ResourceExhausted, match="tenant 'shop' has reached its quota applications"):
        await client.deploy("shop/three", probe_wasm)
    for _ in range(5):
        assert (await client.invoke("blog/one", b"hi", type="e")).payload == b"hi"
    await client.deploy("blog/two", probe_wasm)
    tenants = {use.subject.tenant: use for use in await client.quotas()}
    assert used(tenants["shop"], Key.APPLICATIONS) == used(tenants["blog"], Key.APPLICATIONS) == 2
    assert used(tenants["shop"], Key.MEMORY_MIB) == 512


async def test_component_when_its_quota_is_reached_then_its_clients_are_told_when_to_come_back(
    client: NodeClient, http: Caller, tmp_path: Path
) -> None:
    """A browser and a webhook get the same status, and the component is not asked."""
    wasm = tmp_path / "hello.wasm"
    wasm.write_bytes(http_component())
    await client.deploy("shop/hello", wasm)
    await client.set_quota({"messages_per_s": 1}, tenant="shop", application="hello")
    assert (await http.send("GET", "/apps/shop%2Fhello/")).status == 200
    refused = await http.send("GET", "/apps/shop%2Fhello/")
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert (await client.inspect("shop/hello")).counters.failures == 1


@pytest.mark.usefixtures("echo")
async def test_quota_when_set_then_the_audit_log_says_whose(
    client: NodeClient, data_dir: Path
) -> None:
    """So that an admin of the tenant sees it too."""
    await client.set_quota({"vcpus": 4}, tenant="shop", application="cart")
    async with asyncio.timeout(10):
        while True:
            lines = "".join(path.read_text() for path in (data_dir / "audit").iterdir())
            told = [json.loads(line) for line in lines.splitlines() if "SetQuota" in line]
            if told:
                break
            await asyncio.sleep(0.01)
    assert "shop" in told[0].values()
    assert "cart" in told[0].values()
