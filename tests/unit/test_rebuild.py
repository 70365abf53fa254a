"""The registry of a cluster made new, or anew from what its nodes remember."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from support.buckets import MemoryBucket, View

from plexspaces_node.node.cluster.mirror import Meta
from plexspaces_node.node.cluster.rebuild import Settling
from plexspaces_node.node.nats.bucket import Entry
from plexspaces_node.node.registry.cluster_records import Remembered
from plexspaces_node.tasks import cancel

pytestmark = pytest.mark.virtual_time

LOST = "a" * 32


def remembered(revision: int, *records: tuple[str, bytes], id_: str = LOST) -> Remembered:
    """What a node remembers of a bucket, up to a write."""
    meta = msgspec.json.encode(Meta(id=id_, created_ns=1))
    entries = [("meta", meta), *records]
    return Remembered(tuple(Entry(key, value, 1) for key, value in entries), revision)


class Reached(View):
    """A connection that tells when it has written so many applications."""

    def __init__(self, bucket: MemoryBucket, count: int) -> None:
        super().__init__(bucket)
        self.left = count
        self.reached = asyncio.Event()

    async def create(self, key: str, value: bytes) -> int:
        self.left -= key.startswith("app.")
        if not self.left:
            self.reached.set()
        return await super().create(key, value)


def settling(view: View, node: str) -> Settling:
    return Settling(view, node, clock=lambda: 7)


def values(bucket: MemoryBucket, prefix: str = "") -> dict[str, bytes]:
    """What the bucket has, without what is about itself."""
    return {
        key: entry.value
        for key, entry in bucket.all.items()
        if entry.value is not None
        and key.startswith(prefix)
        and not key.startswith(("meta", "offer.", "rebuilt."))
    }


async def settled(bucket: MemoryBucket, nodes: Sequence[tuple[str, Remembered]]) -> set[str]:
    """Let nodes start together, and return the ids that they find."""
    each = [settling(bucket.view(), node).settle(what) for node, what in nodes]
    async with asyncio.timeout(300):
        return set(await asyncio.gather(*each))


async def test_settle_when_a_cluster_is_founded_then_it_has_what_the_founder_has() -> None:
    """Before others follow it: they wait until then."""
    bucket = MemoryBucket()
    joining = asyncio.create_task(settling(bucket.view(), "b").settle(Remembered()))
    await asyncio.sleep(10)
    assert not joining.done()

    async def found() -> None:
        assert "meta" not in bucket.all
        bucket.write("token.shop.ci", b"t")

    id_ = await settling(bucket.view(), "a").settle(Remembered(), found)
    assert len(id_) == 32
    assert await joining == id_
    assert await settling(bucket.view(), "a").settle(Remembered(), found) == id_
    assert values(bucket) == {"token.shop.ci": b"t"}


async def test_settle_when_the_bucket_is_the_one_remembered_then_nothing_is_written() -> None:
    """As at every usual start."""
    bucket = MemoryBucket()
    what = remembered(9, ("app.shop.cart", b"old"))
    bucket.write("meta", what.records[0].value)
    revision = bucket.revision
    assert await settled(bucket, [("a", what), ("b", what)]) == {LOST}
    assert bucket.revision == revision


async def test_settle_when_the_bucket_is_lost_then_rebuilt_from_the_latest() -> None:
    """What was deleted last is not there again, what was written last is; and no signs of life."""
    bucket = MemoryBucket()
    early = remembered(5, ("app.shop.cart", b"1"), ("app.shop.gone", b"1"))
    late = remembered(
        8,
        *(("app.shop.cart", b"2"), ("placed.shop.cart", b"p"), ("token.shop.ci", b"t")),
        *(("node.a", b"n"), ("status.a.shop.cart", b"s"), ("token-key", b"k")),
    )
    fresh = Remembered()
    nodes = [("a", early), ("b", late), ("c", early), ("d", fresh)]
    (id_,) = await settled(bucket, nodes)
    assert id_ != LOST
    wanted = {"app.shop.cart": b"2", "placed.shop.cart": b"p", "token.shop.ci": b"t"}
    assert values(bucket) == {**wanted, "token-key": b"k"}
    assert not values(bucket, "offer.")
    order = sorted(values(bucket), key=lambda key: bucket.all[key].revision)
    assert order.index("placed.shop.cart") < order.index("app.shop.cart")
    assert order.index("token-key") < order.index("token.shop.ci")


async def test_settle_when_a_node_comes_later_then_it_adds_nothing_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Users may have changed since what it remembers."""
    bucket = MemoryBucket()
    (id_,) = await settled(bucket, [("a", remembered(5, ("app.shop.cart", b"1")))])
    bucket.write("app.shop.cart", None)
    caplog.set_level(logging.WARNING)
    caplog.clear()
    late = remembered(8, ("app.shop.cart", b"2"), ("app.shop.more", b"2"))
    assert await settled(bucket, [("b", late)]) == {id_}
    assert values(bucket) == {}
    assert "up to write 5, and this node up to 8" in caplog.text


async def test_settle_when_another_cluster_was_founded_then_what_nodes_remember_is_added() -> None:
    """Somebody has founded it anew with its token, and what is new there stays."""
    bucket = MemoryBucket()

    async def found() -> None:
        bucket.write("app.shop.cart", b"new")

    id_ = await settling(bucket.view(), "z").settle(Remembered(), found)
    what = remembered(8, ("app.shop.cart", b"2"), ("app.shop.more", b"2"))
    assert await settled(bucket, [("a", what), ("b", what)]) == {id_}
    assert values(bucket) == {"app.shop.cart": b"new", "app.shop.more": b"2"}


async def test_settle_when_lost_twice_then_who_remembers_the_first_adds_nothing() -> None:
    """The second one's nodes know that it was rebuilt."""
    first, second = MemoryBucket(), MemoryBucket()
    old = remembered(5, ("app.shop.gone", b"1"))
    (id_,) = await settled(first, [("a", old)])
    first.write("app.shop.gone", None)
    kept = [one for one in first.all.values() if one.value is not None]
    await settled(second, [("a", Remembered(tuple(kept), first.revision))])
    assert id_
    await settled(second, [("b", old)])
    assert values(second) == {}


async def test_settle_when_who_rebuilds_ends_then_another_goes_on() -> None:
    """After a while, with what it remembers itself."""
    bucket = MemoryBucket()
    late = remembered(8, *((f"app.shop.a{n}", b"2") for n in range(500)))
    early = remembered(5, *((f"app.shop.a{n}", b"1") for n in range(500)), ("app.shop.b", b"1"))
    view = Reached(bucket, 250)
    first = asyncio.create_task(settling(view, "a").settle(late))
    second = asyncio.create_task(settling(bucket.view(), "b").settle(early))
    async with asyncio.timeout(300):
        await view.reached.wait()
        await cancel(first)
        id_ = await second
    found = values(bucket)
    assert len(found) == 501
    assert found["app.shop.a0"] == b"2"
    assert await settled(bucket, [("a", late)]) == {id_}
    assert values(bucket) == found


async def test_settle_when_who_rebuilds_was_only_slow_then_it_stops() -> None:
    """It finds that another one has taken over, and waits for that."""
    bucket = MemoryBucket()
    late = remembered(8, *((f"app.shop.a{n}", b"2") for n in range(500)))
    view = Reached(bucket, 10)
    first = asyncio.create_task(settling(view, "a").settle(late))
    second = asyncio.create_task(settling(bucket.view(), "b").settle(remembered(5)))
    async with asyncio.timeout(300):
        await view.reached.wait()
        # Somebody else, while the first has not said that it is at it.
        claim = msgspec.json.encode({"node": "b", "revision": 5, "count": 0, "done": False})
        bucket.write(f"rebuilt.{LOST}", claim)
        assert await first == await second
    assert len(values(bucket)) < 500


@pytest.mark.parametrize("key", ["rebuilt.x", "offer.z"])
@pytest.mark.parametrize("value", [b"", b"[]", b"{" * 9999, b'{"id":7}'])
async def test_settle_when_records_cannot_be_read_then_as_if_there_were_none(
    key: str, value: bytes, tmp_path: Path
) -> None:
    """Nobody waits for them."""
    bucket = MemoryBucket()
    bucket.write(key, value)
    await settled(bucket, [("a", remembered(5, ("app.shop.cart", b"1")))])
    assert values(bucket) == {"app.shop.cart": b"1"}
