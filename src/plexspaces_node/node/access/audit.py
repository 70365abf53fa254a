"""The audit log: who did what, on what, with which result.

`note` is called for everything that changes something, for every refusal, and for reads of what is
itself confidential; never for a message that is let through. It returns at once: lines are written
on a thread. `audit_file` has the files.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import time_ns
from typing import Self

import msgspec

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.info import AuditEntry
from plexspaces_node.model import MIB
from plexspaces_node.node.access.audit_file import AuditFile, Snapshot

_log = logging.getLogger(__name__)

DEFAULT_LIMIT_BYTES = 64 * MIB
PENDING_LINES = 4096
"""Lines not yet on disk, or not yet read by a follower; more are dropped and counted."""
MAX_READERS = 16
"""How many read it at once; those of one tenant are at most half of them."""
MOST_HELD = 1000
"""Past lines that are kept for a reader; of a longer tail the lines are counted first."""
MERGE_S = 1.0
"""Equal refusals within this time become one line."""
MOST_REFUSALS = 64
"""Different refusals within that time that have a line each; the others share one."""

_FIELD_LIMIT = 256
_OTHERS = "others"

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Event:
    """What was done or refused.

    Attributes:
        kind: how who did it was known: `token`, `certificate`, `local` or `anonymous`.
        who: the name of the identity; "" if unknown.
        address: where the request came from, without its port.
        tenant: whose admin may read it, "" for the admin of all tenants alone: that of the
            identity, or of the object if the identity is of all tenants.
        verb: what was done: `Service/Method`, however it was asked for.
        object: what it was done to; "" for nothing named.
        result: `ok`, or the error's code.
        refused: whether it is a refusal. Equal ones are merged, so that whoever is refused cannot
            fill the log.
    """

    kind: str
    who: str
    address: str
    tenant: str
    verb: str
    object: str = ""
    result: str = "ok"
    duration_ns: int = 0
    refused: bool = False
    time_unix_ns: int = field(default_factory=time_ns)

    @property
    def _same(self) -> tuple[str, ...]:
        return (self.kind, self.who, self.address, self.tenant, self.verb, self.result)


def of_node(verb: str, node_id: str) -> Event:
    """Return what the node itself does: by the user whose process it is."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return Event("local", user, "", "", verb, node_id)


_decoder = msgspec.json.Decoder(AuditEntry)


class _Queue:
    """Entries that wait for a reader or the disk; bounded, and counts what it had to drop."""

    def __init__(self) -> None:
        self._entries: deque[AuditEntry] = deque()
        self.lost = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def push(self, entry: AuditEntry) -> bool:
        """Keep an entry; return whether there was room for it."""
        if len(self._entries) >= PENDING_LINES:
            self.lost += 1
            return False
        if self.lost:
            entry, self.lost = replace(entry, lost=entry.lost + self.lost), 0
        self._entries.append(entry)
        return True

    def take(self) -> list[AuditEntry]:
        taken = list(self._entries)
        self._entries.clear()
        return taken

    def peek(self) -> list[AuditEntry]:
        return list(self._entries)


class _Follower:
    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        self.queue = _Queue()
        self.wake = asyncio.Event()


class AuditLog:
    """The audit log of a node. Used from one event loop; leaving its context writes what waits.

    Never holds more than `PENDING_LINES` lines in memory, and as many for each follower, nor more
    than `limit_bytes` on disk. What was noted survives `kill -9` once it is written, which takes
    milliseconds, for refusals a second; a power loss may cost the last seconds. If the disk is full
    the node goes on: a warning says so once, and the next line that can be written has the number
    of lines that are lost.
    """

    def __init__(
        self,
        directory: Path,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        *,
        merge_s: float = MERGE_S,
    ) -> None:
        self._directory = directory
        self._file = AuditFile(directory, limit_bytes)
        self._merge_s = merge_s
        self._pending = _Queue()
        self._refusals: dict[tuple[str, ...], tuple[Event, int]] = {}
        self._merging: asyncio.TimerHandle | None = None
        self._followers: set[_Follower] = set()
        # By tenant, None for who reads every line.
        self._readers: Counter[str | None] = Counter()
        # Held while a thread works on the files, so that a reader knows what is not there yet.
        self._files = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None
        self._failing = False
        self._ending = False
        self._closed = False
        self.dropped = 0
        """How many lines were lost before they were on disk, since the node started."""

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<AuditLog {self._directory} {state}, {len(self._followers)} followers>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def note(self, event: Event) -> None:
        """Record what was done or refused. Returns at once and never raises.

        Ignored after the log was closed.
        """
        if self._closed:
            return
        if not event.refused:
            self._add(_entry(event, 1))
            return
        key = event._same
        if key not in self._refusals and len(self._refusals) >= MOST_REFUSALS:
            key = (_OTHERS,)
            event = replace(event, kind="", who=_OTHERS, address="", tenant="", object="")
        first, count = self._refusals.get(key, (event, 0))
        self._refusals[key] = (first, count + 1)
        if self._merging is None:
            loop = asyncio.get_running_loop()
            self._merging = loop.call_later(self._merge_s, self._end_merging)

    async def read(
        self, *, tail: int = 0, follow: bool = False, tenant: str | None = None
    ) -> AsyncGenerator[AuditEntry, None]:
        """Yield the last `tail` lines (0: all that are kept), oldest first; then each new one.

        Only those of `tenant`, unless it is None. With `follow` it goes on until `end_followers`,
        without gap or repetition, except for lines dropped because the consumer is too slow, which
        the next one counts. Close it with `aclosing`. Raises `ResourceExhausted` if there are
        `MAX_READERS` already, or half of them of this tenant.
        """
        follower = _Follower(tenant)
        with self._reading(follower, follow):
            async with self._files:
                # Nothing is being written, so that every line is in one place: on disk, pending or,
                # from now on, sent to the follower.
                follower.queue = _Queue()
                pending = [entry for entry in self._pending.peek() if _is_for(entry, tenant)]
                snapshot = await asyncio.to_thread(self._file.snapshot)
            with snapshot:
                async for entry in _past(snapshot, pending, tail, tenant):
                    yield entry
            while follow and (follower.queue or not self._ending):
                follower.wake.clear()
                for entry in follower.queue.take():
                    yield entry
                if not follower.queue and not self._ending:
                    await follower.wake.wait()

    @contextmanager
    def _reading(self, reader: _Follower, follow: bool) -> Iterator[None]:
        tenant, most = reader.tenant, MAX_READERS
        of_tenant = 0 if tenant is None else 2 * self._readers[tenant]
        if max(self._readers.total(), of_tenant) >= most:
            raise ResourceExhausted(
                f"too many read the audit log ({most}, half of them of one tenant)",
                hint="stop another `plexspaces audit -f`",
            )
        self._readers[tenant] += 1
        if follow:
            self._followers.add(reader)
        try:
            yield
        finally:
            self._followers.discard(reader)
            self._readers[tenant] -= 1
            if not self._readers[tenant]:
                del self._readers[tenant]

    async def close(self) -> None:
        """Write what waits and end every follower after its last line. Idempotent."""
        self._end_merging()
        self._closed = True
        self.end_followers()
        if self._writing is not None:
            await asyncio.shield(self._writing)

    def end_followers(self) -> None:
        """End every follower after its last line; what is noted later, they do not get."""
        self._ending = True
        for follower in self._followers:
            follower.wake.set()

    def _end_merging(self) -> None:
        if self._merging is not None:
            self._merging.cancel()
            self._merging = None
        refusals, self._refusals = self._refusals, {}
        for event, count in refusals.values():
            self._add(_entry(event, count))

    def _add(self, entry: AuditEntry) -> None:
        self.dropped += not self._pending.push(entry)
        for follower in self._followers:
            if _is_for(entry, follower.tenant):
                follower.queue.push(entry)
                follower.wake.set()
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._pending:
                async with self._files:
                    entries = self._pending.take()
                    lines = [_line(entry) for entry in entries]
                    try:
                        while lines:
                            count = await asyncio.to_thread(self._file.append, lines)
                            del lines[:count], entries[:count]
                        self._failing = False
                    except OSError as error:
                        self._lose(entries, error)
        finally:
            self._writing = None

    def _lose(self, entries: list[AuditEntry], error: OSError) -> None:
        self._pending.lost += sum(1 + entry.lost for entry in entries)
        self.dropped += len(entries)
        if not self._failing:
            self._failing = True
            _log.error(
                "the audit log in %s cannot be written, and misses lines until it can: %s",
                self._directory,
                error.strerror,
            )


async def _past(
    snapshot: Snapshot, pending: list[AuditEntry], tail: int, tenant: str | None
) -> AsyncGenerator[AuditEntry, None]:
    def read(line: bytes) -> AuditEntry | None:
        entry = _decoded(line)
        return entry if entry is not None and _is_for(entry, tenant) else None

    left = tail - len(pending)
    if tail and left <= MOST_HELD:
        past = await asyncio.to_thread(snapshot.last, left, read) if left > 0 else []
        for entry in (*past, *pending[-tail:]):
            yield entry
        return
    skipped = await asyncio.to_thread(_count, snapshot, read) - left if tail else 0
    chunks = snapshot.chunks()
    while (lines := await asyncio.to_thread(next, chunks, None)) is not None:
        for entry in filter(None, await asyncio.to_thread(lambda some: [*map(read, some)], lines)):
            if skipped > 0:
                skipped -= 1
            else:
                yield entry
    for entry in pending:
        yield entry


def _count(snapshot: Snapshot, read: Callable[[bytes], AuditEntry | None]) -> int:
    return sum(read(line) is not None for lines in snapshot.chunks() for line in lines)


def _is_for(entry: AuditEntry, tenant: str | None) -> bool:
    return tenant is None or entry.tenant == tenant


def _entry(event: Event, count: int) -> AuditEntry:
    moment = datetime.fromtimestamp(event.time_unix_ns / 1e9, UTC)
    return AuditEntry(
        time=moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        kind=event.kind,
        who=_cut(event.who),
        address=_cut(event.address),
        tenant=event.tenant,
        verb=_cut(event.verb),
        object=_cut(event.object),
        result=event.result,
        duration_ns=event.duration_ns,
        count=count,
    )


def _cut(text: str) -> str:
    # Who is refused chooses the names; a lone surrogate is not valid UTF-8.
    return text[:_FIELD_LIMIT].encode("utf-8", "replace").decode()


def _line(entry: AuditEntry) -> bytes:
    told = msgspec.to_builtins(entry)
    # Without count and loss where there is nothing to say.
    for name, usual in (("count", 1), ("lost", 0)):
        if told[name] == usual:
            del told[name]
    return _encoder.encode(told) + b"\n"


def _decoded(line: bytes) -> AuditEntry | None:
    with suppress(msgspec.DecodeError):
        return _decoder.decode(line)
    return None
