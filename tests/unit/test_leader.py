"""What the leader of a cluster does: places, declares dead, cleans up; and that there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from support.buckets import MemoryBucket
from support.cluster_nodes import ClusterNode, deploy, until
from support.clusters import an_application

from plexspaces_node.errors import NotFound, WrongState
from plexspaces_node.node.cluster.records import (
    LEADER,
    Application,
    NodeState,
    Placed,
    Status,
    application_key,
    beat_key,
    node_key,
    placed_key,
    status_key,
)
from plexspaces_node.node.cluster.removal import remove_node

pytestmark = pytest.mark.virtual_time

FAILOVER_S = 8.0
"""The lease, the drift, and a moment for everybody to look."""


class Cluster:
    """Some nodes on two buckets."""

    def __init__(self, names: str) -> None:
        self.bucket, self.state = MemoryBucket("registry"), MemoryBucket("state")
        self.nodes = {name: ClusterNode(self.bucket, self.state, name) for name in names}

    def __getitem__(self, name: str) -> ClusterNode:
        return self.nodes[name]

    def leader(self) -> str:
        """Return the node that leads, "" for none."""
        leading = [
            node.id
            for node in self.nodes.values()
            if node.is_running and node.leader.leadership.leads
        ]
        return leading[0] if len(leading) == 1 else ""

    def placed(self, name: str = "x") -> Placed:
        """Return where an application is."""
        value = self.bucket.all[placed_key(name)].value
        assert value is not None
        return msgspec.json.decode(value, type=Placed)

    def has(self, key: str) -> bool:
        """Return whether there is a record."""
        return key in self.bucket.all and self.bucket.all[key].value is not None

    def servers(self, name: str = "x") -> list[str]:
        """Return the nodes that serve an application."""
        return [node.id for node in self.nodes.values() if node.is_serving(name)]

    def count(self, prefix: str) -> int:
        """Return how many records there are."""
        return sum(self.has(key) for key in self.bucket.all if key.startswith(prefix))


@asynccontextmanager
async def cluster(names: str) -> AsyncIterator[Cluster]:
    """Start nodes, until one leads; end all that run."""
    some = Cluster(names)
    try:
        for node in some.nodes.values():
            node.start()
        await until(lambda: bool(some.leader()), within_s=3)
        yield some
    finally:
        for node in some.nodes.values():
            await node.kill()


async def test_leader_when_nodes_start_then_one_leads_and_goes_on() -> None:
    """The others follow."""
    async with cluster("abc") as some:
        leader = some.leader()
        await asyncio.sleep(60)
        assert some.leader() == leader


async def test_leader_when_it_is_killed_then_another_leads() -> None:
    """After the time in which it would have said so."""
    async with cluster("abc") as some:
        former = some.leader()
        await some[former].kill()
        await until(lambda: some.leader() not in ("", former), within_s=FAILOVER_S)


async def test_leader_when_it_resigns_then_another_leads_at_once() -> None:
    """As when a node stops in order."""
    async with cluster("abc") as some:
        former = some.leader()
        await some[former].stop()
        await until(lambda: some.leader() not in ("", former), within_s=1)


async def test_leader_when_cut_off_then_it_is_followed_and_steps_down_once_it_is_back() -> None:
    """Nothing that it decided in between is written."""
    async with cluster("abc") as some:
        former = some.leader()
        some[former].connection.is_cut = True
        others = [node for name, node in some.nodes.items() if name != former]
        await until(
            lambda: any(node.leader.leadership.leads for node in others), within_s=FAILOVER_S
        )
        some[former].connection.is_cut = False
        await asyncio.sleep(3)
        assert some.leader() not in ("", former)


async def test_leader_when_an_answer_is_lost_then_it_finds_out_that_it_leads() -> None:
    """It neither leads twice nor gives up."""
    async with cluster("ab") as some:
        leader = some.leader()
        some[leader].connection.loses_answers = True
        await asyncio.sleep(4)
        some[leader].connection.loses_answers = False
        await asyncio.sleep(3)
        assert some.leader() == leader


async def test_application_when_deployed_then_it_runs_and_has_a_standby() -> None:
    """Within a moment."""
    async with cluster("abc") as some:
        deploy(some.bucket, an_application("x"))
        took_s = await until(lambda: len(some.servers()) == 1, within_s=3)
        assert took_s < 1
        assert len(some.placed().standby) == 1


@pytest.mark.parametrize("with_leader", [False, True])
async def test_node_when_it_is_killed_then_another_serves(with_leader: bool) -> None:
    """Whether it led or not: within the lease, the drift and a moment."""
    async with cluster("abc") as some:
        leader = some.leader()
        deploy(some.bucket, an_application("x"))
        await until(lambda: len(some.servers()) == 1, within_s=3)
        owner = some.servers()[0]
        if with_leader:
            await some[leader].kill()
        await some[owner].kill()
        await until(lambda: some.servers() not in ([], [owner]), within_s=FAILOVER_S + 1)
        assert some.placed().nodes == (some.servers()[0],)


async def test_node_when_cut_off_then_it_stops_serving_before_another_begins() -> None:
    """And serves others when it is back, not that one."""
    async with cluster("abc") as some:
        deploy(some.bucket, an_application("x"))
        await until(lambda: len(some.servers()) == 1, within_s=3)
        owner = some.servers()[0]
        some[owner].connection.is_cut = some[owner].state.is_cut = True
        most = 0
        for _ in range(200):
            await asyncio.sleep(0.05)
            most = max(most, len(some.servers()))
        assert most == 1
        assert some.servers() != [owner]
        some[owner].connection.is_cut = some[owner].state.is_cut = False
        await asyncio.sleep(3)
        assert some[owner].lease.is_held()
        assert len(some.servers()) == 1
        assert some.servers() != [owner]


async def test_node_when_only_its_beats_come_late_then_it_is_not_declared_dead() -> None:
    """A leader that does not hear a node cannot declare it dead while it lives."""
    async with cluster("ab") as some:
        leader = some.leader()
        deploy(some.bucket, an_application("x"))
        await until(lambda: len(some.servers()) == 1, within_s=3)
        loop = asyncio.get_running_loop()
        # The leader's process stands still; the other goes on and takes over.
        some[leader].connection.is_cut = True
        await asyncio.sleep(3)
        some[leader].connection.is_cut = False
        begun_s = loop.time()
        await asyncio.sleep(20)
        assert loop.time() - begun_s >= 20
        for name in "ab":
            beat = some[name].view.beat(name)
            assert beat is not None
            assert not beat[0].dead


async def test_node_when_it_drains_then_its_applications_move_and_it_can_be_removed() -> None:
    """Not before; and nothing of it is left."""
    async with cluster("abc") as some:
        for number in range(6):
            deploy(some.bucket, an_application(f"x{number}"))
            kind = an_application(f"y{number}", kind="command", replicas=2)
            deploy(some.bucket, kind)
        await until(lambda: all(some.servers(f"x{n}") for n in range(6)), within_s=5)
        drained = next(name for name in "abc" if name != some.leader())
        node = some[drained]
        with pytest.raises(WrongState) as refused:
            await remove_node(node.connection, node.view, drained)
        assert refused.value.hint == f"plexspaces nodes drain {drained}"
        await node.membership.set_state(NodeState.DRAINING)
        other = some[some.leader()]
        await until(lambda: not other.view.placed_on(drained), within_s=10)
        await until(lambda: all(some.servers(f"x{n}") for n in range(6)), within_s=5)
        await remove_node(other.connection, other.view, drained)
        await asyncio.sleep(3)
        assert not some.has(node_key(drained))
        assert not some.has(beat_key(drained))
        assert some.count(f"status.{drained}.") == 0
        assert not node.lease.is_held()


async def test_node_when_it_is_dead_then_it_can_be_removed() -> None:
    """One that nobody knows cannot."""
    async with cluster("ab") as some:
        await some["b"].kill()
        view = some["a"].view
        with pytest.raises(NotFound):
            await remove_node(some["a"].connection, view, "z")
        with pytest.raises(WrongState):
            await remove_node(some["a"].connection, view, "b")
        await until(lambda: not view.is_alive("b"), within_s=2 * FAILOVER_S)
        await remove_node(some["a"].connection, view, "b")
        assert not some.has(node_key("b"))


async def test_node_when_it_is_removed_by_force_then_others_wait_for_its_lease() -> None:
    """It cannot be told while it is cut off; an actor is never served twice."""
    async with cluster("abc") as some:
        deploy(some.bucket, an_application("x"))
        await until(lambda: len(some.servers("x")) == 1, within_s=5)
        [owner] = some.servers()
        other = next(some[name] for name in "abc" if name != owner)
        some[owner].connection.is_cut = True
        removing = asyncio.create_task(remove_node(other.connection, other.view, owner, force=True))
        await until(lambda: some.servers() not in ([], [owner]), within_s=15)
        assert len(some.servers()) == 1
        await removing
        assert not some.has(beat_key(owner))


async def test_application_when_gone_then_nothing_is_left_of_it() -> None:
    """Its place goes at once; what nodes have said, once they serve it no more."""
    async with cluster("abc") as some:
        deploy(some.bucket, an_application("x"))
        await until(lambda: len(some.servers()) == 1, within_s=3)
        some.bucket.write(application_key("x"), None)
        await until(lambda: not some.has(placed_key("x")), within_s=2)
        await until(lambda: not some.count("status."), within_s=5)
        assert some.servers() == []


async def test_application_when_its_record_cannot_be_read_then_it_stays_where_it_is() -> None:
    """It is of a later version of a node, perhaps; also for a leader that has just begun."""
    async with cluster("abc") as some:
        deploy(some.bucket, an_application("x"))
        await until(lambda: len(some.servers()) == 1, within_s=3)
        some.bucket.write(application_key("x"), b'{"name": 1}')
        await some[some.leader()].stop()
        late = ClusterNode(some.bucket, some.state, "d")
        some.nodes["d"] = late
        late.start()
        await asyncio.sleep(10)
        assert some.has(placed_key("x"))


@pytest.mark.parametrize("before", [None, an_application("x", version="0")])
async def test_deploy_when_its_node_dies_in_it_then_it_is_undone(
    before: Application | None,
) -> None:
    """What ran before runs again, under another generation."""
    async with cluster("abc") as some:
        asked = an_application(
            "x",
            deploying="b",
            generation=4,
            before=msgspec.json.encode(before) if before is not None else b"",
        )
        deploy(some.bucket, asked)
        await asyncio.sleep(2)
        assert some.has(application_key("x"))
        await some["b"].kill()
        await asyncio.sleep(2 * FAILOVER_S)
        assert some.has(application_key("x")) is (before is not None)
        if before is not None:
            value = some.bucket.all[application_key("x")].value
            assert value is not None
            now = msgspec.json.decode(value, type=Application)
            assert now == msgspec.structs.replace(before, generation=5)


async def test_deploy_when_its_node_starts_again_at_once_then_it_is_undone() -> None:
    """Before anybody has noticed that the node was away."""
    async with cluster("abc") as some:
        for node in "ab":
            deploy(some.bucket, an_application(f"of-{node}", deploying=node))
        await asyncio.sleep(1)
        await some["b"].kill()
        some["b"].start()
        await asyncio.sleep(4)
        assert not some.has(application_key("of-b"))
        assert some.has(application_key("of-a"))


async def test_leader_when_answers_are_lost_then_everything_is_placed_in_the_end() -> None:
    """What was written and not answered is not written again."""
    async with cluster("abc") as some:
        leader = some[some.leader()]
        leader.connection.loses_answers = True
        for number in range(20):
            deploy(some.bucket, an_application(f"x{number}", kind="command"))
        await asyncio.sleep(2)
        leader.connection.loses_answers = False
        await until(lambda: all(len(some.servers(f"x{n}")) == 1 for n in range(20)), within_s=10)
        epochs = {
            name: entry.revision for name, entry in some.bucket.all.items() if "placed" in name
        }
        await asyncio.sleep(10)
        now = {name: entry.revision for name, entry in some.bucket.all.items() if "placed" in name}
        assert now == epochs


async def test_leader_when_others_write_nonsense_then_it_goes_on() -> None:
    """Under every kind of key."""
    async with cluster("ab") as some:
        for key in ("node.z", "beat.z", "app.t.z", "placed.t.z", "status.z.t.z", "node.Z", "x.y"):
            some.bucket.write(key, b"\xff")
        some.bucket.write(
            status_key("z", "x"),
            msgspec.json.encode(Status(id="x", generation=1, epoch=1, state="Running")),
        )
        deploy(some.bucket, an_application("x"))
        await until(lambda: len(some.servers()) == 1, within_s=3)


async def test_leader_when_its_key_has_nonsense_then_somebody_leads_again() -> None:
    """It is taken over like that of a leader who is silent."""
    async with cluster("ab") as some:
        some.bucket.write(LEADER, b"\xff")
        await asyncio.sleep(2 * FAILOVER_S)
        assert some.leader()
