"""The contract of a bucket: the one in memory and the one of a real NATS server act alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Protocol, cast

import pytest
from support.buckets import MemoryBucket, View
from support.nats_servers import PlainServer, connected
from support.patience import patient

from plexspaces_node.errors import InvalidArgument, ResourceExhausted, Unavailable
from plexspaces_node.node.nats import jetstream, streams
from plexspaces_node.node.nats.bucket import SYNCED, Bucket, Change, Conflict, Entry, Fence
from plexspaces_node.node.nats.jetstream_bucket import JetStreamBucket

BOUND_S = patient(20.0)


class Place(Protocol):
    """Where buckets are: it can be cut off, and come back."""

    async def bucket(self) -> Bucket:
        """Return another connection to the same bucket."""

    def cut(self) -> None:
        """Answer nobody from now on."""

    def mend(self) -> None:
        """Answer again."""


class Memory:
    def __init__(self) -> None:
        self._bucket = MemoryBucket()
        self._views: list[View] = []

    async def bucket(self) -> Bucket:
        self._views.append(self._bucket.view())
        return self._views[-1]

    def cut(self) -> None:
        for view in self._views:
            view.is_cut = True

    def mend(self) -> None:
        for view in self._views:
            view.is_cut = False


class Nats:
    def __init__(self, server: PlainServer, stack: AsyncExitStack) -> None:
        self._server, self._stack = server, stack
        self._number = 0

    async def bucket(self) -> Bucket:
        self._number += 1
        opening = connected(self._server.target, f"test-{self._number}")
        connection = await self._stack.enter_async_context(opening)
        async with asyncio.timeout(BOUND_S):
            jetstream.check_level(await jetstream.wait_until_answers(connection))
            await streams.ensure(connection, "test")
        return JetStreamBucket(connection, "test")

    def cut(self) -> None:
        self._server.kill()

    def mend(self) -> None:
        self._server.start()


@pytest.fixture(params=["memory", "nats"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Each kind of bucket in turn, empty."""
    if request.param == "memory":
        yield Memory()
        return
    with PlainServer(tmp_path) as server:
        async with AsyncExitStack() as stack:
            yield Nats(server, stack)


@pytest.fixture
async def bucket(place: Place) -> Bucket:
    """One connection to it."""
    return await place.bucket()


class Watching:
    """A watch, read in the background of a test."""

    def __init__(self, changes: AsyncIterator[Change]) -> None:
        self._changes = changes

    async def until(self, is_last: Callable[[Change], bool]) -> list[Change]:
        """Return what is told, through the first change that is the last."""
        told: list[Change] = []
        async with asyncio.timeout(BOUND_S):
            while not told or not is_last(told[-1]):
                told.append(await anext(self._changes))
        return told

    async def until_synced(self) -> dict[str, bytes | None]:
        """Return the values told through the next `SYNCED`."""
        told = await self.until(lambda change: change is SYNCED)
        return {one.key: one.value for one in told if isinstance(one, Entry)}

    async def next(self) -> Change:
        """Return the next change."""
        return (await self.until(lambda _: True))[0]


@pytest.fixture
async def watching(bucket: Bucket) -> AsyncIterator[Watching]:
    """A watch of everything below `app.`."""
    async with aclosing(cast(Any, bucket.watch("app."))) as changes:
        yield Watching(changes)


async def eventually(act: Callable[[], Any]) -> Any:
    """Do something again while it is not available: a server has just started."""
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                return await act()
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_get_when_a_key_was_put_then_its_value_and_revision(bucket: Bucket) -> None:
    """What was put is read, with the revision that the put has returned."""
    first = await bucket.put("app.a", b"1")
    assert await bucket.get("app.a") == Entry("app.a", b"1", first)
    second = await bucket.put("app.a", b"")
    assert second > first
    assert await bucket.get("app.a") == Entry("app.a", b"", second)


async def test_get_when_there_is_no_such_key_then_none(bucket: Bucket) -> None:
    """A key that never was, and one that was deleted."""
    assert await bucket.get("app.a") is None
    await bucket.put("app.a", b"1")
    await bucket.delete("app.a")
    assert await bucket.get("app.a") is None


async def test_get_when_another_has_written_then_it_is_read(place: Place, bucket: Bucket) -> None:
    """A write that was acknowledged to one is read by all."""
    other = await place.bucket()
    for number in range(50):
        revision = await other.put("app.a", b"%d" % number)
        assert await bucket.get("app.a") == Entry("app.a", b"%d" % number, revision)


async def test_create_when_the_key_exists_then_conflict(bucket: Bucket) -> None:
    """The key is left as it is; after a deletion it can be created again."""
    first = await bucket.create("app.a", b"1")
    with pytest.raises(Conflict):
        await bucket.create("app.a", b"2")
    assert await bucket.get("app.a") == Entry("app.a", b"1", first)
    await bucket.delete("app.a")
    assert await bucket.create("app.a", b"3") > first


async def test_create_when_many_do_then_one_has_made_it(place: Place) -> None:
    """Of creates at the same time exactly one succeeds."""
    buckets = [await place.bucket() for _ in range(5)]
    done = await asyncio.gather(
        *(each.create("app.a", b"%d" % number) for number, each in enumerate(buckets)),
        return_exceptions=True,
    )
    assert [type(one) for one in done if not isinstance(one, Conflict)] == [int]


async def test_update_when_the_revision_is_old_then_conflict(bucket: Bucket) -> None:
    """Compare and set: of the last revision it succeeds, of an older one nothing changes."""
    first = await bucket.put("app.a", b"1")
    second = await bucket.update("app.a", b"2", first)
    with pytest.raises(Conflict):
        await bucket.update("app.a", b"3", first)
    with pytest.raises(Conflict):
        await bucket.update("app.b", b"3", first)
    assert await bucket.get("app.a") == Entry("app.a", b"2", second)


async def test_update_when_many_do_then_one_follows_each_revision(place: Place) -> None:
    """A counter that many raise by compare and set loses nothing."""
    buckets = [await place.bucket() for _ in range(4)]
    await buckets[0].create("app.a", b"0")

    async def raise_it(each: Bucket) -> None:
        for _ in range(10):
            while True:
                entry = await each.get("app.a")
                assert entry is not None
                assert entry.value is not None
                try:
                    await each.update("app.a", b"%d" % (int(entry.value) + 1), entry.revision)
                    break
                except Conflict:
                    continue

    await asyncio.gather(*map(raise_it, buckets))
    entry = await buckets[0].get("app.a")
    assert entry is not None
    assert entry.value == b"40"


async def test_delete_when_the_revision_is_old_then_conflict(bucket: Bucket) -> None:
    """Only the last revision is deleted; without one, whatever there is, or nothing."""
    first = await bucket.put("app.a", b"1")
    second = await bucket.put("app.a", b"2")
    with pytest.raises(Conflict):
        await bucket.delete("app.a", revision=first)
    assert await bucket.delete("app.a", revision=second) > second
    await bucket.delete("app.never")


async def test_put_when_the_fence_has_moved_then_conflict(bucket: Bucket) -> None:
    """A write is refused once the fence was written again, and while it has another revision."""
    first = await bucket.put("fence.a", b"1")
    await bucket.put("key.a", b"x", fence=Fence("fence.a", first))
    second = await bucket.put("fence.a", b"2")
    with pytest.raises(Conflict):
        await bucket.put("key.a", b"y", fence=Fence("fence.a", first))
    with pytest.raises(Conflict):
        await bucket.delete("key.a", fence=Fence("fence.a", first))
    with pytest.raises(Conflict):
        await bucket.put_all([("key.a", b"1"), ("key.b", b"2")], fence=Fence("fence.a", first))
    entry = await bucket.get("key.a")
    assert entry is not None
    assert entry.value == b"x"
    await bucket.delete("key.a", fence=Fence("fence.a", second))
    assert await bucket.get("key.a") is None


async def test_put_when_many_have_one_fence_then_all_are_written(
    place: Place, bucket: Bucket
) -> None:
    """Writes at the same time under a fence that does not move succeed, of two connections too."""
    other = await place.bucket()
    fence = Fence("fence.a", await bucket.put("fence.a", b"1"))
    await asyncio.gather(
        *(bucket.put(f"key.{number}", b"x", fence=fence) for number in range(20)),
        *(other.put(f"key.{number + 20}", b"x", fence=fence) for number in range(20)),
    )
    assert len(await bucket.entries("key.")) == 40


async def test_put_all_when_the_fence_holds_then_in_this_order(bucket: Bucket) -> None:
    """All are there, the later with a higher revision, and the last one's is returned."""
    fence = Fence("fence.a", await bucket.put("fence.a", b"1"))
    entries = [(f"snap.{number:04}", b"%d" % number * 10) for number in range(1100)]
    last = await bucket.put_all(entries, fence=fence)
    found = await bucket.entries("snap.")
    assert [(one.key, one.value) for one in found] == entries
    revisions = [one.revision for one in found]
    assert revisions == sorted(revisions)
    assert revisions[-1] == last
    assert await bucket.put_all([("snap.0000", b"again")], fence=fence) > last


async def test_put_all_when_values_are_large_then_all_are_there(bucket: Bucket) -> None:
    """Parts of a snapshot, of nearly 1 MiB each."""
    fence = Fence("fence.a", await bucket.put("fence.a", b"1"))
    part = bytes(1000 * 1000)
    await bucket.put_all([(f"snap.{number}", part) for number in range(9)], fence=fence)
    assert [len(one.value or b"") for one in await bucket.entries("snap.")] == [len(part)] * 9


async def test_entries_when_some_were_deleted_then_what_exists(bucket: Bucket) -> None:
    """What exists below a prefix, by its keys; neighbours with a similar name are not there."""
    revisions = [await bucket.put(key, b"1") for key in ("app.b", "app.a.c", "apple.a", "app")]
    await bucket.put("app.x", b"1")
    await bucket.delete("app.x")
    expected = [Entry("app.a.c", b"1", revisions[1]), Entry("app.b", b"1", revisions[0])]
    assert await bucket.entries("app.") == expected
    assert [one.key for one in await bucket.entries("")] == ["app", "app.a.c", "app.b", "apple.a"]
    assert await bucket.entries("none.") == []


async def test_entries_when_there_are_thousands_then_all(place: Place, bucket: Bucket) -> None:
    """More than NATS gives at once, with what another has written just before."""
    fence = Fence("fence.a", await bucket.put("fence.a", b"1"))
    await bucket.put_all([(f"app.{number}", b"x") for number in range(3000)], fence=fence)
    revision = await (await place.bucket()).put("app.7", b"y")
    found = {one.key: one for one in await bucket.entries("app.")}
    assert len(found) == 3000
    assert found["app.7"] == Entry("app.7", b"y", revision)


async def test_purge_when_older_ones_are_meant_then_newer_ones_stay(bucket: Bucket) -> None:
    """What is below the prefix and older than a revision is gone for good; else all of it."""
    await bucket.put("snap.a.1", b"1")
    await bucket.put("snap.a.2", b"1")
    begin = await bucket.put("snap.a.1", b"2")
    await bucket.put("snap.b.1", b"1")
    await bucket.purge("snap.a.", before=begin)
    assert [one.key for one in await bucket.entries("snap.")] == ["snap.a.1", "snap.b.1"]
    await bucket.purge("snap.a.")
    assert [one.key for one in await bucket.entries("snap.")] == ["snap.b.1"]
    assert await bucket.create("snap.a.1", b"3") > begin
    await bucket.purge("none.")


async def test_purge_when_a_fence_is_gone_then_its_writes_are_refused(bucket: Bucket) -> None:
    """As after any other change of it."""
    fence = Fence("fence.a", await bucket.put("fence.a", b"1"))
    await bucket.purge("fence.")
    with pytest.raises(Conflict):
        await bucket.put("key.a", b"1", fence=fence)


async def test_watch_when_it_begins_then_what_exists_then_changes(
    bucket: Bucket, watching: Watching
) -> None:
    """First what exists, then that this was all, then each change."""
    await bucket.put("app.a", b"1")
    await bucket.put("app.b", b"1")
    await bucket.delete("app.b")
    await bucket.put("other.a", b"1")
    assert await watching.until_synced() == {"app.a": b"1"}
    revision = await bucket.put("app.c", b"2")
    assert await watching.next() == Entry("app.c", b"2", revision)
    revision = await bucket.delete("app.c")
    assert await watching.next() == Entry("app.c", None, revision)


async def test_watch_when_there_is_nothing_then_synced(watching: Watching) -> None:
    """An empty bucket is told of at once."""
    assert await watching.until_synced() == {}


async def test_watch_when_many_change_then_the_last_of_each_is_told(
    bucket: Bucket, watching: Watching
) -> None:
    """However many there are, the last value of each key arrives."""
    await watching.until_synced()
    fence = Fence("fence.a", await bucket.put("fence.a", b"1"))
    for generation in range(3):
        value = b"%d" % generation * 100
        await bucket.put_all([(f"app.{number}", value) for number in range(500)], fence=fence)
    await bucket.put("app.end", b"")
    told = await watching.until(lambda one: isinstance(one, Entry) and one.key == "app.end")
    last = {one.key: one.value for one in told if isinstance(one, Entry)}
    assert set(last.values()) == {b"2" * 100, b""}
    assert len(last) == 501


async def test_watch_when_the_connection_was_lost_then_what_differs(
    place: Place, bucket: Bucket, watching: Watching
) -> None:
    """What changed meanwhile is told when it is back, then that this was all; nothing twice."""
    for key in ("app.a", "app.b", "app.c"):
        await bucket.put(key, b"1")
    await watching.until_synced()
    place.cut()
    with pytest.raises(Unavailable):
        await bucket.put("app.a", b"2")
    place.mend()
    other = await place.bucket()
    await eventually(lambda: other.put("app.a", b"3"))
    await eventually(lambda: other.delete("app.b"))
    told = await watching.until_synced()
    if "app.a" not in told or "app.b" not in told:
        # It was synced before these were written.
        while told.get("app.a") != b"3" or "app.b" not in told:
            change = await watching.next()
            if isinstance(change, Entry):
                told[change.key] = change.value
    assert told == {"app.a": b"3", "app.b": None}


async def test_operations_when_nobody_answers_then_unavailable(
    place: Place, bucket: Bucket
) -> None:
    """Each says so, and works again as soon as somebody answers."""
    revision = await bucket.put("app.a", b"1")
    place.cut()
    fence = Fence("app.a", revision)
    for act in (
        lambda: bucket.get("app.a"),
        lambda: bucket.put("app.a", b"2"),
        lambda: bucket.create("app.b", b"2"),
        lambda: bucket.update("app.a", b"2", revision),
        lambda: bucket.delete("app.a"),
        lambda: bucket.put_all([("app.c", b"1"), ("app.d", b"2")], fence=fence),
        lambda: bucket.entries("app."),
        lambda: bucket.purge("app."),
    ):
        with pytest.raises(Unavailable):
            await cast(Any, act())
    place.mend()
    assert await eventually(lambda: bucket.get("app.a")) == Entry("app.a", b"1", revision)


async def test_keys_when_they_could_mean_more_then_refused(tmp_path: Path) -> None:
    """A key cannot reach out of its bucket: no wildcard, no space, no end of line."""
    with PlainServer(tmp_path) as server:
        async with connected(server.target) as connection:
            bucket = JetStreamBucket(connection, "test")
            for key in ("", "a.*", "a.>", "a b", "a\r\nPUB x 0", "a..b", ".a", "a.", "ä"):
                with pytest.raises(InvalidArgument):
                    await bucket.put(key, b"")
                with pytest.raises(InvalidArgument):
                    await bucket.put("a", b"", fence=Fence(key, 1))
            for prefix in ("a", "*.", "a.>", ">", "."):
                with pytest.raises(InvalidArgument):
                    await bucket.entries(prefix)


async def test_put_when_the_value_is_too_large_then_refused_and_the_connection_stays(
    tmp_path: Path,
) -> None:
    """A value that no message can have costs neither the connection nor what else is there."""
    with PlainServer(tmp_path) as server:
        async with connected(server.target) as connection:
            session = await connection.session()
            bucket = JetStreamBucket(connection, "test")
            for size in (session.max_payload, session.max_payload + 1):
                with pytest.raises(ResourceExhausted, match="more than a message"):
                    await bucket.put("a", bytes(size), fence=Fence("a", 1))
            assert await connection.session() is session
