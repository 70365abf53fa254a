"""Each rule of the advisor, on figures that deserve it and on some that just do not."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_node.info import MessageTimings
from plexspaces_node.model import PhaseTimings
from plexspaces_node.node.advisor import batch, coordination, level, thresholds, together
from plexspaces_node.node.advisor.advice import Advice, Rule, amount, per_second, percent, ranked
from plexspaces_node.node.advisor.figures import AskFigures, Figures, TypeFigures
from plexspaces_node.node.advisor.windows import Windows
from plexspaces_node.node.telemetry.activity import Activity, Start
from plexspaces_node.node.telemetry.span import Kind
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.node.telemetry.timeline import Spent
from plexspaces_node.telemetry import duration

US = 1000
MS = 1000 * US
S = 1000 * MS


def kind(
    messages: int = 1000,
    *,
    name: str = "add",
    compute_ns: int = 10 * US,
    wait_ns: int = 0,
    queue_ns: int = 0,
    link_ns: int = 300 * US,
    payload: int = 8,
) -> TypeFigures:
    """Messages of one type; times and the payload are of each."""
    each = (compute_ns, wait_ns, queue_ns, link_ns)
    return TypeFigures(
        name, Spent(messages, 0, *(ns * messages for ns in each)), payload * messages, 0
    )


def figures(
    *types: TypeFigures,
    seconds: float = 10.0,
    active_s: float = 10.0,
    asks: Sequence[AskFigures] = (),
    is_component: bool = False,
) -> Figures:
    """An application with these messages."""
    spent = Spent(*map(sum, zip(*(one.spent for one in types), strict=True))) if types else Spent()
    return Figures("app", seconds, active_s, spent, types, tuple(asks), is_component)


def one(found: Any) -> Advice:
    [advice] = found
    assert isinstance(advice, Advice)
    return advice


# ---- batch -----------------------------------------------------------------------------------


def test_many_small_messages_are_worth_batching() -> None:
    """1000 in 10 s, 300 µs to pass each: ten in each wait 0.1 s and leave a tenth of it."""
    advice = one(batch.advise(figures(kind())))
    assert advice.rule is Rule.BATCH
    assert advice.advice.startswith("Send about 10 payloads in one 'add' message")
    assert advice.saved_s_per_s == pytest.approx(1000 * 300e-6 * 0.9 / 10)
    assert {fact.name: fact.value for fact in advice.facts}["passing each"] == 300 * US


@pytest.mark.parametrize(
    ("just_so", "just_not"),
    [
        pytest.param({"messages": 1000}, {"messages": 199}, id="rate"),
        pytest.param({"payload": 4096}, {"payload": 4097}, id="payload"),
        pytest.param({"compute_ns": 300 * US}, {"compute_ns": 301 * US}, id="work"),
        pytest.param({"wait_ns": 290 * US}, {"wait_ns": 291 * US}, id="waiting is work"),
        pytest.param({"name": "x"}, {"name": ""}, id="those over the limit of types"),
    ],
)
def test_batch_advises_from_its_thresholds_on(
    just_so: dict[str, Any], just_not: dict[str, Any]
) -> None:
    """And not a little below."""
    assert list(batch.advise(figures(kind(**just_so))))
    assert not list(batch.advise(figures(kind(**just_not))))


def test_batch_needs_a_hundred_messages() -> None:
    """At whatever rate they came."""
    assert list(batch.advise(figures(kind(100), active_s=2.0)))
    assert not list(batch.advise(figures(kind(99), active_s=2.0)))


def test_batch_is_as_large_as_the_work_wants_and_not_larger() -> None:
    """Ten times the passing is enough; 64 KiB and a hundred payloads are the most."""
    fast = figures(seconds=1.0, active_s=1.0)
    assert batch.size_of(fast, kind(compute_ns=100 * US, messages=10_000)) == 30
    assert batch.size_of(fast, kind(compute_ns=1, messages=10_000)) == 100
    assert batch.size_of(fast, kind(payload=4096, messages=10_000)) == 16


def test_requests_of_a_component_are_not_batched() -> None:
    """Browsers send them as they are."""
    assert not list(batch.advise(figures(kind(name="GET"), is_component=True)))


# ---- together --------------------------------------------------------------------------------


def asked(asks: int = 200, *, link_ns: int = 400 * US, to: str = "other") -> AskFigures:
    """Asks that take 600 µs beside what passing takes."""
    total = asks * (600 * US + link_ns)
    return AskFigures(to, asks, total, asks * 100 * US, asks * 200 * US, asks * 300 * US)


def test_application_that_mostly_asks_another_should_be_one_with_it() -> None:
    """Passing 200 asks took 80 ms of its 200 ms; passing its own messages does not count."""
    asker = kind(200, compute_ns=100 * US, wait_ns=900 * US, queue_ns=5 * MS, link_ns=9 * MS)
    advice = one(together.advise(figures(asker, asks=[asked()])))
    assert (advice.rule, advice.application, advice.other) == (Rule.TOGETHER, "app", "other")
    assert advice.saved_s_per_s == pytest.approx(0.08 / 10)
    assert "takes 40 % of the time" in advice.advice
    assert "no wall inside" in advice.advice


def test_together_advises_from_its_thresholds_on() -> None:
    """A hundred asks, and a fifth of compute and waiting."""
    asker = kind(200, compute_ns=0, wait_ns=2 * MS)  # 400 ms altogether
    assert list(together.advise(figures(asker, asks=[asked(200, link_ns=400 * US)])))
    assert not list(together.advise(figures(asker, asks=[asked(200, link_ns=399 * US)])))
    assert list(together.advise(figures(asker, asks=[asked(100, link_ns=900 * US)])))
    assert not list(together.advise(figures(asker, asks=[asked(99, link_ns=900 * US)])))


def test_asks_side_by_side_are_not_more_than_all_of_the_time() -> None:
    """They take longer together than the message that waited for them."""
    asker = kind(200, compute_ns=0, wait_ns=100 * US)
    advice = one(together.advise(figures(asker, asks=[asked()])))
    assert "takes 100 % of the time" in advice.advice


# ---- coordination ----------------------------------------------------------------------------


def test_message_that_computes_nothing_should_do_more() -> None:
    """Ten a second: too few to batch."""
    advice = one(coordination.advise(figures(kind(100))))
    assert advice.rule is Rule.COORDINATION
    assert advice.saved_s_per_s == pytest.approx(100 * 300e-6 / 10)
    assert "computes for 10 µs and is coordinated for 300 µs" in advice.advice


@pytest.mark.parametrize(
    ("just_so", "just_not"),
    [
        pytest.param({}, {"messages": 99}, id="messages"),
        pytest.param({"compute_ns": 30 * US}, {"compute_ns": 31 * US}, id="compute"),
        pytest.param({"wait_ns": 300 * US}, {"wait_ns": 301 * US}, id="waiting for others"),
        pytest.param({"queue_ns": 300 * US}, {"queue_ns": 301 * US}, id="an overload"),
        pytest.param({}, {"name": ""}, id="those over the limit of types"),
    ],
)
def test_coordination_advises_from_its_thresholds_on(
    just_so: dict[str, Any], just_not: dict[str, Any]
) -> None:
    """And not a little below."""
    assert list(coordination.advise(figures(kind(**({"messages": 100} | just_so)))))
    assert not list(coordination.advise(figures(kind(**({"messages": 100} | just_not)))))


def test_message_that_is_worth_batching_gets_that_advice_alone() -> None:
    """One thing to do for each type; but a large payload cannot be batched."""
    assert not list(coordination.advise(figures(kind())))
    assert list(coordination.advise(figures(kind(payload=5000))))


def test_requests_are_called_so() -> None:
    """A component knows no messages."""
    advice = one(coordination.advise(figures(kind(name="GET"), is_component=True)))
    assert advice.advice.startswith("Do more in each 'GET' request")


@pytest.mark.parametrize("rule", [batch, coordination])
def test_what_saves_less_than_a_millisecond_a_second_is_not_told(rule: Any) -> None:
    """However bad its ratio is."""
    few = kind(250 if rule is batch else 100, compute_ns=0)
    told, untold = (few.spent.link_ns / 1e9 / 0.00099, few.spent.link_ns / 1e9 / 0.0005)
    assert not list(rule.advise(figures(few, seconds=told)))
    assert not list(rule.advise(figures(few, seconds=untold)))
    assert list(rule.advise(figures(few, seconds=few.spent.link_ns / 1e9 / 0.003)))


def test_type_that_a_client_made_up_is_quoted() -> None:
    """It may be text that would control a terminal, or look like the advisor's own."""
    for rule in (batch, coordination):
        [advice] = rule.advise(figures(kind(1000 if rule is batch else 100, name="\x1b[2J' \n")))
        assert advice.advice.isprintable()
        assert r"\x1b[2J" in advice.advice


@pytest.mark.parametrize("rule", [batch, together, coordination])
def test_no_messages_no_advice(rule: Any) -> None:
    """Nothing is divided by them either."""
    none = kind(0)
    idle = figures(none, seconds=1e-9, active_s=0.0, asks=[AskFigures("other", 0, 0, 0, 0, 0)])
    assert not list(rule.advise(idle))


# ---- windows ---------------------------------------------------------------------------------


def answered(activity: Activity, count: int, *, name: str = "add") -> None:
    for _ in range(count):
        span = activity.begin(Kind.MESSAGE, name, 8)
        activity.end(span, MessageTimings(300 * US, 10 * US, 0, 0), None, 4)


def started(activity: Activity, unix_ns: int) -> None:
    activity.started(Start(unix_ns, "deploy", "", "", "1", PhaseTimings()))


def test_window_has_what_came_since_it_began() -> None:
    """At first all; then what came in the last 5 to 10 minutes."""
    activity, windows = Activity("app", Telemetry()), Windows()
    begin = activity.timeline.since_unix_ns
    answered(activity, 300)
    assert windows.figures(activity, begin + 10 * S).spent.messages == 300
    windows.mark(activity, begin + thresholds.WINDOW_S * S)
    answered(activity, 7)
    windows.mark(activity, begin + 2 * thresholds.WINDOW_S * S)
    answered(activity, 2)
    found = windows.figures(activity, begin + 2 * thresholds.WINDOW_S * S + 30 * S)
    assert found.spent.messages == 9
    assert found.seconds == pytest.approx(thresholds.WINDOW_S + 30)
    assert [(each.name, each.spent.messages, each.payload_bytes) for each in found.types] == [
        ("add", 9, 72)
    ]


def test_types_and_asks_that_came_later_are_told_apart_from_earlier_ones() -> None:
    """Each by what it had when the window began."""
    activity, windows = Activity("app", Telemetry()), Windows()
    begin = activity.timeline.since_unix_ns
    answered(activity, 3, name="a")
    answered(activity, 4, name="b")
    timings = MessageTimings(9, 1, 2, 3)
    activity.asked("x", timings, None)
    windows.mark(activity, begin)
    windows.mark(activity, begin + thresholds.WINDOW_S * S)
    windows.mark(activity, begin + 2 * thresholds.WINDOW_S * S)
    answered(activity, 5, name="c")
    answered(activity, 6, name="b")
    for to in ("y", "x", "y"):
        activity.asked(to, timings, None)
    found = windows.figures(activity, begin + 2 * thresholds.WINDOW_S * S + S)
    messages = [(each.name, each.spent.messages) for each in found.types]
    assert messages == [("a", 0), ("b", 6), ("c", 5)]
    assert [(each.to, each.asks) for each in found.asks] == [("x", 1), ("y", 2)]


def test_window_begins_anew_with_another_version() -> None:
    """So nobody is told again what they have just mended."""
    activity, windows = Activity("app", Telemetry()), Windows()
    begin = activity.timeline.since_unix_ns
    started(activity, begin)
    answered(activity, 300)
    assert windows.figures(activity, begin + S).spent.messages == 300
    started(activity, begin + 2 * S)
    assert windows.figures(activity, begin + 3 * S).spent.messages == 0
    answered(activity, 5)
    assert windows.figures(activity, begin + 4 * S).spent.messages == 5


def test_window_begins_anew_when_the_clock_is_set_back() -> None:
    """Otherwise what came in minutes would be reckoned as if it were of two seconds."""
    activity, windows = Activity("app", Telemetry()), Windows()
    begin = activity.timeline.since_unix_ns
    answered(activity, 300)
    assert windows.figures(activity, begin + 10 * S).spent.messages == 300
    assert windows.figures(activity, begin - 3600 * S).spent.messages == 0


def test_asks_are_told_by_the_full_name_of_whom_they_ask() -> None:
    """An application knows others by their names within its tenant."""
    activity, windows = Activity("shop/app", Telemetry()), Windows()
    activity.asked("other", MessageTimings(9, 1, 2, 3), None)
    activity.asked("other", None, ValueError())
    [ask] = windows.figures(activity, activity.timeline.since_unix_ns + S).asks
    assert ask == AskFigures("shop/other", 1, 9, 1, 2, 3)
    assert ask.link_ns == 3


# ---- numbers in sentences --------------------------------------------------------------------


def test_numbers_are_written_as_people_read_them() -> None:
    """Three digits, in the unit that suits them."""
    assert [duration(ns) for ns in (5, 1234, 12_345_678, 2.5e9, 999.6e9)] == [
        *("5 ns", "1.23 µs", "12.3 ms", "2.5 s", "1000 s")
    ]
    assert per_second(0.0123) == "12.3 ms of each second"
    assert [amount(size) for size in (8, 2048, 96 * 2**20)] == ["8 B", "2 KiB", "96 MiB"]
    assert percent(0.404) == "40 %"


def test_largest_gain_comes_first() -> None:
    """Time before memory, and what only costs last."""

    def made(name: str, saved: float = 0.0, size: int = 0) -> Advice:
        return Advice(Rule.LEVEL, name, "", (), "", saved_s_per_s=saved, saved_bytes=size)

    told = ranked([made("costs", -0.1), made("memory", 0, 9), made("a", 0.1), made("b", 0.2)])
    assert [each.application for each in told] == ["b", "a", "memory", "costs"]


# ---- whatever was measured -------------------------------------------------------------------

COUNTS = st.integers(0, 10_000_000)
TIMES_NS = st.integers(0, 2**50)


@st.composite
def any_figures(draw: st.DrawFn) -> Figures:
    """What an application may have done, likely or not."""
    types = tuple(
        TypeFigures(
            draw(st.text(max_size=8)),
            Spent(draw(COUNTS), draw(COUNTS), *(draw(TIMES_NS) for _ in range(4))),
            *(draw(TIMES_NS), draw(TIMES_NS)),
        )
        for _ in range(draw(st.integers(0, 3)))
    )
    asks = tuple(
        AskFigures("other", draw(COUNTS), *(draw(TIMES_NS) for _ in range(4)))
        for _ in range(draw(st.integers(0, 2)))
    )
    seconds = draw(st.floats(2.0, 1e6))
    active = draw(st.floats(0.0, seconds))
    return figures(*types, seconds=seconds, active_s=active, asks=asks)


@given(any_figures())
def test_no_more_is_predicted_to_be_saved_than_was_spent(of: Figures) -> None:
    """And every advice can be printed, with its numbers."""
    for rule in (batch, together, coordination):
        for advice in rule.advise(of):
            passed = [kind.spent.link_ns for kind in of.types] + [ask.link_ns for ask in of.asks]
            assert 0 < advice.saved_s_per_s <= max(passed) / 1e9 / of.seconds * 1.000001
            assert advice.facts
            assert all(isfinite(fact.value) for fact in advice.facts)
            assert (advice.advice + advice.reckoning).isprintable()
    assert level.load_of([of]).rate >= 0
