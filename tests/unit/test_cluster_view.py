"""What a node knows of its cluster, by the registry's watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from support.buckets import MemoryBucket, View

from plexspaces_node.node.cluster.known import Kind
from plexspaces_node.node.cluster.records import (
    LEADER,
    Application,
    Beat,
    Leader,
    Node,
    Placed,
    Status,
    application_key,
    beat_key,
    node_key,
    placed_key,
    status_key,
)
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Entry
from plexspaces_node.tasks import cancel

pytestmark = pytest.mark.virtual_time

APPLICATION = Application(
    name="shop/cart",
    id="1",
    generation=1,
    version="1",
    language="rust",
    kind="actor",
    digest="0" * 64,
    vcpus=1,
    memory_mib=64,
    created_ns=0,
    source="a",
)


def node(name: str) -> Node:
    """Return a node with room."""
    return Node(
        id=name,
        http="127.0.0.1:1",
        grpc="127.0.0.1:2",
        version="1",
        level="process",
        memory_mib=1024,
        applications=16,
        incarnation=1,
    )


def encoded(record: msgspec.Struct) -> bytes:
    """Return a record as it is in the bucket."""
    return msgspec.json.encode(record)


@asynccontextmanager
async def following(bucket: View, view: ClusterView) -> AsyncIterator[ClusterView]:
    """Run a view until what is there has been told."""
    task = asyncio.create_task(view.run())
    try:
        await view.synced.wait()
        yield view
    finally:
        await cancel(task)


async def settle() -> None:
    """Let everything be told that can be told now."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_view_when_records_are_written_then_it_has_them() -> None:
    """Each kind is found by whose it is, with its revision where that counts."""
    bucket = MemoryBucket()
    bucket.write(node_key("a"), encoded(node("a")))
    bucket.write(beat_key("a"), encoded(Beat(incarnation=1, count=1)))
    bucket.write(LEADER, encoded(Leader(node="a", count=1)))
    async with following(bucket.view(), ClusterView(bucket.view())) as view:
        bucket.write(application_key("shop/cart"), encoded(APPLICATION))
        epoch = bucket.write(placed_key("shop/cart"), encoded(Placed(id="1", nodes=("a",))))
        status = Status(id="1", generation=1, epoch=epoch, state="Running")
        bucket.write(status_key("a", "shop/cart"), encoded(status))
        await settle()
        assert view.is_alive("a")
        assert view.leader is not None
        assert view.leader[0].node == "a"
        assert view.application("shop/cart") == APPLICATION
        assert view.placed("shop/cart") == (Placed(id="1", nodes=("a",)), epoch)
        assert view.statuses("shop/cart") == {"a": status}
        assert view.placed_on("a") == {"shop/cart"}
        assert view.application("cart") is None


async def test_view_when_a_record_changes_or_goes_then_listeners_are_told_whose() -> None:
    """By kind, and the node's id or the application's full name."""
    bucket = MemoryBucket()
    view = ClusterView(bucket.view())
    told: list[tuple[Kind, str]] = []
    leave = view.on_change(lambda kind, subject: told.append((kind, subject)))
    async with following(bucket.view(), view):
        bucket.write(node_key("a"), encoded(node("a")))
        await settle()
        bucket.write(placed_key("cart"), encoded(Placed(id="1", nodes=("a",))))
        await settle()
        bucket.write(placed_key("cart"), None)
        await settle()
        assert told == [(Kind.NODE, "a"), (Kind.PLACED, "cart"), (Kind.PLACED, "cart")]
        assert view.placed_on("a") == frozenset()
        leave()
        bucket.write(node_key("a"), None)
        await settle()
        assert len(told) == 3
        assert not view.nodes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("node.a", b"{"),
        ("node.a", b"[" * 100_000),
        ("node.a", encoded(node("b"))),
        ("node.A..", encoded(node("a"))),
        ("node.a", encoded(msgspec.structs.replace(node("a"), memory_mib=-1))),
        ("node.a", encoded(msgspec.structs.replace(node("a"), http="x" * 300))),
        ("app.default.cart", encoded(APPLICATION)),
        ("app.shop.cart", encoded(msgspec.structs.replace(APPLICATION, replicas=0))),
        ("app.shop.cart", encoded(msgspec.structs.replace(APPLICATION, replicas=10**6))),
        ("app.shop.cart", encoded(msgspec.structs.replace(APPLICATION, digest="../x"))),
        ("placed.shop.cart", encoded(Placed(id="1", nodes=("../x",)))),
        ("placed.shop.cart", encoded(Placed(id="1", nodes=("a", "a")))),
        ("status.a.shop", encoded(Beat(incarnation=1, count=1))),
        ("beat.a", b'{"incarnation": "x"}'),
        ("beat.a", b"{}" + b" " * (2 << 20)),
    ],
)
async def test_view_when_a_record_is_not_sound_then_it_is_left_out_and_said_once(
    key: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is in the registry, the view goes on; of a second such record nothing is said."""
    bucket = MemoryBucket()
    with caplog.at_level(logging.WARNING):
        async with following(bucket.view(), ClusterView(bucket.view())) as view:
            for _ in range(3):
                bucket.write(key, value)
                await settle()
            bucket.write(node_key("z"), encoded(node("z")))
            await settle()
            assert set(view.nodes) == {"z"}
            assert not view.applications
    assert len(caplog.records) == 1


async def test_view_when_a_record_cannot_be_read_any_more_then_the_last_one_stays() -> None:
    """A record of a later version is not as one that was deleted."""
    bucket = MemoryBucket()
    bucket.write(node_key("a"), encoded(node("a")))
    async with following(bucket.view(), ClusterView(bucket.view())) as view:
        bucket.write(node_key("a"), b'{"id": "a"}')
        await settle()
        assert "a" in view.nodes
        assert view.is_unreadable("node.a")
        bucket.write(node_key("a"), None)
        await settle()
        assert not view.nodes
        assert not view.is_unreadable("node.a")


async def test_view_when_it_begins_with_what_was_kept_then_the_bucket_replaces_it() -> None:
    """What was kept serves before the bucket answers; what the bucket has not is gone then."""
    bucket = MemoryBucket()
    connection = bucket.view()
    connection.is_cut = True
    view = ClusterView(connection)
    told: list[Entry] = []
    view.follow("token.", told.append)
    kept = [Entry(node_key(one), encoded(node(one)), 5) for one in "ab"]
    view.load([*kept, Entry("token.t.x", b"1", 7)])
    task = asyncio.create_task(view.run())
    await settle()
    assert set(view.nodes) == {"a", "b"}
    assert not view.synced.is_set()
    bucket.write(node_key("b"), encoded(node("b")))
    connection.is_cut = False
    await view.synced.wait()
    assert set(view.nodes) == {"b"}
    assert told == [Entry("token.t.x", b"1", 7), Entry("token.t.x", None, 0)]
    await cancel(task)


async def test_view_when_this_node_wrote_then_it_knows_before_it_is_told() -> None:
    """And is not put back by an older change that the watch tells after that."""
    bucket = MemoryBucket()
    connection = bucket.view()
    async with following(connection, ClusterView(connection)) as view:
        bucket.write(placed_key("cart"), encoded(Placed(id="1", nodes=("c",))))
        await settle()
        bucket.write(placed_key("cart"), encoded(Placed(id="1", nodes=("a",))))
        epoch = bucket.write(placed_key("cart"), encoded(Placed(id="1", nodes=("b",))))
        view.wrote(Entry(placed_key("cart"), encoded(Placed(id="1", nodes=("b",))), epoch))
        told: list[str] = []
        view.on_change(lambda _, subject: told.append(subject))
        assert view.placed("cart") == (Placed(id="1", nodes=("b",)), epoch)
        await settle()
        assert view.placed("cart") == (Placed(id="1", nodes=("b",)), epoch)
        assert told == []


async def test_view_when_what_this_node_wrote_is_deleted_at_once_then_it_is_gone() -> None:
    """A watch may tell neither that it was there nor that it is not."""
    bucket = MemoryBucket()
    connection = bucket.view()
    async with following(connection, ClusterView(connection)) as view:
        value = encoded(Placed(id="1", nodes=("a",)))
        epoch = bucket.write(placed_key("cart"), value)
        bucket.write(placed_key("cart"), None)
        view.wrote(Entry(placed_key("cart"), value, epoch))
        await settle()
        assert view.placed("cart") is None


async def test_view_when_a_write_has_been_told_then_it_has_caught_up() -> None:
    """With everything before; not by what this node knows of it by itself."""
    bucket = MemoryBucket()
    connection = bucket.view()
    async with following(connection, ClusterView(connection)) as view:
        bucket.write(node_key("a"), encoded(node("a")))
        await view.caught_up(node_key("a"), 1)
        connection.is_cut = True
        bucket.write(placed_key("cart"), encoded(Placed(id="1", nodes=("a",))))
        revision = bucket.write(node_key("a"), encoded(node("a")))
        view.wrote(Entry(node_key("a"), encoded(node("a")), revision))
        waiting = asyncio.create_task(view.caught_up(node_key("a"), revision))
        await asyncio.sleep(5)
        assert not waiting.done()
        connection.is_cut = False
        await waiting
        assert view.placed("cart") is not None


async def test_followers_when_records_of_their_prefix_change_then_they_are_told() -> None:
    """As they are, deletions too, and nothing of others."""
    bucket = MemoryBucket()
    view = ClusterView(bucket.view())
    told: list[Entry] = []
    view.follow("quota.", told.append)
    async with following(bucket.view(), view):
        bucket.write("quota.t", b"1")
        bucket.write("quotas", b"1")
        await settle()
        bucket.write("quota.t", None)
        await settle()
    assert told == [Entry("quota.t", b"1", 1), Entry("quota.t", None, 3)]
