"""What a node asks a cluster before it joins: whether it is that cluster, and has its id already.

Its NATS server would take the place of the other one's, and both would be in trouble. And with the
token of another cluster it would look for its own for as long as nobody ends it.
"""

from __future__ import annotations

import logging

import grpc

from plexspaces_node.address import split_address
from plexspaces_node.api.convert_cluster import cluster_from_proto
from plexspaces_node.api.generated import cluster_pb2 as pb
from plexspaces_node.api.generated.cluster_pb2_grpc import ClusterServiceStub
from plexspaces_node.api.options import client_options
from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.node.access.identity import LOCAL
from plexspaces_node.node.cluster.caller import CALLER, HOP, caller_text
from plexspaces_node.node.cluster.peer_tls import PeerTls

ASK_S = 3.0
"""How long one of the addresses has to answer."""

_NOT_OURS = "CERTIFICATE_VERIFY_FAILED"
"""What gRPC says of a certificate that another authority has signed."""

_log = logging.getLogger(__name__)

GRPC_PORT = 2
"""A node's calls come in so many ports after its NATS server's."""


async def check_id_is_free(node: str, join: tuple[str, ...], tls: PeerTls) -> None:
    """Raise `WrongState` if a node with this id is up in the cluster at these addresses.

    Raises `InvalidArgument` where a node of another cluster answers. Where nobody does nothing is
    known, and nothing raised: the cluster does not admit a node that it does not know, which is the
    answer that is hoped for.
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
            except grpc.aio.AioRpcError as error:
                if _NOT_OURS in (error.details() or ""):
                    raise InvalidArgument(
                        f"the node at {address} is of another cluster than the token",
                        hint="print the token there: plexspaces nodes token",
                    ) from error
                _log.info("nothing is known of %s before joining: %s", target, error.details())
                continue
        for other in cluster_from_proto(reply).nodes:
            if other.id == node and other.state in ("up", "draining"):
                raise WrongState(
                    f"a node {node!r} is up in the cluster already, at {other.route or target}",
                    hint="choose another --node-id",
                )
        return
