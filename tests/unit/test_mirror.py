"""What a node remembers of its cluster's registry: complete, bounded, and off everybody's way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.buckets import MemoryBucket, View

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.cluster.mirror import MOST_VALUE_BYTES, Mirror
from plexspaces_node.node.nats.bucket import SYNCED, Entry
from plexspaces_node.node.registry.cluster_records import ClusterRows, Remembered
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.tasks import cancel

META = b'{"id":"aa","created_ns":1}'
OTHER = b'{"id":"bb","created_ns":2}'


@pytest.fixture
async def rows(tmp_path: Path) -> AsyncIterator[ClusterRows]:
    async with Registry.open(tmp_path / "registry.db") as registry:
        yield registry.cluster


@asynccontextmanager
async def mirrored(
    rows: ClusterRows, view: View | None = None, most: int = 1000
) -> AsyncIterator[Mirror]:
    """A mirror that writes, and follows a bucket if there is one."""
    mirror = Mirror(rows, most=most, again_s=0)
    await mirror.load()
    tasks = [asyncio.create_task(mirror.run())]
    if view is not None:
        tasks.append(asyncio.create_task(mirror.follow(view)))
    try:
        yield mirror
    finally:
        await cancel(*tasks)


async def until(rows: ClusterRows, wanted: dict[str, bytes]) -> Remembered:
    """Return what is remembered once its values are these."""
    async with asyncio.timeout(20):
        while True:
            found = await rows.load()
            if {one.key: one.value for one in found.records} == wanted:
                return found
            await asyncio.sleep(0)


class _Failing(ClusterRows):
    """Rows that cannot be written at first."""

    def __init__(self, rows: ClusterRows) -> None:
        self.rows = rows
        self.fails = 1

    async def load(self) -> Remembered:
        return await self.rows.load()

    async def write(self, changes: Sequence[Entry], revision: int) -> None:
        if self.fails:
            self.fails -= 1
            raise ResourceExhausted("the disk is full")
        await self.rows.write(changes, revision)


async def test_mirror_when_the_bucket_changes_then_so_does_what_is_remembered(
    rows: ClusterRows,
) -> None:
    """What there was, what comes, and what is deleted; with the revision up to which it is."""
    bucket = MemoryBucket()
    bucket.write("meta", META)
    bucket.write("app.shop.cart", b"1")
    async with mirrored(rows, bucket.view()):
        await until(rows, {"meta": META, "app.shop.cart": b"1"})
        bucket.write("app.shop.cart", b"2")
        bucket.write("token.shop.ci", b"t")
        found = await until(rows, {"meta": META, "app.shop.cart": b"2", "token.shop.ci": b"t"})
        assert found.revision == 4
        bucket.write("token.shop.ci", None)
        found = await until(rows, {"meta": META, "app.shop.cart": b"2"})
        assert found.revision == 5


async def test_mirror_when_the_node_was_away_then_what_was_deleted_meanwhile_goes(
    rows: ClusterRows,
) -> None:
    """A watch does not tell it: it tells what there is."""
    bucket = MemoryBucket()
    bucket.write("meta", META)
    bucket.write("app.shop.cart", b"1")
    async with mirrored(rows, bucket.view()):
        await until(rows, {"meta": META, "app.shop.cart": b"1"})
    bucket.write("app.shop.cart", None)
    bucket.write("app.shop.list", b"2")
    async with mirrored(rows, bucket.view()):
        await until(rows, {"meta": META, "app.shop.list": b"2"})


async def test_mirror_when_the_bucket_cannot_be_reached_then_all_is_remembered(
    rows: ClusterRows,
) -> None:
    """A node that starts meanwhile reads it."""
    bucket = MemoryBucket()
    bucket.write("meta", META)
    async with mirrored(rows, bucket.view()):
        await until(rows, {"meta": META})
    view = bucket.view()
    view.is_cut = True
    async with mirrored(rows, view) as mirror:
        await mirror.written()
        assert [one.key for one in await Mirror(rows).load()] == ["meta"]


async def test_mirror_when_records_are_signs_of_life_then_they_are_not_remembered(
    rows: ClusterRows,
) -> None:
    """They come every second, and are worth nothing later."""
    async with mirrored(rows) as mirror:
        mirror.note(SYNCED)
        for number, key in enumerate(["beat.a", "leader", "offer.a", "node.a"], 1):
            mirror.note(Entry(key, b"{}", number))
        await mirror.written()
        assert await rows.load() == Remembered((Entry("node.a", b"{}", 4),), 4)


async def test_mirror_when_the_bucket_is_another_one_then_nothing_of_the_former_is_mixed_in(
    rows: ClusterRows,
) -> None:
    """Though revisions of the two are the same by chance."""
    former, later = MemoryBucket(), MemoryBucket()
    for bucket, meta, value in ((former, META, b"old"), (later, OTHER, b"new")):
        bucket.write("meta", meta)
        bucket.write("app.shop.cart", value)
    former.write("app.shop.gone", b"old")
    async with mirrored(rows, former.view()):
        await until(rows, {"meta": META, "app.shop.cart": b"old", "app.shop.gone": b"old"})
    async with mirrored(rows, later.view()):
        found = await until(rows, {"meta": OTHER, "app.shop.cart": b"new"})
        assert found.revision == 2


@pytest.mark.parametrize("meta", [None, OTHER, b"nonsense"])
async def test_mirror_when_the_bucket_is_lost_while_it_follows_then_what_it_remembers_stays(
    rows: ClusterRows, meta: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is what the bucket is rebuilt from."""
    async with mirrored(rows) as mirror:
        for change in (Entry("meta", META, 1), Entry("app.shop.cart", b"1", 2), SYNCED):
            mirror.note(change)
        await mirror.written()
        mirror.note(Entry("meta", meta, 1))
        mirror.note(Entry("app.shop.cart", None, 2))
        mirror.note(SYNCED)
        await mirror.written()
        assert mirror.is_of_another
        assert [one.value for one in (await rows.load()).records] == [b"1", META]
    assert "restart the nodes" in caplog.text


async def test_mirror_when_records_are_too_large_or_too_many_then_refused_with_one_warning(
    rows: ClusterRows, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may write to the bucket does not fill the disks of all nodes."""
    caplog.set_level(logging.WARNING)
    async with mirrored(rows, most=2) as mirror:
        mirror.note(SYNCED)
        mirror.note(Entry("app.shop.large", bytes(MOST_VALUE_BYTES + 1), 1))
        for number, key in enumerate("abcd", 2):
            mirror.note(Entry(f"app.shop.{key}", b"1", number))
        mirror.note(Entry("app.shop.a", b"2", 9))
        await mirror.written()
        found = [(one.key, one.value) for one in (await rows.load()).records]
        assert found == [("app.shop.a", b"2"), ("app.shop.b", b"1")]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
async def test_mirror_when_much_changes_then_all_of_it_is_written_in_batches(
    rows: ClusterRows, count: int
) -> None:
    """Others' writes do not wait for all of them."""
    async with mirrored(rows, most=count) as mirror:
        for number in range(count):
            mirror.note(Entry(f"app.shop.{number}", b"1", number + 1))
        mirror.note(SYNCED)
        await mirror.written()
        found = await rows.load()
        assert (len(found.records), found.revision) == (count, count)


async def test_mirror_when_the_disk_is_full_then_it_is_written_later(
    rows: ClusterRows, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost, and the log says it."""
    failing = _Failing(rows)
    async with mirrored(failing) as mirror:
        mirror.note(SYNCED)
        mirror.note(Entry("app.shop.cart", b"1", 1))
        await mirror.written()
        assert len((await rows.load()).records) == 1
    assert "not remembered for now: the disk is full" in caplog.text


async def test_rows_when_a_change_fails_then_none_is_made(rows: ClusterRows) -> None:
    """All or none, so that what is remembered is what there was at one moment."""
    await rows.write([Entry("a", b"1", 1)], 1)
    with pytest.raises(OverflowError):
        await rows.write([Entry("b", b"1", 2), Entry("c", b"1", 2**63)], 2)
    assert await rows.load() == Remembered((Entry("a", b"1", 1),), 1)
