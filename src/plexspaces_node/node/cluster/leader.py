"""The leader of a cluster: who it is, and that it does what only one does at a time.

Whoever leads says so each second by compare-and-set on one key, and is followed by another once
that key has not changed for a while. Two can believe for a moment that they lead: all that a leader
writes is compare-and-set too, so that the one who has not seen the latest changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.cluster.cleaning import Cleaning
from plexspaces_node.node.cluster.deaths import Deaths
from plexspaces_node.node.cluster.known import Kind
from plexspaces_node.node.cluster.lease import BEAT_S, DRIFT_S, LEASE_S, boot_time_s
from plexspaces_node.node.cluster.placing import Placing
from plexspaces_node.node.cluster.records import LEADER, Leader
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry
from plexspaces_node.tasks import cancel

_log = logging.getLogger(__name__)

TICK_S = 0.25
"""How often a node looks whether somebody leads."""


class Leadership:
    """Has this node lead when nobody else does. Used on one event loop."""

    def __init__(
        self,
        bucket: Bucket,
        view: ClusterView,
        node: str,
        lead: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        """`lead` runs while this node leads; it is cancelled then, and called again if it ends."""
        self._bucket = bucket
        self._view = view
        self._node = node
        self._lead = lead
        self._clock = clock
        self._seen_s = clock()
        # Of the own record, as last written or read; None while others lead.
        self._own: tuple[Leader, int] | None = None
        self._is_unsure = False
        self._renewed_s = 0.0
        self._work: asyncio.Task[None] | None = None
        self._forget = view.on_change(self._changed)

    def __repr__(self) -> str:
        return f"<Leadership of {self._node}: {'leads' if self.leads else 'follows'}>"

    @property
    def leads(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return self._own is not None

    async def run(self) -> None:
        """Lead whenever nobody else does, until cancelled."""
        try:
            await self._view.synced.wait()
            while True:
                try:
                    await self._say()
                except Conflict:
                    # Somebody else was faster.
                    self._seen_s = self._clock()
                    await self._step_down()
                    self._is_unsure = True
                except PlexSpacesError as error:
                    _log.debug("leading the cluster: %s", error)
                await self._work_if_leading()
                await asyncio.sleep(TICK_S)
        finally:
            await self._stop_work()

    async def resign(self) -> None:
        """Let another node lead at once; does nothing if this one does not. Call it after `run`."""
        self._forget()
        own, self._own = self._own, None
        if own is None:
            return
        try:
            await self._bucket.delete(LEADER, revision=own[1])
        except PlexSpacesError as error:
            _log.debug("giving up to lead: %s", error)

    def _changed(self, kind: Kind, _: str) -> None:
        if kind is Kind.LEADER:
            self._seen_s = self._clock()

    async def _say(self) -> None:
        """Say that this node leads, if it does, or if nobody does; raises `Conflict` if not."""
        if self._is_unsure:
            await self._look()
        now_s = self._clock()
        if self._own is not None:
            if now_s - self._renewed_s >= BEAT_S:
                await self._write(self._own[0].count + 1, self._own[1])
            return
        known = self._view.leader
        if known is None:
            await self._write(1, 0)
        elif (
            known[0].node == self._node
            or now_s - self._seen_s >= LEASE_S + DRIFT_S
            # It has said so itself, or whoever led before it.
            or not self._view.is_alive(known[0].node)
        ):
            await self._write(known[0].count + 1, known[1])

    async def _write(self, count: int, revision: int) -> None:
        record = Leader(node=self._node, count=count)
        value = msgspec.json.encode(record)
        self._is_unsure = True
        if revision:
            written = await self._bucket.update(LEADER, value, revision)
        else:
            written = await self._bucket.create(LEADER, value)
        if self._own is None:
            _log.info("this node leads the cluster")
        self._own, self._is_unsure = (record, written), False
        self._renewed_s = self._clock()
        self._view.wrote(Entry(LEADER, value, written))

    async def _look(self) -> None:
        """Find out who leads, after a write that was refused or not answered."""
        found = await self._bucket.get(LEADER)
        self._is_unsure = False
        if found is None or found.value is None:
            self._own = None
            return
        self._view.wrote(found)
        try:
            record = msgspec.json.decode(found.value, type=Leader)
        except msgspec.MsgspecError:
            # Nobody can follow such a leader.
            await self._write(1, found.revision)
            return
        if record.node != self._node:
            await self._step_down()
        else:
            self._own = (record, found.revision)

    async def _step_down(self) -> None:
        if self._own is not None:
            _log.info("another node leads the cluster")
        self._own, self._is_unsure = None, False
        await self._stop_work()

    async def _work_if_leading(self) -> None:
        if self._own is None:
            await self._stop_work()
            return
        if self._work is not None and self._work.done():
            error = self._work.exception() if not self._work.cancelled() else None
            _log.error("leading the cluster failed and begins again", exc_info=error)
            self._work = None
        if self._work is None:
            self._work = asyncio.ensure_future(self._lead())

    async def _stop_work(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            await cancel(work)


class ClusterLeader:
    """All that a leader does, run by the node that leads. Each node has one."""

    def __init__(
        self,
        bucket: Bucket,
        view: ClusterView,
        node: str,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        """To be made before the view runs: it notes when it hears of each node."""
        self._deaths = Deaths(bucket, view, clock)
        self._placing = Placing(bucket, view)
        self._cleaning = Cleaning(bucket, view)
        self.leadership = Leadership(bucket, view, node, self._do, clock)

    async def run(self) -> None:
        """Lead whenever nobody else does, until cancelled."""
        await self.leadership.run()

    async def resign(self) -> None:
        """Let another node lead at once; to be called after `run` was cancelled."""
        await self.leadership.resign()

    async def _do(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._deaths.run())
            tasks.create_task(self._placing.run())
            tasks.create_task(self._cleaning.run())
