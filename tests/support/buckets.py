"""A cluster's bucket in memory: as one of NATS acts, also without a quorum."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from plexspaces_node.errors import InvalidArgument, Unavailable
from plexspaces_node.node.nats.bucket import SYNCED, Change, Conflict, Entry, Fence


class MemoryBucket:
    """A bucket that several nodes of one test share, each by a `View` of its own."""

    def __init__(self, name: str = "test") -> None:
        self.name = name
        self.revision = 0
        self.all: dict[str, Entry] = {}
        self.watchers: set[asyncio.Event] = set()

    def view(self) -> View:
        """Return a node's connection to it."""
        return View(self)

    def write(self, key: str, value: bytes | None) -> int:
        """Write without a condition."""
        self.revision += 1
        self.all[key] = Entry(key, value, self.revision)
        for changed in self.watchers:
            changed.set()
        return self.revision


class View:
    """A connection to a `MemoryBucket`; a `Bucket`.

    Attributes:
        is_cut: nothing is answered, and changes are not told, until it is False again.
        loses_answers: what is written is written, and then not answered.
        is_late: what is written is not answered, and written later: by `arrive`.
    """

    def __init__(self, bucket: MemoryBucket) -> None:
        self._bucket = bucket
        self._cut = False
        self._cuts = 0
        self.loses_answers = False
        self.is_late = False
        self._late: list[Callable[[], object]] = []

    def arrive(self) -> None:
        """Do the writes that are late, each if its condition is true now."""
        late, self._late = self._late, []
        for write in late:
            with suppress(Conflict):
                write()

    @property
    def name(self) -> str:
        return self._bucket.name

    @property
    def is_cut(self) -> bool:
        return self._cut

    @is_cut.setter
    def is_cut(self, is_cut: bool) -> None:
        self._cuts += is_cut and not self._cut
        self._cut = is_cut
        for changed in self._bucket.watchers:
            changed.set()

    async def get(self, key: str) -> Entry | None:
        await self._answer()
        found = self._bucket.all.get(key)
        return found if found is not None and found.value is not None else None

    async def put(self, key: str, value: bytes, *, fence: Fence | None = None) -> int:
        return await self._write(key, value, fence)

    async def create(self, key: str, value: bytes) -> int:
        def write() -> int:
            if (found := self._bucket.all.get(key)) is not None and found.value is not None:
                raise Conflict(f"{key} exists, of revision {found.revision}")
            return self._bucket.write(key, value)

        return await self._answered(write)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._write(key, value, Fence(key, revision))

    async def delete(
        self, key: str, *, revision: int | None = None, fence: Fence | None = None
    ) -> int:
        if revision is not None and fence is not None:
            raise InvalidArgument("a deletion has one condition: a revision, or a fence")
        return await self._write(key, None, Fence(key, revision) if revision is not None else fence)

    async def put_all(self, entries: Sequence[tuple[str, bytes]], *, fence: Fence) -> int:
        last = 0
        for key, value in entries:
            last = await self.put(key, value, fence=fence)
        return last

    async def entries(self, prefix: str) -> list[Entry]:
        await self._answer()
        found = [one for key, one in self._bucket.all.items() if key.startswith(prefix)]
        return sorted((one for one in found if one.value is not None), key=lambda one: one.key)

    async def purge(self, prefix: str, *, before: int = 0) -> None:
        def write() -> int:
            self._bucket.all = {
                key: entry
                for key, entry in self._bucket.all.items()
                if not key.startswith(prefix) or (before and entry.revision >= before)
            }
            return 0

        await self._answered(write)

    async def watch(self, prefix: str) -> AsyncIterator[Change]:
        changed = asyncio.Event()
        self._bucket.watchers.add(changed)
        told: dict[str, int] = {}
        synced = -1
        try:
            while True:
                if not self._cut:
                    for key, entry in sorted(
                        self._bucket.all.items(), key=lambda item: item[1].revision
                    ):
                        if not key.startswith(prefix) or told.get(key) == entry.revision:
                            continue
                        if entry.value is not None or key in told:
                            told[key] = entry.revision
                            yield entry
                    if synced != self._cuts:
                        synced = self._cuts
                        yield SYNCED
                await changed.wait()
                changed.clear()
        finally:
            self._bucket.watchers.discard(changed)

    async def _write(self, key: str, value: bytes | None, fence: Fence | None = None) -> int:
        def write() -> int:
            if fence is not None:
                self._check(fence)
            return self._bucket.write(key, value)

        return await self._answered(write)

    async def _answered(self, write: Callable[[], int]) -> int:
        """Do what checks its condition and writes, in one step."""
        await self._answer()
        if self.is_late:
            self._late.append(write)
            raise Unavailable(f"no answer from the bucket {self.name}")
        revision = write()
        if self.loses_answers:
            raise Unavailable(f"no answer from the bucket {self.name}")
        return revision

    def _check(self, condition: Fence) -> None:
        found = self._bucket.all.get(condition.key)
        if (found.revision if found is not None else 0) != condition.revision:
            raise Conflict(f"{condition.key} is not of revision {condition.revision} any more")

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self._cut:
            raise Unavailable(f"no answer from the bucket {self.name}")
