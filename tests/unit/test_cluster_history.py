"""The checker of what clients of a cluster saw: it finds what cannot be, and nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cluster.history import (
    NEVER,
    Deployed,
    Owned,
    Read,
    Served,
    Write,
    availability,
    faults_of_deploys,
    faults_of_keys,
    faults_of_lives,
    faults_of_owners,
    lost_keys,
)


def write(number: int, begin_s: float, end_s: float = NEVER, *, deletes: bool = False) -> Write:
    return Write("shop", "k", number, begin_s, end_s, deletes)


def read(number: int, begin_s: float, end_s: float) -> Read:
    return Read("shop", "k", number, begin_s, end_s)


ACKNOWLEDGED = [write(1, 0, 1), write(2, 2, 3)]


@pytest.mark.parametrize(
    ("writes", "reads"),
    [
        pytest.param(ACKNOWLEDGED, [read(2, 4, 5)], id="the last one"),
        pytest.param(ACKNOWLEDGED, [read(1, 2.5, 5)], id="the one before, begun during a write"),
        pytest.param(ACKNOWLEDGED, [read(0, 0.5, 9)], id="none, begun before the first ended"),
        pytest.param([write(1, 0)], [read(0, 5, 6), read(1, 7, 8)], id="an unanswered one, late"),
        pytest.param([write(1, 0)], [read(0, 5, 6), read(0, 7, 8)], id="an unanswered one, never"),
        pytest.param(
            ACKNOWLEDGED, [read(2, 2.1, 2.4), read(1, 2.2, 2.5)], id="two reads at the same time"
        ),
        pytest.param(
            [*ACKNOWLEDGED, write(3, 4, 5, deletes=True)], [read(0, 6, 7)], id="after a delete"
        ),
        pytest.param(
            [*ACKNOWLEDGED, write(3, 4, deletes=True)],
            [read(2, 5, 6), read(0, 7, 8)],
            id="an unanswered delete",
        ),
        pytest.param(
            [write(1, 0, 1), write(2, 2, 9, deletes=True)],
            [read(0, 0.5, 3), read(1, 4, 5)],
            id="a slow read may have seen what was before all",
        ),
    ],
)
def test_history_when_a_register_can_do_it_then_nothing_is_found(
    writes: list[Write], reads: list[Read]
) -> None:
    """What overlaps may be seen in any order, and what was not answered may be done or not."""
    assert faults_of_keys(writes, reads) == []


@pytest.mark.parametrize(
    ("writes", "reads"),
    [
        pytest.param(ACKNOWLEDGED, [read(1, 4, 5)], id="an acknowledged write is lost"),
        pytest.param(ACKNOWLEDGED, [read(0, 4, 5)], id="all is lost"),
        pytest.param(
            [write(1, 0, 1), write(2, 2)], [read(2, 3, 4), read(1, 5, 6)], id="a read goes back"
        ),
        pytest.param([write(1, 5, 6)], [read(1, 0, 4)], id="what has not begun yet"),
        pytest.param([write(1, 0, 1)], [read(7, 2, 3)], id="what nobody wrote"),
        pytest.param(
            [*ACKNOWLEDGED, write(3, 4, 5, deletes=True)], [read(2, 6, 7)], id="back from deletion"
        ),
        pytest.param(
            [*ACKNOWLEDGED, write(3, 4, deletes=True)],
            [read(0, 5, 6), read(2, 7, 8)],
            id="back from an unanswered deletion",
        ),
    ],
)
def test_history_when_no_register_does_it_then_it_is_found(
    writes: list[Write], reads: list[Read]
) -> None:
    """A lost write, a read that goes back, and one from nowhere."""
    assert len(faults_of_keys(writes, reads)) == 1


def test_history_when_a_writer_goes_on_after_an_unknown_end_then_it_is_refused() -> None:
    """The check would not be exact: the first write could still happen after the second."""
    with pytest.raises(ValueError, match="not one after the other"):
        faults_of_keys([write(1, 0), write(2, 1, 2)], [])


@given(seed=st.integers(0, 10**9), loses=st.booleans())
def test_history_when_made_by_a_real_register_then_only_what_it_loses_is_found(
    seed: int, loses: bool
) -> None:
    """Random overlaps of operations on a register, each with a moment at which it happens."""
    dice = random.Random(seed)
    writes, now = [], 0.0
    happened: list[tuple[float, int]] = [(-1.0, 0)]
    for number in range(1, 12):
        begin_s = now + dice.random()
        at, end_s = sorted((begin_s + dice.random(), begin_s + dice.random()))
        writes.append(write(number, begin_s, end_s))
        happened.append((at, number))
        now = end_s
    reads = []
    for _ in range(40):
        begin_s = dice.uniform(0, now + 2)
        at, end_s = sorted((begin_s + dice.random(), begin_s + dice.random()))
        reads.append(
            read([number for moment, number in happened if moment <= at][-1], begin_s, end_s)
        )
    if loses:
        reads.append(read(10, now + 3, now + 4))
    assert len(faults_of_keys(writes, reads)) == loses


def test_keys_when_one_was_not_read_at_the_end_then_it_counts_as_lost() -> None:
    """A key that nobody asked for again proves nothing."""
    assert lost_keys(ACKNOWLEDGED, []) == ["shop: key k was not read at the end"]
    assert lost_keys(ACKNOWLEDGED, [read(2, 4, 5)]) == []
    assert lost_keys([write(1, 0)], []) == []


EPOCHS = [Owned("shop", 5, "a"), Owned("shop", 9, "b"), Owned("shop", 12, "a")]


@pytest.mark.parametrize(
    ("replies", "faults"),
    [
        pytest.param([("a", 0, 1), ("b", 2, 3), ("a", 4, 5)], 0, id="one after the other"),
        pytest.param([("a", 0, 1), ("a", 4, 5)], 0, id="an epoch without replies"),
        pytest.param([("a", 0, 3), ("b", 1, 2), ("a", 1, 4)], 0, id="at the same time"),
        pytest.param([("b", 0, 1), ("a", 2, 3), ("b", 4, 5)], 1, id="an owner of former times"),
        pytest.param([("a", 0, 1), ("b", 2, 3), ("a", 4, 5), ("b", 6, 7)], 1, id="both in turns"),
        pytest.param([("c", 0, 1)], 1, id="never an owner"),
    ],
)
def test_owners_when_replies_do_not_follow_the_epochs_then_each_is_found(
    replies: list[tuple[str, float, float]], faults: int
) -> None:
    """Two nodes that serve one actor in turns need an epoch for each turn."""
    served = [Served("shop", *reply) for reply in replies]
    assert len(faults_of_owners(served, EPOCHS)) == faults


@pytest.mark.parametrize(
    ("replies", "faults"),
    [
        pytest.param([("x", 0, 1), ("y", 2, 3)], 0, id="one after the other"),
        pytest.param([("y", 2, 3), ("x", 0, 1), ("y", 4, 5)], 0, id="in whatever order"),
        pytest.param([("x", 0, 3), ("y", 1, 2), ("x", 1, 4)], 0, id="at the same time"),
        pytest.param([("x", 0, 9), ("x", 20, 21), ("y", 0, 10)], 0, id="the slow one was first"),
        pytest.param([("x", 0, 1), ("y", 2, 3), ("x", 4, 5)], 1, id="back again"),
        pytest.param([("x", 0, 1), ("y", 0.5, 2), ("x", 2.5, 5), ("y", 6, 7)], 1, id="by turns"),
        pytest.param([("x", 0, 1), ("y", 2, 3), ("z", 2, 3), ("x", 4, 5)], 2, id="two between"),
    ],
)
def test_lives_when_they_reply_by_turns_then_each_pair_is_found(
    replies: list[tuple[str, float, float]], faults: int
) -> None:
    """An actor that starts again is another; one that was started does not come back."""
    served = [Served("shop", *reply) for reply in replies]
    assert len(faults_of_lives(served)) == faults
    # Another actor's are nothing to them.
    alone = [Served(reply[0], *reply) for reply in replies]
    assert faults_of_lives(alone) == []


def test_deploys_when_they_differ_from_what_was_told_then_each_is_found() -> None:
    """Acknowledged deploys are there, acknowledged removals gone; the rest may be either."""
    told = [
        Deployed("kept", 0, 1),
        Deployed("gone", 0, 1),
        Deployed("gone", 2, 3, is_removal=True),
        Deployed("unsure", 0),
        Deployed("half", 0, 1),
        Deployed("half", 2, is_removal=True),
    ]
    assert faults_of_deploys(told, ["kept"]) == []
    assert faults_of_deploys(told, ["kept", "unsure", "half"]) == []
    assert faults_of_deploys(told, ["gone", "other"]) == [
        "gone is there, and its removal was acknowledged",
        "kept is not there, and its deploy was acknowledged",
        "other is there, and nobody deployed it",
    ]


def test_availability_when_there_is_a_gap_then_its_length_is_told() -> None:
    """Also one at the begin or the end."""
    assert availability([1.0, 2.0, 5.0], 0, 6) == 3
    assert availability([], 0, 6) == 6
