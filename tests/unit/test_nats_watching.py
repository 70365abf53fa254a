"""Watches and lists of a bucket whose replicas are behind: nothing is taken for gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias, cast

import pytest

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.nats.bucket import SYNCED, Change, Entry
from plexspaces_node.node.nats.connection import Message
from plexspaces_node.node.nats.watching import listed, watched
from plexspaces_node.node.nats.writes import Writes
from plexspaces_node.tasks import Leave

BARRIER = "$PLEXSPACES.test.node"
A, B = "$KV.test.a", "$KV.test.b"

Replica: TypeAlias = Sequence[tuple[str, int]]
"""What a replica has: subjects, and the numbers of their last messages."""


class Session:
    """A connection to a server with one replica."""

    def __init__(self, replica: Replica) -> None:
        self.lost = asyncio.Event()
        self.deliver: Callable[[Message], None] = lambda message: None
        self.lose: Callable[[], None] = lambda: None
        self.start = 0
        self._replica = replica
        self._number = 0

    def new_inbox(self) -> str:
        return "inbox"

    def when_lost(self, call: Callable[[], None]) -> Leave:
        self.lose = call
        return lambda: None

    async def subscribe(self, subject: str, take: Callable[[Message], None]) -> Leave:
        self.deliver = take
        return lambda: None

    async def publish(self, subject: str) -> None:
        pass

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> Message:
        self.start = json.loads(payload)["config"].get("opt_start_seq", 0)
        there = [one for one in self._replica if one[1] >= self.start]
        for left, (key, sequence) in enumerate(there, 1 - len(there)):
            self.send(key, sequence, pending=-left)
        return Message("", "", json.dumps({"num_pending": len(there)}).encode(), {})

    def send(self, key: str, sequence: int, *, pending: int = 0) -> None:
        """Deliver a message."""
        self._number += 1
        reply = f"$JS.ACK.KV_test.name.1.{sequence}.{self._number}.0.{pending}"
        self.deliver(Message(key, reply, b"%d" % sequence, {}))

    def idle(self) -> None:
        """Say that there is nothing more."""
        headers = {"Nats-Last-Consumer": str(self._number)}
        self.deliver(Message("", "", b"", headers, 100, "Idle Heartbeat"))


class Connection:
    """Each consumer is at the next of these replicas; barriers have these numbers."""

    name = "node"

    def __init__(self, replicas: Sequence[Replica], barriers: Sequence[int]) -> None:
        self.sessions = [Session(replica) for replica in replicas]
        self._next = iter(self.sessions)
        self._barriers = iter(barriers)

    async def session(self) -> Session:
        return next(self._next)

    def current(self) -> Session:
        return next(self._next)

    async def request(
        self, subject: str, payload: bytes, headers: Any = None, *, timeout_s: float
    ) -> Message:
        is_info = subject.startswith("$JS.API.STREAM.INFO")
        answer = {"created": "monday"} if is_info else {"seq": next(self._barriers)}
        return Message("", "", json.dumps(answer).encode(), {})


def watch(connection: Connection) -> AsyncIterator[Change]:
    """Return a watch of everything in it."""
    found = cast(Any, connection)
    return watched(found, "test", "$KV.test.>", Writes(found, "test"))


async def until_synced(changes: AsyncIterator[Change]) -> list[Change]:
    """Return what is told before `SYNCED`."""
    told: list[Change] = []
    while (change := await anext(changes)) is not SYNCED:
        told.append(change)
    return told


@pytest.mark.virtual_time
@pytest.mark.parametrize("behind", [(), ((A, 1),), ((BARRIER, 1), (A, 2), (B, 3))])
async def test_watch_when_a_replica_is_behind_then_only_all_of_another_is_told(
    behind: Replica,
) -> None:
    """What it lacks is not taken for gone, and what was before is not told."""
    connection = Connection([behind, ((A, 5), (B, 6), (BARRIER, 8))], barriers=(7, 8))
    async with aclosing(cast(Any, watch(connection))) as changes:
        assert await until_synced(changes) == [Entry("a", b"5", 5), Entry("b", b"6", 6)]


@pytest.mark.virtual_time
async def test_watch_when_it_goes_on_at_a_replica_behind_then_synced_with_the_barrier() -> None:
    """It is told as it comes, and is all that was written only then."""
    connection = Connection([((A, 5), (BARRIER, 8)), ((A, 5),)], barriers=(8, 12))
    async with aclosing(cast(Any, watch(connection))) as changes:
        assert await until_synced(changes) == [Entry("a", b"5", 5)]
        first, second = connection.sessions
        first.lose()
        told = asyncio.ensure_future(until_synced(changes))
        while not second.start:
            await asyncio.sleep(1)
        assert second.start == 9
        second.idle()
        second.send(B, 10)
        second.idle()
        await asyncio.sleep(1)
        assert not told.done()
        second.send(BARRIER, 12)
        assert await told == [Entry("b", b"10", 10)]


@pytest.mark.virtual_time
async def test_watch_when_it_goes_on_at_a_replica_that_stays_behind_then_at_another() -> None:
    """It does not wait for one for ever."""
    whole = ((A, 5), (BARRIER, 12))
    connection = Connection([((A, 5), (BARRIER, 8)), (), whole], barriers=(8, 11, 12))
    async with aclosing(cast(Any, watch(connection))) as changes:
        await until_synced(changes)
        first, second, _ = connection.sessions
        first.lose()
        told = asyncio.ensure_future(until_synced(changes))
        while not second.start:
            await asyncio.sleep(1)
        for _ in range(5):
            second.idle()
        assert await told == []


@pytest.mark.virtual_time
async def test_list_when_a_replica_is_behind_then_that_of_another() -> None:
    """It has what was written before it."""
    connection = Connection([((A, 1),), ((B, 6), (A, 7), (BARRIER, 8))], barriers=())
    found = await listed(cast(Any, connection), "test", "$KV.test.>", BARRIER, 8)
    assert found == [Entry("a", b"7", 7), Entry("b", b"6", 6)]


@pytest.mark.virtual_time
async def test_list_when_all_replicas_stay_behind_then_unavailable() -> None:
    """Rather than a part of it."""
    connection = Connection([((A, 1),)] * 100, barriers=())
    with pytest.raises(Unavailable, match="behind"):
        await listed(cast(Any, connection), "test", "$KV.test.>", BARRIER, 8)
