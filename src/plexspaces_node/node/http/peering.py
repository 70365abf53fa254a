"""Everything by which a node reaches the others of its cluster, and they it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from plexspaces_node.address import split_address
from plexspaces_node.api.options import ChannelOptions
from plexspaces_node.certificates import Pair
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.node.api.forwarding import Forwarding
from plexspaces_node.node.api.services import Services
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.cluster.artifact_pull import ArtifactPulls
from plexspaces_node.node.cluster.channels import PeerChannels
from plexspaces_node.node.cluster.elsewhere import OtherNodes
from plexspaces_node.node.cluster.peer_tls import PeerTls
from plexspaces_node.node.cluster.peers import Peers
from plexspaces_node.node.cluster.routes import Routes, View
from plexspaces_node.node.http.peer_ports import PeerPorts, open_ports


@dataclass(frozen=True, slots=True)
class Membership:
    """That a node is one of a cluster.

    Attributes:
        node: its id.
        view: what it knows of the others.
        authority: signs the certificates of the cluster's nodes; each has its key.
        http_address: HOST:PORT where other nodes send messages to; `grpc_address` calls.
    """

    node: str
    view: View
    authority: Pair
    http_address: str
    grpc_address: str

    def admits(self, node: str) -> bool:
        """Return whether a node, by its id, belongs to the cluster."""
        return bool(node) and self.view.node(node) is not None


@dataclass(frozen=True, slots=True)
class Peering:
    """A node's ways to the others, and their ways to it.

    Attributes:
        nodes: sends messages to applications that are not here.
        forwarding: passes calls on about applications that are not here.
        pulls: gets artifacts from other nodes.
        ports: where the other nodes reach this one; they answer once `ports.serve` was called.
    """

    routes: Routes
    peers: Peers
    nodes: OtherNodes
    channels: PeerChannels
    forwarding: Forwarding
    pulls: ArtifactPulls
    ports: PeerPorts


@asynccontextmanager
async def open_peering(  # noqa: PLR0913 - what the other nodes reach
    membership: Membership,
    applications: Applications,
    context: NodeContext,
    services: Services,
    recorder: Recorder,
    options: ChannelOptions,
) -> AsyncIterator[Peering]:
    """Open the ways between a node and the others, and close them at the end.

    `services` are for the other nodes: about what is here. From now on messages to applications of
    other nodes go there. Raises `OSError` and `Unavailable` for an address that is taken.
    """
    view, node = membership.view, membership.node
    tls = PeerTls(membership.authority, node, [split_address(membership.http_address)[0]])
    async with AsyncExitStack() as stack:
        routes = Routes(node, view)
        stack.callback(routes.close)
        peers = Peers(view, tls.calling)
        stack.push_async_callback(peers.aclose)
        channels = PeerChannels(view, tls)
        stack.push_async_callback(channels.aclose)
        nodes = OtherNodes(
            routes,
            peers,
            is_here=applications.messages.is_here,
            post_here=applications.receive,
            in_flight=context.in_flight,
            message_bytes=context.limits.message_bytes,
        )
        opening = open_ports(
            tls,
            http_address=membership.http_address,
            grpc_address=membership.grpc_address,
            applications=applications,
            context=context,
            services=services,
            recorder=recorder,
            is_member=membership.admits,
            options=options,
        )
        ports = await stack.enter_async_context(opening)
        applications.messages.elsewhere = nodes
        yield Peering(
            routes,
            peers,
            nodes,
            channels,
            Forwarding(applications, routes, channels),
            ArtifactPulls(peers, context.artifacts),
            ports,
        )
