"""How fast an agent is read from: unrequested frames are paced, and others can pause reading.

Over a rate limit, or while somebody pauses it, the node stops reading: then the agent waits.
"""

from __future__ import annotations

import asyncio
from enum import Flag, auto

from plexspaces_node.link.frames import AgentFrame, Body
from plexspaces_node.model import MIB

UNASKED_PER_S = 5_000
"""The rate limit of log lines, host calls, parts of snapshots and unrequested answers. A frame with
a long head counts for several: it is parsed, and perhaps kept."""

HEAD_BYTES = 256
"""A frame counts for one more for each of these bytes in its head."""

UNASKED_BYTES_PER_S = 128 * MIB
"""The rate limit of their bodies, which are passed on as they are."""

BURST_S = 0.25
"""How much of the limit can be used at once, in time."""


class Hold(Flag):
    """Why nothing is read from an agent for the moment."""

    PACE = auto()
    """It has sent more than its rate limit."""
    ANSWERS = auto()
    """It does not accept the answers to its host calls."""
    CALLS = auto()
    """It has so many requests that some of them wait here."""


class Allowance:
    """An amount per second; what was not used is kept for `BURST_S`."""

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._left = per_s * BURST_S
        self._since_s = now_s

    def spend(self, amount: float, now_s: float) -> float:
        """Take an amount, available or not; return in how many seconds some is available again."""
        gained = (now_s - self._since_s) * self._per_s
        self._left = min(self._left + gained, self._per_s * BURST_S) - amount
        self._since_s = now_s
        return max(0.0, -self._left / self._per_s)


class Reading:
    """Whether a transport is read from. Nothing here blocks."""

    def __init__(self, transport: asyncio.ReadTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._hold = Hold(0)
        self._was_held = False
        now_s = self._loop.time()
        self._unasked = Allowance(UNASKED_PER_S, now_s)
        self._unasked_bytes = Allowance(UNASKED_BYTES_PER_S, now_s)
        self.ahead_s = 0.0
        """How long nothing more should be read; see `keep_pace`."""
        self._pacing: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Reading {self._hold}>"

    def unasked(self, count: int, frame: AgentFrame, body: Body) -> None:
        """Count an unrequested frame; over its limit the agent is ahead."""
        now_s = self._loop.time()
        count += frame.ByteSize() // HEAD_BYTES
        wait_s = max(self._unasked.spend(count, now_s), self._unasked_bytes.spend(len(body), now_s))
        self.ahead_s = max(self.ahead_s, wait_s)

    def keep_pace(self) -> None:
        """Pause an agent that is ahead until it is not."""
        wait_s, self.ahead_s = self.ahead_s, 0.0
        if self._pacing is not None:
            self._pacing.cancel()
        self._pacing = self._loop.call_later(wait_s, self.release, Hold.PACE)
        self.hold(Hold.PACE)

    def hold(self, why: Hold) -> None:
        """Stop reading."""
        self._hold |= why
        self._was_held = True
        self._transport.pause_reading()

    def release(self, why: Hold) -> None:
        """Resume reading, unless something else pauses it too."""
        held, self._hold = self._hold, self._hold & ~why
        if held and not self._hold and not self._transport.is_closing():
            self._transport.resume_reading()

    def was_held(self) -> bool:
        """Return whether something was left unread for a while since the last call."""
        held, self._was_held = self._was_held or bool(self._hold), False
        return held

    def close(self) -> None:
        """Resume nothing any more."""
        if self._pacing is not None:
            self._pacing.cancel()
