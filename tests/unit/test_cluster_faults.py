"""Nodes that are cut off, paused, killed and slow, at random: never two serve one actor.

Each run has a seed, and its clock passes only where everything waits: it can be repeated.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

import pytest
from support.buckets import MemoryBucket
from support.cluster_nodes import ClusterNode, deploy, until
from support.clusters import an_application
from support.faulty_buckets import FaultyView

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.cluster.records import NodeState, application_key, placed_key

pytestmark = pytest.mark.virtual_time

FAULTS_S = 120.0
REST_S = 60.0
ACTORS = ("x0", "x1", "x2")
COMMANDS = ("c0", "c1")


class Trial:
    """A cluster under faults."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bucket, self.state = MemoryBucket("registry"), MemoryBucket("state")
        names = "abcde"[: self.random.randint(3, 5)]
        # Clocks of hosts differ, by less than what the drift allows for.
        paces = [self.random.uniform(0.98, 1.02) for _ in names]
        self.nodes = {
            name: ClusterNode(
                self.bucket,
                self.state,
                name,
                pace=pace,
                connection=FaultyView(self.bucket, self.random),
                fences=FaultyView(self.state, self.random),
            )
            for name, pace in zip(names, paces, strict=True)
        }
        self.epochs: dict[str, tuple[int, str]] = {}
        self.looks = 0
        self.busy: set[str] = set()

    def look(self) -> None:
        """Check what must never be."""
        self.looks += 1
        for name in ACTORS:
            serving = [node for node in self.nodes.values() if node.is_serving(name)]
            assert len(serving) <= 1, f"{serving} serve {name}"
            for node in serving:
                epoch = node.host.serving[name]
                last, by = self.epochs.get(name, (0, ""))
                assert epoch >= last, f"{node.id} serves {name} of {epoch} after {by} of {last}"
                self.epochs[name] = (epoch, node.id)

    async def watch(self) -> None:
        """Look all the time."""
        while True:
            self.look()
            await asyncio.sleep(0.02)

    async def fault(self) -> None:
        """Do one thing to one node, and undo it after a while."""
        node = self.random.choice(list(self.nodes.values()))
        if node.id in self.busy:
            return
        self.busy.add(node.id)
        await self._fault_of(node)
        self.busy.remove(node.id)

    async def _fault_of(self, node: ClusterNode) -> None:
        views = [node.connection, node.state]
        for_s = self.random.choice([0.5, 3, 7, 12, 25])
        what = self.random.randrange(7)
        if what == 0:
            for view in views:
                view.is_cut = True
            await asyncio.sleep(for_s)
            for view in views:
                view.is_cut = False
        elif what == 1:
            view = self.random.choice(views)
            view.loses_answers = True
            await asyncio.sleep(for_s)
            view.loses_answers = False
        elif what == 2:
            node.pause()
            await asyncio.sleep(for_s)
            node.go_on()
        elif what == 3:
            for view in views:
                assert isinstance(view, FaultyView)
                view.slow_s = self.random.choice([0.5, 2, 5])
            await asyncio.sleep(for_s)
            for view in views:
                assert isinstance(view, FaultyView)
                view.slow_s = 0.01
        elif what == 4 and node.is_running:
            await node.kill()
            await asyncio.sleep(for_s / 3)
            node.start()
        elif what == 5 and node.is_running:
            await node.stop()
            await asyncio.sleep(for_s / 3)
            node.start()
        elif what == 6:
            await self._drain(node)

    async def _drain(self, node: ClusterNode) -> None:
        for state in (NodeState.DRAINING, NodeState.UP):
            with suppress(PlexSpacesError, TimeoutError):
                async with asyncio.timeout(10):
                    await node.membership.set_state(state)
            await asyncio.sleep(5)

    async def faults(self, number: int) -> None:
        """Do one thing after the other."""
        end_s = asyncio.get_running_loop().time() + FAULTS_S
        while asyncio.get_running_loop().time() < end_s:
            await self.fault()
            await asyncio.sleep(self.random.random() * 5 * number)

    async def change_what_is_asked(self) -> None:
        """Remove an application and deploy it again, as another one."""
        for number in range(6):
            await asyncio.sleep(FAULTS_S / 8)
            name = self.random.choice(COMMANDS)
            self.bucket.write(application_key(name), None)
            await asyncio.sleep(2)
            deploy(self.bucket, an_application(name, id=f"{name}-{number}", kind="command"))

    def is_at_rest(self) -> bool:
        """Return whether everything is as it should be."""
        alive = all(node.lease.is_held() for node in self.nodes.values())
        leading = [node for node in self.nodes.values() if node.leader.leadership.leads]
        served = all(
            any(node.is_serving(name) for node in self.nodes.values())
            for name in (*ACTORS, *COMMANDS)
        )
        return alive and len(leading) == 1 and served


@pytest.mark.parametrize("seed", range(6))
async def test_cluster_when_faults_come_at_random_then_no_two_serve_and_all_ends_well(
    seed: int,
) -> None:
    """Once the faults end, every node is a member, one leads, and everything is served."""
    trial = Trial(seed)
    for name in ACTORS:
        deploy(trial.bucket, an_application(name))
    for name in COMMANDS:
        deploy(trial.bucket, an_application(name, kind="command"))
    for node in trial.nodes.values():
        node.start()
    watching = asyncio.create_task(trial.watch())
    try:
        async with asyncio.TaskGroup() as tasks:
            for number in (1, 2):
                tasks.create_task(trial.faults(number))
            tasks.create_task(trial.change_what_is_asked())
        await until(trial.is_at_rest, within_s=REST_S)
        await asyncio.sleep(20)
        assert trial.is_at_rest()
        assert not watching.done(), watching.exception()
        assert trial.epochs.keys() == set(ACTORS)
        epochs = {name: trial.bucket.all[placed_key(name)].revision for name in ACTORS}
        await asyncio.sleep(20)
        assert epochs == {name: trial.bucket.all[placed_key(name)].revision for name in ACTORS}
    finally:
        watching.cancel()
        for node in trial.nodes.values():
            await node.kill()
