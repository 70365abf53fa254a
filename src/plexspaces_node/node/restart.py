"""When to start a machine again that ended by itself: a pure policy.

Doubling waits, so that an application that cannot live costs little; and an end, so that it does
not cost for ever. The count forgets: a machine that ran well for a while starts afresh.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 30.0
WINDOW_S = 600.0
MOST_IN_WINDOW = 10


def wait_before_restart(ends_s: Sequence[float], now_s: float) -> float | None:
    """Return how many seconds to wait, or None to give up.

    `ends_s` are the times at which machines of the application ended by themselves, the last one
    included, on the clock of `now_s`.
    """
    recent = sum(1 for end in ends_s if now_s - end < WINDOW_S)
    if recent > MOST_IN_WINDOW:
        return None
    return float(min(FIRST_WAIT_S * 2 ** max(0, recent - 1), LONGEST_WAIT_S))
