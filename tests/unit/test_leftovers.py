"""What becomes of what an earlier run of a node left behind."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_driver import FakeDriver
from support.records import record_of

from plexspaces_node.errors import Unavailable
from plexspaces_node.model import VmConfig
from plexspaces_node.node.machines.leftovers import deployed_applications, destroy_machines
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.sqlite_file import Bounds
from plexspaces_node.vm.bundle import Bundle

DONE = record_of("done")
UNDONE = replace(DONE, name="undone", id="app-2", generation=0)


class _StuckDriver(FakeDriver):
    async def destroy(self, bundle: Bundle, *, ended: bool = False) -> None:
        if bundle.vm_id == "vm-stuck":
            raise Unavailable(f"cannot remove bundle {bundle.path}")
        await super().destroy(bundle, ended=ended)


async def test_destroy_when_a_directory_cannot_be_removed_then_it_is_named_and_the_rest_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One file that cannot be removed does not keep a node down."""
    for vm_id in ("vm-a", "vm-stuck", "vm-z"):
        Bundle.create(tmp_path, vm_id, VmConfig())
    await destroy_machines(_StuckDriver(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vm-stuck"]
    assert f"{tmp_path / 'vm-stuck'}, left by an earlier run, cannot be removed" in caplog.text


async def test_destroy_when_a_process_of_it_lives_then_raised(tmp_path: Path) -> None:
    """A node does not start beside a machine that it could not end."""
    bundle = Bundle.create(tmp_path, "vm-stuck", VmConfig())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "print(flush=True); input()"),
        *(bundle.vm_id, str(bundle.link_socket)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        # The kernel shows its arguments only some time after the start has returned.
        await process.stdout.readline()
        with pytest.raises(Unavailable, match="cannot remove"):
            await destroy_machines(_StuckDriver(), tmp_path)
    finally:
        process.kill()
        await process.communicate()


async def test_applications_when_a_deploy_was_not_done_then_it_is_removed(tmp_path: Path) -> None:
    """A deploy that nobody was told of is no application."""
    async with Registry.open(tmp_path / "registry.db") as registry:
        for record in (DONE, UNDONE):
            await registry.insert_application(record)
        assert await deployed_applications(registry) == [DONE]
        assert await registry.list_applications() == [DONE]


async def test_applications_when_the_registry_refuses_then_the_undone_are_passed_over(
    tmp_path: Path,
) -> None:
    """A full disk or a lock does not bring a failed deploy to life, nor keep the node down."""
    path = tmp_path / "registry.db"
    async with Registry.open(path, bounds=Bounds(busy_s=0.01)) as registry:
        for record in (DONE, UNDONE):
            await registry.insert_application(record)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await deployed_applications(registry) == [DONE]
        assert await registry.list_applications() == [DONE, UNDONE]
