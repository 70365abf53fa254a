"""Attacks of one tenant on another, by both doors of a real node, with tokens of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from support.nodes import builder
from support.raw_http import Answer, Caller
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.generated import application_pb2_grpc as pb_grpc
from plexspaces_node.client import DeployOptions
from plexspaces_node.client.artifact import read_artifact
from plexspaces_node.errors import (
    NotFound,
    PermissionDenied,
    PlexSpacesError,
    Unauthenticated,
)
from plexspaces_node.node.access.identity import Identity
from plexspaces_node.node.applications import operations
from plexspaces_node.node.node import Node

NAMES = ("cart", "shop/cart", "rival/cart")
UNKNOWN_TOKEN = "plx_" + "0" * 57


class Side(NamedTuple):
    """One tenant's client, and what it sends by HTTP."""

    client: NodeClient
    headers: dict[str, Any]


@pytest.fixture
async def node(data_dir: Path) -> AsyncIterator[Node]:
    async with builder(data_dir).with_setting("http.address", "127.0.0.1:0").build() as node:
        yield node
    assert_nothing_left(data_dir)


@pytest.fixture
async def sides(client: NodeClient, node: Node, probe_wasm: Path) -> AsyncIterator[dict[str, Side]]:
    """A token with every scope for two tenants, one for all, and one of few applications."""
    for name in NAMES:
        await client.deploy(name, probe_wasm)
    every = ("deploy", "invoke", "read")
    async with AsyncExitStack() as stack:

        async def side(secret: str) -> Side:
            opened = NodeClient(node.address, token=secret, http=False)
            headers = {"authorization": f"Bearer {secret}"}
            return Side(await stack.enter_async_context(opened), headers)

        # The last of all, for from the first one on `client` has to bring one.
        admin = await side(
            (await client.create_token("admin", scopes=("admin",), tenant="*")).secret
        )
        found = {"admin": admin}
        for tenant in ("shop", "rival"):
            made = await admin.client.create_token("ci", scopes=every, tenant=tenant)
            found[tenant] = await side(made.secret)
        made = await admin.client.create_token(
            "few", scopes=every, tenant="rival", applications="till-*"
        )
        found["few"] = await side(made.secret)
        yield found


@pytest.fixture
def shop(sides: dict[str, Side]) -> Side:
    return sides["shop"]


@pytest.fixture
def admin(sides: dict[str, Side]) -> Side:
    return sides["admin"]


async def end_of(call: Awaitable[object]) -> str:
    """Return how a call ends, as its caller sees it."""
    try:
        return f"answered {await call!r}"
    except PlexSpacesError as error:
        return f"{type(error).__name__}: {error.message} [{error.hint}]"


async def logs_of(client: NodeClient, name: str) -> list[str]:
    return [line.message async for line in client.logs(name)]


async def console_of(client: NodeClient, name: str) -> bytes:
    return b"".join([chunk async for chunk in client.vm_console(name)])


CALLS: dict[str, Callable[[NodeClient, str, Path], Awaitable[object]]] = {
    "inspect": lambda client, name, _: client.inspect(name),
    "invoke": lambda client, name, _: client.invoke(name, type="c"),
    "logs": lambda client, name, _: logs_of(client, name),
    "stop": lambda client, name, _: client.stop(name),
    "start": lambda client, name, _: client.start(name),
    "undeploy": lambda client, name, _: client.undeploy(name),
    "deploy": lambda client, name, wasm: client.deploy(name, wasm),
    "replace": lambda client, name, wasm: client.deploy(
        name, wasm, options=DeployOptions(replace=True)
    ),
    "inspect_vm": lambda client, name, _: client.inspect_vm(name),
    "console": lambda client, name, _: console_of(client, name),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("tenant", ["shop", "few"])
async def test_call_when_about_another_tenant_then_the_same_whether_it_exists(
    sides: dict[str, Side], probe_wasm: Path, call: str, tenant: str
) -> None:
    """Also to who has to do with other applications of that tenant alone."""
    ends = []
    for name in ("rival/cart", "rival/none"):
        end = await end_of(CALLS[call](sides[tenant].client, name, probe_wasm))
        ends.append(end.replace(name, "NAME"))
    assert ends[0] == ends[1]
    assert ends[0].startswith("PermissionDenied")
    assert (await sides["admin"].client.invoke("rival/cart", type="c")).payload[0] == 1


ROUTES = (
    ("GET", "/v1/applications/{}", b""),
    ("DELETE", "/v1/applications/{}", b""),
    ("POST", "/v1/applications/{}/stop", b""),
    ("POST", "/v1/applications/{}/start", b""),
    ("POST", "/v1/applications/{}/invoke", b'{"type": "c"}'),
    ("GET", "/v1/applications/{}/logs", b""),
    ("GET", "/v1/vms/{}", b""),
    ("GET", "/v1/vms/{}/console", b""),
    ("POST", "/apps/{}/c", b""),
    ("GET", "/apps/{}/c", b""),
)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_request_when_about_another_tenant_then_the_same_whether_it_exists(
    shop: Side, admin: Side, http: Caller, method: str, path: str, body: bytes
) -> None:
    """Status, headers and every member of the body."""
    answers = []
    for segment in ("rival%2Fcart", "rival%2Fnone"):
        answer = await http.send(method, path.format(segment), body, **shop.headers)
        said = answer.body.replace(segment.encode(), b"NAME")
        said = said.replace(segment.replace("%2F", "/").encode(), b"NAME")
        headers = {key: value for key, value in answer.headers.items() if key != "content-length"}
        answers.append((answer.status, headers, said))
    assert answers[0] == answers[1]
    assert answers[0][0] == 403
    assert (await admin.client.inspect("rival/cart")).counters.messages == 0


@pytest.mark.parametrize(
    "segment",
    [
        "rival%2Fcart",
        "rival/cart",
        "..%2Frival%2Fcart",
        "../rival%2Fcart",
        "shop%2F..%2Frival%2Fcart",
        "shop/../rival%2Fcart",
        "default%2Frival%2Fcart",
        "default%2Fcart",
        "rival%252Fcart",
        "RIVAL%2Fcart",
        "Rival%2Fcart",
        "%72ival%2Fcart",
        "rival%2F%63art",
        "rival%2Fcart%00",
        "%EF%BC%8Frival%2Fcart",
        "rival%E2%88%95cart",
        "rival~cart",
        "rival%5Ccart",
        ".%2Frival%2Fcart",
        "%2F%2Frival%2Fcart",
        "rival%2Fcart;x",
        "rival%2F" + "a" * 4000,
    ],
)
async def test_name_when_it_tries_to_leave_its_tenant_then_it_gets_nowhere(
    shop: Side, admin: Side, http: Caller, segment: str
) -> None:
    """By every path that takes a name; and as the name of a deploy."""
    for method, path, body in ROUTES:
        answer = await http.send(method, path.format(segment), body, **shop.headers)
        assert answer.status in (403, 404, 405), (method, path, answer)
        assert b"app-" not in answer.body
    digest = (await shop.client.inspect("cart")).digest
    name = segment.replace("%2F", "/")
    body = json.dumps({"name": name, "digest": digest, "replace": True}).encode()
    answer = await http.send("POST", "/v1/applications", body, **shop.headers)
    assert answer.status in (400, 403), answer
    for name in ("cart", "rival/cart"):
        assert (await admin.client.inspect(name)).counters.messages == 0
    assert {one.name for one in (await admin.client.list()).applications} == set(NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "cart.rival.localhost",
        "CART.RIVAL.localhost:80",
        "cart.rival.localhost.",
        "cart.default.localhost",
        "x.cart.rival.localhost",
        "cart.rival.shop.localhost",
        "rival%2Fcart.localhost",
        "rival/cart.localhost",
        "rival~cart.localhost",
    ],
)
async def test_host_when_it_names_another_tenant_then_nothing_is_sent(
    shop: Side, admin: Side, http: Caller, host: str
) -> None:
    """The host is a name like any other."""
    answer = await http.send("POST", "/c", host=host, **shop.headers)
    assert answer.status in (403, 421)
    for name in NAMES:
        assert (await admin.client.inspect(name)).counters.messages == 0


async def test_name_when_bare_then_it_is_the_callers_own(
    sides: dict[str, Side], http: Caller
) -> None:
    """Each token's own; that of all tenants means `default`."""
    for tenant, count in (("shop", 1), ("rival", 2), ("admin", 3)):
        side = sides[tenant]
        for _ in range(count - 1):
            await http.send("POST", "/c", host="cart.localhost", **side.headers)
        assert (await side.client.invoke("cart", type="c")).payload[0] == count
    for name, count in zip(("shop/cart", "rival/cart", "cart"), (1, 2, 3), strict=True):
        assert (await sides["admin"].client.inspect(name)).counters.messages == count


async def test_listings_when_of_one_tenant_then_nothing_of_another_is_in_them(
    shop: Side, sides: dict[str, Side], http: Caller
) -> None:
    """Applications, VMs and metrics, by both doors, also when asked for another."""
    vm = await sides["admin"].client.start_vm("spare")
    assert [one.name for one in (await shop.client.list()).applications] == ["shop/cart"]
    assert (await shop.client.list()).empty_vms == ()
    assert (await shop.client.list(tenant="rival")).applications == ()
    assert [one.application for one in await shop.client.list_vms()] == ["shop/cart"]
    for path in ("/v1/applications", "/v1/applications?tenant=rival", "/v1/vms", "/metrics"):
        text = (await http.send("GET", path, **shop.headers)).body.decode()
        assert not any(word in text for word in ("rival", "default", vm.vm.id)), path
    text = (await http.send("GET", "/metrics", **shop.headers)).body.decode()
    assert 'plexspaces_messages_total{application="cart",tenant="shop"}' in text
    assert 'plexspaces_applications{state="Running"} 1.0' in text
    assert (await sides["few"].client.list()).applications == ()
    assert await sides["few"].client.list_vms() == ()
    text = (await http.send("GET", "/metrics", **sides["admin"].headers)).body.decode()
    assert 'tenant="rival"' in text
    assert "plexspaces_artifact_store_bytes" in text
    assert (await http.send("GET", "/metrics")).status == 401
    await sides["admin"].client.stop_vm("spare")


async def test_vm_when_named_by_its_id_then_found_by_its_tenant_alone(
    shop: Side, sides: dict[str, Side]
) -> None:
    """Another's id, an empty VM's and one that nobody has: the same."""
    ids = {one.application: one.id for one in await sides["admin"].client.list_vms()}
    await sides["admin"].client.start_vm("spare")
    own = await shop.client.inspect_vm(ids["shop/cart"])
    assert own.vm.application == "shop/cart"
    ends = set()
    for vm_id in (ids["rival/cart"], ids["cart"], "spare", "vm-00000000"):
        for ask in (shop.client.inspect_vm(vm_id), console_of(shop.client, vm_id)):
            ends.add((await end_of(ask)).replace(vm_id, "ID"))
        for full in (f"rival/{vm_id}", f"default/{vm_id}"):
            with pytest.raises(PermissionDenied):
                await shop.client.inspect_vm(full)
    assert len(ends) == 1
    assert ends.pop().startswith("NotFound: there is no application or VM 'shop/ID'")
    for name in (ids["rival/cart"], f"shop/{ids['shop/cart']}", "spare"):
        assert (await sides["admin"].client.inspect_vm(name)).vm.id == name.rpartition("/")[2]
    await sides["admin"].client.stop_vm("spare")


async def test_list_when_of_one_tenant_then_its_time_is_not_that_of_looking_at_others(
    shop: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has it in nanoseconds, from which their number could be told."""
    events: list[str] = []
    covers = Identity.covers

    def noted(self: Identity, full: str) -> bool:
        events.append(full)
        return covers(self, full)

    def now_ns() -> int:
        events.append("time")
        return 0

    monkeypatch.setattr(Identity, "covers", noted)
    monkeypatch.setattr(operations, "perf_counter_ns", now_ns)
    await shop.client.list()
    assert events.index("time") == len(NAMES)
    assert set(events[len(NAMES) :]) == {"time"}


async def test_empty_vm_when_a_tenant_wants_it_then_the_same_whether_it_exists(
    shop: Side, admin: Side, probe_wasm: Path
) -> None:
    """They are the node's."""
    await admin.client.start_vm("spare")
    ends = []
    for vm_id in ("spare", "none"):
        options = DeployOptions(vm_id=vm_id)
        ends.append(await end_of(shop.client.deploy("till", probe_wasm, options=options)))
    assert ends[0] == ends[1]
    assert ends[0].startswith("PermissionDenied")
    await admin.client.stop_vm("spare")


async def test_digest_when_of_another_tenants_artifact_then_unknown(
    shop: Side, sides: dict[str, Side], http: Caller, command_wasm: Path
) -> None:
    """By looking, by deploying, by uploading it again, and by the times of that."""
    theirs = await sides["rival"].client.deploy("wc", command_wasm)
    nothing = hashlib.sha256(b"nothing").hexdigest()
    for digest in (theirs.digest, nothing):
        assert not await shop.client.find_artifact(digest)
        answer = await http.send("GET", f"/v1/artifacts/{digest}", **shop.headers)
        assert answer.json["found"] is False
        with pytest.raises(PermissionDenied):
            await shop.client.find_artifact(digest, tenant="rival")
        answer = await http.send("GET", f"/v1/artifacts/{digest}?tenant=rival", **shop.headers)
        assert answer.status == 403
        body = json.dumps({"name": "wc", "digest": digest}).encode()
        answer = await http.send("POST", "/v1/applications", body, **shop.headers)
        assert (answer.status, digest in answer.json["detail"]) == (404, True)
        assert answer.json["detail"].replace(digest, "D") == "artifact D is missing or corrupt"
    artifact = read_artifact(command_wasm)
    with pytest.raises(PermissionDenied):
        await shop.client.upload(artifact, tenant="rival")
    answer = await http.send(
        "PUT", "/v1/artifacts/wc.wasm?tenant=rival", artifact.data, **shop.headers
    )
    assert answer.status == 403


async def test_digest_when_it_names_another_tenant_then_refused_whatever_exists(
    sides: dict[str, Side], admin: Side, node: Node, http: Caller, command_wasm: Path
) -> None:
    """The tenant `default` is not written, so that a slash must not lead out of it."""
    theirs = await sides["rival"].client.deploy("wc", command_wasm)
    made = await admin.client.create_token("ci", scopes=("deploy",), tenant="default")
    headers: dict[str, Any] = {"authorization": f"Bearer {made.secret}"}
    data = read_artifact(command_wasm).data
    async with grpc.aio.insecure_channel(node.address) as channel:
        stub = pb_grpc.ApplicationServiceStub(channel)
        for digest in (f"rival/{theirs.digest}", f"rival/{'0' * 64}"):
            metadata = tuple(headers.items())
            header = pb.UploadArtifactRequest.Header(digest=digest, size_bytes=len(data))
            parts = [pb.UploadArtifactRequest(header=header), pb.UploadArtifactRequest(chunk=data)]
            for call in (
                stub.FindArtifact(pb.FindArtifactRequest(digest=digest), metadata=metadata),
                stub.UploadArtifact(iter(parts), metadata=metadata),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            escaped = digest.replace("/", "%2F")
            answer = await http.send("GET", f"/v1/artifacts/{escaped}", **headers)
            assert answer.status == 400


async def test_digest_when_deployed_by_two_tenants_then_no_time_tells(
    shop: Side, sides: dict[str, Side], command_wasm: Path
) -> None:
    """Both upload and compile."""
    for client in (sides["rival"].client, shop.client):
        timings = (await client.deploy("wc", command_wasm)).timings
        assert timings.upload_ns > 0
        assert not timings.compile_cached


async def test_request_id_when_another_tenant_used_it_then_nothing_tells(
    shop: Side, sides: dict[str, Side], probe_wasm: Path
) -> None:
    """It is as free as any."""
    options = DeployOptions(request_id="r-1")
    await sides["rival"].client.deploy("till-1", probe_wasm, options=options)
    found = await shop.client.deploy("till-1", probe_wasm, options=options)
    assert found.name == "shop/till-1"


async def test_token_when_of_few_applications_then_of_no_other_of_its_tenant(
    sides: dict[str, Side], probe_wasm: Path
) -> None:
    """It deploys what its pattern covers, and sees nothing else."""
    few = sides["few"].client
    assert (await few.deploy("till-1", probe_wasm)).name == "rival/till-1"
    assert [one.name for one in (await few.list()).applications] == ["rival/till-1"]
    for name in ("till", "cart", "xtill-1"):
        with pytest.raises(PermissionDenied):
            await few.deploy(name, probe_wasm)


# ---- public applications ---------------------------------------------------------------


@pytest.fixture
async def public(admin: Side, probe_wasm: Path) -> None:
    """A public application in `default`, and one in `rival`."""
    for name in ("open", "rival/open"):
        await admin.client.deploy(name, probe_wasm, options=DeployOptions(public=True))


async def ways(http: Caller, name: str, headers: dict[str, Any]) -> list[Answer]:
    """Send a message in every way of HTTP."""
    segment = name.replace("/", "%2F")
    host = ".".join(reversed(name.split("/"))) + ".localhost"
    return [
        await http.send("POST", "/c", host=host, **headers),
        await http.send("POST", f"/apps/{segment}/c", **headers),
        await http.send("POST", f"/v1/applications/{segment}/invoke", b'{"type": "c"}', **headers),
    ]


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize("name", ["open", "rival/open"])
@pytest.mark.parametrize(
    "token", ["", "Bearer of-the-application", "Basic dTpw", f"Bearer {UNKNOWN_TOKEN}", "Bearer"]
)
async def test_public_when_anybody_sends_then_it_answers(
    node: Node, http: Caller, name: str, token: str
) -> None:
    """Without a token, and with one that is not this node's: who sends it is nobody."""
    headers: dict[str, Any] = {"authorization": token} if token else {}
    for answer in await ways(http, name, headers):
        assert answer.status == 200, answer
    async with NodeClient(node.address, token=UNKNOWN_TOKEN, http=False) as stranger:
        assert (await stranger.invoke(name, type="c")).payload[0] == 4


@pytest.mark.usefixtures("public")
async def test_public_when_another_tenant_sends_then_it_answers(shop: Side, http: Caller) -> None:
    """As to anybody; its bare name is one of the caller's own tenant."""
    for answer in await ways(http, "rival/open", shop.headers):
        assert answer.status == 200, answer
    assert (await shop.client.invoke("rival/open", type="c")).payload[0] == 4
    with pytest.raises(NotFound):
        await shop.client.invoke("open", type="c")


@pytest.mark.usefixtures("public", "sides")
@pytest.mark.parametrize("token", ["", "Bearer x", f"Bearer {UNKNOWN_TOKEN}"])
async def test_public_when_anybody_calls_by_grpc_then_messages_alone(
    node: Node, token: str
) -> None:
    """By TCP, where nothing says who calls."""
    metadata = (("authorization", token),) if token else ()
    async with grpc.aio.insecure_channel(node.address) as channel:
        stub = pb_grpc.ApplicationServiceStub(channel)
        for name in ("open", "rival/open", "default/open"):
            reply = await stub.Invoke(pb.InvokeRequest(name=name, type="c"), metadata=metadata)
            assert reply.WhichOneof("outcome") == "payload"
        refused: list[Any] = [
            stub.Invoke(pb.InvokeRequest(name=name, type="c"), metadata=metadata)
            for name in (*NAMES, "none", "shop/open", "../rival/open", "rival/open/")
        ]
        refused += [
            stub.Inspect(pb.InspectRequest(name="open"), metadata=metadata),
            stub.Undeploy(pb.UndeployRequest(name="open"), metadata=metadata),
            stub.InspectVm(pb.InspectVmRequest(name="open"), metadata=metadata),
            stub.List(pb.ListRequest(), metadata=metadata),
        ]
        ends = set()
        for call in refused:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            ends.add((caught.value.code(), caught.value.details()))
    assert len(ends) == 1
    assert ends.pop()[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize("token", ["", f"Bearer {UNKNOWN_TOKEN}"])
async def test_public_when_anybody_asks_for_more_then_refused(
    shop: Side, http: Caller, token: str
) -> None:
    """Messages and requests, and nothing else; and to no other application."""
    headers: dict[str, Any] = {"authorization": token} if token else {}
    for method, path, body in ROUTES:
        if path.startswith("/v1/") and not path.endswith("/invoke"):
            for each in (headers, shop.headers):
                answer = await http.send(method, path.format("rival%2Fopen"), body, **each)
                assert answer.status == (403 if each is shop.headers else 401), (method, path)
    for path in ("/v1/applications", "/v1/vms", "/v1/node", "/metrics"):
        assert (await http.send("GET", path, **headers)).status == 401
    for name in (*NAMES, "none", "rival/none"):
        for answer in await ways(http, name, headers):
            assert answer.status == 401, (name, answer)


async def test_public_when_replaced_then_it_stays_until_said_otherwise(
    node: Node, admin: Side, http: Caller, probe_wasm: Path
) -> None:
    """By default no application is."""
    async with NodeClient(node.address, token=UNKNOWN_TOKEN, http=False) as nobody:
        for said, public in ((None, False), (True, True), (None, True), (False, False)):
            options = DeployOptions(replace=True, public=said)
            found = await admin.client.deploy("cart", probe_wasm, options=options)
            assert found.public is public
            assert (await admin.client.inspect("cart")).public is public
            assert (await http.send("POST", "/apps/cart/c")).status == (200 if public else 401)
            if not public:
                with pytest.raises(Unauthenticated):
                    await nobody.invoke("cart", type="c")


async def test_public_when_the_node_starts_again_then_as_before(
    data_dir: Path, probe_wasm: Path
) -> None:
    """It is a column of the application's row."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("cart", probe_wasm, options=DeployOptions(public=True))
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        assert (await client.inspect("cart")).public
