"""Draws performance reports in a terminal, on stderr: beside the data, as it is for people.

Every bar can be told by its characters, so that colours are not needed.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from plexspaces_node.cli.bars import COMPUTE, COORDINATION, Marks, marks_of, terminal
from plexspaces_node.cli.output import milliseconds, printable
from plexspaces_node.cli.plot import NAMES, TITLE, Axis, Plot, Row
from plexspaces_node.tracker import Coordination

_WIDEST = 100
_LABELS, _VALUES = 16, 11
"""The columns left and right of the bars."""

_LETTERS = {part: name[0].upper() for part, name in NAMES.items()}
_COLOURS = {
    Coordination.VM: "red",
    Coordination.UPLOAD: "magenta",
    Coordination.COMPILE: COORDINATION,
    Coordination.LOAD: "yellow",
    Coordination.MESSAGES: "bright_yellow",
}


def print_plot(plot: Plot, console: Console | None = None) -> None:
    """Print a plot, as wide as the terminal up to 100 columns."""
    console = console or terminal(stderr=True)
    marks = marks_of(console)
    width = max(min(console.width, _WIDEST) - _LABELS - _VALUES, 10)
    axis = plot.axis
    lines = [Text(TITLE, style="bold"), Text(printable(plot.caption)), Text()]
    for row in plot.rows:
        lines.append(_heading(row))
        for name, duration_ns, mark, colour in (
            ("compute", row.report.compute_ns, marks.compute, COMPUTE),
            ("coordination", row.report.coordinate_ns, marks.coordination, COORDINATION),
        ):
            cells = round(axis.at(duration_ns) * width)
            bar = Text(mark * (max(cells, 1) if duration_ns else 0), style=colour)
            lines.append(_line(name, bar, milliseconds(duration_ns), width))
        lines += [_line("  made of", _parts(row, width), "", width), Text()]
    lines += [_scale(axis, width), Text(), _legend(marks)]
    console.print(*lines, sep="\n", no_wrap=True, overflow="ellipsis")


def _heading(row: Row) -> Text:
    return Text.assemble(
        (printable(row.heading), "bold"), f"   {row.ratio}", (" compute/coordination", "dim")
    )


def _line(name: str, bar: Text, value: str, width: int) -> Text:
    bar.pad_right(width - bar.cell_len)
    line = Text.assemble(f"  {name:<{_LABELS - 2}}", bar, f"{value:>{_VALUES}}")
    line.rstrip()
    return line


def _parts(row: Row, width: int) -> Text:
    bar = Text()
    for part, begin, end in row.shares():
        bar.append(_LETTERS[part] * (round(end * width) - round(begin * width)), _COLOURS[part])
    return bar


def _scale(axis: Axis, width: int) -> Text:
    line = [" "] * (_LABELS + width + _VALUES)
    free_from = 0
    for tick in axis.ticks():
        at = _LABELS + min(round(tick.at * width), width - 1)
        if at >= free_from:
            label = f"|{tick.label}"
            line[at : at + len(label)] = label
            free_from = at + len(label) + 1
    kind = "time (log)" if axis.is_logarithmic else "time"
    line[:_LABELS] = f"  {kind:<{_LABELS - 2}}"
    return Text("".join(line).rstrip(), style="dim")


def _legend(marks: Marks) -> Text:
    legend = Text.assemble(
        *("  ", (marks.compute * 2, COMPUTE), " compute  "),
        *((marks.coordination * 2, COORDINATION), " coordination"),
    )
    for part, name in NAMES.items():
        legend.append("  ").append(_LETTERS[part], _COLOURS[part]).append(f" {name}")
    return legend
