"""When to restart an application that ended by itself: a policy without a clock of its own.

Waits double, so that an application that cannot run costs little, and the policy gives up, so that
it does not cost forever. Old failures are forgotten. If the host cannot start a VM at the moment,
for example because its disk is full, that does not count against the application, and it is retried
forever.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 30.0
WINDOW_S = 600.0
MOST_IN_WINDOW = 10
LONGEST_LEAVE_WAIT_S = 0.8
"""The longest wait after an agent said that its actor starts again in another VM. That is no
failure, and messages wait for it; but an agent that says so again and again must not keep the host
busy with starts."""
MOST_REMEMBERED = 64
_MOST_DOUBLINGS = 16


class Failures:
    """The recent failures of one application, and the resulting wait."""

    def __init__(self) -> None:
        self._ends_s: list[float] = []
        self._leaves_s: list[float] = []
        self._refusals = 0
        self._final = False

    def __len__(self) -> int:
        return len(self._ends_s)

    def clear(self) -> None:
        """Forget everything, because a user asked for a start."""
        self._ends_s.clear()
        self._leaves_s.clear()
        self._refusals = 0
        self._final = False

    def recovered(self) -> None:
        """Record that the host could start a VM again."""
        self._refusals = 0

    def add(self, now_s: float, *, by_host: bool, final: bool = False) -> None:
        """Count a failure of the application, or of the host that runs it.

        After a `final` one only a user can help.
        """
        self._final = final
        if by_host:
            self._refusals += 1
        else:
            self._refusals = 0
            self._ends_s = _recent(self._ends_s, now_s)

    def leave(self, now_s: float) -> None:
        """Count that an agent left for another VM: no failure, whatever the next start does."""
        self._final = False
        self._leaves_s = _recent(self._leaves_s, now_s)

    def wait_s(self, now_s: float) -> float | None:
        """Return how many seconds to wait before the next attempt, None to give up."""
        if self._final:
            return None
        wait_s = wait_before_restart(self._ends_s, now_s, refusals=self._refusals)
        leaves = sum(1 for leave_s in self._leaves_s if now_s - leave_s < WINDOW_S)
        return None if wait_s is None else max(wait_s, backoff_s(leaves, LONGEST_LEAVE_WAIT_S))


def _recent(times_s: Sequence[float], now_s: float) -> list[float]:
    """Return the times of the window, of which there are enough, and now."""
    kept = [time_s for time_s in times_s if now_s - time_s < WINDOW_S]
    return [*kept[-MOST_REMEMBERED:], now_s]


def wait_before_restart(
    ends_s: Sequence[float], now_s: float, *, refusals: int = 0
) -> float | None:
    """Return how many seconds to wait, or None to give up.

    `ends_s` are the times at which the application or its VM ended by itself, on the clock of
    `now_s`; `refusals` is how often since then the host could not start a VM. The last end or
    refusal is included.
    """
    recent = sum(1 for end in ends_s if now_s - end < WINDOW_S)
    if recent > MOST_IN_WINDOW:
        return None
    return backoff_s(recent + refusals, LONGEST_WAIT_S)


def backoff_s(failures: int, longest_s: float) -> float:
    """Return how many seconds to wait after this many failures: doubling, up to `longest_s`."""
    doublings = min(max(0, failures - 1), _MOST_DOUBLINGS)
    return float(min(FIRST_WAIT_S * 2**doublings, longest_s))
