"""How nodes of one cluster prove to each other that they are: certificates of the cluster's CA.

Each node makes its own from the cluster's token. TLS 1.3 alone: all nodes are of this product.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable

import grpc

from plexspaces_node.certificates import MOST_DAYS, Pair, make_peer_certificate


class PeerTls:
    """The certificate of one node of a cluster, for both directions.

    Attributes:
        serving: for connections of other nodes, which need a certificate of the same authority.
        calling: for connections to them; whoever connects says which node it must be.
    """

    def __init__(self, authority: Pair, node: str, hosts: Iterable[str] = ()) -> None:
        """Make a certificate for a node with this id, at these hosts; not blocking."""
        self._pair = make_peer_certificate(authority, node, hosts, days=MOST_DAYS)
        self._authority = authority.certificate
        self.serving = self._context(ssl.PROTOCOL_TLS_SERVER)
        self.serving.verify_mode = ssl.CERT_REQUIRED
        # None is used twice, and making them takes time.
        self.serving.num_tickets = 0
        self.calling = self._context(ssl.PROTOCOL_TLS_CLIENT)

    def __repr__(self) -> str:
        return "<PeerTls>"

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return those of the gRPC server for other nodes."""
        return grpc.ssl_server_credentials(
            [(self._pair.key, self._pair.certificate)],
            root_certificates=self._authority,
            require_client_auth=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return those of a gRPC channel to another node."""
        return grpc.ssl_channel_credentials(self._authority, self._pair.key, self._pair.certificate)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self._authority.decode("ascii"))
        # Python takes only files.
        with open(os.memfd_create("certificate"), "wb") as memory:
            memory.write(self._pair.key + b"\n" + self._pair.certificate)
            memory.flush()
            context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")
        return context
