"""The audit log of a real node."""

from __future__ import annotations

import hashlib
import json
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import httpx
import pytest
from support.nodes import builder
from support.small_disk import run_on_small_disk

from plexspaces_node import NodeClient
from plexspaces_node.client.artifact import read_artifact
from plexspaces_node.errors import PermissionDenied


async def test_audit_when_a_node_has_run_then_its_start_and_end_are_there(data_dir: Path) -> None:
    """So that whoever reads it knows when nothing could be recorded."""
    async with builder(data_dir).build():
        pass
    lines = (data_dir / "audit" / "audit.jsonl").read_text().splitlines()
    found = [(one["kind"], one["verb"], one["result"]) for one in map(json.loads, lines)]
    assert found == [("local", "Node/Start", "ok"), ("local", "Node/Stop", "ok")]


async def test_audit_when_something_is_uploaded_then_what_and_whose(
    data_dir: Path, probe_wasm: Path
) -> None:
    """However it was sent: a stream says it only in its first part, and a file not at all."""
    data = probe_wasm.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    build = builder(data_dir).with_setting("http.address", "127.0.0.1:0").build()
    async with build as node:
        url = f"http://{node.http_address}/v1/artifacts"
        async with NodeClient(node.address) as client, httpx.AsyncClient() as web:
            await client.upload(read_artifact(probe_wasm), tenant="shop")
            for name in ("probe.wasm", digest):
                sent = await web.put(f"{url}/{name}?tenant=shop", content=data)
                assert sent.status_code == 201
            here = httpx.AsyncHTTPTransport(uds=str(data_dir / "http.sock"))
            async with httpx.AsyncClient(transport=here) as local:
                wish = "http://localhost/v1/artifacts/x.wasm?tenant=shop"
                assert (await local.put(wish, content=data)).status_code == 201
            seen = [entry async for entry in client.read_audit(tenant="shop")]
    assert [(one.verb, one.object) for one in seen] == [
        ("ApplicationService/UploadArtifact", digest)
    ] * 4
    assert [one.address for one in seen] == ["unix", "127.0.0.1", "127.0.0.1", "unix"]


async def test_audit_when_a_call_about_an_application_is_refused_then_it_is_named(
    data_dir: Path,
) -> None:
    """By gRPC as by HTTP: somebody who tries one name after the other is seen doing so."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        made = await client.create_token("ci", scopes=["deploy"], tenant="rival")
        async with NodeClient(node.address, token=made.secret) as other:
            for attempt in (other.inspect, other.undeploy):
                with pytest.raises(PermissionDenied):
                    await attempt("shop/cart")
        # Refusals are written within a second.
        async with aclosing(client.read_audit(tenant="rival", follow=True)) as lines:
            seen = [await anext(lines) for _ in range(3)]
    assert [(one.verb, one.object, one.result) for one in seen] == [
        ("TokenService/CreateToken", "ci", "ok"),
        ("ApplicationService/Inspect", "shop/cart", "permission_denied"),
        ("ApplicationService/Undeploy", "shop/cart", "permission_denied"),
    ]


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


_FULL = """
import asyncio, json, logging, sys
from pathlib import Path
from plexspaces_node.node.access.audit import AuditLog, Event

async def main(place):
    said = []
    logging.getLogger().addHandler(handler := logging.Handler())
    handler.emit = lambda record: said.append(record.getMessage())
    blocks = place / "others"
    async with AuditLog(place) as log:
        blocks.write_bytes(bytes(200 * 1024))
        for number in range(2000):
            log.note(Event("token", "ci", "", "", "Verb", f"{number}{'x' * 200}"))
            while log._writing is not None:
                await asyncio.shield(log._writing)
        blocks.unlink()
        log.note(Event("token", "ci", "", "", "Verb", "after"))
    lines = (place / "audit.jsonl").read_bytes().split(b"\\n")
    assert lines.pop() == b""
    entries = [json.loads(line) for line in lines]
    assert entries[-1]["object"] == "after"
    assert entries[-1]["lost"] == 2000 - (len(entries) - 1), (len(entries), entries[-1])
    assert len(said) == 1, said
    print("ok", len(entries))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_audit_when_the_disk_is_full_then_whole_lines_and_the_number_of_those_lost(
    tmp_path: Path,
) -> None:
    """No line is there in part, and none is lost without being counted."""
    done = run_on_small_disk(_FULL, tmp_path, "400k")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok")
