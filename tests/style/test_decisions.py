"""The index of the decisions lists the pages that there are."""

from __future__ import annotations

import re
from pathlib import Path

DECISIONS = Path(__file__).parents[2] / "docs" / "decisions"


def test_index_when_compared_with_the_pages_then_each_is_listed_with_its_title() -> None:
    """Number, title and file of every page, in their order."""
    index = (DECISIONS / "README.md").read_text()
    listed = re.findall(r"^\| (\d+) \| \[(.*)\]\((.*)\) \|$", index, re.MULTILINE)
    pages = []
    for page in sorted(DECISIONS.glob("[0-9]*.md")):
        number, title = page.read_text().splitlines()[0].removeprefix("# ").split(". ", 1)
        assert page.name.startswith(f"{int(number):03}-")
        pages.append((number, title, page.name))
    assert listed == pages
