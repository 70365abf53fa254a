"""Every call of a node, by both doors, by everybody who should not.

Without a token, with one that is wrong, revoked, expired or another tenant's, and with each scope.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from support.nodes import builder
from support.patience import patient
from support.raw_http import Caller

from plexspaces_node import NodeClient
from plexspaces_node.errors import PermissionDenied, Unauthenticated
from plexspaces_node.node.access.identity import ALL, Identity, Kind, Scope
from plexspaces_node.node.access.policy import RULES, About, Target, decide
from plexspaces_node.node.access.policy import UPLOAD_ARTIFACT as UPLOAD
from plexspaces_node.node.http.routes import ROUTES, Route
from plexspaces_node.node.node import Node
from plexspaces_node.token_text import new_secret

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
VERBS = [verb for verb in RULES if not verb.startswith("HTTP ")]

_VALUES = {
    **{"name": "shop/cart", "vm_id": "no VM", "tenant": "shop", "digest": "0" * 64},
    **{"application": ""},
}
_OF_TOKENS = {"name": "x"}


@dataclass
class Tokens:
    """Secrets by what their tokens are."""

    of_scope: dict[Scope, str]
    of_all: str
    revoked: str
    expired: str
    rival: str
    limited: str

    @property
    def wrong(self) -> dict[str, str | None]:
        """What proves nobody, by what is wrong with it."""
        right = self.of_scope[Scope.ADMIN]
        return {
            "none": None,
            "unknown": f"Bearer {new_secret()}",
            "revoked": f"Bearer {self.revoked}",
            "expired": f"Bearer {self.expired}",
            "empty": "",
            "without its scheme": right,
            "of another scheme": f"Basic {right}",
            "shorter": f"Bearer {right[:-1]}",
            "longer": f"Bearer {right}x",
            "in another case": f"Bearer {right.swapcase()}",
            "twice": f"Bearer {right}, Bearer {right}",
            "an id alone": f"Bearer {right[:12]}",
            "with a zero": f"Bearer {right[:-1]}\0",
        }


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    made = builder(data_dir).with_setting("http.address", "127.0.0.1:0")
    async with made.build() as node:
        yield node


@pytest.fixture
async def tokens(node: Node, data_dir: Path) -> Tokens:
    """Tokens of every kind, made by the owner."""
    async with NodeClient(f"unix:{data_dir}/node.sock") as owner:

        async def made(name: str, *scopes: Scope, tenant: str = "shop", **more: Any) -> str:
            new = await owner.create_token(name, scopes=scopes, tenant=tenant, **more)
            return new.secret

        found = Tokens(
            {scope: await made(f"of-{scope}", scope) for scope in Scope},
            of_all=await made("all", Scope.ADMIN, tenant=ALL),
            revoked=await made("revoked", Scope.ADMIN),
            expired=await made("expired", Scope.ADMIN, lifetime_s=1),
            rival=await made("rival", *Scope, tenant="rival"),
            limited=await made("limited", *Scope, applications="other-*"),
        )
        await owner.revoke_token("revoked")
        while [each.state for each in await owner.list_tokens() if each.name == "expired"] != [
            "expired"
        ]:
            await asyncio.sleep(0.05)
    return found


def request_of(verb: str) -> bytes:
    """A request about the shop's cart, or as near to it as the method goes."""
    service, _, name = verb.rpartition("/")
    kind = Default().FindServiceByName(service).methods_by_name[name].input_type
    values = _VALUES | (_OF_TOKENS if "TokenService" in verb else {})
    fields = {key: value for key, value in values.items() if key in kind.fields_by_name}
    if "name" in fields:
        # A deploy into an empty VM needs more.
        fields.pop("vm_id", None)
    return GetMessageClass(kind)(**fields).SerializeToString()


async def by_grpc(
    channel: grpc.aio.Channel, verb: str, authorization: str | None
) -> grpc.StatusCode:
    """Make a call, and return how it ended; OK for one that has begun to answer."""
    metadata = () if authorization is None else (("authorization", authorization),)
    method: Any = channel.stream_stream(f"/{verb}")
    call = method(iter([request_of(verb)]), metadata=metadata, timeout=patient(20))
    try:
        async for _ in call:
            break
        else:
            code: grpc.StatusCode = await call.code()
            return code
        return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        call.cancel()


async def by_http(address: str, route: Route, authorization: str | None) -> int:
    """Send a request on a connection of its own, and return its status."""
    values = _VALUES | (_OF_TOKENS if "okens" in route.path else {})
    path = route.path
    for name in route.parameters:
        path = path.replace(f"{{{name}}}", values[name].replace("/", "%2F"))
    if "tenant" in route.query:
        path += "?tenant=shop"
    body = b""
    if route.has_body:
        fields = set(route.descriptor.input_type.fields_by_name) - set(route.parameters.values())
        body = json.dumps({key: values[key] for key in fields & {"name", "tenant"}}).encode()
    line = f"authorization: {authorization}\r\n" if authorization is not None else ""
    caller = await Caller.connect(address)
    caller.writer.write(
        f"{route.method} {path} HTTP/1.1\r\nhost: localhost\r\n{line}"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    async with asyncio.timeout(patient(20)):
        # Not the rest: there may be no end of it.
        head = await caller.reader.readuntil(b"\r\n\r\n")
    caller.writer.close()
    return int(head.split()[1])


def identity_of(scope: Scope, tenant: str = "shop") -> Identity:
    return Identity(Kind.TOKEN, "x", frozenset({scope}), tenant)


def target_of(verb: str) -> Target:
    """What `request_of` is about."""
    match RULES[verb].about:
        case About.APPLICATION:
            return Target("shop", "shop/cart")
        case About.TENANT | About.ARTIFACT:
            return Target("shop")
    return Target()


async def test_calls_when_nobody_known_makes_them_then_every_one_is_refused(
    node: Node, tokens: Tokens
) -> None:
    """Over gRPC and over HTTP; what is open to everybody is no method of a service."""
    wrong = tokens.wrong
    async with grpc.aio.insecure_channel(node.address) as channel:
        for verb in VERBS:
            for how, authorization in wrong.items():
                if how == "with a zero":
                    # A client of gRPC cannot send it.
                    continue
                code = await by_grpc(channel, verb, authorization)
                assert code is grpc.StatusCode.UNAUTHENTICATED, (verb, how)
    for route in ROUTES:
        for how, authorization in wrong.items():
            expected = 400 if how == "with a zero" else 401
            assert await by_http(node.http_address, route, authorization) == expected, (
                route.path,
                how,
            )


@pytest.mark.parametrize("scope", Scope)
async def test_calls_when_made_with_a_scope_then_as_the_policy_says(
    node: Node, tokens: Tokens, scope: Scope
) -> None:
    """By both doors the same: what it allows is let in, and fails for what it asks."""
    authorization = f"Bearer {tokens.of_scope[scope]}"
    identity = identity_of(scope)
    async with grpc.aio.insecure_channel(node.address) as channel:
        for verb in VERBS:
            code = await by_grpc(channel, verb, authorization)
            allowed = decide(identity, RULES[verb], target_of(verb))
            assert (code not in REFUSED) is allowed, (verb, code)
    for route in ROUTES:
        status = await by_http(node.http_address, route, authorization)
        allowed = decide(identity, RULES[route.verb], target_of(route.verb))
        assert (status not in (401, 403)) is allowed, (route.path, status)


@pytest.mark.parametrize("whose", ["rival", "limited"])
async def test_calls_when_made_with_another_tenants_token_then_refused(
    node: Node, tokens: Tokens, whose: str
) -> None:
    """With every scope of its own; and with all scopes for other applications of the tenant."""
    authorization = f"Bearer {getattr(tokens, whose)}"
    limited = Identity(Kind.TOKEN, "x", frozenset(Scope), "shop", "other-*")
    of = limited if whose == "limited" else Identity(Kind.TOKEN, "x", frozenset(Scope), "rival")
    # An upload has its tenant in its first part.
    verbs = {each for each in VERBS if not decide(of, RULES[each], target_of(each))} - {UPLOAD}
    assert len(verbs) > 20
    async with grpc.aio.insecure_channel(node.address) as channel:
        for verb in verbs:
            code = await by_grpc(channel, verb, authorization)
            assert code is grpc.StatusCode.PERMISSION_DENIED, (verb, code)
    for route in ROUTES:
        if route.verb in verbs:
            assert await by_http(node.http_address, route, authorization) == 403, route.path


async def test_lists_when_read_with_another_tenants_token_then_they_have_nothing(
    node: Node, tokens: Tokens, data_dir: Path, probe_wasm: Path
) -> None:
    """Neither applications nor VMs, nor that a name is taken, nor whether there is one."""
    async with NodeClient(f"unix:{data_dir}/node.sock") as owner:
        await owner.deploy("shop/cart", probe_wasm)
    async with NodeClient(node.address, token=tokens.rival) as rival:
        assert (await rival.list()).applications == ()
        assert await rival.list_vms() == ()
        for name in ("shop/cart", "shop/none"):
            with pytest.raises(PermissionDenied) as caught:
                await rival.inspect(name)
            assert str(caught.value) == (
                f"token 'rival' may not Inspect {name}: it is for tenant 'rival'"
            )
        assert {each.tenant for each in await rival.list_tokens()} == {"rival"}
    async with NodeClient(node.address, token=tokens.of_scope[Scope.ADMIN]) as shop:
        assert {each.tenant for each in await shop.list_tokens()} == {"shop"}
        assert [each.name for each in (await shop.list()).applications] == ["shop/cart"]


@pytest.mark.parametrize("kind", [b"application/x-ndjson", b"text/event-stream"])
async def test_streams_when_their_token_is_revoked_then_they_end(
    node: Node, tokens: Tokens, data_dir: Path, probe_wasm: Path, kind: bytes
) -> None:
    """A log that is followed: by gRPC the client is told, by HTTP the connection is closed."""
    secret = tokens.of_scope[Scope.READ]
    async with NodeClient(f"unix:{data_dir}/node.sock") as owner:
        await owner.deploy("shop/cart", probe_wasm)
        follower = await Caller.connect(node.http_address)
        follower.writer.write(
            b"GET /v1/applications/shop%2Fcart/logs?follow HTTP/1.1\r\nhost: localhost\r\n"
            b"accept: " + kind + b"\r\nauthorization: Bearer " + secret.encode() + b"\r\n\r\n"
        )
        assert (await follower.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        async with NodeClient(node.address, token=secret) as client:
            following = asyncio.create_task(_last_error(client))
            bystander = await _beside(node, tokens.of_all)
            await asyncio.sleep(0.2)
            await owner.revoke_token(f"of-{Scope.READ}")
            async with asyncio.timeout(patient(10)):
                with pytest.raises(Unauthenticated, match="revoked or has expired"):
                    await following
                assert await _is_cut(follower)
            with pytest.raises(Unauthenticated):
                await client.inspect("shop/cart")
            assert not bystander.done()
            bystander.cancel()


async def _is_cut(follower: Caller) -> bool:
    """Wait for the end of a connection; whether its response was not complete."""
    try:
        return not (await follower.reader.read()).endswith(b"0\r\n\r\n")
    except ConnectionError:
        return True
    finally:
        follower.writer.close()


async def _beside(node: Node, secret: str) -> asyncio.Task[None]:
    """Follow the same log with another token."""

    async def follow() -> None:
        async with NodeClient(node.address, token=secret) as client:
            await _last_error(client)

    return asyncio.create_task(follow())


async def _last_error(client: NodeClient) -> None:
    async with aclosing(client.logs("shop/cart", follow=True)) as lines:
        async for _ in lines:
            pass


async def test_stream_before_the_first_token_when_there_is_one_then_it_ends(
    node: Node, probe_wasm: Path, data_dir: Path
) -> None:
    """Whoever came while the node was open has to say who they are."""
    async with (
        NodeClient(f"unix:{data_dir}/node.sock") as owner,
        grpc.aio.insecure_channel(node.address) as channel,
    ):
        await owner.deploy("shop/cart", probe_wasm)
        verb = "plexspaces.node.v1.ApplicationService/Logs"
        kind = Default().FindMethodByName(verb.replace("/", ".")).input_type
        request = GetMessageClass(kind)(name="shop/cart", follow=True).SerializeToString()
        method: Any = channel.unary_stream(f"/{verb}")
        call = method(request, timeout=patient(20))
        reading = asyncio.create_task(_read(call))
        await asyncio.sleep(0.2)
        assert not reading.done()
        await owner.create_token("ops", scopes=["admin"])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def _read(call: Any) -> None:
    async for _ in call:
        pass


async def test_headers_when_they_are_huge_then_only_their_sender_is_refused(
    node: Node, tokens: Tokens
) -> None:
    """Before anything is hashed."""
    huge = "Bearer plx_" + "x" * (1 << 20)
    async with grpc.aio.insecure_channel(node.address) as channel:
        code = await by_grpc(channel, VERBS[0], huge)
        assert code is not grpc.StatusCode.OK
    caller = await Caller.connect(node.http_address)
    caller.writer.write(
        b"GET /v1/node HTTP/1.1\r\nhost: localhost\r\nauthorization: " + huge.encode() + b"\r\n\r\n"
    )
    assert (await caller.answer()).status == 431
    caller.writer.close()
    async with NodeClient(node.address, token=tokens.of_all) as client:
        assert (await client.whoami()).name == "all"
