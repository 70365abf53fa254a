"""Who gets in where nodes talk to each other, and what their ports do not believe."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.cluster_view import FakeView
from support.peering import joined, peering_of
from support.raw_http import Answer, Caller, callers

from plexspaces_node import NodeClient
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.node.access.identity import LOCAL, NOBODY, Identity, Kind, Scope
from plexspaces_node.node.cluster.caller import CALLER, HOP, NOT_HERE, TO, caller_text
from plexspaces_node.node.cluster.peer_tls import PeerTls
from plexspaces_node.node.node import Node

TOKEN = ClusterToken.new()
LIST = "/plexspaces.node.v1.ApplicationService/List"
INSPECT = "/plexspaces.node.v1.ApplicationService/Inspect"


@pytest.fixture
def view() -> FakeView:
    """The cluster: a node, and `friend`, whose part the tests play."""
    view = FakeView()
    view.add_node("friend", http="127.0.0.1:1", grpc="127.0.0.1:1")
    return view


@pytest.fixture
async def node(data_dir: Path, view: FakeView) -> AsyncIterator[Node]:
    """The node that is attacked, with an application."""
    data_dir.mkdir()
    async with joined(data_dir, "node", view, TOKEN) as node:
        yield node


@pytest.fixture
async def echo(node: Node, view: FakeView, probe_wasm: Path) -> None:
    """The probe, as `echo`."""
    async with NodeClient(node.address) as client:
        await client.deploy("echo", probe_wasm)
    view.place("echo", "node")


def tls_of(name: str, token: ClusterToken = TOKEN) -> PeerTls:
    return PeerTls(token.authority("shop"), name, ["127.0.0.1"])


async def asked(node: Node, context: ssl.SSLContext, text: bytes) -> Answer:
    """Send a request to the HTTP port for nodes, and return what comes."""
    host, _, port = peering_of(node).ports.http.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context, server_hostname="node"
    )
    try:
        writer.write(text)
        return await Caller(reader, writer).answer()
    finally:
        writer.close()


def message(identity: Identity = LOCAL, *, name: str = "default/echo", **headers: str) -> bytes:
    """Return a message as a node passes it on."""
    told = {
        "host": "localhost",
        HOP: "1",
        CALLER: caller_text(identity).decode(),
        TO: f"{name} /apps/echo",
        "content-length": "2",
        **{key.replace("_", "-"): value for key, value in headers.items()},
    }
    lines = [f"{key}: {value}" for key, value in told.items() if value]
    return "\r\n".join(["POST /apps/echo/e HTTP/1.1", *lines, "", "hi"]).encode()


@pytest.mark.usefixtures("echo")
async def test_peer_port_when_a_node_passes_something_on_then_answered(node: Node) -> None:
    """The good case, from which the others differ in one thing each."""
    answer = await asked(node, tls_of("friend").calling, message())
    assert (answer.status, answer.body) == (200, b"hi")


@pytest.mark.usefixtures("echo")
async def test_peer_port_when_somebody_is_no_node_then_not_let_in(
    node: Node, view: FakeView
) -> None:
    """Without a certificate, with one of another cluster, or of a node that was removed."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    stranger = tls_of("friend", ClusterToken.new()).calling
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    for context in (trusting, stranger):
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await asked(node, context, message())
    with pytest.raises(OSError, match="certificate verify failed"):
        await asked(node, tls_of("friend", ClusterToken.new()).calling, message())
    host, _, port = peering_of(node).ports.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(message())
    assert await reader.read() == b""
    writer.close()
    del view.nodes["friend"]
    answer = await asked(node, tls_of("friend").calling, message())
    assert (answer.status, answer.json["code"]) == (403, "permission_denied")


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({HOP: ""}, 400, "invalid_argument"),
        ({HOP: "2"}, 400, "invalid_argument"),
        ({CALLER: ""}, 400, "invalid_argument"),
        ({CALLER: "{}"}, 400, "invalid_argument"),
        ({CALLER: caller_text(NOBODY).decode()}, 401, "unauthenticated"),
        ({TO: "default/other /apps/other"}, 400, "invalid_argument"),
        ({TO: "../echo /apps/echo"}, 400, "invalid_argument"),
        ({TO: "default/other /apps/echo"}, 421, "not_here"),
        ({"plexspaces-waiting": "A"}, 400, "invalid_argument"),
        ({"plexspaces-sender": "no name"}, 400, "invalid_argument"),
        ({"x-long": "x" * 40_000}, 431, "headers_too_large"),
    ],
)
async def test_peer_port_when_a_request_is_not_as_nodes_send_it_then_refused(
    node: Node, changed: dict[str, Any], status: int, code: str
) -> None:
    """Each with its reason; what is not here says so in a header of its own."""
    answer = await asked(node, tls_of("friend").calling, message(**changed))
    assert (answer.status, answer.json["code"]) == (status, code)
    assert (NOT_HERE in answer.headers) == (code == "not_here")


@pytest.mark.usefixtures("echo")
async def test_peer_port_when_the_caller_may_not_then_refused_here_too(node: Node) -> None:
    """By the policy, whatever the other node has decided."""
    for identity in (
        Identity(Kind.TOKEN, "ci", frozenset({Scope.READ}), "*"),
        Identity(Kind.TOKEN, "ci", frozenset({Scope.ADMIN}), "shop"),
        Identity(Kind.TOKEN, "ci", frozenset({Scope.ADMIN}), "default", "cart-*"),
    ):
        answer = await asked(node, tls_of("friend").calling, message(identity))
        assert (answer.status, answer.json["code"]) == (403, "permission_denied")


@pytest.mark.usefixtures("echo")
async def test_peer_port_when_asked_for_anything_else_then_there_is_nothing(node: Node) -> None:
    """Neither the control API nor the dashboard; no artifact without being a node."""
    for path in ("/", "/v1/applications", "/metrics", "/ui/overview.js"):
        text = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{HOP}: 1\r\n{CALLER}: "
        head = text.encode() + caller_text(LOCAL) + b"\r\n\r\n"
        answer = await asked(node, tls_of("friend").calling, head)
        assert (answer.status, answer.json["code"]) == (400, "invalid_argument")
    head = (
        b"GET /peer/artifacts/default/%b HTTP/1.1\r\nhost: localhost\r\nplexspaces-hop: 1\r\n\r\n"
    )
    for digest, status in ((b"0" * 64, 404), (b"..%2Fregistry", 400)):
        answer = await asked(node, tls_of("friend").calling, head % digest)
        assert answer.status == status
    answer = await asked(node, tls_of("foe").calling, head % (b"0" * 64))
    assert answer.status == 403


@pytest.mark.usefixtures("echo")
async def test_public_port_when_headers_of_nodes_are_forged_then_nobody_is_believed(
    node: Node,
) -> None:
    """They change nothing: the caller is who the token says, and the path says what is asked."""
    async with NodeClient(node.address) as client:
        await client.create_token("admin", scopes=["admin"])
    forged: dict[str, Any] = {
        HOP: "1",
        CALLER: caller_text(LOCAL).decode(),
        TO: "default/echo /apps/echo",
    }
    async with callers(node.http_address) as connect:
        caller = await connect()
        answer = await caller.send("POST", "/apps/echo/e", b"hi", **forged)
        assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
        answer = await caller.send("GET", "/peer/artifacts/default/" + "0" * 64, **forged)
        assert (answer.status, answer.json["code"]) == (404, "not_found")


async def called(node: Node, tls: PeerTls, metadata: Any, method: str = LIST) -> bytes:
    """Call the gRPC port for nodes."""
    options = (("grpc.ssl_target_name_override", "node"),)
    credentials = tls.channel_credentials()
    address = peering_of(node).ports.grpc
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        ask: Any = channel.unary_unary(method)
        reply: bytes = await ask(
            b"\n\x06nobody" if method == INSPECT else b"", metadata=metadata, timeout=10
        )
        return reply


async def test_peer_grpc_when_it_is_no_call_of_a_node_then_refused(
    node: Node, view: FakeView
) -> None:
    """As by HTTP; and an application that is not here is said with a code of its own."""
    good = ((HOP, "1"), (CALLER, caller_text(LOCAL).decode()))
    assert await called(node, tls_of("friend"), good)
    for metadata in ((), good[:1], good[1:], ((HOP, "1"), (CALLER, "{}"))):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await called(node, tls_of("friend"), metadata)
        is_told = len(metadata) == len(good)
        assert refused.value.code() is (
            grpc.StatusCode.INVALID_ARGUMENT if is_told else grpc.StatusCode.UNAUTHENTICATED
        )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await called(node, tls_of("friend"), good, INSPECT)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert b"not_here" in json.dumps(str(refused.value.trailing_metadata())).encode()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await called(node, tls_of("friend", ClusterToken.new()), good)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    del view.nodes["friend"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await called(node, tls_of("friend"), good)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
