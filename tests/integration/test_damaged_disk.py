"""A node on a disk that changed artifacts or native code: it does not run them, and heals."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.nodes import builder, reached
from support.records import damage_root
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.errors import ActorFailed, NotFound
from plexspaces_node.model import ApplicationState

TWO = (2).to_bytes(4, "little")


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
    path.write_bytes(data)


async def test_native_code_that_was_damaged_is_made_anew_when_the_node_starts(
    data_dir: Path, probe_wasm: Path
) -> None:
    """An application whose code changed on the disk runs again, from where it was, by itself."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.invoke("one", type="c")
    (code,) = (data_dir / "cache").glob("*.cwasm")
    _damage(code)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await reached(client, "one")
        assert (await client.invoke("one", type="c")).payload == TWO
        assert (await client.inspect("one")).restarts == 0
    note = json.loads(code.with_suffix(".json").read_text())
    assert hashlib.sha256(code.read_bytes()).hexdigest() == note["sha256"]
    assert_nothing_left(data_dir)


async def test_artifact_that_was_damaged_is_sent_anew_for_all_who_need_it(
    data_dir: Path, probe_wasm: Path
) -> None:
    """The first deploy of the good file works, and mends an application that had it."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.stop("one")
    for path in (data_dir / "cache").iterdir():
        path.unlink()
    (artifact,) = (data_dir / "artifacts").iterdir()
    _damage(artifact)
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        info = await client.deploy("two", probe_wasm)
        assert info.timings.upload_ns > 0
        _damage(artifact)
        for path in (data_dir / "cache").iterdir():
            path.unlink()
        with pytest.raises(NotFound, match="is missing or corrupt"):
            await client.start("one")
        await client.deploy("three", probe_wasm)
        assert (await client.start("one")).state is ApplicationState.RUNNING
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert_nothing_left(data_dir)


async def test_registry_that_is_damaged_is_told_to_the_operator_and_the_rest_goes_on(
    data_dir: Path, probe_wasm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose key it was hears of it, and so do the log, the health and the metrics."""
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.invoke("one", b"key", type="p")
    registry = data_dir / "registry.db"
    damage_root(registry, "keyvalue")
    built = builder(data_dir).with_setting("node.metrics_address", "127.0.0.1:0").build()
    async with built as node, NodeClient(node.address) as client:
        await reached(client, "one")
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(ActorFailed, match=r"registry.db is damaged"),
        ):
            await client.invoke("one", b"key", type="g")
        assert "plexspaces restore" in "".join(caplog.messages)
        async with grpc.aio.insecure_channel(node.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            answer = await check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        metrics = await asyncio.to_thread(
            lambda: urlopen(f"http://127.0.0.1:{node.metrics_port}/metrics").read().decode()
        )
        assert "plexspaces_registry_damage_total 1.0" in metrics
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"
