"""The audit log of a real node."""

from __future__ import annotations

import json
from pathlib import Path

from support.nodes import builder


async def test_audit_when_a_node_has_run_then_its_start_and_end_are_there(data_dir: Path) -> None:
    """So that whoever reads it knows when nothing could be recorded."""
    async with builder(data_dir).build():
        pass
    lines = (data_dir / "audit" / "audit.jsonl").read_text().splitlines()
    found = [(one["kind"], one["verb"], one["result"]) for one in map(json.loads, lines)]
    assert found == [("local", "Node/Start", "ok"), ("local", "Node/Stop", "ok")]
