"""The list of metrics and its documentation."""

from __future__ import annotations

from pathlib import Path

from plexspaces_node.node.metrics import APPLICATIONS, METRICS, STORE

PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"


def test_every_metric_is_documented_with_its_meaning() -> None:
    """The page names exactly what is served, in the same words."""
    rows = [row.split("|")[1:4] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    documented = {name.strip(" `"): meaning.strip() for name, _, meaning in rows}
    served = {name: meaning for name, (meaning, _) in METRICS.items()} | dict((APPLICATIONS, STORE))
    assert documented == served
