"""What the cluster needs of a replicated key-value bucket: the contract, and its errors.

`connection` has the one of NATS JetStream; tests have one in memory. One suite holds both to this.

A revision is the number of a write in its bucket. They only grow, so that a later write has a
higher one, whatever its key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from plexspaces_node.errors import WrongState


class Conflict(WrongState):
    """A write was refused, for its condition was not true: somebody else wrote before.

    Nothing was changed, for certain. `Unavailable` in contrast says nothing about that: the write
    may have been done, or may still be.
    """

    retryable = True


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value; None for a key that was deleted."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Fence:
    """A condition of writes: that the last write of `key` is still the one of this revision."""

    key: str
    revision: int


class Synced:
    """In a watch: every entry that there was has been told."""


SYNCED = Synced()

Change: TypeAlias = Entry | Synced
"""What a watch tells."""


class Bucket(Protocol):
    """A replicated key-value bucket. Used on one event loop.

    Keys consist of letters, digits and `-_=/`, in parts divided by dots. Every method raises
    `Unavailable` when there is no answer in time, as without a quorum; of a write it is not known
    then whether it was done. A write is acknowledged when a majority has it on disk.
    """

    @property
    def name(self) -> str:
        """The bucket's name."""

    async def get(self, key: str) -> Entry | None:
        """Return a key's entry as of now, None for one that does not exist."""

    async def put(self, key: str, value: bytes, *, fence: Fence | None = None) -> int:
        """Set a key and return the write's revision; raises `Conflict` if the fence has moved."""

    async def create(self, key: str, value: bytes) -> int:
        """Set a key that does not exist, or was deleted; raises `Conflict` if it exists."""

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Set a key of which this is the last revision; raises `Conflict` otherwise."""

    async def delete(
        self, key: str, *, revision: int | None = None, fence: Fence | None = None
    ) -> int:
        """Delete a key, which need not exist; raises `Conflict` as `update` and `put` do."""

    async def put_all(self, entries: Sequence[tuple[str, bytes]], *, fence: Fence) -> int:
        """Set keys in this order under one fence, and return the last revision.

        Each at once, not all as one: after an error the first ones may be written.
        """

    async def entries(self, prefix: str) -> list[Entry]:
        """Return what exists below a prefix, which ends with a dot, or is "" for everything.

        As of now: it has every write that was acknowledged before the call.
        """

    async def purge(self, prefix: str, *, before: int = 0) -> None:
        """Remove what is below a prefix for good; with `before`, what has an older revision only.

        Not fenced, and it may be done late, as after `Unavailable`: it is for what nobody needs, by
        whoever knows that nobody will. Watches are not told.
        """

    def watch(self, prefix: str) -> AsyncIterator[Change]:
        """Tell what exists below a prefix, then `SYNCED`, then every change; it never ends.

        A key that changed several times may be told once. A lost connection is not told: when it is
        back, what differs from what was told follows, deletions among it, then `SYNCED` again.
        """
