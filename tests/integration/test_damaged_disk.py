"""A node on a disk that changed artifacts or native code: it does not run them, and heals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.nodes import builder, reached
from support.traces import assert_nothing_left

from plexspaces_node import NodeClient
from plexspaces_node.errors import NotFound
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
        with pytest.raises(NotFound, match="no whole artifact"):
            await client.start("one")
        await client.deploy("three", probe_wasm)
        assert (await client.start("one")).state is ApplicationState.RUNNING
        assert (await client.invoke("one", b"x", type="e")).payload == b"x"
    assert_nothing_left(data_dir)
