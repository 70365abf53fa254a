"""Nodes of a cluster without machines: members, leaders, and hosts of actors that only note."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from support.buckets import MemoryBucket, View
from support.clusters import a_node
from support.faulty_buckets import FaultyView

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.cluster.cleaning import undo_own_deploys
from plexspaces_node.node.cluster.known import Kind
from plexspaces_node.node.cluster.leader import ClusterLeader
from plexspaces_node.node.cluster.lease import Lease
from plexspaces_node.node.cluster.membership import Membership
from plexspaces_node.node.cluster.records import (
    GONE,
    READY,
    Application,
    Placed,
    Status,
    application_key,
    status_key,
)
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.tasks import cancel

STARTING, RUNNING = "Starting", "Running"


class Host:
    """Runs what is placed on a node, as a real one does: it hands over before another begins.

    Attributes:
        serving: the epoch of each actor that it serves.
    """

    def __init__(self, node: ClusterNode) -> None:
        self._node = node
        self.serving: dict[str, int] = {}
        self.changed = asyncio.Event()
        # Which it has said it begins; how often it has lost everything.
        self._begun: set[str] = set()
        self._lost = 0

    async def run(self) -> None:
        """Follow the view, and look again now and then."""
        view, me = self._node.view, self._node.id
        view.on_change(lambda kind, _: self._wake(kind))
        await view.synced.wait()
        while True:
            # Also what a former start of this node has said, which nobody else takes back.
            for name in sorted(view.placed_on(me) | view.names_with_status(me)):
                try:
                    await self._act(name)
                except (PlexSpacesError, TimeoutError):
                    await asyncio.sleep(0.1)
            try:
                async with asyncio.timeout(0.5):
                    await self.changed.wait()
            except TimeoutError:
                pass
            self.changed.clear()

    async def stop(self) -> None:
        """Serve nothing any more, until it is looked at again."""
        self._lost += 1
        self.serving.clear()
        self._begun.clear()
        await asyncio.sleep(0.1)

    def _wake(self, kind: Kind) -> None:
        if kind is not Kind.LEADER:
            self.changed.set()

    async def _act(self, name: str) -> None:
        view, me = self._node.view, self._node.id
        asked, found = view.application(name), view.placed(name)
        if found is None or asked is None or found[0].id != asked.id:
            self._give_up(name)
            await self._say(name, Status(id="x", generation=1, epoch=0, state=GONE))
            return
        placed, epoch = found
        state = GONE
        if me in placed.nodes or me in placed.leaving:
            if name not in self.serving and not await self._begin(name, found):
                return
            state = RUNNING
        else:
            self._give_up(name)
            state = READY if me in placed.standby else GONE
        await self._say(name, Status(id=asked.id, generation=1, epoch=epoch, state=state))

    def _give_up(self, name: str) -> None:
        self.serving.pop(name, None)
        self._begun.discard(name)

    async def _begin(self, name: str, found: tuple[Placed, int]) -> bool:
        """Begin to serve, if nobody else may still do so: say it, hear all before, and look."""
        view, me = self._node.view, self._node.id
        placed, epoch = found
        lost = self._lost
        if name not in self._begun:
            status = Status(id=placed.id, generation=1, epoch=epoch, state=STARTING)
            key = status_key(me, name)
            revision = await self._node.connection.put(key, msgspec.json.encode(status))
            async with asyncio.timeout(5):
                await view.caught_up(key, revision)
            if lost != self._lost:
                return False
            self._begun.add(name)
        if not self._may_begin(name):
            return False
        await self._node.fence(name, epoch)
        # What was asked may have changed meanwhile.
        if view.placed(name) != found or lost != self._lost or not self._node.lease.is_held():
            return False
        self.serving[name] = epoch
        return True

    def _may_begin(self, name: str) -> bool:
        """Return whether nobody else may still serve it."""
        view = self._node.view
        asked = view.application(name)
        if asked is None or not self._node.lease.is_held():
            return False
        return asked.kind != "actor" or not any(
            status.state in (STARTING, RUNNING) and node != self._node.id and view.is_alive(node)
            for node, status in view.statuses(name).items()
        )

    async def _say(self, name: str, status: Status) -> None:
        known = self._node.view.statuses(name).get(self._node.id)
        if known != status and (known is not None or status.state != GONE):
            value = msgspec.json.encode(status)
            await self._node.connection.put(status_key(self._node.id, name), value)


class ClusterNode:
    """A node that can be cut off, lose answers, be paused, killed and started again."""

    def __init__(
        self,
        bucket: MemoryBucket,
        state: MemoryBucket,
        name: str,
        *,
        pace: float = 1.0,
        connection: View | None = None,
        fences: View | None = None,
        **given: Any,
    ) -> None:
        self.id = name
        self.given = given
        self.bucket = bucket
        self.connection = connection or bucket.view()
        self.state = fences or state.view()
        self.is_paused = False
        loop = asyncio.get_running_loop()
        self.clock: Callable[[], float] = lambda: loop.time() * pace
        self.lease = Lease(self.clock)
        self.incarnation = 0
        self._task: asyncio.Task[None] | None = None
        self._make()

    def __repr__(self) -> str:
        return f"<ClusterNode {self.id}>"

    def _make(self) -> None:
        self.incarnation += 1
        self.lease.end()
        self.view = ClusterView(self.connection)
        self.leader = ClusterLeader(self.connection, self.view, self.id, self.clock)
        self.host = Host(self)
        record = a_node(self.id, incarnation=self.incarnation, **self.given)
        self.membership = Membership(
            self.connection, record, self.lease, on_lease_lost=self._lost, clock=self.clock
        )

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._task is not None

    def start(self) -> None:
        """Start it, after `kill` anew."""
        assert self._task is None
        if self.incarnation and self.view.synced.is_set():
            self._make()
        self._task = asyncio.create_task(self._run())

    async def kill(self) -> None:
        """End it as SIGKILL does."""
        if self._task is not None:
            task, self._task = self._task, None
            await cancel(task)
        self.host.serving.clear()

    async def stop(self) -> None:
        """End it in order."""
        await self.host.stop()
        await self.membership.leave()
        await self.leader.resign()
        await self.kill()

    def is_serving(self, name: str) -> bool:
        """Return whether it gives out replies of an actor now."""
        return name in self.host.serving and self.lease.is_held() and not self.is_paused

    def pause(self) -> None:
        """Have its process stand still, as SIGSTOP does."""
        self.is_paused = True
        for view in (self.connection, self.state):
            assert isinstance(view, FaultyView)
            view.goes_on.clear()

    def go_on(self) -> None:
        """Let it go on."""
        self.is_paused = False
        for view in (self.connection, self.state):
            assert isinstance(view, FaultyView)
            view.goes_on.set()

    async def fence(self, name: str, epoch: int) -> None:
        """Take an actor's fence, as its new owner."""
        found = await self.state.get(f"fence.{name}")
        if found is None:
            await self.state.create(f"fence.{name}", str(epoch).encode())
        elif int(found.value or b"0") <= epoch:
            await self.state.update(f"fence.{name}", str(epoch).encode(), found.revision)

    async def _lost(self) -> None:
        await self.host.stop()

    async def _run(self) -> None:
        view = asyncio.create_task(self.view.run())
        try:
            first = await self.membership.join()
            await self.view.synced.wait()
            async with asyncio.TaskGroup() as tasks:
                for work in (self.membership.run(), self.leader.run(), self.host.run()):
                    tasks.create_task(work)
                tasks.create_task(self._undo(first))
        finally:
            await cancel(view)

    async def _undo(self, first: int) -> None:
        while True:
            try:
                await undo_own_deploys(self.connection, self.view, self.id, first)
                return
            except PlexSpacesError:
                await asyncio.sleep(1)


def deploy(bucket: MemoryBucket, application: Application) -> int:
    """Write what a user has asked for."""
    return bucket.write(application_key(application.name), msgspec.json.encode(application))


async def until(condition: Callable[[], bool], *, within_s: float) -> float:
    """Wait on the loop's clock for something to be true, and return how long that took."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    while not condition():
        assert loop.time() - begun_s < within_s, "it did not come true"
        await asyncio.sleep(0.05)
    return loop.time() - begun_s
