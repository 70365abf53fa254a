"""A node of a cluster of two, in a process of its own, for `benchmarks.hop`.

Arguments: its id, its data directory, the cluster's token, and the id and the addresses of the node
that has the applications; none of these if it is that one. Prints its own addresses.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from benchmarks.serving import with_tests
from plexspaces_node import NodeBuilder
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.node.http.peering import Membership


async def main() -> None:
    """Serve until the input ends."""
    with_tests()
    from support.cluster_view import FakeView  # noqa: PLC0415 - below tests, which is added

    node, directory, token, *others = sys.argv[1:]
    view = FakeView()
    # Whoever asks the other one is let in.
    view.add_node("a")
    if others:
        holder, http, grpc = others
        view.add_node(holder, http=http, grpc=grpc)
        view.place("echo", holder)
    membership = Membership(
        node,
        view,
        ClusterToken.parse(token, source="the argument").authority("bench"),
        http_address="127.0.0.1:0",
        grpc_address="127.0.0.1:0",
    )
    build = NodeBuilder(node).with_address("127.0.0.1:0").with_data_dir(Path(directory))
    build = build.with_isolation("process").with_setting("http.address", "127.0.0.1:0")
    async with build.with_membership(membership).build() as built:
        assert built.peering is not None
        ports = built.peering.ports
        print(built.address, built.http_address, ports.http, ports.grpc, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
