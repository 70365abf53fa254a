"""What `deploy/` has for Grafana and Prometheus, as far as that can be read without them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "plexspaces.json"
ALERTS = ROOT / "deploy" / "prometheus" / "plexspaces-alerts.yaml"
WIDTH = 24


@pytest.fixture
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def _lacks(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Return where the second has not all of the first, with the same values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        each = (_lacks(value, theirs.get(key), f"{at}.{key}") for key, value in ours.items())
        return [one for found in each for one in found]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [one for index, both in pairs for one in _lacks(*both, f"{at}[{index}]")]
    return [] if ours == theirs else [f"{at}: {ours!r} is {theirs!r}"]


def test_dashboard_when_grafanas_types_read_it_then_they_know_all_of_it(dashboard: Any) -> None:
    """A misspelt field, or one of another place, would be lost on the way."""
    register_default_plugins()
    read = Dashboard.from_json(dashboard)
    assert _lacks(dashboard, json.loads(JSONEncoder().encode(read))) == []
    assert read.title == "PlexSpaces"
    assert read.panels


def test_panels_are_beside_each_other_and_ask_the_chosen_prometheus(dashboard: Any) -> None:
    """None covers another; each says what it shows; ids and references are unique."""
    taken: set[tuple[int, int]] = set()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= WIDTH
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(one["uid"] == "${datasource}" for one in sources)
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]
        known = {variable["name"] for variable in dashboard["templating"]["list"]}
        known |= {"__rate_interval", "__range"}
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= known


def test_every_alert_has_a_severity_and_a_heading_that_says_what_helps() -> None:
    """Where its annotation leads."""
    text = ALERTS.read_text()
    names = re.findall(r"- alert: (\w+)", text)
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(headings)
    links = re.findall(r"runbook_url: docs/alerts\.md#(\w+)", text)
    assert links == [name.lower() for name in names]
    severities = re.findall(r"severity: (\w+)", text)
    assert len(severities) == len(names)
    assert set(severities) == {"critical", "warning", "info"}
