"""The audit log of a real node."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from support.nodes import builder

from plexspaces_node import NodeClient


async def test_audit_when_a_node_has_run_then_its_start_and_end_are_there(data_dir: Path) -> None:
    """So that whoever reads it knows when nothing could be recorded."""
    async with builder(data_dir).build():
        pass
    lines = (data_dir / "audit" / "audit.jsonl").read_text().splitlines()
    found = [(one["kind"], one["verb"], one["result"]) for one in map(json.loads, lines)]
    assert found == [("local", "Node/Start", "ok"), ("local", "Node/Stop", "ok")]


async def test_audit_when_the_node_stops_then_followers_end_after_its_last_line(
    data_dir: Path,
) -> None:
    """Without an error, and without making the node wait for them."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(builder(data_dir).build())
        client = await stack.enter_async_context(NodeClient(node.address))
        lines = await stack.enter_async_context(aclosing(client.read_audit(follow=True)))
        assert (await anext(lines)).verb == "Node/Start"
        await client.set_secret("db", b"x")
        assert (await anext(lines)).verb == "SecretService/SetSecret"
        assert await node.drain()
        assert [entry async for entry in lines] == []
