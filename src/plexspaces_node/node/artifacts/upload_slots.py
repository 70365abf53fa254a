"""Which uploads run: a limited number, in turn, and slow ones only while nobody waits for them.

Incomplete uploads take disk space, so not all may run at once. Small artifacts have slots of their
own and never wait for large ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from plexspaces_node.model import MIB
from plexspaces_node.node.artifacts.fair_slots import Turns
from plexspaces_node.node.artifacts.upload import Upload

PLACES = 16
"""For large ones: at most this many times `limits.artifact_bytes` are on the disk."""

SHORT_PLACES = 64
SHORT_BYTES = 1 * MIB

PATIENCE_S = 5.0
"""After this long of waiting the slowest running upload is ended, and again after as long."""

SLOW_BYTES_PER_S = 1 * MIB
"""A faster one is done soon, and is not ended for others."""


class Uploads:
    """The uploads of a node. Used only on the event loop."""

    def __init__(
        self,
        *,
        places: int = PLACES,
        short_places: int = SHORT_PLACES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Create this many slots; one client gets half of each kind."""
        self._long = _Kind(places, patience_s)
        self._short = _Kind(short_places, patience_s)

    def __repr__(self) -> str:
        return f"<Uploads {len(self._long.running)} long, {len(self._short.running)} short>"

    @asynccontextmanager
    async def place(self, upload: Upload, owner: str, tenant: str = "") -> AsyncIterator[None]:
        """Wait until an upload may begin, and let it run in the body.

        At the turn of the tenant, and in it of `owner`.
        """
        kind = self._short if upload.size_bytes <= SHORT_BYTES else self._long
        impatience = asyncio.create_task(kind.end_slow_ones(owner))
        try:
            async with kind.turns.place(owner, tenant):
                impatience.cancel()
                upload.begin()
                kind.running.add(upload)
                try:
                    yield
                finally:
                    kind.running.discard(upload)
        finally:
            impatience.cancel()


class UploadTimes:
    """How long uploads took: each is returned once to its owner, or forgotten after a while."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        # By owner and digest, the oldest first: until when it is kept, and how long it took.
        self._times: dict[tuple[str, str], tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._times)

    def add(self, owner: str, digest: str, duration_ns: int, *, now_s: float) -> None:
        """Store a time for the next `take`; of two for the same upload the later one counts."""
        self._forget_old(now_s)
        self._times.pop((owner, digest), None)
        self._times[owner, digest] = (now_s + self._keep_s, duration_ns)

    def take(self, owner: str, digest: str, *, now_s: float) -> int:
        """Return how long an owner's upload took, and forget it; 0 if there was none."""
        self._forget_old(now_s)
        return self._times.pop((owner, digest), (0.0, 0))[1]

    def _forget_old(self, now_s: float) -> None:
        while self._times:
            oldest = next(iter(self._times))
            if self._times[oldest][0] > now_s:
                return
            del self._times[oldest]


class _Kind:
    def __init__(self, places: int, patience_s: float) -> None:
        self._patience_s = patience_s
        self.turns = Turns(places, share=max(1, places // 2))
        self.running: set[Upload] = set()
        self._ended = 0

    async def end_slow_ones(self, owner: str) -> None:
        """End uploads one after the other, the slowest first, until this is cancelled.

        Only while others keep this owner from a slot, and one for all who wait, not one for each.
        """
        while True:
            ended = self._ended
            await asyncio.sleep(self._patience_s)
            if ended == self._ended and self.turns.are_for(owner):
                self._end_slowest()

    def _end_slowest(self) -> None:
        for upload in sorted(self.running, key=lambda one: one.bytes_per_s):
            if upload.bytes_per_s >= SLOW_BYTES_PER_S:
                return
            if upload.give_way():
                self._ended += 1
                return
