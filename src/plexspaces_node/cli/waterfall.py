"""Draws a trace: its spans on one time axis, and below them the bill of the whole chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.text import Text

from plexspaces_node.cli.bars import (
    COMPUTE,
    COORDINATION,
    LINK,
    QUEUE,
    Marks,
    line_of,
    marks_of,
)
from plexspaces_node.cli.output import columns, counted, milliseconds, moment, printable
from plexspaces_node.telemetry import Bill, Hop, Span, SpanKind, Trace

_DEEPEST = 8
"""How many levels are indented; those below stand under them."""
_LONGEST_LABEL = 44
_TIME = 10
"""The columns of a duration."""
_HIDDEN = "(hidden)"
"""Stands for an application that the caller may not see."""
_CALLS = frozenset({SpanKind.FETCH, SpanKind.STORE, SpanKind.START})
_ASCII_SIGNS = str.maketrans("└←✗…", "`<x~")
"""For a terminal that has no others; as long as those, so that colours stay in place."""
_WHERE = {
    "wait": "waiting in host calls",
    "queue": "waiting to be handled",
    "link": "on the link and in the node",
}


@dataclass(frozen=True, slots=True)
class _Axis:
    """From the first beginning to the last end."""

    begin_ns: int
    end_ns: int
    width: int

    @classmethod
    def of(cls, spans: Sequence[Span], width: int) -> _Axis:
        begin = min(span.start_unix_ns for span in spans)
        end = max(span.start_unix_ns + span.total_ns for span in spans)
        return cls(begin, max(end, begin + 1), width)

    def cell(self, unix_ns: int) -> int:
        return round((unix_ns - self.begin_ns) / (self.end_ns - self.begin_ns) * self.width)


def print_trace(trace: Trace, console: Console) -> None:
    """Print the waterfall and the bill, as wide as the terminal."""
    marks = marks_of(console)
    lines = list(_waterfall(trace, marks, console.width)) if trace.spans else []
    lines += [Text(), *_bill(trace.bill, trace.spans)]
    if console.options.ascii_only:
        for line in lines:
            line.plain = line.plain.translate(_ASCII_SIGNS)
    console.print(Group(*lines))


def legend(console: Console) -> Text:
    """Return what the characters of a bar mean."""
    marks = marks_of(console)
    return Text.assemble(
        "Bars show sizes, not order:  ",
        *((marks.queue * 2, QUEUE), " queue  "),
        *((marks.compute * 2, COMPUTE), " compute  "),
        *((marks.coordination * 2, COORDINATION), " host waits  "),
        *((marks.link * 2, LINK), " link"),
    )


def _waterfall(trace: Trace, marks: Marks, width: int) -> Iterator[Text]:
    spans = trace.spans
    told = counted(len(spans) + trace.dropped_spans, "span")
    dropped = f", {trace.dropped_spans} of them not kept" if trace.dropped_spans else ""
    took = _took(spans[0])
    yield line_of(f"Trace {trace.trace_id}", style="bold")
    yield line_of(f"{moment(spans[0].start_unix_ns)}, {took}, {told}{dropped}")
    yield Text()
    depths = _depths(spans)
    labels = [_label(span, depths[span.span_id]) for span in spans]
    widest = min(max(map(len, labels)), _LONGEST_LABEL, width // 2)
    axis = _Axis.of(spans, max(width - widest - _TIME - 4, 8))
    for span, label in zip(spans, labels, strict=True):
        name = Text(label)
        name.truncate(widest, overflow="ellipsis", pad=True)
        bar = _bar(span, axis, marks)
        yield Text.assemble("  ", name, " ", bar, f"{_took(span):>{_TIME}}", no_wrap=True)
        if span.error_code or span.error:
            indent = "  " * (min(depths[span.span_id], _DEEPEST) + 1)
            error = printable(f"{span.error_code}: {span.error}")
            yield line_of(f"  {indent}✗ {error}", style="red")
    end = milliseconds(axis.end_ns - axis.begin_ns)
    scale = f"{'0':<{max(axis.width - len(end), 1)}}{end}"
    yield Text(f"  {'':<{widest}} {scale}", style="dim", no_wrap=True)


def _depths(spans: Sequence[Span]) -> Mapping[str, int]:
    """Return how deep in the tree each span is; a parent that is not there counts as none."""
    depths: dict[str, int] = {}
    for span in spans:
        depths[span.span_id] = depths.get(span.parent_id, -1) + 1
    return depths


def _label(span: Span, depth: int) -> str:
    indent = "  " * (min(depth, _DEEPEST) - 1) + "└ " if depth else ""
    whose = span.application or _HIDDEN
    if span.kind in _CALLS:
        words = [span.kind.value, span.name]
    elif span.kind is SpanKind.MESSAGE:
        words = [whose, span.name]
    else:
        words = [span.kind.value, whose, span.name]
    return indent + printable(" ".join(filter(None, words)))


def _took(span: Span) -> str:
    return milliseconds(span.total_ns) if span.total_ns else "not ended"


def _bar(span: Span, axis: _Axis, marks: Marks) -> Text:
    begin = min(axis.cell(span.start_unix_ns), axis.width - 1)
    end = axis.cell(span.start_unix_ns + span.total_ns) if span.total_ns else axis.width
    length = max(end - begin, 1)
    bar = Text(" " * begin)
    for mark, colour, cells in _cells(span, marks, length):
        bar.append(mark * cells, colour)
    bar.append(" " * (axis.width - begin - length))
    return bar


def _cells(span: Span, marks: Marks, length: int) -> Iterator[tuple[str, str, int]]:
    """Yield each part of a bar: its character, its colour and its length."""
    whole = span.compute_ns + span.wait_ns + span.queue_ns + span.link_ns
    if not span.total_ns:
        yield "?", "", length
    elif span.kind is SpanKind.START:
        yield marks.queue, QUEUE, length
    elif span.kind in _CALLS or not whole:
        yield marks.coordination, COORDINATION, length
    else:
        done = 0
        for mark, colour, duration_ns in (
            (marks.queue, QUEUE, span.queue_ns),
            (marks.compute, COMPUTE, span.compute_ns),
            (marks.coordination, COORDINATION, span.wait_ns),
            (marks.link, LINK, span.link_ns),
        ):
            before, done = round(done / whole * length), done + duration_ns
            yield mark, colour, round(done / whole * length) - before


def _bill(bill: Bill, spans: Sequence[Span]) -> Iterator[Text]:
    rows = [("HOP", "COMPUTE", "HOST WAITS", "QUEUE", "LINK", "COORDINATION")]
    for number, hop in enumerate(bill.hops):
        times = (hop.compute_ns, hop.wait_ns, hop.queue_ns, hop.link_ns, hop.coordination_ns)
        compute, wait, queue, link, coordination = map(milliseconds, times)
        sign = "  ←" if number == bill.blame and len(bill.hops) > 1 else ""
        rows.append((_hop_name(hop), compute, wait, queue, link, coordination + sign))
    summed = (milliseconds(bill.compute_ns), "", "", "", milliseconds(bill.coordination_ns))
    rows.append(("all together", *summed))
    for line in columns(_right_aligned(rows)):
        yield Text(f"  {line}", no_wrap=True)
    yield Text()
    yield Text(printable(_verdict(bill, spans)))


def _right_aligned(rows: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """Return rows whose columns but the first are aligned at the right; signs stand beyond it."""
    aligned = [list(row) for row in rows]
    for column in range(1, len(rows[0])):
        width = max(len(row[column].removesuffix("  ←")) for row in rows)
        for row in aligned:
            row[column] = " " * (width - len(row[column].removesuffix("  ←"))) + row[column]
    return aligned


def _hop_name(hop: Hop) -> str:
    name = printable(" ".join(filter(None, (hop.application or _HIDDEN, hop.type))))
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"


def _verdict(bill: Bill, spans: Sequence[Span]) -> str:
    hop = bill.to_blame
    if hop is None or not bill.coordination_ns:
        return "Nothing to blame: there was no coordination."
    share = hop.coordination_ns / bill.coordination_ns
    parts = {"wait": hop.wait_ns, "queue": hop.queue_ns, "link": hop.link_ns}
    most = max(parts, key=lambda part: parts[part])
    is_cold = any(span.cold_start for span in spans if span.span_id == hop.span_id)
    why = ": the application had to start" if is_cold and most == "queue" else ""
    whose = _hop_name(hop) if len(bill.hops) > 1 else f"{_hop_name(hop)} itself"
    cost = f"{milliseconds(hop.coordination_ns)} or {share * 100:.0f} % of the coordination"
    return f"To blame: {whose}, with {cost}, most of it {_WHERE[most]}{why}."
