"""A bucket in a stream of JetStream: the contract `bucket.Bucket`, as NATS keeps key-value stores.

A key's value is the last message of its subject, and its revision the number of that message in the
stream; a deletion is a message too. So any tool that reads NATS's key-value buckets reads these.

A read is preceded by a write of the reader's own: what has that write has all those before it.
Otherwise a server that still believes to lead could answer with what was true before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from plexspaces_node.errors import InvalidArgument, Unavailable
from plexspaces_node.node.nats import jetstream, streams
from plexspaces_node.node.nats.bucket import Change, Conflict, Entry, Fence
from plexspaces_node.node.nats.watching import listed, watched
from plexspaces_node.node.nats.writes import TIMEOUT_S, Moved, Writes, pauses

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Connection, Message

DELETED_S = 3600
"""How long a deletion is remembered; `watching.RESUMED_S` is shorter."""

_TOO_MANY = 413
_NOTHING = 404
_END = 204


class JetStreamBucket:
    """A `Bucket` over a connection, which may be lost and come back."""

    def __init__(self, connection: Connection, name: str) -> None:
        """Its stream need not exist yet; as long as it does not, nothing is available."""
        self._connection = connection
        self._name = name
        self._writes = Writes(connection, name)

    def __repr__(self) -> str:
        return f"<JetStreamBucket {self._name}>"

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self._name

    async def get(self, key: str) -> Entry | None:
        entry = await self._last(key, await self._writes.barrier())
        return entry if entry is not None and entry.value is not None else None

    async def put(self, key: str, value: bytes, *, fence: Fence | None = None) -> int:
        return await self._writes.write(key, value, fence)

    async def create(self, key: str, value: bytes) -> int:
        revision = 0
        while True:
            try:
                return await self.update(key, value, revision)
            except Moved as error:
                # Deleted, perhaps: then the mark of that is what has to be last.
                last = await self._last(key, error.revision)
                if last is not None and last.value is not None:
                    raise Conflict(f"{key} exists, of revision {last.revision}") from None
                revision = last.revision if last is not None else 0

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._writes.write(key, value, Fence(key, revision))

    async def delete(
        self, key: str, *, revision: int | None = None, fence: Fence | None = None
    ) -> int:
        if revision is not None and fence is not None:
            raise InvalidArgument("a deletion has one condition: a revision, or a fence")
        condition = Fence(key, revision) if revision is not None else fence
        mark = {"KV-Operation": "DEL", "Nats-TTL": f"{DELETED_S}s"}
        return await self._writes.write(key, b"", condition, mark)

    async def put_all(self, entries: Sequence[tuple[str, bytes]], *, fence: Fence) -> int:
        return await self._writes.write_all(entries, fence)

    async def entries(self, prefix: str) -> list[Entry]:
        below = self._below(prefix)
        barrier = await self._writes.barrier()
        found = await self._read([below, self._writes.barrier_subject], barrier)
        if found is None:
            return await listed(
                self._connection, self._name, below, self._writes.barrier_subject, barrier
            )
        start = len(streams.subject(self._name, ""))
        entries = {
            entry.key[start:]: Entry(entry.key[start:], entry.value, entry.revision)
            for entry in found
            if entry.key != self._writes.barrier_subject
        }
        return [entries[key] for key in sorted(entries) if entries[key].value is not None]

    async def purge(self, prefix: str, *, before: int = 0) -> None:
        request: dict[str, object] = {"filter": self._below(prefix)}
        if before:
            request["seq"] = before
        method = f"STREAM.PURGE.{streams.stream_name(self._name)}"
        try:
            await jetstream.call(self._connection, method, request)
        except jetstream.ApiError as error:
            jetstream.refuse(error, f"a purge of the bucket {self._name}")

    def watch(self, prefix: str) -> AsyncIterator[Change]:
        return watched(self._connection, self._name, self._below(prefix), self._writes)

    def _below(self, prefix: str) -> str:
        return streams.prefix_subject(self._name, prefix)

    async def _last(self, key: str, least: int) -> Entry | None:
        """Return the last entry of a key, also of one deleted, as of a number or later."""
        subject = streams.key_subject(self._name, key)
        for entry in await self._read([subject, self._writes.barrier_subject], least) or ():
            if entry.key == subject:
                return Entry(key, entry.value, entry.revision)
        return None

    async def _read(self, subjects: Sequence[str], least: int) -> list[Entry] | None:
        """Return the last messages of subjects from any replica that has this number.

        None if they are more than can be read so. Their keys are the subjects.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + TIMEOUT_S
        found: list[Entry] = []
        start = 0
        for pause_s in pauses():
            session = self._connection.current()
            request = {"multi_last": list(subjects)} | ({"seq": start} if start else {})
            *messages, end = await session.request_all(
                f"$JS.API.DIRECT.GET.{streams.stream_name(self._name)}",
                jetstream.encode(request),
            )
            if end.status == _TOO_MANY:
                return None
            found += [_entry(message) for message in messages]
            if end.status == _END and _number(end, "Nats-Num-Pending") > 0:
                # Further up: what was written meanwhile is there too, also of keys read already.
                start = _number(end, "Nats-Last-Sequence") + 1
                until = loop.time() + TIMEOUT_S
                continue
            if end.status == _END and _number(end, "Nats-UpTo-Sequence") >= least:
                return found
            if end.status == _NOTHING and least == 0:
                return found
            # A replica that is behind.
            found, start = [], 0
            if loop.time() + pause_s >= until:
                break
            await asyncio.sleep(pause_s)
        raise Unavailable(
            f"no replica of the bucket {self._name} has what was written", hint="plexspaces nodes"
        )


def _entry(message: Message) -> Entry:
    value = None if message.headers.get("KV-Operation") in ("DEL", "PURGE") else message.data
    return Entry(message.headers.get("Nats-Subject", ""), value, _number(message, "Nats-Sequence"))


def _number(message: Message, header: str) -> int:
    text = message.headers.get(header, "")
    return int(text) if text.isdecimal() else 0
