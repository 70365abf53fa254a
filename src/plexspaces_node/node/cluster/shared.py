"""A kind of records that all nodes share: written to the bucket first, then put into force.

A change is made in the bucket under the condition that nobody else has made one, and then put into
force here; the other nodes hear of it from their watches. So of two nodes that make the same thing
one fails, and what was acknowledged is in force at the node that acknowledged it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from plexspaces_node.errors import InvalidArgument, PlexSpacesError, Unavailable
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry
from plexspaces_node.tasks import finished

_log = logging.getLogger(__name__)

AGAIN_S = 1.0
"""Until something that could not be put into force is tried again."""

_MOST_COMPLAINTS = 1000

Apply = Callable[[Entry], Awaitable[None]]
"""Puts a record into force, or ends what was by it. Called again after an error, and for the same
record. Raises `InvalidArgument` for a record that is none, which is left out then."""


class Shared:
    """Writes records of one kind, and puts them into force in their order. On one event loop.

    After a change that raises `Unavailable` it is not known whether it was made: if it was, it is
    in force as soon as the bucket tells it.
    """

    def __init__(
        self, bucket: Bucket, what: str, apply: Apply, *, again_s: float = AGAIN_S
    ) -> None:
        """`what` says in messages what they are."""
        self._bucket = bucket
        self._what = what
        self._apply = apply
        self._again_s = again_s
        self._told: deque[Entry] = deque()
        self._has_told = asyncio.Event()
        self._applying = asyncio.Lock()
        # Revisions of what is in force, and of own writes that the watch has not told.
        self._revisions: dict[str, int] = {}
        self._own: dict[str, int] = {}
        self._complained: set[str] = set()

    def __repr__(self) -> str:
        return f"<Shared {self._what}, {len(self._told)} to put into force>"

    async def get(self, key: str) -> Entry | None:
        """Return a record as of now; raises `Unavailable`."""
        try:
            return await self._bucket.get(key)
        except Unavailable as error:
            raise self._unavailable() from error

    async def create(self, key: str, value: bytes) -> None:
        """Write a record that does not exist; raises `Conflict` if it does, `Unavailable`."""
        await finished(self._written(key, value, lambda: self._bucket.create(key, value)))

    async def update(self, key: str, value: bytes, revision: int) -> None:
        """Write a record of which this is the last revision; raises `Conflict`, `Unavailable`."""
        await finished(self._written(key, value, lambda: self._bucket.update(key, value, revision)))

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Delete a record, if it is there; raises `Conflict`, `Unavailable`."""
        await finished(
            self._written(key, None, lambda: self._bucket.delete(key, revision=revision))
        )

    def revision(self, key: str) -> int:
        """Return the revision of the record that is in force here, 0 for none."""
        return self._revisions.get(key, 0)

    def note(self, entry: Entry) -> None:
        """Take what the watch tells; returns at once."""
        self._told.append(entry)
        self._has_told.set()

    def end_untold(self, keys: Iterable[str]) -> None:
        """End what is in force of keys of which no record was told, once all that there is was."""
        told = {entry.key for entry in self._told}
        for key in keys:
            if key not in self._revisions and key not in told:
                self.note(Entry(key, None, 0))

    async def run(self) -> None:
        """Put into force what the watch tells; it never ends."""
        while True:
            await self._has_told.wait()
            self._has_told.clear()
            while self._told:
                try:
                    await finished(self._take_told(self._told[0]))
                except PlexSpacesError as error:
                    _log.warning("%s are not put into force for now: %s", self._what, error)
                    await asyncio.sleep(self._again_s)
                else:
                    self._told.popleft()

    async def _written(
        self, key: str, value: bytes | None, write: Callable[[], Awaitable[int]]
    ) -> None:
        try:
            revision = await write()
        except (Conflict, Unavailable) as error:
            # Its answer may have been lost, and then it conflicts with itself.
            revision = await self._found(key, value, error)
        entry = Entry(key, value, revision)
        self._own[key] = max(revision, self._own.get(key, 0))
        try:
            await self._take(entry)
        except PlexSpacesError as error:
            # It is acknowledged, and so to be put into force.
            _log.warning("%s are not put into force for now: %s", self._what, error)
            self.note(entry)

    async def _found(self, key: str, value: bytes | None, error: PlexSpacesError) -> int:
        """Return the revision of a write that may have been made; raises `error` otherwise."""
        try:
            found = await self._bucket.get(key)
        except Unavailable:
            found = None
        else:
            if value is None and found is None and isinstance(error, Unavailable):
                # Of which write is not known, and does not matter: nothing is there.
                return self.revision(key) + 1
        if found is not None and value is not None and found.value == value:
            return found.revision
        if isinstance(error, Unavailable):
            raise self._unavailable() from error
        raise error

    async def _take_told(self, entry: Entry) -> None:
        own = self._own.get(entry.key, 0)
        if not entry.revision and own:
            # Not there when everything was told, but since.
            return
        if entry.revision >= own:
            self._own.pop(entry.key, None)
        await self._take(entry)

    async def _take(self, entry: Entry) -> None:
        async with self._applying:
            known = self._revisions.get(entry.key, self._own.get(entry.key, 0))
            if entry.revision and entry.revision < known:
                return
            if entry.revision and entry.revision == self._revisions.get(entry.key):
                return
            try:
                await self._apply(entry)
            except InvalidArgument as error:
                self._complain(entry.key, error)
            if entry.value is None:
                self._revisions.pop(entry.key, None)
            else:
                self._revisions[entry.key] = entry.revision

    def _complain(self, key: str, error: InvalidArgument) -> None:
        if key not in self._complained and len(self._complained) < _MOST_COMPLAINTS:
            self._complained.add(key)
            _log.warning("the cluster's record %.200r is left out: %s", key, error)

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            f"the cluster does not answer, so {self._what} cannot be changed now; the change may "
            "have been made",
            hint="plexspaces nodes",
        )
