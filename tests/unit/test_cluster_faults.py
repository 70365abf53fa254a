"""The faults of a cluster follow from their seed."""

from __future__ import annotations

from support.cluster.faults import Kind, schedule

NODES = ["a", "b", "c", "d"]


def test_schedule_when_the_seed_is_the_same_then_so_are_the_faults() -> None:
    """So that a run can be repeated; another seed has others."""
    first, again, other = (list(schedule(seed, NODES, 200)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_schedule_when_it_is_long_then_it_has_every_kind_and_ends() -> None:
    """Each as often as it weighs, on nodes that exist, within about the time that was given."""
    faults = list(schedule(1, NODES, 3000))
    assert {fault.kind for fault in faults} == set(Kind)
    assert all(set(fault.nodes) <= set(NODES) and fault.nodes for fault in faults)
    assert all(len(fault.nodes) == 2 for fault in faults if fault.kind is Kind.HALVES)
    assert 3000 <= sum(fault.held_s + fault.rest_s for fault in faults) < 3020


def test_schedule_when_kinds_are_left_out_then_there_are_none() -> None:
    """A machine without a disk to fill does without that."""
    left_out = frozenset({Kind.DISK_FULL})
    assert all(fault.kind not in left_out for fault in schedule(1, NODES, 1000, without=left_out))
