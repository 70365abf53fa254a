"""`top` and `trace` against a real node: what they tell is what was measured."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest
from support.actors import probe, routed
from support.patience import patient

from plexspaces_node import NodeClient
from plexspaces_node.node.node import Node
from plexspaces_node.telemetry import SpanKind


async def told(node: Node, *arguments: str) -> str:
    """Run a command at a node and return what it writes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plexspaces_node.cli.main", *arguments),
        *("--node-address", node.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(patient(60)):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture
async def asked(client: NodeClient) -> NodeClient:
    """A client of a node where `front` has asked `back`."""
    for name in ("front", "back"):
        await client.deploy(name, probe())
    await client.invoke("front", routed("back", "e", b"ping"), type="a")
    return client


async def test_trace_when_one_asked_another_then_both_are_drawn(
    asked: NodeClient, node: Node
) -> None:
    """The chain is one trace; the bill adds up to what both took."""
    (trace,) = json.loads(await told(node, "trace", "front", "--json"))
    message, ask = trace["spans"]
    assert (message["kind"], message["application"], message["name"]) == ("message", "front", "a")
    assert (ask["kind"], ask["application"], ask["name"]) == ("ask", "back", "e")
    assert ask["parent_id"] == message["span_id"]
    for span in (message, ask):
        parts = (span[f"{part}_ns"] for part in ("compute", "wait", "queue", "link"))
        assert sum(parts) == span["total_ns"] > 0
    assert message["start_unix_ns"] <= ask["start_unix_ns"]
    ends = [span["start_unix_ns"] + span["total_ns"] for span in (ask, message)]
    assert ends == sorted(ends)
    bill = trace["bill"]
    assert bill["compute_ns"] == message["compute_ns"] + ask["compute_ns"]
    text = await told(node, "trace", "front", "--id", trace["trace_id"])
    assert f"Trace {trace['trace_id']}" in text
    assert "└ ask back e" in text
    blamed = bill["hops"][bill["blame"]]["application"]
    assert f"To blame: {blamed} " in text
    (same,) = await asked.traces("front", slowest=True)
    assert [span.kind for span in same.spans] == [SpanKind.MESSAGE, SpanKind.ASK]


async def test_top_when_messages_were_sent_then_each_application_has_its_own(
    asked: NodeClient, node: Node
) -> None:
    """Counted once each, with the memory of its VM and the level that keeps it apart."""
    now: dict[str, Any] = json.loads(await told(node, "top", "--once", "--json"))
    assert now["node"]["node_id"] == "node-test"
    by_name = {one["name"]: one for one in now["applications"]}
    assert by_name.keys() == {"front", "back"}
    for one in by_name.values():
        assert (one["state"], one["isolation"]) == ("Running", "process")
        assert one["total"]["messages"] == 1
        assert 0 < one["memory_bytes"] < one["memory_limit_bytes"]
    text = await told(node, "top", "--once", "--sort", "name")
    assert [line.split()[0] for line in text.splitlines()] == ["NAME", "back", "front"]
    report = await asked.activity("front")
    assert [(ask.to, ask.asks) for ask in report.asks] == [("back", 1)]
