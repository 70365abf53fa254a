"""The tracker adds up exactly what it was given."""

from __future__ import annotations

import math

import pytest

from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.tracker import Coordination, CoordinationComputeTracker, PerformanceReport


@pytest.fixture
def tracker() -> CoordinationComputeTracker:
    """A tracker that has no times yet."""
    return CoordinationComputeTracker("actor-1", "rust")


def test_times_when_added_then_each_counts_for_its_kind(
    tracker: CoordinationComputeTracker,
) -> None:
    """Every time is added to its own sum, to the nanosecond."""
    times = {"vm": 7, "upload": 5, "compile": 3, "load": 11, "messages": 13}
    for kind, duration_ns in times.items():
        tracker.add_coordinate_ns(duration_ns, kind=Coordination(kind))
    tracker.add_compute_ns(780)
    tracker.increment_message()
    report = tracker.finalize()
    assert (report.vm_ns, report.load_ns, report.messages_ns) == (7, 11, 13)
    assert (report.upload_ns, report.compile_ns) == (5, 3)
    assert (report.coordinate_ns, report.compute_ns, report.total_ns) == (39, 780, 819)
    assert report.messages == 1
    assert report.granularity_ratio == pytest.approx(20.0)
    assert report.efficiency == pytest.approx(780 / 819)
    assert report.ratio_without_deployment == pytest.approx(780 / 13)


def test_tracker_when_finalized_then_it_takes_no_more(tracker: CoordinationComputeTracker) -> None:
    """A final report cannot be changed behind its reader's back."""
    tracker.finalize()
    with pytest.raises(WrongState, match="is final"):
        tracker.increment_message()
    with pytest.raises(WrongState, match="is final"):
        tracker.add_compute_ns(1)
    assert repr(tracker) == "<CoordinationComputeTracker 'actor-1' finalized>"


def test_add_when_negative_then_invalid_argument(tracker: CoordinationComputeTracker) -> None:
    """Time does not run backwards."""
    with pytest.raises(InvalidArgument, match="-1 ns"):
        tracker.add_compute_ns(-1)
    with pytest.raises(InvalidArgument, match="-2 ns"):
        tracker.add_coordinate_ns(-2)


def test_ratios_when_the_divisor_is_zero_then_infinite_or_nan() -> None:
    """A ratio that does not exist is not given a number."""
    busy = PerformanceReport("a", "rust", 5, 0, 0, 0, 0, 0, 1)
    idle = PerformanceReport("a", "rust", 0, 0, 0, 0, 0, 0, 0)
    assert busy.granularity_ratio == math.inf
    assert busy.efficiency == 1.0
    assert math.isnan(idle.granularity_ratio)
    assert math.isnan(idle.efficiency)


def test_combined_when_given_reports_then_every_time_is_summed() -> None:
    """The sum of reports is a report whose parts are the sums."""
    first = PerformanceReport("a", "rust", 1, 2, 3, 4, 5, 6, 7)
    second = PerformanceReport("b", "go", 10, 20, 30, 40, 50, 60, 70)
    both = PerformanceReport.combined((first, second), actor_id="all", language="2 applications")
    assert both == PerformanceReport("all", "2 applications", 11, 22, 33, 44, 55, 66, 77)
