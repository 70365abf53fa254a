"""What a node asks a cluster before it joins: whether somebody has its id already.

Its NATS server would take the place of the other one's, and both would be in trouble.
"""

from __future__ import annotations

import grpc

from plexspaces_node.address import split_address
from plexspaces_node.api.convert_cluster import cluster_from_proto
from plexspaces_node.api.generated import cluster_pb2 as pb
from plexspaces_node.api.generated.cluster_pb2_grpc import ClusterServiceStub
from plexspaces_node.api.options import client_options
from plexspaces_node.errors import WrongState
from plexspaces_node.node.access.identity import LOCAL
from plexspaces_node.node.cluster.caller import CALLER, HOP, caller_text
from plexspaces_node.node.cluster.peer_tls import PeerTls

ASK_S = 3.0
"""How long one of the addresses has to answer."""

GRPC_PORT = 2
"""A node's calls come in so many ports after its NATS server's."""


async def check_id_is_free(node: str, join: tuple[str, ...], tls: PeerTls) -> None:
    """Raise `WrongState` if a node with this id is up in the cluster at these addresses.

    Where nobody answers nothing is known, and nothing raised: the cluster does not admit a node
    that it does not know, which is the answer that is hoped for.
    """
    for address in join:
        host, port = split_address(address)
        target = f"[{host}]:{port + GRPC_PORT}" if ":" in host else f"{host}:{port + GRPC_PORT}"
        credentials = tls.channel_credentials()
        async with grpc.aio.secure_channel(
            target, credentials, options=client_options()
        ) as channel:
            metadata = ((HOP, "1"), (CALLER, caller_text(LOCAL).decode("ascii")))
            try:
                reply = await ClusterServiceStub(channel).ListNodes(
                    pb.ListNodesRequest(), metadata=metadata, timeout=ASK_S
                )
            except grpc.aio.AioRpcError:
                continue
        for other in cluster_from_proto(reply).nodes:
            if other.id == node and other.state in ("up", "draining"):
                raise WrongState(
                    f"a node {node!r} is up in the cluster already, at {other.route or target}",
                    hint="choose another --node-id",
                )
        return
