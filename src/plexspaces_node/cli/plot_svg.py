"""Draws performance reports as an SVG picture, for light and dark pages.

The picture refers to nothing outside itself. On the left are compute and coordination of each row,
on one axis; on the right what coordination was spent on, as shares of it: on a logarithmic axis
stacked bars would lie.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from plexspaces_node.cli.output import milliseconds, printable
from plexspaces_node.cli.plot import NAMES, TITLE, Plot, Row
from plexspaces_node.tracker import Coordination

_WIDTH = 960
_TOP, _ROW, _BOTTOM = 140, 64, 44
_BAR, _BETWEEN_BARS = 18, 4
_NAMES_X, _BARS_X, _BARS_WIDTH = 28, 216, 340
_PARTS_X, _PARTS_WIDTH = 664, 268
_NAME_LENGTH, _LANGUAGE_LENGTH, _CAPTION_LENGTH = 22, 12, 128
_SMALL_LETTER = 6.3
"""The width of a letter of 11 px, for every usual font."""

# Without CSS variables, which not every program that shows SVG knows. The shades of the parts are
# the same on dark pages: they differ from both backgrounds.
_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2937 }
.page { fill: #ffffff }
.title { font-size: 20px; font-weight: 600 }
.name { font-weight: 600 }
.muted { fill: #5b6472; font-size: 12px }
.small { font-size: 11px }
.end { text-anchor: end }
.middle { text-anchor: middle }
.line { stroke: #dfe3e8; stroke-width: 1 }
.compute { fill: #0d9488 }
.coordination { fill: #ea580c }
.part { stroke: #ffffff; stroke-width: 1 }
.vm { fill: #7c2d12 }
.upload { fill: #b93c0c }
.compile { fill: #ea580c }
.load { fill: #fb923c }
.messages { fill: #fdc58c }
.on-dark { fill: #ffffff }
.on-light { fill: #431407 }
@media (prefers-color-scheme: dark) {
  text { fill: #e5e7eb }
  .page { fill: #0f1620 }
  .muted { fill: #9aa5b4 }
  .line { stroke: #2b3544 }
  .part { stroke: #0f1620 }
  .compute { fill: #2dd4bf }
  .coordination { fill: #fb8a3c }
  .on-dark { fill: #ffffff }
  .on-light { fill: #431407 }
}
"""
_LABELS = dict.fromkeys(Coordination, "on-dark") | {
    Coordination.COMPILE: "on-light",
    Coordination.LOAD: "on-light",
    Coordination.MESSAGES: "on-light",
}


def picture_of(plot: Plot) -> bytes:
    """Return the picture as a whole file in UTF-8."""
    height = _TOP + _ROW * len(plot.rows) + _BOTTOM
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_WIDTH} {height}",
            "width": str(_WIDTH),
            "height": str(height),
            "role": "img",
            "aria-labelledby": "title description",
        },
    )
    SubElement(root, "title", id="title").text = TITLE
    SubElement(root, "desc", id="description").text = _described(plot)
    SubElement(root, "style").text = _STYLE
    _rect(root, 0, 0, _WIDTH, height, "page")
    _text(root, _NAMES_X, 40, TITLE, "title")
    _text(root, _NAMES_X, 62, _short(plot.caption, _CAPTION_LENGTH), "muted")
    _draw_legend(root)
    _draw_axis(root, plot)
    for number, row in enumerate(plot.rows):
        _draw_row(root, plot, row, _TOP + number * _ROW)
    ElementTree.indent(root)
    picture: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return picture + b"\n"


def _described(plot: Plot) -> str:
    lines = [f"{plot.caption}."]
    for row in plot.rows:
        report = row.report
        spent = ", ".join(f"{NAMES[part]} {milliseconds(ns)}" for part, ns in row.parts.items())
        lines.append(
            f"{row.heading}: compute {milliseconds(report.compute_ns)}, "
            f"coordination {milliseconds(report.coordinate_ns)} ({spent}), "
            f"compute over coordination {row.ratio}."
        )
    return printable(" ".join(lines))


def _draw_legend(root: Element) -> None:
    y = 104
    x = float(_BARS_X)
    for shown, style in (("compute", "compute"), ("coordination", "coordination")):
        x = _draw_key(root, x, y, shown, style)
    _text(root, _PARTS_X, y - 20, "What coordination was spent on", "muted")
    x = float(_PARTS_X)
    for part, shown in NAMES.items():
        x = _draw_key(root, x, y, shown, part.value)


def _draw_key(root: Element, x: float, y: float, shown: str, style: str) -> float:
    _rect(root, x, y - 9, 10, 10, style)
    _text(root, x + 13, y, shown, "muted small")
    return x + 13 + _SMALL_LETTER * len(shown) + 9


def _draw_axis(root: Element, plot: Plot) -> None:
    axis = plot.axis
    end = _TOP + _ROW * len(plot.rows)
    for tick in axis.ticks():
        x = _BARS_X + tick.at * _BARS_WIDTH
        _line(root, x, _TOP - 18, x, end)
        _text(root, x, end + 16, tick.label, "muted middle")
    each = "logarithmic: each line is ten times the one before" if axis.is_logarithmic else "linear"
    _text(root, _BARS_X, end + 34, f"time, {each}", "muted")
    for percent in (0, 50, 100):
        x = _PARTS_X + percent / 100 * _PARTS_WIDTH
        _line(root, x, _TOP - 18, x, end)
        place = "muted end" if percent == 100 else "muted middle"
        _text(root, x, end + 16, f"{percent} %", place)


def _draw_row(root: Element, plot: Plot, row: Row, y: float) -> None:
    report = row.report
    if row is plot.rows[-1] and len(plot.rows) > 1:
        _line(root, _NAMES_X, y - 11, _WIDTH - _NAMES_X, y - 11)
    _text(root, _NAMES_X, y + 14, _short(row.name), "name")
    _text(root, _NAMES_X, y + 34, row.ratio, "")
    _text(root, _BARS_X - 14, y + 34, _short(row.language, _LANGUAGE_LENGTH), "muted end")
    drawn = (("compute", report.compute_ns), ("coordination", report.coordinate_ns))
    for number, (style, duration_ns) in enumerate(drawn):
        top = y + number * (_BAR + _BETWEEN_BARS)
        length = plot.axis.at(duration_ns) * _BARS_WIDTH
        shown = milliseconds(duration_ns)
        if length:
            _rect(root, _BARS_X, top, length, _BAR, style, f"{style}: {shown}")
        _text(root, _BARS_X + length + 6, top + 13, shown, "")
    for part, begin, end in row.shares():
        x, width = _PARTS_X + begin * _PARTS_WIDTH, (end - begin) * _PARTS_WIDTH
        name = f"{NAMES[part]} {_percent(end - begin)}"
        told = f"{NAMES[part]}: {milliseconds(row.parts[part])}, {_percent(end - begin)}"
        height = 2 * _BAR + _BETWEEN_BARS
        _rect(root, x, y, width, height, f"part {part.value}", told)
        if width >= _SMALL_LETTER * len(name) + 8:
            style = f"small middle {_LABELS[part]}"
            _text(root, x + width / 2, y + height / 2 + 4, name, style)


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if share >= 0.01 else "<1 %"


def _short(text: str, length: int = _NAME_LENGTH) -> str:
    shown = printable(text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def _text(parent: Element, x: float, y: float, text: str, style: str) -> None:
    place = {"x": _number(x), "y": _number(y)}
    SubElement(parent, "text", place | ({"class": style} if style else {})).text = text


def _line(parent: Element, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    SubElement(parent, "line", {key: _number(at) for key, at in ends.items()} | {"class": "line"})


def _rect(  # noqa: PLR0913 - where, how large and how
    parent: Element, x: float, y: float, width: float, height: float, style: str, told: str = ""
) -> None:
    where = {"x": x, "y": y, "width": width, "height": height}
    attributes = {key: _number(value) for key, value in where.items()} | {"class": style}
    drawn = SubElement(parent, "rect", attributes)
    if told:
        SubElement(drawn, "title").text = told


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
