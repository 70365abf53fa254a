"""The tracker adds up exactly what it was given."""

from __future__ import annotations

import math

import pytest

from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.tracker import CoordinationComputeTracker, PerformanceReport


class FakeClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, duration_ns: int) -> None:
        self.now_ns += duration_ns


@pytest.fixture
def clock() -> FakeClock:
    """A clock of the test's own."""
    return FakeClock()


@pytest.fixture
def tracker(clock: FakeClock) -> CoordinationComputeTracker:
    """A tracker on that clock."""
    return CoordinationComputeTracker("actor-1", "rust", clock=clock)


def test_spans_when_started_and_ended_then_each_counts_for_its_kind(
    tracker: CoordinationComputeTracker, clock: FakeClock
) -> None:
    """Every span is added to its own sum, to the nanosecond, and returned by its end."""
    spans = {"vm": 7, "upload": 5, "compile": 3, "load": 11, "messages": 13}
    for kind, duration_ns in spans.items():
        tracker.start_coordinate(kind)
        clock.advance(duration_ns)
        assert tracker.end_coordinate() == duration_ns
    tracker.start_compute()
    clock.advance(780)
    assert tracker.end_compute() == 780
    tracker.increment_message()
    report = tracker.finalize()
    assert (report.vm_ns, report.load_ns, report.messages_ns) == (7, 11, 13)
    assert (report.upload_ns, report.compile_ns) == (5, 3)
    assert (report.coordinate_ns, report.compute_ns, report.total_ns) == (39, 780, 819)
    assert report.messages == 1
    assert report.granularity_ratio == pytest.approx(20.0)
    assert report.efficiency == pytest.approx(780 / 819)
    assert report.ratio_without_deployment == pytest.approx(780 / 13)


def test_spans_when_the_body_raises_then_the_time_counts_all_the_same(
    tracker: CoordinationComputeTracker, clock: FakeClock
) -> None:
    """Both context managers close their span on the way out of an exception."""

    def body(duration_ns: int) -> None:
        clock.advance(duration_ns)
        raise ArithmeticError

    with pytest.raises(ArithmeticError), tracker.coordinate():
        body(5)
    with pytest.raises(ArithmeticError), tracker.compute():
        body(3)
    report = tracker.finalize()
    assert (report.messages_ns, report.compute_ns) == (5, 3)


def test_times_when_measured_elsewhere_then_they_are_added(
    tracker: CoordinationComputeTracker,
) -> None:
    """Durations from a node's reply add up beside the tracker's own."""
    tracker.add_coordinate_ns(40, kind="vm")
    tracker.add_coordinate_ns(2)
    tracker.add_compute_ns(100)
    tracker.add_compute_ns(0)
    report = tracker.finalize()
    assert (report.vm_ns, report.messages_ns, report.compute_ns) == (40, 2, 100)


def test_start_when_another_span_is_open_then_wrong_state(
    tracker: CoordinationComputeTracker, clock: FakeClock
) -> None:
    """No moment is counted twice, and the refused start does not disturb the open span."""
    tracker.start_coordinate()
    for start in (tracker.start_coordinate, tracker.start_compute):
        with pytest.raises(WrongState, match="coordinate has not ended") as caught:
            start()
        assert caught.value.hint == "call end_coordinate() first"
    clock.advance(9)
    assert tracker.end_coordinate() == 9


def test_end_when_not_started_then_wrong_state(tracker: CoordinationComputeTracker) -> None:
    """An end without its start, or for the other kind, is a mistake that is told."""
    with pytest.raises(WrongState, match="compute of actor-1 has not started"):
        tracker.end_compute()
    tracker.start_compute()
    with pytest.raises(WrongState, match="coordinate of actor-1 has not started"):
        tracker.end_coordinate()


def test_finalize_when_a_span_is_open_then_wrong_state(
    tracker: CoordinationComputeTracker,
) -> None:
    """A report is never made from half a measurement."""
    tracker.start_compute()
    with pytest.raises(WrongState, match="compute of actor-1 has not ended"):
        tracker.finalize()
    tracker.end_compute()
    assert tracker.finalize() == tracker.finalize()


def test_tracker_when_finalized_then_it_takes_no_more(tracker: CoordinationComputeTracker) -> None:
    """A final report cannot be changed behind its reader's back."""
    tracker.finalize()
    with pytest.raises(WrongState, match="is final"):
        tracker.start_compute()
    with pytest.raises(WrongState, match="is final"):
        tracker.increment_message()
    with pytest.raises(WrongState, match="is final"):
        tracker.add_compute_ns(1)
    assert repr(tracker) == "<CoordinationComputeTracker 'actor-1' finalized>"


def test_add_when_negative_or_of_no_kind_then_invalid_argument(
    tracker: CoordinationComputeTracker,
) -> None:
    """Time does not run backwards, and every coordination has a known kind."""
    with pytest.raises(InvalidArgument, match="-1 ns"):
        tracker.add_compute_ns(-1)
    with pytest.raises(InvalidArgument, match="'network' is not known") as caught:
        tracker.add_coordinate_ns(1, kind="network")
    assert caught.value.hint == "choose one of vm, upload, compile, load, messages"


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
