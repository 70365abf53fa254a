"""What is measured of messages: spans, traces that are kept, histories, the bill of a chain."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import pytest

from plexspaces_node.errors import ActorFailed, ActorTrapped, Unavailable
from plexspaces_node.info import MessageTimings
from plexspaces_node.link import frames as link
from plexspaces_node.model import PhaseTimings
from plexspaces_node.node.api.telemetry_messages import trace_to_proto
from plexspaces_node.node.applications import message_times
from plexspaces_node.node.applications.message_times import count_unclaimed
from plexspaces_node.node.telemetry import activity as activity_module
from plexspaces_node.node.telemetry.activity import MOST_TYPES, Activity, Start
from plexspaces_node.node.telemetry.bill import bill_of
from plexspaces_node.node.telemetry.durations import (
    BOUNDS_NS,
    Buckets,
    count_steps,
    new_steps,
    quantiles_ns,
)
from plexspaces_node.node.telemetry.kept_traces import SLOW_NS, SPANS, KeptTraces
from plexspaces_node.node.telemetry.span import MOST_SPANS, Ended, Kind, Span, Step, cut, start_of
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.node.telemetry.timeline import Moment, Ring
from plexspaces_node.trace_context import TraceContext, parse, write

MS = 1_000_000
S = 1000 * MS
TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Clock:
    """The clock of spans, which a test moves."""

    now_ns: int = 1_000 * S


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(activity_module, "perf_counter_ns", lambda: clock.now_ns)
    return clock


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(sample=0.0)


@pytest.fixture
def activity(telemetry: Telemetry, clock: Clock) -> Activity:
    return Activity("app", telemetry)


def handled(  # a message that was answered
    activity: Activity,
    *,
    name: str = "add",
    total_ns: int = 10 * MS,
    compute_ns: int = MS,
    error: ActorFailed | ActorTrapped | None = None,
    cause: Span | TraceContext | None = None,
) -> Span:
    span = activity.begin(Kind.MESSAGE, name, 3, cause)
    activity.end(span, MessageTimings(total_ns, compute_ns, 2 * MS, 3 * MS), error, 5)
    activity.settle()
    return span


# ---- the trace context -----------------------------------------------------------------------


def test_traceparent_of_the_specification_is_read_and_written() -> None:
    """So others that follow it understand each other."""
    context = parse(TEXT)
    assert context == TraceContext(TRACE, PARENT, is_sampled=True)
    assert write(TRACE, PARENT, is_sampled=True) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        TEXT + "-more",
        TEXT + "\n",
        TEXT[:-1],
        "00-" + "é" * 32 + "-b7ad6b7169203331-01",
    ],
)
def test_malformed_traceparent_starts_a_new_trace(text: str) -> None:
    """As W3C says; a client that gets it wrong is answered all the same."""
    assert parse(text) is None


def test_traceparent_of_a_later_version_may_have_more_fields() -> None:
    """It is read as far as it is known."""
    context = parse("01" + TEXT[2:-2] + "00-what-comes-later")
    assert context == TraceContext(TRACE, PARENT, is_sampled=False)


# ---- durations -------------------------------------------------------------------------------


def test_every_duration_has_a_step_and_none_is_far_from_it() -> None:
    """From 0 to 36 years; what is over the longest counts as that."""
    before = -1
    for exponent in range(60):
        for duration_ns in ((1 << exponent) - 1, 1 << exponent, (1 << exponent) * 3 // 2):
            steps = new_steps()
            count_steps([duration_ns], steps)
            assert sum(steps) == 1
            [read] = quantiles_ns(steps, 0.5)
            if duration_ns < 1 << 40:
                assert abs(read - duration_ns) <= duration_ns / 16 + 1
            assert steps.index(1) >= before
            before = steps.index(1)


def test_quantiles_are_those_of_the_durations() -> None:
    """To within the width of a step."""
    steps = new_steps()
    count_steps([each * MS for each in range(1, 501)], steps)
    count_steps([each * MS for each in range(501, 1001)], steps)
    p50_ns, p99_ns = quantiles_ns(steps, 0.5, 0.99)
    assert p50_ns == pytest.approx(500 * MS, rel=1 / 16)
    assert p99_ns == pytest.approx(990 * MS, rel=1 / 16)
    assert quantiles_ns(new_steps(), 0.5) == (0,)


def test_bucket_includes_its_bound() -> None:
    """As Prometheus defines `le`."""
    buckets = Buckets()
    buckets.add(BOUNDS_NS[0])
    buckets.add(BOUNDS_NS[0] + 1)
    buckets.add(BOUNDS_NS[-1] + 1)
    assert (buckets.counts[0], buckets.counts[1], buckets.counts[-1]) == (1, 1, 1)
    assert buckets.sum_ns == 2 * BOUNDS_NS[0] + BOUNDS_NS[-1] + 2


# ---- counting --------------------------------------------------------------------------------


def test_parts_of_a_message_add_up_everywhere(activity: Activity) -> None:
    """No time is lost and none is counted twice."""
    handled(activity)
    spent = activity.spent
    parts = (spent.compute_ns, spent.wait_ns, spent.queue_ns, spent.link_ns)
    assert parts == (MS, 2 * MS, 3 * MS, 4 * MS)
    assert spent.coordinate_ns == 9 * MS
    kind = activity.types["add"]
    assert (kind.messages, kind.payload_bytes, kind.reply_bytes) == (1, 3, 5)
    assert activity.coordination.sum_ns == 9 * MS


def test_types_over_the_limit_are_counted_together(activity: Activity) -> None:
    """Somebody who makes types up costs no more memory."""
    for number in range(MOST_TYPES + 10):
        handled(activity, name=f"type-{number}")
    assert len(activity.types) == MOST_TYPES + 1
    assert activity.types[""].messages == 10
    assert sum(kind.messages for kind in activity.types.values()) == MOST_TYPES + 10


def test_message_that_failed_after_it_caused_something_has_its_version(
    activity: Activity,
) -> None:
    """Though it was not traced on purpose, and got its ids when it asked."""
    activity.version = "1.2.3"
    activity.begin(Kind.MESSAGE, "first", 0)
    span = activity.begin(Kind.MESSAGE, "second", 0)
    span.cause(Step(Kind.STORE, "get", 0))
    activity.end(span, MessageTimings(9, 1, 1, 1), ActorFailed("no", code="bad"), 0)
    assert [kept.version for kept in activity.traces.newest()] == ["1.2.3"]


def test_requests_are_told_apart_by_their_methods_alone(activity: Activity) -> None:
    """Their paths have no bound."""
    activity.is_component = True
    for number in range(100):
        handled(activity, name=f"GET /{number}")
    assert {name: kind.messages for name, kind in activity.types.items()} == {"GET": 100}


@pytest.mark.parametrize(
    ("error", "origin"),
    [(ActorFailed("no", code="bad"), "failed"), (ActorTrapped("oops", code="trap"), "trapped")],
)
def test_failure_is_kept_with_its_trace(
    activity: Activity, error: ActorFailed, origin: str
) -> None:
    """Who looks at it finds what led to it."""
    span = handled(activity, error=error)
    [failure] = activity.failures_kept
    assert (failure.type, failure.origin, failure.message) == ("add", origin, error.message)
    assert span.tree is not None
    assert failure.trace_id == span.tree.trace_id
    assert (activity.total.messages, activity.total.failures) == (1, 1)
    assert span in list(activity.traces.newest())


def test_message_without_an_answer_is_a_failure_of_the_platform(activity: Activity) -> None:
    """It is no answer, so it has no times."""
    span = activity.begin(Kind.MESSAGE, "add", 0)
    activity.fail(span, Unavailable("gone"))
    assert (activity.total.messages, activity.total.failures) == (0, 1)
    assert activity.failures_kept[0].origin == "platform"


def test_failures_and_their_messages_are_bounded(activity: Activity) -> None:
    """An application that fails loudly costs no more memory."""
    for _ in range(100):
        handled(activity, name="n" * 1000, error=ActorFailed("x" * 100_000, code="c" * 1000))
    assert len(activity.failures_kept) == 8
    assert max(len(each.message) for each in activity.failures_kept) == 512
    assert max(len(each.type) for each in activity.failures_kept) == 128


def test_wide_characters_are_kept_in_no_more_memory_than_others() -> None:
    """An application that writes them costs no more; what fits is kept."""
    most = sys.getsizeof("x" * 128)
    for one in ("x", "é", "я", "語", "\U0001f600"):
        for text in (one * 1000, "x" * 127 + one * 1000, "x" * 128 + one):
            assert sys.getsizeof(cut(text)) <= most + sys.getsizeof(one) - sys.getsizeof("")
            assert text.startswith(cut(text))
    assert cut("é" * 1000) == "é" * 128
    assert cut("語" * 1000) == "語" * 64


# ---- which messages are traced -----------------------------------------------------------------


def test_first_message_in_a_while_is_traced_and_those_after_it_are_not(
    activity: Activity, clock: Clock
) -> None:
    """Who sends one by hand finds it."""
    assert handled(activity).is_sampled
    clock.now_ns += 99 * MS
    assert not handled(activity).is_sampled
    clock.now_ns += MS
    assert handled(activity).is_sampled


def test_share_of_the_others_is_traced(telemetry: Telemetry, activity: Activity) -> None:
    """The setting is a probability."""
    telemetry.sample = 1.0
    assert all(handled(activity).is_sampled for _ in range(10))


@pytest.mark.parametrize("is_sampled", [True, False])
def test_client_decides_whether_its_trace_is_traced(
    activity: Activity, *, is_sampled: bool
) -> None:
    """Its own tracing has decided already."""
    context = TraceContext(TRACE, PARENT, is_sampled)
    handled(activity)
    span = handled(activity, cause=context)
    assert span.is_sampled == is_sampled
    assert span.parent_id == PARENT
    assert span.traceparent == write(TRACE, span.span_id, is_sampled=is_sampled)


def test_traced_messages_are_exported_and_shown_with_their_buckets(
    telemetry: Telemetry, activity: Activity
) -> None:
    """So a slow bucket leads to a message that was slow."""
    exported: list[Ended] = []
    telemetry.export = exported.append
    span = handled(activity)
    handled(activity)
    assert exported == [Ended(span)]
    assert span.tree is not None
    [(trace_id, duration_ns, _)] = activity.duration.exemplars.values()
    assert (trace_id, duration_ns) == (span.tree.trace_id, 10 * MS)


def test_every_end_of_a_traced_message_is_exported_once(
    telemetry: Telemetry, activity: Activity
) -> None:
    """An answer, an error of the platform, and none for which anybody waited."""
    exported: list[Ended] = []
    telemetry.export = exported.append
    context = TraceContext(TRACE, PARENT, is_sampled=True)
    answered = handled(activity, cause=context)
    failed = activity.begin(Kind.MESSAGE, "x", 0, context)
    activity.fail(failed, Unavailable("gone"))
    lost = activity.begin(Kind.MESSAGE, "x", 0, context)
    activity.lose(lost)
    assert exported == [Ended(answered), Ended(failed), Ended(lost)]
    assert failed.error == ("unavailable", "gone")
    assert failed.total_ns > 0
    assert activity.total.failures == 2


@pytest.mark.parametrize("is_sampled", [True, False])
def test_step_is_exported_when_it_ends_though_its_message_is_over(
    telemetry: Telemetry, activity: Activity, *, is_sampled: bool
) -> None:
    """As a request that goes on after the response; of a message that is not traced, none is."""
    exported: list[Ended] = []
    telemetry.export = exported.append
    span = activity.begin(Kind.MESSAGE, "x", 0, TraceContext(TRACE, PARENT, is_sampled))
    step = Step(Kind.FETCH, "GET example.com", span.begin_ns)
    assert span.cause(step)
    activity.end(span, MessageTimings(10, 1, 2, 3), None, 0)
    step.end(span.begin_ns + 100)
    activity.made(span, step)
    assert exported == ([Ended(span), Ended(span, step)] if is_sampled else [])


def test_requests_to_a_component_are_exported_as_such(
    telemetry: Telemetry, activity: Activity
) -> None:
    """Their names are methods and paths, and not types."""
    exported: list[Ended] = []
    telemetry.export = exported.append
    activity.is_component = True
    handled(activity, name="GET /x")
    assert [ended.is_request for ended in exported] == [True]


def test_message_that_waited_for_a_start_in_vain_has_waited_all_the_time(
    activity: Activity, clock: Clock
) -> None:
    """No agent was ever sent it: all of it is the wait, and that has ended."""
    span = activity.begin(Kind.MESSAGE, "x", 0)
    span.is_cold = True
    clock.now_ns += 5 * MS
    activity.fail(span, Unavailable("it does not start"))
    assert span.total_ns == span.queue_ns == start_of(span).total_ns == 5 * MS
    assert span.link_ns == 0


def test_message_that_waited_for_a_start_and_was_lost_has_waited_so_long(
    activity: Activity, clock: Clock
) -> None:
    """The rest of it is the agent's, which said nothing."""
    span = activity.begin(Kind.MESSAGE, "x", 0)
    span.is_cold, span.waited_ns = True, 2 * MS
    clock.now_ns += 5 * MS
    activity.fail(span, Unavailable("the VM ended"))
    assert (span.queue_ns, span.link_ns) == (2 * MS, 3 * MS)


def test_message_whose_sender_left_has_taken_its_wait_for_a_start_too(
    activity: Activity, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as long as any other."""
    monkeypatch.setattr(message_times, "perf_counter_ns", lambda: clock.now_ns)
    span = activity.begin(Kind.MESSAGE, "x", 0)
    span.is_cold, span.waited_ns = True, 500 * MS
    clock.now_ns += 510 * MS
    count_unclaimed(activity, span, link.Reply(compute_ns=MS), 0)
    assert (span.total_ns, span.queue_ns, span.compute_ns) == (510 * MS, 500 * MS, MS)


def test_message_that_waited_for_a_replacement_is_of_the_version_that_answered_it(
    activity: Activity,
) -> None:
    """So a trace does not blame the one that was replaced."""
    activity.started(Start(1, "deploy", "", "", "1", PhaseTimings()))
    spans = [activity.begin(Kind.MESSAGE, "x", 0) for _ in range(2)]
    spans[1].is_cold = True
    activity.started(Start(2, "replace", "", "", "2", PhaseTimings()))
    for span in spans:
        activity.end(span, MessageTimings(9, 1, 2, 3), ActorFailed("no", code="bad"), 0)
    assert [span.version for span in spans] == ["1", "2"]


def test_message_that_was_lost_is_no_example_of_its_bucket(activity: Activity) -> None:
    """It is in none: it was not answered."""
    context = TraceContext(TRACE, PARENT, is_sampled=True)
    activity.lose(activity.begin(Kind.MESSAGE, "x", 0, context))
    assert activity.duration.exemplars == {}


def test_trace_that_is_not_sampled_is_kept_only_if_it_is_slow(activity: Activity) -> None:
    """Its owner keeps none of it, and nobody else will ask."""
    for _ in range(SPANS):
        handled(activity, total_ns=100 * MS)
    context = TraceContext(TRACE, PARENT, is_sampled=False)
    handled(activity, total_ns=20 * MS, cause=context)
    assert list(activity.traces.of(TRACE)) == []
    slow = handled(activity, total_ns=S, cause=context)
    assert list(activity.traces.of(TRACE)) == [slow]


def test_slowest_messages_are_kept_though_they_were_not_traced(activity: Activity) -> None:
    """The slowest first."""
    for total in (*range(10, 100), *range(100, 10, -1)):
        handled(activity, total_ns=total * MS)
    kept = [span.total_ns // MS for span in activity.traces.slowest()]
    assert kept == [100, 99, 99, 98, 98, 97, 97, 96]


def test_slow_message_is_forgotten_after_an_hour(activity: Activity, clock: Clock) -> None:
    """The first message of all, which is slow, does not hide what is slow today."""
    handled(activity, total_ns=S)
    clock.now_ns += SLOW_NS // 2
    handled(activity, total_ns=50 * MS)
    activity.traces.forget_old(clock.now_ns + SLOW_NS // 2 + 1)
    assert [span.total_ns for span in activity.traces.slowest()] == [50 * MS]
    assert activity.traces.floor_ns == 0


def test_kept_traces_are_bounded_by_their_spans_but_one_is_always_kept() -> None:
    """However much one message causes."""
    kept = KeptTraces()
    for _ in range(10):
        root = Span("app", Kind.MESSAGE, "x", 0, 0)
        root.identify(is_sampled=True)
        for _ in range(2 * MOST_SPANS):
            is_kept = root.cause(Step(Kind.STORE, "get", 0))
        assert not is_kept
        root.total_ns = 1
        assert root.tree is not None
        assert (root.tree.spans, root.tree.dropped) == (MOST_SPANS, MOST_SPANS + 1)
        kept.add(root)
        kept.add_slow(root)
    assert MOST_SPANS > SPANS
    assert len(list(kept.newest())) == len(list(kept.slowest())) == 1


def test_trace_that_was_asked_for_or_failed_outlives_those_that_were_not(
    telemetry: Telemetry, activity: Activity
) -> None:
    """A busy application takes a sample ten times a second, and who asked wants to look at his."""
    telemetry.sample = 1.0
    asked = handled(activity, cause=TraceContext(TRACE, PARENT, is_sampled=True))
    failed = handled(activity, error=ActorFailed("no", code="bad"))
    others = [handled(activity) for _ in range(100)]
    kept = list(activity.traces.newest())
    assert {asked, failed} < set(kept)
    assert kept[0] in others
    assert len(kept) == SPANS + 2


def test_traces_are_found_by_their_id(activity: Activity) -> None:
    """In the order in which they came."""
    context = TraceContext(TRACE, PARENT, is_sampled=True)
    spans = [handled(activity, cause=context) for _ in range(2)]
    handled(activity)
    assert list(activity.traces.of(TRACE)) == spans


# ---- chains ----------------------------------------------------------------------------------


def test_bill_of_a_chain_counts_each_hop_once_and_names_the_worst(telemetry: Telemetry) -> None:
    """What a hop waits for is on the bill of the next."""
    first, second, third = (Activity(name, telemetry) for name in ("a", "b", "c"))
    root = first.begin(Kind.MESSAGE, "order", 1)
    middle = second.begin(Kind.ASK, "price", 1, root)
    last = third.begin(Kind.ASK, "tax", 1, middle)
    told = third.begin(Kind.TELL, "note", 1, root)
    third.end(last, MessageTimings(10 * MS, 4 * MS, 0, MS), None, 1)
    second.end(middle, MessageTimings(30 * MS, 5 * MS, 12 * MS, 8 * MS), None, 1)
    first.end(root, MessageTimings(50 * MS, 9 * MS, 35 * MS, 0), None, 1)
    bill = bill_of(root)
    assert [hop.span for hop in bill.hops] == [root, middle, last, told]
    # a: 35 of waiting are 30 of b; b: 12 are 10 of c. What was told is not answered yet.
    assert [hop.wait_ns // MS for hop in bill.hops] == [5, 2, 0, 0]
    assert [hop.coordinate_ns // MS for hop in bill.hops] == [11, 15, 6, 0]
    assert bill.blame == 1
    assert bill.compute_ns == 18 * MS
    assert bill.compute_ns + bill.coordinate_ns == bill.total_ns == 50 * MS
    assert {span.tree for span in (root, middle, last, told)} == {root.tree}
    assert (middle.parent_id, last.parent_id) == (root.span_id, middle.span_id)


def test_of_an_application_that_the_viewer_does_not_see_times_are_told_alone(
    telemetry: Telemetry,
) -> None:
    """Neither its version nor its VM, nor how much it was sent."""
    first, second = Activity("mine", telemetry), Activity("other", telemetry)
    second.started(Start(1, "deploy", "", "", "2.1", PhaseTimings()))
    root = first.begin(Kind.MESSAGE, "order", 1)
    asked = second.begin(Kind.ASK, "price", 7, root)
    asked.vm_id = "vm-1"
    error = ActorFailed("secret", code="why")
    second.end(asked, MessageTimings(10 * MS, 4 * MS, 0, MS), error, 5)
    first.end(root, MessageTimings(50 * MS, 9 * MS, 35 * MS, 0), None, 1)
    trace = trace_to_proto(root, telemetry.unix_ns, lambda name: name == "mine")
    told = {field.name for field, _ in trace.spans[1].ListFields()}
    times = {"total_ns", "compute_ns", "queue_ns", "link_ns", "start_unix_ns"}
    assert told == {"span_id", "parent_id", "kind", *times}
    assert (trace.bill.hops[1].application, trace.bill.hops[1].type) == ("", "")
    every = trace_to_proto(root, telemetry.unix_ns, lambda name: True).spans[1]
    assert (every.version, every.vm_id, every.payload_bytes) == ("2.1", "vm-1", 7)


def test_application_counts_what_it_asks(activity: Activity) -> None:
    """By name, up to a limit."""
    activity.asked("b", MessageTimings(10 * MS, MS, 2 * MS, 3 * MS), None)
    activity.asked("b", None, Unavailable("gone"))
    for number in range(100):
        activity.asked(f"other-{number}", None, None)
    ask = activity.asks["b"]
    assert (ask.asks, ask.answered, ask.failures) == (2, 1, 1)
    assert (ask.total_ns, ask.compute_ns) == (10 * MS, MS)
    assert len(activity.asks) == MOST_TYPES + 1


# ---- over time -------------------------------------------------------------------------------


def test_ring_keeps_the_last_moments_in_order() -> None:
    """The oldest goes first."""
    ring = Ring(3)
    for number in range(5):
        ring.add(Moment(number, *[0] * 10))
    assert [moment.end_unix_ns for moment in ring] == [2, 3, 4]
    assert [moment.end_unix_ns for moment in reversed(ring)] == [4, 3, 2]


def test_moments_have_what_happened_in_them(activity: Activity, clock: Clock) -> None:
    """And nothing of the moments before."""
    for total in (10, 20, 30):
        handled(activity, total_ns=total * MS)
    activity.tick(clock.now_ns, 2 * S, 2 * S)
    handled(activity, total_ns=40 * MS)
    activity.tick(clock.now_ns, 4 * S, 2 * S)
    first, second = activity.timeline.short
    assert (first.messages, first.compute_ns, first.max_ns) == (3, 3 * MS, 30 * MS)
    assert first.p50_ns == pytest.approx(20 * MS, rel=1 / 16)
    assert (second.messages, second.max_ns) == (1, 40 * MS)
    assert second.p99_ns == pytest.approx(40 * MS, rel=1 / 16)


def test_application_is_left_alone_once_nothing_of_it_is_still_counted(
    activity: Activity, telemetry: Telemetry, clock: Clock
) -> None:
    """An idle one costs nothing."""
    handled(activity)
    handled(activity)
    assert telemetry.touched == [activity]
    unix_ns = telemetry.unix_ns(clock.now_ns)
    ticks = 0
    while not activity.tick(clock.now_ns, unix_ns, 2 * S):
        unix_ns += 2 * S
        ticks += 1
    assert ticks <= 60
    assert activity.timeline.quantiles_ns() == (0, 0)
    assert [moment.messages for moment in activity.timeline.long] == [2]
    telemetry.touched.clear()
    handled(activity)
    assert telemetry.touched == [activity]


def test_quantiles_of_now_forget_what_is_a_minute_old(
    activity: Activity, telemetry: Telemetry, clock: Clock
) -> None:
    """What was slow once is not slow now."""
    handled(activity, total_ns=S)
    unix_ns = telemetry.unix_ns(clock.now_ns)
    for _ in range(32):
        handled(activity, total_ns=MS * 10)
        unix_ns += 2 * S
        activity.tick(clock.now_ns, unix_ns, 2 * S)
    _, p99_ns = activity.timeline.quantiles_ns()
    assert p99_ns == pytest.approx(10 * MS, rel=1 / 16)


def test_recent_is_of_ten_seconds_or_of_as_long_as_there_is_something(
    activity: Activity, telemetry: Telemetry, clock: Clock
) -> None:
    """A rate of a young application is not too low."""
    begin = activity.timeline.since_unix_ns
    for number in range(1, 9):
        handled(activity)
        activity.tick(clock.now_ns, begin + number * 2 * S, 2 * S)
    spent, seconds = activity.timeline.recent(begin + 16 * S)
    assert (spent.messages, seconds) == (5, 10.0)
    _, seconds = activity.timeline.recent(begin + 4 * S)
    assert seconds == 4.0


def test_history_has_no_gap_and_nothing_in_it_twice(activity: Activity, clock: Clock) -> None:
    """Wherever a long moment ends, and however long the short ones reach back."""
    unix_ns = activity.timeline.since_unix_ns
    for number in range(1, 200):
        handled(activity)
        unix_ns += 2 * S
        activity.tick(clock.now_ns, unix_ns, 2 * S)
        moments = list(activity.timeline.moments())
        assert sum(moment.messages for moment in moments) == number
        ends = [moment.end_unix_ns for moment in moments]
        begins = [moment.end_unix_ns - moment.duration_ns for moment in moments]
        assert begins[1:] == ends[:-1]
        assert [moment.duration_ns for moment in moments[-45:]] == [2 * S] * min(number, 45)


def test_what_was_refused_belongs_to_the_half_minute_in_which_it_was(
    activity: Activity, clock: Clock
) -> None:
    """And not to the next one with messages, an hour later."""
    activity.refuse()
    unix_ns = activity.timeline.since_unix_ns + 2 * S
    while not activity.tick(clock.now_ns, unix_ns, 2 * S):
        unix_ns += 2 * S
    unix_ns += 3600 * S
    handled(activity)
    while not activity.tick(clock.now_ns, unix_ns, 2 * S):
        unix_ns += 2 * S
    counts = [(one.messages, one.failures) for one in activity.timeline.long]
    assert counts == [(0, 1), (1, 0)]


@pytest.mark.parametrize("by_s", [-3600, 3600])
def test_clock_that_is_set_changes_no_rate_and_no_percentile(
    activity: Activity, clock: Clock, by_s: int
) -> None:
    """Long moments are as long as they were, and those in the future are not of now."""
    unix_ns = activity.timeline.since_unix_ns
    for number in range(60):
        if number == 30:
            unix_ns += by_s * S
        handled(activity, total_ns=S if number < 30 else 10 * MS)
        unix_ns += 2 * S
        activity.tick(clock.now_ns, unix_ns, 2 * S)
        spent, _ = activity.timeline.recent(unix_ns)
        assert spent.messages <= 5
    _, p99_ns = activity.timeline.quantiles_ns()
    assert p99_ns == pytest.approx(10 * MS, rel=1 / 16)
    assert [one.duration_ns for one in activity.timeline.long] == [30 * S] * 4


def test_starts_are_kept_and_their_phases_counted(activity: Activity, telemetry: Telemetry) -> None:
    """The failed one too, without phases that it did not have."""
    timings = PhaseTimings(compile_ns=MS, vm_ns=2 * MS, load_ns=3 * MS, total_ns=6 * MS)
    for number in range(20):
        activity.started(Start(number, "restart", "gone", "", "1", timings))
    activity.started(Start(20, "restart", "gone", "no memory", "1", PhaseTimings()))
    assert [start.time_unix_ns for start in activity.starts] == list(range(13, 21))
    activity.started(Start(21, "start", "", "", "1", replace(timings, compile_cached=True)))
    assert telemetry.phases["compile"].sum_ns == 20 * MS
    assert telemetry.phases["vm"].sum_ns == 42 * MS
    assert sum(telemetry.phases["init"].counts) == 0
