"""Something that proves who calls, for as long as it does: a secret of a token, a certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time_ns

from plexspaces_node.node.access.identity import Identity

Ended = Callable[[], None]
"""Called once when what somebody has proved themselves with is no longer valid."""


class Proof:
    """A proof of an identity, and what ends with it. Used on one event loop.

    Attributes:
        identity: for everybody who brings this proof the same object.
        until_ns: when it ends, in Unix time; 0 for never.
        used_ns: when it was last asked for, 0 for never.
    """

    __slots__ = ("_clock", "_timer", "_watches", "identity", "until_ns", "used_ns")

    def __init__(
        self, identity: Identity, until_ns: int = 0, *, clock: Callable[[], int] = time_ns
    ) -> None:
        self.identity = identity
        self.until_ns = until_ns
        self.used_ns = 0
        self._clock = clock
        self._watches: dict[object, Ended] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Proof of {self.identity.name}, {len(self._watches)} watches>"

    def taken(self) -> Identity | None:
        """Return the identity, None if it is no longer proved."""
        now_ns = self._clock()
        if self.until_ns and now_ns >= self.until_ns:
            return None
        self.used_ns = now_ns
        return self.identity

    def watch(self, ended: Ended) -> Callable[[], None]:
        """Call `ended` at the end of this proof; the returned function ends the watch."""
        watch = object()
        self._watches[watch] = ended
        self._set_timer()

        def unwatch() -> None:
            self._watches.pop(watch, None)
            if not self._watches:
                self._stop_timer()

        return unwatch

    def extend(self, until_ns: int) -> None:
        """Let it end at another time."""
        self.until_ns = until_ns
        self._stop_timer()
        self._set_timer()

    def end(self) -> None:
        """Call everybody who watches, now. Idempotent."""
        self._stop_timer()
        watches, self._watches = tuple(self._watches.values()), {}
        for ended in watches:
            ended()

    def _set_timer(self) -> None:
        if self.until_ns and self._watches and self._timer is None:
            left_s = max(0.0, (self.until_ns - self._clock()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(left_s, self.end)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
