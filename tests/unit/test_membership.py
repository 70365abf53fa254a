"""A node's beats, its lease, and how it notices that it is not a member any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from support.buckets import MemoryBucket, View
from support.clusters import a_node

from plexspaces_node.errors import WrongState
from plexspaces_node.node.cluster.lease import LEASE_S, Lease
from plexspaces_node.node.cluster.membership import Membership
from plexspaces_node.node.cluster.records import Beat, Node, NodeState, beat_key, node_key
from plexspaces_node.tasks import cancel

pytestmark = pytest.mark.virtual_time


class Member:
    """A node with its lease, on the loop's clock."""

    def __init__(self, bucket: MemoryBucket, *, incarnation: int = 1) -> None:
        self.bucket = bucket
        self.connection: View = bucket.view()
        clock = asyncio.get_running_loop().time
        self.lease = Lease(clock)
        self.lost: list[bool] = []
        self.membership = Membership(
            self.connection,
            a_node("a", incarnation=incarnation),
            self.lease,
            on_lease_lost=self._lost,
            clock=clock,
        )

    async def _lost(self) -> None:
        self.lost.append(self.lease.is_held())

    def beat(self) -> Beat:
        """Return the beat that is there."""
        value = self.bucket.all[beat_key("a")].value
        assert value is not None
        return msgspec.json.decode(value, type=Beat)

    def declare_dead(self) -> None:
        """Do what the leader does."""
        dead = msgspec.structs.replace(self.beat(), dead=True)
        self.bucket.write(beat_key("a"), msgspec.json.encode(dead))


@asynccontextmanager
async def running(member: Member) -> AsyncIterator[asyncio.Task[None]]:
    """Let a node join and beat."""
    await member.membership.join()
    task = asyncio.create_task(member.membership.run())
    try:
        yield task
    finally:
        await cancel(task)


def state_of(bucket: MemoryBucket) -> NodeState:
    """Return what the node's record says it wants to be."""
    value = bucket.all[node_key("a")].value
    assert value is not None
    return msgspec.json.decode(value, type=Node).state


async def test_node_when_it_joins_then_it_holds_the_lease_and_keeps_it() -> None:
    """By a beat each second."""
    member = Member(MemoryBucket())
    async with running(member):
        assert member.lease.is_held()
        await asyncio.sleep(60)
        assert member.lease.left_s() > LEASE_S - 1.1
        assert 59 <= member.beat().count <= 62


async def test_node_when_the_bucket_does_not_answer_then_its_lease_ends_by_itself() -> None:
    """It is held again, and nothing was lost, once a beat is acknowledged."""
    member = Member(MemoryBucket())
    async with running(member):
        member.connection.is_cut = True
        await asyncio.sleep(LEASE_S + 0.1)
        assert not member.lease.is_held()
        member.connection.is_cut = False
        await asyncio.sleep(1.1)
        assert member.lease.is_held()
        assert member.lost == []


async def test_node_when_answers_are_lost_then_beats_that_were_stored_do_not_count() -> None:
    """It goes on from what is there when answers come again."""
    member = Member(MemoryBucket())
    async with running(member):
        await asyncio.sleep(3.5)
        member.connection.loses_answers = True
        before = member.beat().count
        await asyncio.sleep(LEASE_S + 0.1)
        assert member.beat().count > before + 3
        assert not member.lease.is_held()
        member.connection.loses_answers = False
        await asyncio.sleep(1.1)
        assert member.lease.is_held()
        assert member.lost == []


async def test_node_when_declared_dead_then_it_gives_up_its_lease_before_it_comes_back() -> None:
    """Whoever stops its actors has done so before the next beat."""
    member = Member(MemoryBucket())
    async with running(member):
        member.declare_dead()
        await asyncio.sleep(3)
        assert member.lost == [False]
        assert member.lease.is_held()
        assert not member.beat().dead


async def test_node_when_its_actors_take_long_to_stop_then_it_comes_back_later() -> None:
    """It is dead as long as it may still have some."""
    member = Member(MemoryBucket())
    done = asyncio.Event()

    async def stop() -> None:
        await done.wait()

    member.membership = Membership(
        member.connection,
        a_node("a"),
        member.lease,
        on_lease_lost=stop,
        clock=asyncio.get_running_loop().time,
    )
    async with running(member):
        member.declare_dead()
        await asyncio.sleep(30)
        assert member.beat().dead
        assert not member.lease.is_held()
        done.set()
        await asyncio.sleep(1)
        assert not member.beat().dead


async def test_node_when_it_starts_again_then_it_takes_over_its_beat() -> None:
    """Also one of a node that was killed, or declared dead."""
    bucket = MemoryBucket()
    first = Member(bucket)
    async with running(first):
        await asyncio.sleep(2)
    first.declare_dead()
    again = Member(bucket, incarnation=2)
    async with running(again):
        assert again.lease.is_held()
        assert again.lost == []
        assert again.beat().incarnation == 2
        assert not again.beat().dead


async def test_node_when_another_has_its_id_then_it_stops() -> None:
    """The later one stays; they do not take turns."""
    bucket = MemoryBucket()
    first = Member(bucket)
    async with running(first) as task:
        async with running(Member(bucket, incarnation=2)):
            with pytest.raises(WrongState, match="another node has joined the cluster as 'a'"):
                await task
        assert not first.lease.is_held()
        assert first.lost == [False]


async def test_check_alone_when_another_with_its_id_is_up_then_refused() -> None:
    """It is not disturbed. What ended, by itself or not, is no other node."""
    bucket = MemoryBucket()
    again = Member(bucket, incarnation=2).membership
    await again.check_alone(0)
    first = Member(bucket)
    async with running(first):
        with pytest.raises(WrongState, match="another node 'a'"):
            await again.check_alone(0)
        assert first.lease.is_held()
        # By the same data directory, which only one has at a time.
        await again.check_alone(1)
    await again.check_alone(0)
    first.declare_dead()
    await again.check_alone(0)


async def test_node_when_it_is_removed_then_it_stops() -> None:
    """Others are there, so it is not the registry that was lost."""
    bucket = MemoryBucket()
    member = Member(bucket)
    bucket.write(node_key("b"), msgspec.json.encode(a_node("b")))
    async with running(member) as task:
        bucket.write(node_key("a"), None)
        bucket.write(beat_key("a"), None)
        with pytest.raises(WrongState, match="has been removed"):
            await task
        assert not member.lease.is_held()


async def test_node_when_the_registry_is_lost_then_it_writes_itself_anew() -> None:
    """Its actors stop until it is placed again."""
    bucket = MemoryBucket()
    member = Member(bucket)
    async with running(member):
        bucket.write(node_key("a"), None)
        bucket.write(beat_key("a"), None)
        await asyncio.sleep(3)
        assert member.lease.is_held()
        assert member.lost == [False]
        assert state_of(bucket) is NodeState.UP


async def test_node_when_it_leaves_then_it_says_so_and_beats_no_more() -> None:
    """Its lease ends first; once more does no harm."""
    member = Member(MemoryBucket())
    async with running(member) as task:
        await member.membership.leave()
        assert not member.lease.is_held()
        assert member.beat().left
        await asyncio.wait_for(task, 2)
        await member.membership.leave()
        assert member.beat().left
        assert not member.lease.is_held()


async def test_node_when_it_leaves_without_an_answer_then_it_does_not_wait_for_long() -> None:
    """Others notice later."""
    member = Member(MemoryBucket())
    async with running(member):
        member.connection.is_cut = True
        await asyncio.wait_for(member.membership.leave(), 15)
        assert not member.beat().left


async def test_node_when_it_drains_then_it_still_does_after_its_next_start() -> None:
    """Until it is told otherwise."""
    bucket = MemoryBucket()
    async with running(member := Member(bucket)):
        await member.membership.set_state(NodeState.DRAINING)
    async with running(again := Member(bucket, incarnation=2)):
        assert again.membership.node.state is NodeState.DRAINING
        await again.membership.set_state(NodeState.UP)
    assert state_of(bucket) is NodeState.UP


async def test_node_when_the_bucket_is_not_there_at_its_start_then_it_waits() -> None:
    """It joins when there is an answer."""
    member = Member(MemoryBucket())
    member.connection.is_cut = True
    joining = asyncio.create_task(member.membership.join())
    await asyncio.sleep(30)
    assert not joining.done()
    member.connection.is_cut = False
    await joining
    assert member.lease.is_held()
