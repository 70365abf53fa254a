"""Watches of a bucket: what exists, then what changes, over lost connections and lost consumers.

A consumer is at any replica of the stream, which may be behind, as after a restart. So each begins
with a barrier, as a read does, and nothing that is listed counts without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from time import CLOCK_BOOTTIME, clock_gettime
from typing import TYPE_CHECKING

from plexspaces_node.errors import ResourceExhausted, Unavailable
from plexspaces_node.node.nats import jetstream, streams
from plexspaces_node.node.nats.bucket import SYNCED, Change, Entry
from plexspaces_node.node.nats.consumer import Consumer, Delivered
from plexspaces_node.node.nats.jetstream import ApiError

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Connection
    from plexspaces_node.node.nats.writes import Writes

RESUMED_S = 1800.0
"""A watch that was away for longer looks at everything again: deletions are forgotten in time."""

_PAUSE_S = 0.25
_MOST_IDLE = 5
"""How many signs of life a watch that goes on waits for what was written before."""
_BEHIND_S = 5.0
"""How long a list looks for a replica that is not behind."""


class Progress:
    """What a watch has told, and where it is in the stream."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}
        self.created = ""
        self.last = 0
        self.synced_s: float | None = None
        """When everything that there was had been told, None if that is not so."""

    def begin(self, created: str) -> int | None:
        """Return from which number on to go on, None for everything anew."""
        if created != self.created:
            # Another stream: its numbers mean something else.
            self.created, self.last, self.synced_s = created, 0, None
            self.told = dict.fromkeys(self.told, -1)
        if self.synced_s is None or _now_s() > self.synced_s + RESUMED_S:
            return None
        return self.last + 1

    def take(self, key: str, value: bytes | None, revision: int) -> Entry | None:
        """Return what to tell of a message, None for nothing."""
        self.last = max(self.last, revision)
        if value is None:
            return Entry(key, None, revision) if self.told.pop(key, None) is not None else None
        if self.told.get(key) == revision:
            return None
        self.told[key] = revision
        return Entry(key, value, revision)

    def take_all(self, found: Sequence[Entry]) -> Iterator[Entry]:
        """Yield what to tell when this is all that there is."""
        for entry in found:
            if (told := self.take(entry.key, entry.value, entry.revision)) is not None:
                yield told
        yield from self.vanished({entry.key for entry in found if entry.value is not None})

    def vanished(self, seen: set[str]) -> list[Entry]:
        """Return what was told and is not there any more."""
        gone = [key for key in self.told if key not in seen]
        return [Entry(key, None, max(self.last, self.told.pop(key) + 1)) for key in gone]


async def watched(
    connection: Connection, bucket: str, below: str, writes: Writes
) -> AsyncIterator[Change]:
    """Tell what exists and changes below a subject, as `Bucket.watch` says."""
    watch = Progress()
    while True:
        try:
            async with aclosing(_watched(connection, bucket, below, writes, watch)) as changes:
                async for change in changes:
                    yield change
        except (ApiError, Unavailable, ResourceExhausted):
            # Also without a stream: it is not made yet, or nobody leads it now.
            await asyncio.sleep(_PAUSE_S)


async def _watched(
    connection: Connection, bucket: str, below: str, writes: Writes, watch: Progress
) -> AsyncGenerator[Change, None]:
    session = await connection.session()
    created = str((await streams.info(connection, bucket)).get("created"))
    start = watch.begin(created)
    # The consumer is at any replica, which may be behind: only with this it has all that there is.
    barrier = await writes.barrier()
    subjects = [below, writes.barrier_subject]
    name = streams.stream_name(bucket)
    async with Consumer.opened(session, name, subjects, start=start) as consumer:
        if start is None:
            found = _everything(consumer, bucket, writes.barrier_subject, barrier)
            for entry in watch.take_all(await found):
                yield entry
            watch.last = max(watch.last, barrier)
        is_synced, idle = False, 0
        while True:
            if not is_synced and watch.last >= barrier:
                is_synced = True
                yield SYNCED
            if is_synced:
                watch.synced_s = _now_s()
            delivered = await consumer.next()
            if delivered is None:
                idle += 1
                if not is_synced and idle == _MOST_IDLE:
                    raise _Behind(bucket)
            elif delivered.subject == writes.barrier_subject:
                watch.last = max(watch.last, delivered.sequence)
            else:
                entry = _entry(bucket, delivered)
                if (told := watch.take(entry.key, entry.value, entry.revision)) is not None:
                    yield told


async def listed(
    connection: Connection, bucket: str, below: str, barrier_subject: str, barrier: int
) -> list[Entry]:
    """Return what exists below a subject, with everything up to the number of a barrier.

    Raises `Unavailable`.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _BEHIND_S
    name = streams.stream_name(bucket)
    while True:
        try:
            async with Consumer.opened(
                connection.current(), name, [below, barrier_subject], start=None
            ) as consumer:
                found = await _everything(consumer, bucket, barrier_subject, barrier)
            return sorted((one for one in found if one.value is not None), key=lambda one: one.key)
        except ApiError as error:
            jetstream.refuse(error, f"a list of the bucket {bucket}")
        except _Behind:
            if loop.time() + _PAUSE_S >= until:
                raise
            await asyncio.sleep(_PAUSE_S)


async def _everything(
    consumer: Consumer, bucket: str, barrier_subject: str, barrier: int
) -> list[Entry]:
    """Return the last of each key, in the order of the bucket, marks of deletions among them.

    Raises `_Behind` if the consumer's replica did not have the barrier when it was made. That what
    is missing comes later is not enough: of what was removed meanwhile nothing would be told.
    """
    found: dict[str, Delivered] = {}
    is_all = consumer.pending == 0
    while not is_all and (delivered := await consumer.next()) is not None:
        # Anew, so that they are in order.
        found.pop(delivered.subject, None)
        found[delivered.subject] = delivered
        is_all = delivered.pending == 0
    reached = found.pop(barrier_subject, None)
    if reached is None or reached.sequence < barrier:
        raise _Behind(bucket)
    return [_entry(bucket, one) for one in found.values()]


def _entry(bucket: str, delivered: Delivered) -> Entry:
    key = delivered.subject[len(streams.subject(bucket, "")) :]
    return Entry(key, delivered.value, delivered.sequence)


class _Behind(Unavailable):
    """A replica does not have all that was written."""

    def __init__(self, bucket: str) -> None:
        super().__init__(f"a replica of the bucket {bucket} is behind", hint="plexspaces nodes")


def _now_s() -> float:
    # Goes on while the host is suspended, as the server's clock does.
    return clock_gettime(CLOCK_BOOTTIME)
