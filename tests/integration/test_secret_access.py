"""Secrets and the audit log under attack: without a token, with too little, with another's."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from support.actors import probe
from support.nodes import builder

from plexspaces_node import NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.errors import NotFound, PermissionDenied, Unauthenticated
from plexspaces_node.node.node import Node


@dataclass
class Guests:
    """Clients with a token each, and the tokens themselves."""

    node: Node
    clients: dict[str, NodeClient]
    tokens: dict[str, str]

    def __getitem__(self, name: str) -> NodeClient:
        return self.clients[name]

    async def http(self, who: str, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Make a request over HTTP; return status and body."""

        def ask() -> tuple[int, str]:
            data = None if body is None else json.dumps(body).encode()
            url = f"http://{self.node.http_address}{path}"
            request = Request(url, data, {"content-type": "application/json"}, method=method)
            if who:
                request.add_header("authorization", f"Bearer {self.tokens[who]}")
            try:
                with urlopen(request) as reply:
                    return reply.status, reply.read().decode()
            except HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(ask)


@pytest.fixture
async def guests(data_dir: Path) -> AsyncIterator[Guests]:
    """A node with two tenants: of `shop` each scope, of `bank` its admin."""
    async with AsyncExitStack() as stack:
        build = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
        node = await stack.enter_async_context(build.build())
        found = Guests(node, {}, {})
        async with NodeClient(node.address) as owner:
            made = {
                "root": await owner.create_token("root", scopes=["admin"], tenant="*"),
            }
        first = NodeClient(node.address, token=made["root"].secret)
        root = found.clients["root"] = await stack.enter_async_context(first)
        for name, scope, tenant in (
            *(("shop", "admin", "shop"), ("deployer", "deploy", "shop")),
            *(("reader", "read", "shop"), ("sender", "invoke", "shop"), ("bank", "admin", "bank")),
        ):
            made[name] = await root.create_token(name, scopes=[scope], tenant=tenant)
            client = NodeClient(node.address, token=made[name].secret)
            found.clients[name] = await stack.enter_async_context(client)
        with pytest.MonkeyPatch.context() as patch:
            # As another user, whom no notice leads to the node's socket.
            patch.setenv("XDG_CACHE_HOME", str(data_dir))
            stranger = NodeClient(node.address, token="")
            found.clients[""] = await stack.enter_async_context(stranger)
        found.tokens = {name: one.secret for name, one in made.items()}
        yield found


async def test_secrets_when_the_caller_may_not_then_refused_whatever_there_is(
    guests: Guests,
) -> None:
    """By gRPC and by HTTP; a secret that exists is refused as one that does not."""
    await guests["bank"].set_secret("db", b"1")
    value = base64.b64encode(b"x").decode()
    for who in ("", "deployer", "reader", "sender", "shop"):
        error = PermissionDenied if who else Unauthenticated
        status = 403 if who else 401
        tenant = "bank" if who == "shop" else "shop" if who else "bank"
        said = set()
        for name in ("db", "nothing"):
            with pytest.raises(error):
                await guests[who].set_secret(name, b"x", tenant=tenant)
            with pytest.raises(error) as caught:
                await guests[who].delete_secret(name, tenant=tenant, force=True)
            said.add(str(caught.value))
            body = {"value": value, "tenant": tenant}
            assert (await guests.http(who, "POST", f"/v1/secrets/{name}", body))[0] == status
            path = f"/v1/secrets/{name}?tenant={tenant}&force"
            assert (await guests.http(who, "DELETE", path))[0] == status
        assert len(said) == 1
        with pytest.raises(error):
            await guests[who].list_secrets(tenant=tenant)
        assert (await guests.http(who, "GET", f"/v1/secrets?tenant={tenant}"))[0] == status
        with pytest.raises(error):
            [entry async for entry in guests[who].read_audit(tenant=tenant)]
        assert (await guests.http(who, "GET", f"/v1/audit?tenant={tenant}"))[0] == status
    assert [(one.name, one.version) for one in await guests["bank"].list_secrets()] == [("db", 1)]


async def test_secrets_when_a_tenants_admin_calls_then_only_the_tenants(guests: Guests) -> None:
    """What is not said is the caller's own tenant; the admin of all sees all."""
    await guests["shop"].set_secret("db", b"1")
    await guests["bank"].set_secret("db", b"2")
    assert [one.tenant for one in await guests["shop"].list_secrets()] == ["shop"]
    assert [one.tenant for one in await guests["root"].list_secrets()] == ["bank", "shop"]
    status, text = await guests.http("shop", "GET", "/v1/secrets")
    assert (status, [one["tenant"] for one in json.loads(text)["secrets"]]) == (200, ["shop"])
    value = base64.b64encode(b"3").decode()
    status, text = await guests.http("shop", "POST", "/v1/secrets/db", {"value": value})
    assert (status, json.loads(text)["version"]) == (200, 2)
    assert (await guests.http("shop", "DELETE", "/v1/secrets/db"))[0] == 204
    assert [one.tenant for one in await guests["root"].list_secrets()] == ["bank"]


async def test_deploy_when_it_names_another_tenants_secret_then_as_one_that_does_not_exist(
    guests: Guests, tmp_path: Path
) -> None:
    """Not by its name, and not by a name that leads there."""
    await guests["bank"].set_secret("db", b"1")
    wasm = tmp_path / "probe.wasm"
    wasm.write_bytes(probe())
    said = set()
    for name in ("db", "xy"):
        options = DeployOptions(secrets={"DB": name})
        with pytest.raises(NotFound) as caught:
            await guests["deployer"].deploy("cart", wasm, options=options)
        said.add(caught.value.message.replace(name, "NAME"))
    assert said == {"there is no secret 'NAME' in tenant 'shop'"}
    await guests["shop"].set_secret("db", b"2")
    options = DeployOptions(secrets={"DB": "db"})
    await guests["deployer"].deploy("cart", wasm, options=options)
    [secret] = await guests["shop"].list_secrets()
    assert secret.used_by == ("shop/cart",)
    [other] = await guests["bank"].list_secrets()
    assert other.used_by == ()


async def test_audit_when_a_tenants_admin_reads_then_only_what_the_tenant_did(
    guests: Guests,
) -> None:
    """Refusals too: those of the tenant's own tokens, and none of what others tried."""
    await guests["bank"].set_secret("db", b"1")
    with pytest.raises(PermissionDenied):
        await guests["shop"].delete_secret("db", tenant="bank")
    with pytest.raises(Unauthenticated):
        await guests[""].delete_secret("db", tenant="bank")
    seen: dict[str, set[tuple[str, str, str]]] = {}
    async with asyncio.timeout(20):
        # Refusals are written when they cannot be merged with others any more.
        while len(seen.get("root", ())) < 3:
            await asyncio.sleep(0.05)
            for who in ("root", "shop", "bank"):
                entries = [entry async for entry in guests[who].read_audit()]
                seen[who] = {
                    (one.who, one.verb.partition("/")[2], one.result)
                    for one in entries
                    if one.verb.endswith(("SetSecret", "DeleteSecret"))
                }
    set_, refused = ("bank", "SetSecret", "ok"), ("shop", "DeleteSecret", "permission_denied")
    unknown = ("anonymous", "DeleteSecret", "unauthenticated")
    assert seen == {"root": {set_, refused, unknown}, "shop": {refused}, "bank": {set_}}
