"""Which actor waits for which, also over nodes."""

from __future__ import annotations

import pytest

from plexspaces_node.errors import ActorFailed
from plexspaces_node.node.applications.waits import MOST_WAITING, Waits


def test_begin_when_it_would_wait_for_itself_then_refused() -> None:
    """Over any number of others; not once one of them has its reply."""
    waits = Waits()
    waits.begin("a", "b", named="b")
    end = waits.begin("b", "c", named="c")
    with pytest.raises(ActorFailed, match="'c' asks 'a', which would wait for 'c' itself") as error:
        waits.begin("c", "a", named="a")
    assert error.value.code == "call-cycle"
    end()
    waits.begin("c", "a", named="a")


def test_begin_when_an_ask_timed_out_then_the_later_one_counts() -> None:
    """The end of the earlier one takes nothing from it."""
    waits = Waits()
    end_first = waits.begin("a", "b", named="b")
    end_second = waits.begin("a", "c", named="c")
    end_first()
    with pytest.raises(ActorFailed):
        waits.begin("c", "a", named="a")
    end_second()
    assert (waits._waits, waits._waiters) == ({}, {})


def test_told_waits_when_one_closes_the_cycle_then_refused() -> None:
    """Each node knows its own actors, and what came with a message."""
    here, there = Waits(), Waits()
    here.begin("a", "b", named="b")
    end = there.begin_told(here.chain("a"), "b")
    there.begin("b", "c", named="c")
    assert there.chain("b") == ("b", "a")
    with pytest.raises(ActorFailed):
        there.begin("c", "a", named="a")
    with pytest.raises(ActorFailed):
        here.begin_told(("c", "b"), "a")
    end()
    there.begin("c", "a", named="a")


def test_told_waits_when_they_end_then_nothing_is_left() -> None:
    """What the node knew before stays."""
    waits = Waits()
    own = waits.begin("b", "c", named="c")
    end = waits.begin_told(("x", "b", "a"), "y")
    end()
    end()
    assert waits.chain("c") == ("c", "b")
    own()
    assert (waits._waits, waits._waiters) == ({}, {})


def test_chain_when_very_many_wait_then_some_are_told() -> None:
    """Bounded, and it ends whatever others say."""
    waits = Waits()
    for number in range(MOST_WAITING * 2):
        waits.begin(f"a{number + 1}", f"a{number}", named="x")
    assert len(waits.chain("a0")) == MOST_WAITING
    liar = Waits()
    liar.begin_told(("a", "b"), "c")
    liar.begin_told(("c",), "d")
    assert liar.chain("c") == ("c", "a", "b")
    liar.begin_told(("d",), "e")
    assert liar.chain("e") == ("e", "d", "c", "a", "b")
