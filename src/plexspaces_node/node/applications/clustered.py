"""What a cluster changes for a node's actors: where their states are, and when they may answer.

A node alone has none of it. `cluster` implements the protocols.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.node.applications.state_saver import StateStore
from plexspaces_node.node.machines.pending import Answered
from plexspaces_node.node.registry.database import Value
from plexspaces_node.node.registry.keyvalue import StoreBound
from plexspaces_node.tasks import Leave

Answer: TypeAlias = Answered | PlexSpacesError


class ActorStore(StateStore, Protocol):
    """Where an actor's keys and states are: the registry, or also the cluster's bucket."""

    async def kv_get(self, name: str, key: str) -> bytes | None:
        """Return the value of an application's key, or None."""

    async def kv_put(
        self, name: str, key: str, value: Value, bound: StoreBound | None = None
    ) -> None:
        """Set an application's key; see `Registry.kv_put`."""

    async def kv_delete(self, name: str, key: str) -> None:
        """Remove an application's key, if it exists; see `Registry.kv_delete`."""


class Lease(Protocol):
    """The right of this node to serve its actors; see `cluster.lease`."""

    @property
    def term(self) -> int:
        """Another number whenever the lease was taken from this node: others served meanwhile."""

    def is_held(self) -> bool:
        """Return whether it is; cheap enough for every message."""

    def when_held(self, call: Callable[[], None]) -> Leave:
        """Call something once it is held; the returned function ends the wait."""


@dataclass(frozen=True, slots=True)
class Clustered:
    """What a node's actors have of its cluster."""

    store: ActorStore
    lease: Lease


class ActorLease:
    """The lease, as one application uses it."""

    __slots__ = ("_is_awaited", "_lease", "is_held")

    def __init__(self, lease: Lease) -> None:
        """Ask the lease itself whether it is held: by `is_held`, for every message."""
        self._lease = lease
        self._is_awaited = False
        self.is_held = lease.is_held

    def __repr__(self) -> str:
        return f"<ActorLease of {self._lease!r}>"

    def is_held_or(self, call: Callable[[], None]) -> bool:
        """Return whether it is held; if not, `call` is called once it is, however often asked."""
        if self.is_held():
            return True
        if not self._is_awaited:
            self._is_awaited = True
            self._lease.when_held(lambda: self._again(call))
        return False

    def _again(self, call: Callable[[], None]) -> None:
        self._is_awaited = False
        call()

    def guard(self, name: str, timeout_ns: int, answered: Callable[[Answer], None]) -> HeldReply:
        """Return what gives the answer of a message that is sent now to `answered`, or does not."""
        return HeldReply(self._lease, name, timeout_ns, answered)


class HeldReply:
    """The answer of one message to an actor, given out only while the lease is held.

    Without the lease, another node may have started the actor already and have answered what makes
    this answer untrue. While the lease is only late the answer waits, within the message's time: it
    was true if the lease is held again and was not taken meanwhile.
    """

    __slots__ = ("_answered", "_lease", "_leave", "_name", "_term", "_timer", "_until_s", "kept")

    def __init__(
        self, lease: Lease, name: str, timeout_ns: int, answered: Callable[[Answer], None]
    ) -> None:
        self.kept: Answered | None = None
        self._lease = lease
        self._name = name
        self._term = lease.term
        self._answered = answered
        self._until_s = asyncio.get_running_loop().time() + timeout_ns / 1e9
        self._leave: Leave | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<HeldReply of {self._name}, {'kept' if self.kept else 'not kept'}>"

    def give(self, answer: Answer) -> None:
        """Give an answer out, now or when the lease is held; an error of the node at once."""
        if isinstance(answer, PlexSpacesError):
            self._answered(answer)
        elif self._lease.term != self._term:
            self._answered(cut_off(self._name, was_handled=True))
        elif self._lease.is_held():
            self._answered(answer)
        else:
            self.kept = answer
            self._leave = self._lease.when_held(self._again)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._until_s, self._too_late)

    def leave(self) -> Answered | None:
        """Give nothing out any more; return the answer that waited, if there is one."""
        kept, self.kept = self.kept, None
        if self._leave is not None:
            self._leave()
        if self._timer is not None:
            self._timer.cancel()
        return kept

    def _again(self) -> None:
        if (kept := self.leave()) is not None:
            self.give(kept)

    def _too_late(self) -> None:
        if self.leave() is not None:
            self._answered(cut_off(self._name, was_handled=True))


def cut_off(name: str, *, was_handled: bool = False) -> Unavailable:
    """Return the error for a message to an actor whose node does not hold the lease."""
    what = ": it may have handled the message" if was_handled else ""
    return Unavailable(
        f"the node of application {name!r} is cut off from its cluster{what}",
        hint="plexspaces nodes",
    )
