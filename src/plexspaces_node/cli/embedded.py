"""The node of a command: the one at the address, or an embedded one while it runs."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import plexspaces_node
from plexspaces_node.cli.output import note
from plexspaces_node.client import NodeClient
from plexspaces_node.errors import (
    DeadlineExceeded,
    InvalidArgument,
    Unavailable,
    WrongState,
)
from plexspaces_node.model import MIB
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.programs import cache_home

if TYPE_CHECKING:
    from plexspaces_node.node.node import Node

NODE_ID = "embedded"
KEPT_BYTES = 512 * MIB
"""The disk space for artifacts and native code that are kept for the next command."""

_ANSWER_TIMEOUT_S = 3.0


@asynccontextmanager
async def node_or_embedded(address: str, isolation: str | None) -> AsyncIterator[NodeClient]:
    """Yield a client of the node at the address, or of an embedded one if none answers there.

    The embedded node uses the configuration except for its address and its data directory, which is
    in the user's cache, so that the next command need not compile the same again. Its applications
    are removed at the end. Raises `InvalidArgument` if the answering node has another isolation
    level than the requested one, and what a node's start raises.
    """
    async with NodeClient(address) as client:
        try:
            node = await client.inspect_node(timeout_s=_ANSWER_TIMEOUT_S)
        except (Unavailable, DeadlineExceeded):
            found = False
        else:
            found = True
        if found:
            if isolation not in (None, "auto", node.isolation):
                raise InvalidArgument(
                    f"the node {node.node_id!r} at {address} has {node.isolation} isolation, "
                    f"not {isolation}",
                    hint="omit --isolation, or stop that node",
                )
            note(f"using node {node.node_id} at {address} ({node.isolation} isolation)")
            yield client
    if found:
        return
    note(f"no node at {address}: starting an embedded one")
    async with _embedded(isolation) as own, NodeClient(own.address) as client:
        note(f"✓ Embedded node started ({own.isolation} isolation)")
        # Left by a command that was killed.
        for application in (await client.list()).applications:
            await client.undeploy(application.name)
        yield client


@asynccontextmanager
async def _embedded(isolation: str | None) -> AsyncIterator[Node]:
    async with AsyncExitStack() as stack:
        try:
            cache = cache_home() / "plexspaces" / "node"
            node = await _in_cache(stack, isolation, cache)
        except (WrongState, InvalidArgument) as error:
            # Another command uses it, or it cannot be read: nothing in it is needed.
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="plexspaces-"))
            node = await stack.enter_async_context(node_in(isolation, Path(directory)))
            note(f"compiling again, the cache is not usable: {error.message}")
        yield node


async def _in_cache(stack: AsyncExitStack, isolation: str | None, cache: Path) -> Node:
    try:
        return await stack.enter_async_context(node_in(isolation, cache))
    except WrongState:
        # Damaged, or from another version: it is a cache, so it is emptied unless another command
        # uses it.
        with DataDirectory.held(cache, NODE_ID) as directory:
            directory.clear()
        return await stack.enter_async_context(node_in(isolation, cache))


@asynccontextmanager
async def node_in(isolation: str | None, data_dir: Path) -> AsyncIterator[Node]:
    """Run a node of this program alone in a directory; raises what a node's start raises."""
    builder = (
        plexspaces_node.NodeBuilder(NODE_ID)
        .with_address("127.0.0.1:0")
        .without_tls()
        .with_data_dir(data_dir)
        .with_setting("limits.unused_artifact_bytes", KEPT_BYTES)
        .with_setting("node.metrics_address", "")
        .with_setting("http.address", "127.0.0.1:0")
    )
    if isolation is not None:
        builder.with_isolation(isolation)
    async with builder.build() as node:
        yield node
