"""When to start a machine again that ended by itself: a pure policy.

Doubling waits, so that an application that cannot live costs little; and an end, so that it does
not cost for ever. The count forgets: a machine that ran well for a while starts afresh. A host that
cannot make a machine now, such as one with a full disk, is waited for without an end.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 30.0
WINDOW_S = 600.0
MOST_IN_WINDOW = 10


_MOST_DOUBLINGS = 16


def wait_before_restart(
    ends_s: Sequence[float], now_s: float, *, refusals: int = 0
) -> float | None:
    """Return how many seconds to wait, or None to give up.

    `ends_s` are the times at which the application or its machine ended by itself, on the clock of
    `now_s`; `refusals` is how often since then the host could not make a machine. The last end or
    refusal is included.
    """
    recent = sum(1 for end in ends_s if now_s - end < WINDOW_S)
    if recent > MOST_IN_WINDOW:
        return None
    return backoff_s(recent + refusals, LONGEST_WAIT_S)


def backoff_s(failures: int, longest_s: float) -> float:
    """Return how many seconds to wait after so many failures: doubling, up to `longest_s`."""
    doublings = min(max(0, failures - 1), _MOST_DOUBLINGS)
    return float(min(FIRST_WAIT_S * 2**doublings, longest_s))
