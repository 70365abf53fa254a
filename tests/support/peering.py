"""Nodes of one cluster in this process, whose registry a test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.cluster_view import FakeView
from support.nodes import builder

from plexspaces_node import NodeBuilder
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.model import MIB
from plexspaces_node.node.http.peering import Membership, Peering
from plexspaces_node.node.node import Node


def building(data_dir: Path, node: str, view: FakeView, token: ClusterToken) -> NodeBuilder:
    """A builder of a node with this id in the cluster of this token, which serves HTTP."""
    membership = Membership(
        node, view, token.authority("shop"), http_address="127.0.0.1:0", grpc_address="127.0.0.1:0"
    )
    build = builder(data_dir / node).with_setting("node.id", node)
    build = build.with_setting("secrets.key_file", f"{data_dir}-{node}.key")
    build = build.with_setting("limits.message_bytes", 4 * MIB)
    return build.with_setting("http.address", "127.0.0.1:0").with_membership(membership)


@asynccontextmanager
async def joined(
    data_dir: Path, node: str, view: FakeView, token: ClusterToken
) -> AsyncIterator[Node]:
    """Run a node, and have the registry say where it is."""
    async with building(data_dir, node, view, token).build() as built:
        ports = peering_of(built).ports
        view.add_node(node, http=ports.http, grpc=ports.grpc)
        yield built


def peering_of(node: Node) -> Peering:
    """Return a node's ways to the others."""
    assert node.peering is not None
    return node.peering
