"""The bars of plots, tables and waterfalls: their characters, which differ, and their colours."""

from __future__ import annotations

from typing import NamedTuple

from rich.console import Console
from rich.text import Text

COMPUTE = "dark_cyan"
COORDINATION = "dark_orange"
QUEUE = "yellow"
LINK = "magenta"


class Marks(NamedTuple):
    """The characters of a terminal's bars.

    Attributes:
        coordination: for all of it, and in a waterfall for waiting in host calls.
    """

    compute: str
    coordination: str
    queue: str
    link: str


_BLOCKS = Marks("█", "▒", "░", "─")
_ASCII = Marks("#", "=", ".", "-")


def marks_of(console: Console) -> Marks:
    """Return the characters that a console can show."""
    return _ASCII if console.options.ascii_only else _BLOCKS


def split_bar(marks: Marks, compute: float, width: int) -> Text:
    """Return a bar of compute and coordination; `compute` is its share, from 0 to 1.

    What there is of either is seen, however little, if there is room for both.
    """
    cells = round(compute * width)
    if 0 < compute < 1 and width > 1:
        cells = min(max(cells, 1), width - 1)
    return Text.assemble(
        (marks.compute * cells, COMPUTE), (marks.coordination * (width - cells), COORDINATION)
    )


def terminal(*, stderr: bool = False) -> Console:
    """Return a console that takes texts as they are: names in them are no markup."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def line_of(text: str, style: str = "") -> Text:
    """Return a text that stays one line, and is cut where the terminal ends."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
