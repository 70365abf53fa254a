"""Actors' states in a bucket of a real NATS server: the same as in one in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.nats_servers import PlainServer, connected
from support.patience import patient
from support.records import record_of

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.cluster.actor_state import ReplicatedStore
from plexspaces_node.node.cluster.state_keys import CHUNK_BYTES
from plexspaces_node.node.cluster.state_removal import forget
from plexspaces_node.node.nats import jetstream, streams
from plexspaces_node.node.nats.jetstream_bucket import JetStreamBucket
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.snapshots import SnapshotRecord

NAME, ID = "shop/cart", "app-12345678"


class World:
    """A server, and stores of nodes that use it."""

    def __init__(self, server: PlainServer, directory: Path, stack: AsyncExitStack) -> None:
        self.server = server
        self._directory = directory
        self._stack = stack

    async def bucket(self, name: str) -> JetStreamBucket:
        opening = connected(self.server.target, name)
        connection = await self._stack.enter_async_context(opening)
        async with asyncio.timeout(patient(20)):
            await jetstream.wait_until_answers(connection)
            await streams.ensure(connection, "state")
        return JetStreamBucket(connection, "state")

    async def store(self, name: str) -> ReplicatedStore:
        opening = Registry.open(self._directory / f"{name}.db")
        registry = await self._stack.enter_async_context(opening)
        await registry.insert_application(record_of(NAME, id=ID, generation=1))
        return ReplicatedStore(
            registry, await self.bucket(name), node=name, on_fenced=lambda _name: None
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A server that nobody uses yet."""
    with PlainServer(tmp_path) as server:
        async with AsyncExitStack() as stack:
            yield World(server, tmp_path, stack)


async def test_state_when_it_goes_from_owner_to_owner_then_it_is_whole(world: World) -> None:
    """Keys, long values and a state; the former owner is fenced off; nothing is left at the end."""
    a, b = await world.store("a"), await world.store("b")
    await a.take(NAME, ID, 1, is_first=True)
    value, state = os.urandom(3 * CHUNK_BYTES + 1), os.urandom(9 * CHUNK_BYTES + 5)
    await a.kv_put(NAME, "long", value[::-1])
    await a.kv_put(NAME, "long", value)
    for number in range(20):
        await a.kv_put(NAME, "k", b"%d" % number)
    await a.kv_put(NAME, "gone", b"1")
    await a.kv_delete(NAME, "gone")
    await a.save_snapshot(NAME, SnapshotRecord(1, 3), [(0, b"old")])
    await a.add_to_snapshot(NAME, 2, [(0, state[: 4 * CHUNK_BYTES])])
    rest = state[4 * CHUNK_BYTES :]
    await a.save_snapshot(NAME, SnapshotRecord(2, len(state)), [(4 * CHUNK_BYTES, rest)])
    await b.take(NAME, ID, 2)
    with pytest.raises(Unavailable):
        await a.kv_put(NAME, "k", b"a")
    assert await b.kv_get(NAME, "k") == b"19"
    assert await b.kv_get(NAME, "long") == value
    assert await b.kv_get(NAME, "gone") is None
    saved = await b.load_snapshot(NAME)
    assert saved == SnapshotRecord(2, len(state))
    found = b""
    while len(found) < len(state):
        found += await b.read_part(NAME, 2, len(found))
    assert found == state
    bucket = await world.bucket("c")
    assert len(await bucket.entries("snap.")) == 10
    assert len(await bucket.entries("part.")) == 4
    await forget(bucket, NAME, ID)
    assert await bucket.entries("") == []


async def test_put_when_the_server_is_killed_then_it_is_tried_until_it_is_back(
    world: World,
) -> None:
    """Its actor only waits; what was acknowledged is there."""
    a, b = await world.store("a"), await world.store("b")
    await a.take(NAME, ID, 1, is_first=True)
    await a.kv_put(NAME, "k", b"1")
    world.server.kill()
    putting = asyncio.ensure_future(a.kv_put(NAME, "k", b"2"))
    await asyncio.wait([putting], timeout=0.1)
    assert not putting.done()
    world.server.start()
    await putting
    await b.take(NAME, ID, 2)
    assert await b.kv_get(NAME, "k") == b"2"
