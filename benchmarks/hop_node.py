"""A node of a cluster of two, in a process of its own, for `benchmarks.hop`.

Arguments: its id, its data directory, the cluster's token, and the id and the addresses of the node
that has the applications; none of these if it is that one. Prints its own addresses.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plexspaces_node import NodeBuilder
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.node.cluster.records import Application, Node, Placed, Status
from plexspaces_node.node.http.peering import Membership
from plexspaces_node.tasks import Leave

APPLICATIONS = ("echo",)


class FixedView:
    """A registry in which nothing changes: one node has every application."""

    def __init__(self, holder: str, http: str, grpc: str) -> None:
        self._node = Node(
            id=holder,
            http=http,
            grpc=grpc,
            version="1",
            level="process",
            memory_mib=1024,
            applications=10,
            incarnation=1,
        )
        self._all = {name: _application(name) for name in APPLICATIONS} if http else {}
        self._placed = Placed(id="1", nodes=(holder,)), 1
        self._statuses = {holder: Status(id="1", generation=1, epoch=1, state="Running")}

    def node(self, node: str) -> tuple[Node, int] | None:
        return (self._node, 1) if node == self._node.id else None

    def is_alive(self, node: str) -> bool:
        return node == self._node.id

    @property
    def applications(self) -> Mapping[str, Application]:
        return self._all

    def application(self, name: str) -> Application | None:
        return self._all.get(name)

    def placed(self, name: str) -> tuple[Placed, int] | None:
        return self._placed if name in self._all else None

    def statuses(self, name: str) -> Mapping[str, Status]:
        return self._statuses if name in self._all else {}

    def on_change(self, call: Callable[[Any, str], None]) -> Leave:
        del call
        return lambda: None


def _application(name: str) -> Application:
    return Application(
        name=name,
        id="1",
        generation=1,
        version="1",
        language="rust",
        kind="actor",
        digest="0" * 64,
        vcpus=1,
        memory_mib=64,
        created_ns=1,
        source="",
    )


async def main() -> None:
    """Serve until the input ends."""
    node, directory, token, *others = sys.argv[1:]
    view = FixedView(*(others or (node, "", "")))
    membership = Membership(
        node,
        view,
        ClusterToken.parse(token, source="the argument").authority("bench"),
        http_address="127.0.0.1:0",
        grpc_address="127.0.0.1:0",
        is_member=bool,
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
