"""The right of a node to serve its actors: it ends by itself unless it is renewed.

A node that is cut off cannot be told so. It has to stop serving its actors before others start
them, and its own clock says when: `LEASE_S` after it sent the last beat that was acknowledged. The
leader declares it dead `LEASE_S + DRIFT_S` after it saw that beat, which is later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import CLOCK_BOOTTIME, clock_gettime

BEAT_S = 1.0
"""Between two beats."""

LEASE_S = 5.0
"""How long a beat lets a node serve its actors: a node that is dead is missed for as long.

In an election of NATS, which takes 4 to 9 s (`raft.go`), nobody can beat: actors' answers wait for
its end then, if it takes longer than this.
"""

DRIFT_S = 0.3
"""By how much two clocks may differ after `LEASE_S`, and the event loop be late."""


def boot_time_s() -> float:
    """Return the time since the host's start, with the time in which it was suspended."""
    return clock_gettime(CLOCK_BOOTTIME)


class Lease:
    """Whether this node may serve its actors, on its own clock. Used on one event loop.

    Attributes:
        term: raised whenever the lease is taken away, so that others may serve meanwhile; not when
            it only was not renewed in time.
    """

    def __init__(self, clock: Callable[[], float] = boot_time_s) -> None:
        """Not held yet."""
        self.term = 0
        self._clock = clock
        self._until_s = -1.0
        self._waiting: list[Callable[[], None]] = []
        self._ended: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Lease {'held' if self.is_held() else 'not held'}>"

    def is_held(self) -> bool:
        """Return whether it is; cheap enough for every message."""
        return self._clock() < self._until_s

    def left_s(self) -> float:
        """Return for how long it is still held; 0 or less if it is not."""
        return self._until_s - self._clock()

    def renew(self, sent_s: float) -> None:
        """Hold it until `LEASE_S` after a beat was sent, which was acknowledged since."""
        self._until_s = max(self._until_s, sent_s + LEASE_S)
        if self.is_held():
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                call()

    def end(self) -> None:
        """Do not hold it any more: somebody said so."""
        self.term += 1
        self._until_s = -1.0
        for call in tuple(self._ended):
            call()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call something whenever the lease is taken away; it must neither block nor raise."""
        self._ended.append(call)

    def when_held(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call something once it is held: at the next renewal, or soon if it is held now.

        The returned function ends the wait; it may be called twice.
        """
        if self.is_held():
            return asyncio.get_running_loop().call_soon(call).cancel
        self._waiting.append(call)

        def leave() -> None:
            if call in self._waiting:
                self._waiting.remove(call)

        return leave
