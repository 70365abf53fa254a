"""This node as a member of its cluster: its record, its signs of life, and its lease.

A beat is a compare-and-set on the one before. So a beat that is acknowledged proves that nobody
has declared the node dead since the last one, and whoever declares it dead knows that no beat has
been acknowledged after the one that they saw.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from plexspaces_node.errors import PlexSpacesError, Unavailable, WrongState
from plexspaces_node.node.cluster.lease import BEAT_S, Lease, boot_time_s
from plexspaces_node.node.cluster.records import (
    REMOVED,
    Beat,
    Node,
    NodeState,
    beat_key,
    node_key,
)
from plexspaces_node.node.nats.bucket import Bucket, Conflict

_log = logging.getLogger(__name__)

ANSWER_S = 0.6
"""How long a beat waits for its answer before the next one is tried."""

AGAIN_S = 0.1
"""How soon the next one is tried after one without an answer."""

ALONE_S = 2.5 * BEAT_S
"""For how long a node listens whether another one beats with its id."""

_LAST_BEATS = 5
"""How often a node that stops tries to say so; others notice anyway, later."""


async def _nothing() -> None:
    """Nobody has to be told."""


class Membership:
    """Keeps a node in its cluster. Used on one event loop."""

    def __init__(
        self,
        bucket: Bucket,
        node: Node,
        lease: Lease,
        *,
        on_lease_lost: Callable[[], Awaitable[None]] = _nothing,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        """Not a member yet; `node` has the incarnation of this start.

        `on_lease_lost` is called when the node has been declared dead, perhaps more than once:
        others may have its actors. The node comes back only after that has returned, so that it
        serves none of them by then.
        `clock` is the lease's.
        """
        self._bucket = bucket
        self._node = node
        self._lease = lease
        self._on_lease_lost = on_lease_lost
        self._clock = clock
        self._count = 0
        # Of the last beat that is there for certain; None if that is not known.
        self._revision: int | None = None
        self._has_joined = False
        self._has_left = False

    def __repr__(self) -> str:
        return f"<Membership of {self._node.id} {self._lease}>"

    @property
    def node(self) -> Node:
        """This node's record, as last written."""
        return self._node

    async def join(self) -> int:
        """Write the node's record and its first beat; waits for the bucket as long as it takes.

        A node that drained when it stopped still does. Takes over the beat of its last start.
        Returns the revision of the first beat: what this node wrote before is of an earlier start.
        """
        while True:
            try:
                await self._write_node(None)
                await self._look()
                if (revision := await self._try_beat()) is not None:
                    self._has_joined = True
                    return revision
            except (Unavailable, Conflict) as error:
                _log.info("joining the cluster: %s", error)
            await asyncio.sleep(BEAT_S)

    async def check_alone(self, former: int) -> None:
        """Make sure that no other node with this id is up.

        Before `join`, which would take its beat from it. `former` is the incarnation of this data
        directory's last start, 0 for none: it has ended. Raises `WrongState`, `Unavailable`.
        """
        found = await self._beat_there()
        if found is not None and found[0].incarnation not in (former, REMOVED):
            await asyncio.sleep(ALONE_S)
            later = await self._beat_there()
            if later is not None and later[1] != found[1]:
                raise WrongState(
                    f"there is another node {self._node.id!r} in the cluster, and it is up",
                    hint="start each node with a --node-id of its own: plexspaces nodes",
                )

    async def _beat_there(self) -> tuple[Beat, int] | None:
        """Return the beat of a node with this id that may be up, and its revision."""
        found = await self._bucket.get(beat_key(self._node.id))
        if found is None:
            return None
        try:
            beat = msgspec.json.decode(found.value or b"", type=Beat)
        except msgspec.MsgspecError:
            return None
        return None if beat.dead or beat.left else (beat, found.revision)

    async def run(self) -> None:
        """Beat every second, until cancelled.

        Raises `WrongState` when another node has this one's id, or this one has been removed: it
        must not serve any more.
        """
        while not self._has_left:
            begun_s = self._clock()
            pause_s = AGAIN_S
            try:
                if self._revision is None:
                    await self._look()
                if await self._try_beat() is not None:
                    pause_s = max(BEAT_S - (self._clock() - begun_s), AGAIN_S)
            except Unavailable as error:
                _log.debug("no beat: %s", error)
            await asyncio.sleep(pause_s)

    async def leave(self) -> None:
        """Say that this node has stopped; its actors must have, before. Idempotent.

        Others notice it from its beats if that cannot be said.
        """
        self._has_left = True
        self._lease.end()
        for _ in range(_LAST_BEATS):
            try:
                if self._revision is None:
                    await self._look()
                if await self._try_beat(left=True) is not None:
                    return
            except PlexSpacesError as error:
                _log.info("leaving the cluster: %s", error)
            await asyncio.sleep(BEAT_S / 5)

    async def set_state(self, state: NodeState) -> None:
        """Let applications come to this node, or have them move away; also after its next start.

        Raises `Unavailable`: it may have happened then.
        """
        while True:
            try:
                await self._write_node(state)
                return
            except Conflict:
                continue

    async def _write_node(self, state: NodeState | None) -> None:
        """Write the record of this node, with its former state where none is given."""
        key = node_key(self._node.id)
        found = await self._bucket.get(key)
        if state is None:
            former = _node_of(found.value) if found is not None else None
            state = former.state if former is not None else None
        self._node = msgspec.structs.replace(self._node, state=state or self._node.state)
        value = msgspec.json.encode(self._node)
        if found is None:
            await self._bucket.create(key, value)
        else:
            await self._bucket.update(key, value, found.revision)

    async def _look(self) -> None:
        """Find out which beat is there, and give up what that says is lost."""
        found = await self._bucket.get(beat_key(self._node.id))
        if found is None:
            if self._has_joined:
                await self._was_removed()
            self._revision = 0
            return
        assert found.value is not None
        try:
            beat = msgspec.json.decode(found.value, type=Beat)
        except msgspec.MsgspecError:
            # Nobody can have written that for this node.
            beat = Beat(incarnation=self._node.incarnation, count=0, dead=True)
        if self._has_joined:
            if beat.incarnation != self._node.incarnation:
                await self._lost()
                if beat.incarnation == REMOVED:
                    raise self._removed()
                raise WrongState(
                    f"another node has joined the cluster as {self._node.id!r}",
                    hint="start each node with a --node-id of its own",
                )
            if beat.dead:
                _log.warning("the cluster has declared this node dead; it comes back")
                await self._lost()
            self._count = max(self._count, beat.count)
        self._revision = found.revision

    async def _was_removed(self) -> None:
        """Stop, unless the whole registry is lost, in which each node writes itself anew."""
        await self._lost()
        if await self._bucket.entries("node."):
            raise self._removed()
        await self._write_node(self._node.state)

    def _removed(self) -> WrongState:
        return WrongState(
            f"node {self._node.id!r} has been removed from the cluster",
            hint="plexspaces start-node --node-id NODE --join HOST:PORT",
        )

    async def _lost(self) -> None:
        self._lease.end()
        await self._on_lease_lost()

    async def _try_beat(self, *, left: bool = False) -> int | None:
        """Write a beat after the last one and return its revision; None if that one has changed.

        Raises `Unavailable`: whether it was written is not known then.
        """
        assert self._revision is not None
        key = beat_key(self._node.id)
        beat = Beat(incarnation=self._node.incarnation, count=self._count + 1, left=left)
        value = msgspec.json.encode(beat)
        revision, self._revision = self._revision, None
        sent_s = self._clock()
        try:
            async with asyncio.timeout(ANSWER_S):
                if revision:
                    written = await self._bucket.update(key, value, revision)
                else:
                    written = await self._bucket.create(key, value)
        except Conflict:
            return None
        except TimeoutError as error:
            raise Unavailable(f"no answer within {ANSWER_S:g} s") from error
        self._revision = written
        self._count = beat.count
        if not left and not self._has_left:
            self._lease.renew(sent_s)
        return written


def _node_of(value: bytes | None) -> Node | None:
    """Return a node's record; None for one that cannot be read."""
    try:
        return msgspec.json.decode(value or b"", type=Node)
    except msgspec.MsgspecError:
        return None
