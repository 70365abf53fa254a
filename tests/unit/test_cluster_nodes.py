"""What an administrator sees of nodes, and does with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from support.buckets import MemoryBucket

from plexspaces_node.errors import NotFound, WrongState
from plexspaces_node.node.cluster.nodes import ClusterNodes
from plexspaces_node.node.cluster.records import (
    Beat,
    Leader,
    Node,
    NodeState,
    Placed,
    beat_key,
    node_key,
    placed_key,
)
from plexspaces_node.node.cluster.view import ClusterView

Removed = Callable[[str], Awaitable[None]]


def node(name: str, **more: object) -> bytes:
    """The record of a node."""
    fields = {
        "id": name,
        "http": "127.0.0.1:1",
        "grpc": "127.0.0.1:2",
        "version": "1.0",
        "level": "process",
        "memory_mib": 1024,
        "applications": 10,
        "incarnation": 1,
        "server": name,
        "route": "127.0.0.1:3",
        **more,
    }
    return msgspec.json.encode(msgspec.convert(fields, Node))


def filled() -> MemoryBucket:
    """A registry of two nodes, of which `a` leads and has an application."""
    bucket = MemoryBucket()
    for name in ("a", "b"):
        bucket.write(node_key(name), node(name))
        bucket.write(beat_key(name), msgspec.json.encode(Beat(incarnation=1, count=1)))
    bucket.write("leader", msgspec.json.encode(Leader(node="a", count=1)))
    bucket.write(placed_key("cart"), msgspec.json.encode(Placed(id="app-1", nodes=("a",))))
    return bucket


@asynccontextmanager
async def seen(
    bucket: MemoryBucket, forgotten: list[str] | None = None
) -> AsyncIterator[ClusterNodes]:
    """The nodes as `a` sees them."""

    async def forget(server: str) -> None:
        (forgotten if forgotten is not None else []).append(server)

    mine = bucket.view()
    view = ClusterView(mine)
    following = asyncio.create_task(view.run())
    await view.synced.wait()
    try:
        yield ClusterNodes(
            "shop",
            "a",
            mine,
            view,
            copies=lambda: 1,
            has_majority=lambda: not mine.is_cut,
            forget_server=forget,
        )
    finally:
        following.cancel()


class TestDescribe:
    async def test_cluster_when_described_then_its_nodes_and_what_is_wrong(self) -> None:
        """A node that is dead is down; fewer than three copies is a warning."""
        bucket = filled()
        bucket.write(beat_key("b"), msgspec.json.encode(Beat(incarnation=1, count=2, dead=True)))
        async with seen(bucket) as nodes:
            told = await nodes.describe()
        assert [(one.id, one.state, one.leads, one.applications) for one in told.nodes] == [
            ("a", "up", True, 1),
            ("b", "down", False, 0),
        ]
        assert "1 of 3 nodes" in told.warnings[0]
        assert "two nodes need each other" in told.warnings[1]


class TestDrain:
    async def test_drain_when_the_application_has_moved_then_it_ends(self) -> None:
        """And what was left is told before; the node's record says so, also after its restart."""
        bucket = filled()
        async with seen(bucket) as nodes:
            await nodes.begin_drain("a")
            steps = nodes.draining("a")
            assert (await anext(steps)).applications == ("cart",)
            bucket.write(placed_key("cart"), msgspec.json.encode(Placed(id="app-1", nodes=("b",))))
            assert [step.left async for step in steps] == [0]
            found = await bucket.view().get(node_key("a"))
            assert found is not None
            assert found.value is not None
            assert msgspec.json.decode(found.value, type=Node).state is NodeState.DRAINING
            await nodes.undrain("a")
            assert (await nodes.describe()).nodes[0].state == "up"

    async def test_node_when_there_is_none_of_this_name_then_not_found(self) -> None:
        """For every command about one."""
        async with seen(filled()) as nodes:
            for call in (nodes.begin_drain("c"), nodes.undrain("c"), nodes.remove("c", force=True)):
                with pytest.raises(NotFound, match="'c'"):
                    await call


class TestRemove:
    async def test_remove_when_the_node_is_alive_then_refused_unless_forced(self) -> None:
        """With it its NATS server leaves the cluster."""
        forgotten: list[str] = []
        async with seen(filled(), forgotten) as nodes:
            with pytest.raises(WrongState, match="alive"):
                await nodes.remove("b", force=False)
            assert not forgotten
            await nodes.remove("b", force=True)
            await asyncio.sleep(0)
            assert forgotten == ["b"]
