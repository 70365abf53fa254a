"""Watches of a bucket: what exists, then what changes, over lost connections and lost consumers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from time import CLOCK_BOOTTIME, clock_gettime
from typing import TYPE_CHECKING

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.nats import jetstream, streams
from plexspaces_node.node.nats.bucket import SYNCED, Change, Entry
from plexspaces_node.node.nats.consumer import Consumer
from plexspaces_node.node.nats.jetstream import ApiError

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Connection, Session

RESUMED_S = 1800.0
"""A watch that was away for longer looks at everything again: deletions are forgotten in time."""

_PAUSE_S = 0.25
_MOST_IDLE = 5
"""How many signs of life without a message are waited for."""


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

    def vanished(self, seen: set[str]) -> list[Entry]:
        """Return what was told and is not there any more."""
        gone = [key for key in self.told if key not in seen]
        return [Entry(key, None, max(self.last, self.told.pop(key) + 1)) for key in gone]


async def watched(connection: Connection, bucket: str, below: str) -> AsyncIterator[Change]:
    """Tell what exists and changes below a subject, as `Bucket.watch` says."""
    watch = Progress()
    while True:
        session = await connection.session()
        try:
            async with aclosing(_watched(session, connection, bucket, below, watch)) as changes:
                async for change in changes:
                    yield change
        except (ApiError, Unavailable):
            # Also without a stream: it is not made yet, or nobody leads it now.
            await asyncio.sleep(_PAUSE_S)


async def _watched(
    session: Session, connection: Connection, bucket: str, below: str, watch: Progress
) -> AsyncGenerator[Change, None]:
    created = str((await streams.info(connection, bucket)).get("created"))
    start = watch.begin(created)
    first = len(streams.subject(bucket, ""))
    seen: set[str] | None = set() if start is None else None
    name = streams.stream_name(bucket)
    async with Consumer.opened(session, name, [below], start=start) as consumer:
        is_synced, is_all = False, consumer.pending == 0
        while True:
            if is_all and not is_synced:
                for entry in watch.vanished(seen) if seen is not None else ():
                    yield entry
                is_synced, seen = True, None
                watch.synced_s = _now_s()
                yield SYNCED
            delivered = await consumer.next()
            if delivered is None:
                is_all = True
            else:
                key = delivered.subject[first:]
                is_all = is_all or delivered.pending == 0
                if seen is not None and delivered.value is not None:
                    seen.add(key)
                told = watch.take(key, delivered.value, delivered.sequence)
                if told is not None:
                    yield told
            if is_synced:
                watch.synced_s = _now_s()


async def listed(
    connection: Connection, bucket: str, below: str, barrier_subject: str, barrier: int
) -> list[Entry]:
    """Return what exists below a subject, with everything up to the number of a barrier.

    Raises `Unavailable`.
    """
    found: dict[str, Entry] = {}
    first = len(streams.subject(bucket, ""))
    reached = 0
    try:
        async with Consumer.opened(
            connection.current(),
            streams.stream_name(bucket),
            [below, barrier_subject],
            start=None,
        ) as consumer:
            pending, idle = consumer.pending, 0
            while pending or reached < barrier:
                delivered = await consumer.next()
                if delivered is None:
                    # Everything that this replica has, which may be behind.
                    pending, idle = 0, idle + 1
                    if idle == _MOST_IDLE:
                        raise Unavailable(
                            f"a replica of the bucket {bucket} is behind", hint="plexspaces nodes"
                        )
                    continue
                pending, reached = delivered.pending, max(reached, delivered.sequence)
                if delivered.subject == barrier_subject:
                    continue
                key = delivered.subject[first:]
                found[key] = Entry(key, delivered.value, delivered.sequence)
    except ApiError as error:
        jetstream.refuse(error, f"a list of the bucket {bucket}")
    return [found[key] for key in sorted(found) if found[key].value is not None]


def _now_s() -> float:
    # Goes on while the host is suspended, as the server's clock does.
    return clock_gettime(CLOCK_BOOTTIME)
