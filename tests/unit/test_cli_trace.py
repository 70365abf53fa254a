"""`plexspaces trace`: the waterfall and the bill of a chain."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from support.command import Command
from support.fake_node import FakeNode
from support.fake_telemetry import CHAIN, MS

from plexspaces_node.api.convert_telemetry import record
from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.cli.waterfall import legend, print_trace
from plexspaces_node.telemetry import Bill, Hop, Span, SpanKind, Trace

TRACE = record(Trace, CHAIN)
MESSAGE, ASK = TRACE.spans


def drawn(trace: Trace, width: int = 80, **console: object) -> list[str]:
    """The lines of a trace in a terminal."""
    stream = io.StringIO()
    print_trace(trace, Console(file=stream, width=width, markup=False, **console))  # type: ignore[arg-type]
    return stream.getvalue().splitlines()


def line(lines: list[str], name: str) -> str:
    """The line of the waterfall that begins with a name."""
    return next(one for one in lines if one.strip(" └").startswith(name))


def span(number: int, parent: int, **more: object) -> Span:
    """A span of 10 ms that began `number` ms after the message."""
    made = replace(
        ASK,
        span_id=str(number),
        parent_id=str(parent) if parent else "",
        start_unix_ns=MESSAGE.start_unix_ns + number * MS,
        total_ns=10 * MS,
        error="",
        error_code="",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def test_trace_when_the_terminal_has_ascii_alone_then_signs_of_it() -> None:
    """The branch, the error's cross and the arrow too, each as wide as what it stands for."""
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    print_trace(TRACE, Console(file=stream, width=80, markup=False))
    stream.flush()
    text = written.getvalue().decode("ascii")
    assert "  ` ask stock take " in text
    assert "      x empty: nothing" in text
    assert "52 ms  <\n" in text


class TestCommand:
    """What is asked of the node, and what is printed."""

    def test_trace_when_a_chain_is_kept_then_waterfall_bill_and_blame(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """The whole of it, in 80 columns."""
        fake_node.telemetry.traces = [CHAIN]
        ran = plexspaces("trace", "cart")
        assert fake_node.telemetry.requests == [pb.ListTracesRequest(name="cart", limit=1)]
        assert ran.status == 0
        assert ran.text == (
            "Trace 4bf92f3577b34da6a3ce929d0e0e4736\n"
            "2023-11-14T22:13:20.000Z, 100 ms, 2 spans\n"
            "\n"
            "  cart pay         "
            "░░██████████▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒────────    100 ms\n"
            "  └ ask stock take "
            "               ░░░░░░░░░░░░░░░░░░░░████──────          60 ms\n"
            "      ✗ empty: nothing \\x1b[2J left\n"
            "                   0                                           100 ms\n"
            "\n"
            "  HOP           COMPUTE  HOST WAITS    QUEUE   LINK  COORDINATION\n"
            "  cart pay        20 ms        0 ms  5.00 ms  15 ms         20 ms\n"
            "  stock take    8.00 ms        0 ms    40 ms  12 ms         52 ms  ←\n"
            "  all together    28 ms                                     72 ms\n"
            "\n"
            "To blame: stock take, with 52 ms or 72 % of the coordination, most of it waiting\n"
            "to be handled: the application had to start.\n"
            "\n"
            "Bars show sizes, not order:  ░░ queue  ██ compute  ▒▒ host waits  ── link\n"
        )

    def test_trace_when_for_programs_then_every_number(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """In nanoseconds; kinds in words."""
        fake_node.telemetry.traces = [CHAIN]
        (trace,) = plexspaces("trace", "cart", "--slowest", "--limit", "4", "--json").json
        assert fake_node.telemetry.requests == [
            pb.ListTracesRequest(name="cart", slowest=True, limit=4)
        ]
        assert [one["kind"] for one in trace["spans"]] == ["message", "ask"]
        assert trace["spans"][1]["queue_ns"] == 40 * MS
        assert trace["bill"]["hops"][trace["bill"]["blame"]]["application"] == "stock"

    def test_trace_when_nothing_is_kept_then_what_to_do(self, plexspaces: Command) -> None:
        """It is no failure; the words are beside the data, of which there is none."""
        ran = plexspaces("trace", "cart")
        assert (ran.status, ran.stdout) == (0, b"")
        assert "no message of cart has been traced yet" in ran.stderr
        assert "plexspaces invoke cart" in ran.stderr
        assert plexspaces("trace", "cart", "--json").json == []

    def test_trace_when_the_id_is_not_there_then_status_1(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """Who asks for one by its id is not told of nothing by nothing."""
        ran = plexspaces("trace", "cart", "--id", "4bf92f3577b34da6a3ce929d0e0e4736")
        assert ran.status == 1
        assert "cart has no trace 4bf92f3577b34da6a3ce929d0e0e4736" in ran.stderr
        (asked,) = fake_node.telemetry.requests
        assert asked == pb.ListTracesRequest(name="cart", trace_id=CHAIN.trace_id)

    def test_trace_when_there_are_several_then_one_legend(
        self, plexspaces: Command, fake_node: FakeNode
    ) -> None:
        """A line is between them."""
        fake_node.telemetry.traces = [CHAIN, CHAIN]
        text = plexspaces("trace", "cart", "--limit", "2").text
        assert text.count("To blame") == 2
        assert "start.\n\nTrace " in text
        assert text.count("Bars show") == 1


class TestWaterfall:
    """The bars."""

    def test_bar_when_drawn_then_its_parts_are_in_proportion(self) -> None:
        """Their lengths together are the span's, whatever is rounded."""
        lines = drawn(TRACE, width=200)
        bar = line(lines, "cart pay").split()[2]
        counts = [bar.count(mark) for mark in "░█▒─"]
        assert sum(counts) == len(bar)
        assert [round(count / len(bar) * 100) for count in counts] == [5, 20, 60, 15]

    def test_axis_when_something_ended_after_the_message_then_it_is_on_it(self) -> None:
        """A tell outlives the message that sent it."""
        told = span(150, 0, parent_id=MESSAGE.span_id, kind=SpanKind.TELL, total_ns=50 * MS)
        lines = drawn(replace(TRACE, spans=(MESSAGE, told)))
        bar = line(lines, "tell stock take").removeprefix("  └ tell stock take ")
        assert len(bar) - len(bar.lstrip()) == 37, "three quarters of 50 columns"
        assert any(one.rstrip().endswith("200 ms") for one in lines)

    def test_span_when_very_short_then_it_is_seen(self) -> None:
        """Also one that began when all was over."""
        short = span(100, 0, parent_id=MESSAGE.span_id, total_ns=1, compute_ns=1)
        assert "<0.01 ms" in line(drawn(replace(TRACE, spans=(MESSAGE, short))), "ask stock take")

    @pytest.mark.parametrize(
        ("kind", "label", "mark"),
        [
            (SpanKind.FETCH, "fetch GET api.example.com", "▒"),
            (SpanKind.STORE, "store GET api.example.com", "▒"),
            (SpanKind.START, "start GET api.example.com", "░"),
        ],
    )
    def test_call_of_the_node_when_drawn_then_by_what_it_is(
        self, kind: SpanKind, label: str, mark: str
    ) -> None:
        """It is no message: the application is its parent's."""
        call = span(10, 0, parent_id=MESSAGE.span_id, kind=kind, name="GET api.example.com")
        bar = line(drawn(replace(TRACE, spans=(MESSAGE, call))), label)
        assert mark * 4 in bar
        assert "stock" not in bar

    def test_span_when_it_has_not_ended_then_it_says_so(self) -> None:
        """Its bar goes on to the end."""
        open_ = span(60, 0, parent_id=MESSAGE.span_id, total_ns=0)
        bar = line(drawn(replace(TRACE, spans=(MESSAGE, open_))), "ask stock take")
        assert bar.endswith("? not ended")

    def test_tree_when_deep_then_indented_and_names_are_cut(self) -> None:
        """Each level further in, up to a bound; every line fits."""
        chain = [replace(MESSAGE, span_id="1")]
        chain += [span(number, number - 1) for number in range(2, 20)]
        lines = drawn(replace(TRACE, spans=tuple(chain), bill=Bill()))
        assert max(map(len, lines)) <= 80
        indents = [len(one) - len(one.lstrip()) for one in lines if "└" in one]
        assert indents[:4] == [2, 4, 6, 8]
        assert max(indents) == indents[-1] == 16

    def test_names_when_hostile_or_hidden_then_plain(self) -> None:
        """A message's type is its client's to choose."""
        bad = replace(MESSAGE, name="\x1b[2J[red]" + "x" * 300, application="")
        lines = drawn(replace(TRACE, spans=(bad,), bill=Bill()))
        text = "\n".join(lines)
        assert "\x1b" not in text
        assert "(hidden) \\x1b[2J[red]xxx" in text
        assert max(map(len, lines)) <= 80

    def test_spans_when_some_were_dropped_then_it_is_told(self) -> None:
        """What is not there is counted."""
        assert "5 spans, 3 of them not kept" in drawn(replace(TRACE, dropped_spans=3))[1]

    def test_colours_when_not_wanted_then_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every part has its own character."""
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert "\x1b[38;5;" in "\n".join(drawn(TRACE, force_terminal=True))
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b[38;5;" not in "\n".join(drawn(TRACE, force_terminal=True))
        plain = legend(Console(file=io.StringIO())).plain
        assert len({*"░█▒─"} & {*plain}) == 4


class TestBill:
    """What the chain cost, and whom to blame."""

    @pytest.mark.parametrize(
        ("times", "cold", "said"),
        [
            ((9, 1, 2), False, "most of it waiting in host calls."),
            ((1, 9, 2), False, "most of it waiting to be handled."),
            ((1, 9, 2), True, "most of it waiting to be handled: the application had to start."),
            ((9, 1, 2), True, "most of it waiting in host calls."),
            ((1, 2, 9), False, "most of it on the link and in the node."),
        ],
    )
    def test_blame_when_said_then_where_most_of_it_was(
        self, times: tuple[int, int, int], cold: bool, said: str
    ) -> None:
        """One sentence."""
        hop = Hop("1", "stock", "take", 1 * MS, *(one * MS for one in times))
        bill = Bill(20 * MS, 1 * MS, 12 * MS, (hop,), 0)
        lines = drawn(Trace("ab", (span(1, 0, cold_start=cold),), 0, bill), width=200)
        assert (
            lines[-1]
            == f"To blame: stock take itself, with 12 ms or 100 % of the coordination, {said}"
        )

    def test_blame_when_there_was_no_coordination_then_nobody(self) -> None:
        """Nothing is divided by 0."""
        assert drawn(Trace("ab", (MESSAGE,)))[-1] == "Nothing to blame: there was no coordination."
