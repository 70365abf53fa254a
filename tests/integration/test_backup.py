"""A backup of a node at work, and the node that is made of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.nodes import builder, reached
from support.traces import assert_nothing_left

from plexspaces_node import NodeBuilder, NodeClient
from plexspaces_node.errors import WrongState
from plexspaces_node.node.backup.read import restore
from plexspaces_node.node.backup.write import back_up


async def test_node_when_made_of_a_backup_then_it_is_what_the_first_one_was(
    data_dir: Path, tmp_path: Path, probe_wasm: Path
) -> None:
    """State, keys and log of applications, taken while messages were handled; all of it answers."""
    file, target = tmp_path / "backup.tar", data_dir.parent / "other"
    async with builder(data_dir).build() as node, NodeClient(node.address) as client:
        await client.deploy("one", probe_wasm)
        await client.invoke("one", b"key", type="p")
        await client.invoke("one", type="c")
        # What a stop saved is in a backup for certain; what was last snapshotted, of the others.
        await client.stop("one")
        await client.start("one")
        await client.deploy("stopped", probe_wasm)
        await client.stop("stopped")
        await asyncio.gather(
            asyncio.to_thread(back_up, data_dir, file),
            *(client.invoke("one", b"x", type="e") for _ in range(50)),
        )
    restore(file, target, "node-b")
    built = NodeBuilder("node-b").with_address("127.0.0.1:0").with_isolation("process")
    async with built.with_data_dir(target).build() as node, NodeClient(node.address) as client:
        await reached(client, "one")
        assert (await client.invoke("one", b"key", type="g")).payload == b"key"
        assert int.from_bytes((await client.invoke("one", type="c")).payload, "little") == 2
        states = {info.name: str(info.state) for info in (await client.list()).applications}
        assert states == {"one": "Running", "stopped": "Stopped"}
    assert_nothing_left(target)


async def test_node_when_a_restore_was_not_finished_then_it_does_not_start(
    data_dir: Path,
) -> None:
    """Half of a backup is no node; the hint repeats the restore."""
    async with builder(data_dir).build():
        pass
    (data_dir / "restoring").touch()
    with pytest.raises(WrongState, match="not completely restored") as caught:
        async with builder(data_dir).build():
            pass
    assert caught.value.hint == f"plexspaces restore BACKUP --data-dir {data_dir}"
