"""How soon somebody unknown is told so: at once by default, late in a flood, and never too late."""

from __future__ import annotations

import pytest

from plexspaces_node.node.access.pace import AT_ONCE, MOST_S, Pace


def test_refusals_when_few_then_each_is_at_once() -> None:
    """A person who mistypes, and a script that tries every second."""
    now_s = [1000.0]
    pace = Pace(lambda: now_s[0])
    for _ in range(1000):
        assert pace.next_s() == 0
        now_s[0] += 1 / AT_ONCE


def test_refusals_when_a_flood_then_they_are_spaced_out_within_bounds() -> None:
    """After it the next one is soon told again: the flood leaves no debt."""
    now_s = [1000.0]
    pace = Pace(lambda: now_s[0])
    waits = [pace.next_s() for _ in range(10_000)]
    assert waits[:AT_ONCE] == [0] * AT_ONCE
    assert waits[AT_ONCE] == pytest.approx(1 / AT_ONCE)
    assert max(waits) == waits[-1] == MOST_S
    now_s[0] += MOST_S + 1
    assert pace.next_s() == 0
    assert repr(pace) == "<Pace of 100/s>"
