"""Actors' states in the cluster's bucket: acknowledged writes stay, whoever owns the actor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.buckets import MemoryBucket, View
from support.link_case import Loop
from support.patience import PATIENCE
from support.records import record_of

from plexspaces_node.errors import (
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from plexspaces_node.node.applications.state_saver import Parts
from plexspaces_node.node.cluster.actor_state import ReplicatedStore
from plexspaces_node.node.cluster.fenced_writes import FencedOff
from plexspaces_node.node.cluster.state_keys import CHUNK_BYTES, StateKeys
from plexspaces_node.node.cluster.state_removal import existing, forget, sweep
from plexspaces_node.node.nats.bucket import Bucket
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.snapshots import SnapshotRecord
from plexspaces_node.node.registry.sqlite_errors import Damaged

# Of the registry.
THREADS_S = 0.005

pytestmark = pytest.mark.virtual_time(threads_s=THREADS_S)

NAME, ID = "shop/cart", "app-12345678"
LONG = os.urandom(2 * CHUNK_BYTES + 7)


class Node:
    """A node's registry and store, and its connection to the bucket."""

    def __init__(
        self,
        name: str,
        bucket: Bucket,
        registry: Registry,
        *,
        application: str = NAME,
        write_s: float = 5.0,
    ) -> None:
        self.application = application
        self.view: Any = bucket
        self.registry = registry
        self.fenced: list[str] = []
        self.store = ReplicatedStore(
            registry, bucket, node=name, on_fenced=self.fenced.append, write_s=write_s
        )

    async def get(self, key: str) -> bytes | None:
        return await self.store.kv_get(self.application, key)

    async def put(self, key: str, value: bytes) -> None:
        await self.store.kv_put(self.application, key, value)

    async def delete(self, key: str) -> None:
        await self.store.kv_delete(self.application, key)

    async def take(self, epoch: int, *, is_first: bool = False) -> None:
        await self.store.take(self.application, ID, epoch, is_first=is_first)

    async def save(self, taken_ns: int, state: bytes) -> None:
        """Save a state as a saver does, the first parts before the last ones."""
        parts: Parts = [
            (begin, memoryview(state)[begin : begin + 2 * CHUNK_BYTES])
            for begin in range(0, len(state), 2 * CHUNK_BYTES)
        ]
        for part in parts[:-1]:
            await self.store.add_to_snapshot(self.application, taken_ns, [part])
        await self.store.save_snapshot(
            self.application, SnapshotRecord(taken_ns, len(state)), parts[-1:]
        )

    async def state(self) -> bytes | None:
        """Return the saved state, as a start reads it."""
        saved = await self.store.load_snapshot(self.application)
        if saved is None:
            return None
        whole = b""
        while len(whole) < saved.size_bytes:
            whole += await self.store.read_part(self.application, saved.taken_ns, len(whole))
        return whole


class World:
    """A bucket, and nodes that have a row for the actor."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self.bucket = MemoryBucket("state")
        self._directory = directory
        self._stack = stack

    async def node(self, name: str) -> Node:
        opening = Registry.open(self._directory / f"{name}.db", keyvalue_limit_bytes=8 << 20)
        registry = await self._stack.enter_async_context(opening)
        await registry.insert_application(record_of(NAME, id=ID, generation=1))
        return Node(name, self.bucket.view(), registry)

    def keys(self, *prefixes: str) -> list[str]:
        """Return what the bucket has below some prefixes."""
        return [
            key
            for key, entry in self.bucket.all.items()
            if key.startswith(prefixes) and entry.value is not None
        ]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An empty bucket."""
    async with AsyncExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
async def a(world: World) -> Node:
    """A node that owns the actor, which is new."""
    node = await world.node("a")
    await node.take(1, is_first=True)
    return node


@pytest.fixture
async def b(world: World) -> Node:
    """Another node."""
    return await world.node("b")


# ---- keys and states, from owner to owner ------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"1", bytes(CHUNK_BYTES), LONG])
async def test_put_when_another_takes_over_then_it_reads_the_value(
    a: Node, b: Node, value: bytes
) -> None:
    """However long, and what was written before it is not seen again."""
    await a.put("k", LONG[::-1])
    await a.put("k", value)
    await a.put("gone", LONG)
    await a.delete("gone")
    assert await a.get("k") == value
    await b.take(2)
    assert (await b.get("k"), await b.get("gone")) == (value, None)


@pytest.mark.parametrize("key", ["a", "x" * 512, "../%2F.*>", "ключ", "\n"])
async def test_key_when_it_is_of_any_text_then_it_is_kept(a: Node, b: Node, key: str) -> None:
    """Whatever a key of the bucket may consist of."""
    await a.put(key, b"1")
    await b.take(2)
    assert await b.get(key) == b"1"
    await b.delete(key)
    await a.take(3)
    assert await a.get(key) is None


@pytest.mark.parametrize("key", ["", "x" * 513])
async def test_key_when_it_is_not_valid_then_refused(a: Node, world: World, key: str) -> None:
    """As on a node alone, and nothing is written."""
    with pytest.raises(InvalidArgument):
        await a.put(key, b"1")
    assert world.keys("key.") == []


async def test_put_when_it_is_over_a_limit_then_it_is_written_nowhere(
    a: Node, world: World
) -> None:
    """The registry is asked first."""
    with pytest.raises(ResourceExhausted):
        await a.put("k", bytes(9 << 20))
    assert (await a.get("k"), world.keys("key.", "part.")) == (None, [])


@pytest.mark.parametrize("size", [0, 1, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES + 3])
async def test_state_when_another_takes_over_then_it_starts_from_the_last(
    a: Node, b: Node, world: World, size: int
) -> None:
    """Of any size; what it replaces is gone from the bucket."""
    state = os.urandom(size)
    await a.save(7, LONG)
    await a.save(5, state)
    assert len(world.keys("snap.")) == -(-size // CHUNK_BYTES)
    await b.take(2)
    assert await b.state() == state
    await b.take(3)
    assert await b.state() == state


async def test_state_when_it_was_begun_by_an_owner_that_takes_again_then_it_is_whole(
    a: Node, b: Node
) -> None:
    """A saver goes on where it was; the bucket gets what it may have lost of it."""
    await a.save(1, b"old")
    state = os.urandom(5 * CHUNK_BYTES)
    part = 2 * CHUNK_BYTES
    await a.store.add_to_snapshot(NAME, 2, [(0, state[:part])])
    await a.take(2)
    await a.store.add_to_snapshot(NAME, 2, [(part, state[part : 2 * part])])
    record = SnapshotRecord(2, len(state))
    await a.store.save_snapshot(NAME, record, [(2 * part, state[2 * part :])])
    await b.take(3)
    assert await b.state() == state


async def test_take_when_a_part_of_the_state_is_damaged_then_it_is_told(
    a: Node, b: Node, world: World
) -> None:
    """Nothing starts from what was not written."""
    await a.save(1, LONG)
    [first, *_] = world.keys("snap.")
    world.bucket.write(first, b"x" * CHUNK_BYTES)
    with pytest.raises(Damaged, match="not what was written"):
        await b.take(2)
    with pytest.raises(FencedOff):
        await b.get("k")


async def test_take_when_a_long_value_is_damaged_then_it_is_told(
    a: Node, b: Node, world: World
) -> None:
    """Its parts are not those of its digest."""
    await a.put("k", LONG)
    world.bucket.write(world.keys("part.")[0], b"x")
    with pytest.raises(Damaged):
        await b.take(2)


async def test_take_when_the_node_was_the_last_owner_then_its_copy_is_what_the_bucket_has(
    a: Node, b: Node
) -> None:
    """Also when another has owned it meanwhile."""
    await a.put("k", b"1")
    await a.put("old", b"1")
    await a.save(1, b"state")
    await b.take(2)
    await b.put("k", b"2")
    await b.delete("old")
    await b.save(2, b"next")
    await a.take(3)
    assert (await a.get("k"), await a.get("old"), await a.state()) == (b"2", None, b"next")


# ---- fences ------------------------------------------------------------------------------------


async def test_owner_when_another_has_taken_over_then_it_is_fenced_off(a: Node, b: Node) -> None:
    """It writes nothing, is told once, and is unavailable to its actor."""
    await a.put("k", b"1")
    await b.take(2)
    for act in (a.put("k", b"2"), a.put("l", LONG), a.delete("k"), a.save(1, b"state")):
        with pytest.raises(Unavailable):
            await act
    assert a.fenced == [NAME]
    assert (await b.get("k"), await b.get("l"), await b.state()) == (b"1", None, None)


async def test_take_when_it_was_placed_elsewhere_since_then_refused(a: Node, b: Node) -> None:
    """An old placement takes nothing from a later one."""
    await b.take(3)
    with pytest.raises(WrongState, match="placed on b"):
        await a.take(2)
    await b.put("k", b"1")


async def test_take_when_two_race_then_the_later_placement_owns_it(a: Node, b: Node) -> None:
    """However their steps interleave, one can write."""
    for epoch in range(2, 20, 2):
        await asyncio.gather(a.take(epoch), b.take(epoch + 1), return_exceptions=True)
        with pytest.raises(Unavailable):
            await a.put("k", b"a")
        await b.put("k", b"b")


async def test_put_when_answers_are_lost_then_it_is_tried_until_one_comes(a: Node, b: Node) -> None:
    """A write of its own that was done does not look like one of another owner."""
    a.view.loses_answers = True
    putting = asyncio.ensure_future(a.put("k", b"1"))
    await asyncio.sleep(1)
    assert not putting.done()
    a.view.loses_answers = False
    await putting
    assert a.fenced == []
    await b.take(2)
    assert await b.get("k") == b"1"


async def test_put_when_nobody_answers_then_unavailable_in_a_bounded_time(a: Node) -> None:
    """It is never acknowledged without the bucket; what is read then is what the bucket has."""
    await a.put("k", b"1")
    a.view.is_cut = True
    with pytest.raises(Unavailable, match="does not store") as caught:
        await a.put("k", b"2")
    assert caught.value.hint == "plexspaces nodes"
    with pytest.raises(Unavailable):
        await a.get("k")
    a.view.is_cut = False
    assert await a.get("k") == b"1"


async def test_put_when_it_was_done_and_not_acknowledged_then_the_next_read_sees_it(
    a: Node, b: Node
) -> None:
    """And so does the next owner: what was read is not unread."""
    await a.put("k", b"1")
    a.view.loses_answers = True
    with pytest.raises(Unavailable):
        await a.put("k", b"2")
    a.view.loses_answers = False
    assert await a.get("k") == b"2"
    await b.take(2)
    assert await b.get("k") == b"2"


async def test_put_when_it_is_long_and_ends_in_the_middle_then_the_value_before_is_whole(
    a: Node, b: Node, world: World
) -> None:
    """Parts of one value never replace those of another; what is left of them goes later."""
    before = LONG[::-1]
    await a.put("k", before)
    a.view.loses_answers = True
    with pytest.raises(Unavailable):
        await a.put("k", LONG)
    a.view.loses_answers = False
    assert await a.get("k") == before
    await b.take(2)
    assert await b.get("k") == before
    await b.put("k", b"1")
    assert world.keys("part.") == []


async def test_put_when_an_earlier_one_is_late_then_it_is_not_overwritten(a: Node, b: Node) -> None:
    """A write that is still under way is fenced off by its own owner."""
    a.view.is_late = True
    with pytest.raises(Unavailable):
        await a.put("k", b"late")
    a.view.is_late = False
    await a.put("k", b"now")
    a.view.arrive()
    assert await a.get("k") == b"now"
    await b.take(2)
    assert await b.get("k") == b"now"


async def test_put_when_it_is_cancelled_then_nothing_of_it_comes_later(a: Node, b: Node) -> None:
    """Its actor is gone, and the next one reads what there is."""
    await a.put("k", b"1")
    a.view.is_late = True
    putting = asyncio.ensure_future(a.put("k", b"2"))
    await asyncio.sleep(0.01)
    putting.cancel()
    await asyncio.wait([putting])
    a.view.is_late = False
    assert await a.get("k") == b"1"
    a.view.arrive()
    await b.take(2)
    assert await b.get("k") == b"1"


async def test_take_when_answers_are_lost_then_it_is_held_all_the_same(a: Node, b: Node) -> None:
    """What it has written itself is not another owner's."""
    await a.put("k", b"1")
    b.view.loses_answers = True
    taking = asyncio.ensure_future(b.take(2))
    await asyncio.sleep(1)
    b.view.loses_answers = False
    await taking
    await b.put("k", b"2")
    assert await b.get("k") == b"2"


async def test_leave_when_a_write_is_under_way_then_it_ends_first(a: Node, world: World) -> None:
    """Afterwards nothing of before changes the copy."""
    a.view.is_cut = True
    putting = asyncio.ensure_future(a.put("k", b"1"))
    await asyncio.sleep(0.1)
    await a.store.leave(NAME)
    assert putting.done()
    with pytest.raises(FencedOff):
        await putting
    with pytest.raises(FencedOff):
        await a.put("k", b"1")
    assert await a.registry.copies.epoch(NAME) is None
    await a.store.leave(NAME)


# ---- undeployed, and lost ----------------------------------------------------------------------


async def test_forget_when_it_was_undeployed_then_nothing_is_left(a: Node, world: World) -> None:
    """Its owner can write nothing any more; the same name with another id is not touched."""
    await a.put("k", LONG)
    await a.save(1, LONG)
    other = StateKeys(NAME, "app-other").value("k")
    world.bucket.write(other, b"\0")
    await forget(a.view, NAME, ID)
    assert world.keys("") == [other]


async def test_sweep_when_an_application_does_not_exist_then_it_is_forgotten(
    a: Node, b: Node, world: World
) -> None:
    """Whoever exists is asked of after it is known what there is."""
    await a.put("k", b"1")

    async def existing() -> set[str]:
        return {ID}

    async def nothing() -> set[str]:
        return set()

    assert await sweep(b.view, existing) == 0
    assert await a.get("k") == b"1"
    # As after a crash in the middle of it.
    b.view.is_cut = True
    with pytest.raises(Unavailable):
        await forget(b.view, NAME, ID)
    b.view.is_cut = False
    assert await sweep(b.view, nothing) == 1
    assert world.keys("") == []


async def test_sweep_when_not_all_applications_are_known_then_nothing_is_forgotten(
    a: Node, b: Node, world: World
) -> None:
    """In a registry that was made anew, or has a record of a later version."""
    await a.put("k", b"1")
    registry = MemoryBucket("registry")

    async def find() -> frozenset[str]:
        return await existing(registry.view(), "one")

    with pytest.raises(Unavailable, match="another"):
        await sweep(b.view, find)
    registry.write("meta", b'{"id":"one","created_ns":1}')
    registry.write("app.acme.cart", b'{"of":"a later version"}')
    with pytest.raises(Unavailable, match="cannot be read"):
        await sweep(b.view, find)
    assert await a.get("k") == b"1"
    registry.write("app.acme.cart", None)
    assert await sweep(b.view, find) == 1


async def test_take_when_it_was_undeployed_then_not_found(a: Node, b: Node, world: World) -> None:
    """While it is being removed, and afterwards it is nobody's."""
    keys = StateKeys(NAME, ID)
    world.bucket.write(keys.fence, b'{"epoch":0,"node":"b","token":"","is_gone":true}')
    with pytest.raises(NotFound):
        await a.take(2)


@pytest.mark.parametrize("is_cut_off", [False, True])
async def test_bucket_when_it_is_lost_then_the_owner_fills_it_again(
    a: Node, b: Node, world: World, is_cut_off: bool
) -> None:
    """At its next write, also if it is cut off in between."""
    await a.put("k", b"1")
    await a.put("long", LONG)
    await a.save(1, LONG[::-1])
    world.bucket.all.clear()
    if is_cut_off:
        a.view.loses_answers = True
        with pytest.raises(Unavailable):
            await a.put("k", b"2")
        a.view.loses_answers = False
    await a.put("k", b"3")
    await b.take(2)
    assert (await b.get("k"), await b.get("long"), await b.state()) == (b"3", LONG, LONG[::-1])


async def test_bucket_when_it_is_lost_while_a_state_is_saved_then_the_state_is_written_anew(
    a: Node, b: Node, world: World
) -> None:
    """A state whose first parts were lost is not taken for a whole one."""
    await a.save(1, b"old")
    state = os.urandom(3 * CHUNK_BYTES)
    part = 2 * CHUNK_BYTES
    await a.store.add_to_snapshot(NAME, 2, [(0, state[:part])])
    world.bucket.all.clear()
    record, last = SnapshotRecord(2, len(state)), cast(Parts, [(part, state[part:])])
    with pytest.raises(WrongState):
        await a.store.save_snapshot(NAME, record, last)
    await a.store.save_snapshot(NAME, record, last)
    await b.take(2)
    assert await b.state() == state


async def test_take_when_the_bucket_is_lost_then_whoever_has_a_copy_fills_it(
    a: Node, b: Node, world: World
) -> None:
    """A node without one starts nothing: the actor would have lost its state."""
    await a.put("k", b"1")
    await a.save(1, b"state")
    world.bucket.all.clear()
    with pytest.raises(WrongState, match="has lost the state"):
        await b.take(2)
    a.view.loses_answers = True
    with pytest.raises(Unavailable):
        await a.take(3)
    a.view.loses_answers = False
    # It is there only in part.
    with pytest.raises(WrongState, match="has lost the state"):
        await b.take(4)
    await a.take(5)
    assert (await a.get("k"), await a.state()) == (b"1", b"state")
    await b.take(6)
    assert (await b.get("k"), await b.state()) == (b"1", b"state")
    # What was once its copy is old now.
    await a.store.leave(NAME)
    world.bucket.all.clear()
    with pytest.raises(WrongState, match="has lost the state"):
        await a.take(7)


@pytest.mark.parametrize("is_first", [True, False])
async def test_take_when_a_node_had_the_actor_before_its_cluster_then_its_state_goes_there(
    b: Node, world: World, is_first: bool
) -> None:
    """What it has is a copy, and never wiped for a bucket that has nothing."""
    a = await world.node("a")
    await a.registry.kv_put(NAME, "k", b"1")
    await a.registry.save_snapshot(NAME, SnapshotRecord(1, 5), [(0, b"state")])
    await a.registry.copies.set_epoch(NAME, 0)
    await a.take(1, is_first=is_first)
    await b.take(2)
    assert (await b.get("k"), await b.state()) == (b"1", b"state")


# ---- whatever happens --------------------------------------------------------------------------

_KEYS = ["x", "y"]
_WHO = st.sampled_from(["owner", "owner", "owner", "other"])
_STEPS = st.one_of(
    st.tuples(st.just("put"), _WHO, st.sampled_from(_KEYS), st.booleans()),
    st.tuples(st.just("put"), _WHO, st.sampled_from(_KEYS), st.booleans()),
    st.tuples(st.just("delete"), _WHO, st.sampled_from(_KEYS)),
    st.tuples(st.just("get"), st.just("owner"), st.sampled_from(_KEYS)),
    st.tuples(st.just("save"), _WHO),
    st.tuples(st.just("take"), st.sampled_from(["owner", "other", "other"])),
    st.tuples(st.just("trouble"), _WHO, st.sampled_from(["cut", "lost", "late", "late"])),
    st.tuples(st.just("trouble"), _WHO, st.just("")),
    st.tuples(st.just("trouble"), _WHO, st.just("")),
    st.tuples(st.just("stray"), _WHO, st.sampled_from(_KEYS)),
    st.tuples(st.just("arrive"), _WHO),
)


class Model:
    """What may be read: of each key, and of the state, the values that are possible."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.possible: dict[str, set[bytes | None]] = {key: {None} for key in (*_KEYS, "state")}
        self.owner: int | None = 0
        self.last = 0
        self.epoch = 1
        self.number = 0

    async def step(self, kind: str, who: str, *rest: Any) -> None:
        """Do something on the owner, or on the other node; on the last owner if there is none."""
        self.last = self.owner if self.owner is not None else self.last
        number = self.last if who == "owner" else 1 - self.last
        await getattr(self, f"_{kind}")(number, *rest)

    async def _change(
        self, number: int, what: str, value: bytes | None, act: Awaitable[object]
    ) -> None:
        """Change something: if it is acknowledged, nothing else is possible any more."""
        try:
            await act
        except Unavailable:
            self.possible[what].add(value)
        else:
            # To delete what the node does not have is but a read.
            assert number == self.owner or value is None, "acknowledged to no owner"
            if number == self.owner:
                self.possible[what] = {value}

    async def _put(self, number: int, key: str, is_long: bool) -> None:
        self.number += 1
        value = b"%d" % self.number + bytes(CHUNK_BYTES + 1 if is_long else 0)
        await self._change(number, key, value, self.nodes[number].put(key, value))

    async def _stray(self, number: int, key: str) -> None:
        """A put that arrives later than others that follow it."""
        await self._trouble(number, "late")
        await self._put(number, key, False)
        await self._trouble(number, "")

    async def _delete(self, number: int, key: str) -> None:
        await self._change(number, key, None, self.nodes[number].delete(key))

    async def _save(self, number: int) -> None:
        self.number += 1
        state = b"%d" % self.number * CHUNK_BYTES
        await self._change(number, "state", state, self.nodes[number].save(self.number, state))

    async def _get(self, number: int, key: str) -> None:
        # A node that is not the owner any more answers nobody: its lease is not held.
        if number == self.owner:
            try:
                self._saw(key, await self.nodes[number].get(key))
            except Unavailable:
                assert (
                    self.nodes[number].view.is_cut
                    or self.nodes[number].view.is_late
                    or (self.nodes[number].view.loses_answers)
                )

    def _saw(self, what: str, value: bytes | None) -> None:
        assert value in self.possible[what], f"{what} went back, or was lost"
        self.possible[what] = {value}

    async def _take(self, number: int) -> None:
        self.epoch += 1
        node = self.nodes[number]
        try:
            await node.take(self.epoch)
        except Unavailable:
            # It may have fenced off the owner, who can go on until then.
            self.owner = None if number == self.owner else self.owner
            return
        self.owner = number
        for key in _KEYS:
            self._saw(key, await node.get(key))
        self._saw("state", await node.state())

    async def _trouble(self, number: int, which: str) -> None:
        view: View = self.nodes[number].view
        view.is_cut = which == "cut"
        view.loses_answers = which == "lost"
        view.is_late = which == "late"

    async def _arrive(self, number: int) -> None:
        self.nodes[number].view.arrive()


async def _play(model: Model, steps: list[tuple[Any, ...]]) -> None:
    await model.nodes[0].take(1, is_first=True)
    for step in steps:
        await model.step(*step)
    for who in ("owner", "other"):
        await model.step("trouble", who, "")
    for _ in range(2):
        await model.step("arrive", "owner")
        await model.step("take", "other")
        await model.step("arrive", "other")
    await model.step("take", "owner")
    assert model.owner == model.last


def test_owners_when_anything_fails_then_what_was_acknowledged_is_read(tmp_path: Path) -> None:
    """Two owners, cut off, without answers, with late writes: nothing is lost or goes back."""
    count = 0

    async def nodes(registries: list[Registry]) -> list[Node]:
        nonlocal count
        count += 1
        name, bucket = f"shop/cart-{count}", MemoryBucket("state")
        for registry in registries:
            await registry.insert_application(record_of(name, id=f"app-{count}", generation=1))
        return [
            Node(node, bucket.view(), registry, application=name, write_s=0.1)
            for node, registry in zip("ab", registries, strict=True)
        ]

    with asyncio.Runner(loop_factory=partial(Loop, threads_s=THREADS_S)) as runner:
        stack = AsyncExitStack()
        opened = [
            runner.run(stack.enter_async_context(Registry.open(tmp_path / f"{node}.db")))
            for node in "ab"
        ]

        @settings(max_examples=int(40 * PATIENCE), deadline=None)
        @given(st.lists(_STEPS, max_size=25))
        def play(steps: list[tuple[Any, ...]]) -> None:
            runner.run(_play(Model(runner.run(nodes(opened))), steps))

        try:
            play()
        finally:
            runner.run(stack.aclose())
