"""Changes of what users have asked for, in the registry: compared and set, until it is done.

While NATS elects a leader nobody is answered, for up to 9 s: that is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import msgspec

from plexspaces_node.errors import Unavailable
from plexspaces_node.node.cluster.desired import encode
from plexspaces_node.node.cluster.records import Application, application_key
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry

ELECTION_S = 15.0
"""How long a registry that does not answer is asked again: longer than an election takes."""

AGAIN_S = 0.2

TOLD_S = 5.0
"""How long a new record may take until this node's view has it."""

_T = TypeVar("_T")


class Desires:
    """The applications' records. Every method raises `Unavailable` after `ELECTION_S`.

    It may then be repeated.
    """

    def __init__(self, bucket: Bucket, view: ClusterView) -> None:
        self._bucket = bucket
        self._view = view

    def __repr__(self) -> str:
        return f"<Desires in {self._bucket.name}>"

    async def create(self, application: Application) -> Application | None:
        """Ask for an application, unless the name is taken: return the one that has it.

        After an answer that was lost it is looked whether it was done.
        """
        return await patiently(lambda: self._create(application))

    async def _create(self, application: Application) -> Application | None:
        key = application_key(application.name)
        try:
            revision = await self._bucket.create(key, encode(application))
        except Conflict:
            # Perhaps by an attempt of which the answer was lost.
            found = await self._bucket.get(key)
            taken = self._decoded(found) if found is not None else None
            return None if taken is not None and taken.id == application.id else taken
        # A record that is new is seen once it is told; one that was deleted since never is.
        with suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S):
                await self._view.caught_up(key, revision)
        return None

    async def get(self, name: str) -> Application | None:
        """Return an application as of now, with those that are being deployed."""
        found = await patiently(lambda: self._bucket.get(application_key(name)))
        return self._decoded(found) if found is not None else None

    async def change(
        self, name: str, how: Callable[[Application | None], Application | None]
    ) -> Application | None:
        """Set an application to what `how` makes of it, None to delete it; return it as it is then.

        `how` returns the same object for no change, and may be called several times, also after its
        change was done: with what it has made.
        """
        return await patiently(lambda: self._change(name, how))

    async def _change(
        self, name: str, how: Callable[[Application | None], Application | None]
    ) -> Application | None:
        key = application_key(name)
        while True:
            found = await self._bucket.get(key)
            before = self._decoded(found) if found is not None else None
            after = how(before)
            if after is before or (after is None and found is None):
                self._seen(found)
                return before
            try:
                if after is None:
                    assert found is not None
                    revision = await self._bucket.delete(key, revision=found.revision)
                elif found is None:
                    revision = await self._bucket.create(key, encode(after))
                else:
                    revision = await self._bucket.update(key, encode(after), found.revision)
            except Conflict:
                continue
            self._wrote(key, after, revision)
            return after

    def _seen(self, found: Entry | None) -> None:
        if found is not None:
            self._view.wrote(found)

    def _wrote(self, key: str, application: Application | None, revision: int) -> None:
        value = encode(application) if application is not None else None
        self._view.wrote(Entry(key, value, revision))

    def _decoded(self, entry: Entry) -> Application | None:
        if entry.value is None:
            return None
        try:
            return msgspec.json.decode(entry.value, type=Application)
        except msgspec.MsgspecError as error:
            raise Unavailable(
                f"the record {entry.key} cannot be read: {error}",
                hint="let all nodes run the same version: plexspaces nodes",
            ) from error


async def patiently(attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Return what an attempt returns, made again while it raises `Unavailable`."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + ELECTION_S
    while True:
        try:
            return await attempt()
        except Unavailable:
            if loop.time() >= until_s:
                raise
        await asyncio.sleep(AGAIN_S)
