"""The restart policy: a pure function of when machines ended."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plexspaces_node.node.applications.restart import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    MOST_IN_WINDOW,
    WINDOW_S,
    wait_before_restart,
)


def test_first_end_is_followed_by_a_quick_restart() -> None:
    """One crash costs a tenth of a second."""
    assert wait_before_restart([100.0], 100.0) == FIRST_WAIT_S


def test_waits_double_and_are_bounded() -> None:
    """Each further end within the window doubles the wait, up to the longest."""
    waits = [wait_before_restart([0.0] * n, 0.0) for n in range(1, MOST_IN_WINDOW + 1)]
    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits[-1] == LONGEST_WAIT_S


def test_too_many_ends_in_the_window_give_up() -> None:
    """An application that cannot live does not cost for ever."""
    assert wait_before_restart([0.0] * (MOST_IN_WINDOW + 1), 0.0) is None


@given(st.lists(st.floats(0, 1e6), max_size=40))
def test_ends_long_ago_are_forgotten(ends: list[float]) -> None:
    """What ended before the window does not count."""
    now = 1e6 + WINDOW_S + 1
    assert wait_before_restart([*ends, now], now) == FIRST_WAIT_S


@given(st.integers(0, 10**9), st.integers(0, MOST_IN_WINDOW))
def test_host_that_refuses_is_waited_for_without_an_end(refusals: int, ends: int) -> None:
    """What the host cannot do now is no reason to give an application up, however often."""
    wait_s = wait_before_restart([0.0] * ends, 0.0, refusals=refusals)
    assert wait_s is not None
    assert FIRST_WAIT_S <= wait_s <= LONGEST_WAIT_S
    if refusals > MOST_IN_WINDOW:
        assert wait_s == LONGEST_WAIT_S
