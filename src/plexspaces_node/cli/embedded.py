"""A node to work on: the one at the address, or one of the command's own for as long as it runs."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import plexspaces_node
from plexspaces_node.cli.output import note
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import DeadlineExceeded, Unavailable

_ANSWER_TIMEOUT_S = 3.0


@asynccontextmanager
async def node_or_embedded(address: str) -> AsyncIterator[NodeClient]:
    """Give a client of the node at the address, or of an embedded one when none answers there.

    The embedded node has process isolation, a port and a data directory of its own; all of it is
    gone when the context is left.
    """
    async with NodeClient(address) as client:
        try:
            node = await client.inspect_node(timeout_s=_ANSWER_TIMEOUT_S)
        except (Unavailable, DeadlineExceeded):
            found = False
        else:
            found = True
        if found:
            note(f"using node {node.node_id} at {address} ({node.isolation} isolation)")
            yield client
    if found:
        return
    note(f"no node at {address}: starting an embedded one (process isolation)")
    async with _embedded() as client:
        yield client


@asynccontextmanager
async def _embedded() -> AsyncIterator[NodeClient]:
    with tempfile.TemporaryDirectory(prefix="plexspaces-") as directory:
        builder = (
            plexspaces_node.NodeBuilder(f"embedded-{uuid.uuid4().hex[:8]}")
            .with_address("127.0.0.1:0")
            .with_isolation("process")
            .with_data_dir(directory)
        )
        async with builder.build() as node, NodeClient(node.address) as client:
            yield client
