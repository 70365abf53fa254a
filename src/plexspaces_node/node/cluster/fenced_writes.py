"""The writes of an actor's owner to the bucket: acknowledged, or refused, but never overtaken.

A write that was not acknowledged may still be under way, and would overwrite what follows it. So
after each of these the owner writes its fence again: what was under the old one is refused from
then on, like the writes of a former owner.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from enum import Enum

import msgspec

from plexspaces_node.errors import NotFound, PlexSpacesError, Unavailable, WrongState
from plexspaces_node.node.cluster.state_keys import Fenced, decode, encode
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Fence

WRITE_S = 20.0
"""How long a write is tried. An election in NATS takes 4 to 9 s."""

_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class Claimed(Enum):
    """What an owner finds when it takes an actor over."""

    THERE = "there"
    LOST = "lost"
    """The bucket has lost it. The fence is held, but nothing may be read: it has to be filled."""


class FencedOff(Unavailable):
    """Another node owns the actor."""


class FencedWrites:
    """The fence of one actor as held by this node. Its methods are called one at a time.

    Attributes:
        last: the revision of the last write that was acknowledged, of the fence or under it.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        bucket: Bucket,
        name: str,
        key: str,
        *,
        epoch: int,
        node: str,
        on_lost: Callable[[], None],
        rebuild: Callable[[], Awaitable[None]],
        write_s: float = WRITE_S,
    ) -> None:
        """Hold nothing yet, see `claim`.

        `on_lost` is called once if another node turns out to own the actor; `rebuild` writes
        everything anew, by `put_all`, if the bucket has lost all of it.
        """
        self.last = 0
        self._bucket = bucket
        self._name = name
        self._key = key
        self._mine = Fenced(epoch=epoch, node=node, token=secrets.token_hex(8))
        self._fence: Fence | None = None
        self._on_lost = on_lost
        self._rebuild = rebuild
        self._write_s = write_s
        self._is_unsure = False

    def __repr__(self) -> str:
        return f"<FencedWrites of {self._name}, {self._fence}>"

    @property
    def fence(self) -> Fence:
        """The condition of its writes; raises `FencedOff` if it is not held any more."""
        if self._fence is None:
            raise FencedOff(
                f"application {self._name!r} is owned by another node", hint="plexspaces nodes"
            )
        return self._fence

    async def claim(self, *, is_first: bool, has_copy: bool) -> Claimed:
        """Fence off every earlier owner; return whether the bucket has the actor's state.

        Raises `WrongState` if an owner of a later epoch has it, or if the bucket has lost it and
        this node has no copy; `NotFound` if it was undeployed; `Unavailable` after `write_s`.
        """
        claimed = Claimed.THERE

        async def attempt() -> int:
            nonlocal claimed
            found = await self._bucket.get(self._key)
            if found is None or found.value is None:
                if not (is_first or has_copy):
                    raise _lost(self._name)
                # A copy is more than nothing, whatever is said.
                claimed = Claimed.LOST if has_copy else Claimed.THERE
                self._mine = msgspec.structs.replace(self._mine, is_whole=not has_copy)
                return await self._bucket.create(self._key, encode(self._mine))
            before = decode(found.value, Fenced)
            if before.token != self._mine.token:
                self._check(before, has_copy=has_copy)
            claimed = Claimed.THERE if before.is_whole else Claimed.LOST
            if before == self._mine:
                # Written by an attempt before.
                return found.revision
            self._mine = msgspec.structs.replace(self._mine, is_whole=before.is_whole)
            return await self._bucket.update(self._key, encode(self._mine), found.revision)

        self._hold(await self._tried(attempt))
        return claimed

    async def write(self, act: Callable[[Fence], Awaitable[int]]) -> int:
        """Do a write that may be done again, until it is acknowledged, and return its revision.

        Raises `FencedOff`; `Unavailable` after `write_s`, when it may have been done; and other
        errors of the bucket. Whatever it raises: what is written later is not overwritten by it.
        """

        async def attempt() -> int:
            await self._settled()
            self._is_unsure = True
            revision = await act(self.fence)
            self._is_unsure = False
            return revision

        self.last = max(self.last, await self._tried(attempt))
        return self.last

    async def settle(self) -> None:
        """Have nothing under way, so that what is read is what stays; raises as `write` does.

        Also fills a bucket that has lost what this node owns, as after `Claimed.LOST`.
        """
        await self._tried(self._settled)

    def leave(self) -> None:
        """Write nothing any more: the actor is not this node's."""
        self._fence = None

    async def _tried(self, attempt: Callable[[], Awaitable[int]]) -> int:
        loop = asyncio.get_running_loop()
        until_s, pause_s = loop.time() + self._write_s, 0.0
        while True:
            try:
                return await attempt()
            except FencedOff:
                raise
            except (Conflict, Unavailable) as error:
                if loop.time() + pause_s >= until_s:
                    raise Unavailable(
                        f"the cluster does not store the state of {self._name!r}: {error}",
                        hint="plexspaces nodes",
                    ) from error
            await asyncio.sleep(pause_s)
            pause_s = min(max(2 * pause_s, _PAUSE_S), _LONGEST_PAUSE_S)

    async def _settled(self) -> int:
        """Write the fence again if a write may be under way; return its revision.

        Fills the bucket if it has lost what this node owns.
        """
        fence = self.fence
        if self._mine.is_whole and not self._is_unsure:
            return fence.revision
        found = await self._bucket.get(self._key)
        if found is None or found.value is None:
            self._mine = self._next(is_whole=False)
            self._hold(await self._bucket.create(self._key, encode(self._mine)))
        elif decode(found.value, Fenced).token == self._mine.token:
            self._mine = self._next(is_whole=self._mine.is_whole)
            update = self._bucket.update(self._key, encode(self._mine), found.revision)
            self._hold(await update)
        else:
            self._fence = None
            self._on_lost()
        if not self._mine.is_whole:
            self._is_unsure = True
            await self._rebuild()
            self._mine = self._next(is_whole=True)
            revision = self.fence.revision
            self._hold(await self._bucket.update(self._key, encode(self._mine), revision))
        return self.fence.revision

    def _next(self, *, is_whole: bool) -> Fenced:
        """Return what to write to the fence; never the same twice."""
        count = self._mine.count + 1
        return msgspec.structs.replace(self._mine, count=count, is_whole=is_whole)

    def _hold(self, revision: int) -> int:
        self._fence = Fence(self._key, revision)
        self.last = max(self.last, revision)
        self._is_unsure = False
        return revision

    def _check(self, before: Fenced, *, has_copy: bool) -> None:
        """Raise unless this node may follow an owner."""
        if before.is_gone:
            raise NotFound(f"application {self._name!r} was undeployed")
        if before.epoch > self._mine.epoch:
            raise WrongState(
                f"application {self._name!r} was placed on {before.node} since",
                hint="plexspaces nodes",
            )
        if not (before.is_whole or has_copy):
            raise _lost(self._name)


def _lost(name: str) -> PlexSpacesError:
    return WrongState(
        f"the cluster has lost the state of {name!r}, and this node has no copy of it",
        hint="start the node that had it last (plexspaces nodes), or undeploy it",
    )
