"""The two ports of a node for the other nodes of its cluster: HTTP and gRPC, both with its TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc

from plexspaces_node.api.options import ChannelOptions
from plexspaces_node.errors import PermissionDenied, Unauthenticated
from plexspaces_node.node.access.identity import Identity
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.node.api.boundary import Boundary, Context
from plexspaces_node.node.api.forwarding import VERBS
from plexspaces_node.node.api.listen import bind, peer_certificate_name
from plexspaces_node.node.api.services import Services
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.cluster.caller import CALLER, HOP, parse_caller
from plexspaces_node.node.cluster.peer_gate import PeerGate
from plexspaces_node.node.cluster.peer_tls import PeerTls
from plexspaces_node.node.http.peer_artifacts import PeerArtifacts
from plexspaces_node.node.http.peer_door import PeerDoor
from plexspaces_node.node.http.peer_handshake import PeerHandshake
from plexspaces_node.node.http.server import HttpServer

GRACE_S = 1.0
"""For what is still being answered when the ports close."""

MOST_CONNECTIONS = 4096
"""Of all other nodes together, to each port."""


class PeerPorts:
    """Both ports.

    Attributes:
        http: HOST:PORT where messages and requests come in; `grpc` for calls.
        door: answers what comes by HTTP.
    """

    def __init__(
        self, http: str, grpc_: str, door: PeerDoor, serve: Callable[[], Awaitable[None]]
    ) -> None:
        self.http = http
        self.grpc = grpc_
        self.door = door
        self.serve = serve

    def __repr__(self) -> str:
        return f"<PeerPorts {self.http} {self.grpc}>"


@asynccontextmanager
async def open_ports(  # noqa: PLR0913 - each by its name
    tls: PeerTls,
    *,
    http_address: str,
    grpc_address: str,
    applications: Applications,
    context: NodeContext,
    services: Services,
    recorder: Recorder,
    is_member: Callable[[str], bool],
    options: ChannelOptions,
) -> AsyncIterator[PeerPorts]:
    """Listen for other nodes, and answer them once `HttpServer.serve` and `Server.start` run.

    `services` are those of the node itself, which pass nothing on. `is_member` returns whether a
    node, by its id, belongs to the cluster. Raises `OSError` and `Unavailable` for an address that
    is taken. At the end what is being answered has `GRACE_S`.
    """
    limits = context.limits
    gate = PeerGate(recorder, is_here=applications.messages.is_here, verbs=VERBS)
    gate.is_public = applications.is_public
    door = PeerDoor(
        applications,
        gate,
        PeerArtifacts(context.artifacts),
        is_member,
        message_bytes=limits.message_bytes,
        message_timeout_s=limits.message_timeout_s,
        most_calls=limits.calls,
    )
    http = HttpServer(
        door,
        in_flight=context.in_flight,
        most_connections=MOST_CONNECTIONS,
        begin=lambda server: PeerHandshake(server, tls.serving),
    )
    server = grpc.aio.server(options=options)
    boundary = Boundary(
        server, gate, most_calls=limits.calls, caller_of=lambda call: caller_of(call, is_member)
    )
    for servicer, add in services.values():
        boundary.serve(add, servicer)

    async def serve() -> None:
        await server.start()
        await http.serve()

    try:
        ports = PeerPorts(
            await http.bind(http_address),
            bind(server, grpc_address, tls.server_credentials()),
            door,
            serve,
        )
        yield ports
    finally:
        await asyncio.gather(http.drain(GRACE_S), server.stop(GRACE_S))


def caller_of(context: Context, is_member: Callable[[str], bool]) -> tuple[Identity, str]:
    """Return for whom another node calls, and by which connection that came to it.

    Raises `PermissionDenied` for what is no node of the cluster, and `InvalidArgument` for one that
    does not say it.
    """
    node = peer_certificate_name(context)
    if not is_member(node):
        raise PermissionDenied(f"{node!r} is no node of this cluster", hint="plexspaces nodes")
    told = dict(context.invocation_metadata() or ())
    text = told.get(CALLER)
    if text is None or told.get(HOP) != "1":
        raise Unauthenticated(
            f"a call of another node has {CALLER} and {HOP}", hint="plexspaces nodes"
        )
    caller, identity = parse_caller(text.encode() if isinstance(text, str) else text)
    return identity, caller.peer or context.peer()
