"""How much memory there is for a machine, on a host and in a group with a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from plexspaces_node.model import MIB
from plexspaces_node.vm.host import procfs


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A process in the group `/outer/inner` of the hierarchy at `mount`."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("1:name=systemd:/\n0::/outer/inner\n")
    (tmp_path / "mount" / "outer" / "inner").mkdir(parents=True)
    return tmp_path


def limit(group: Path, limit: str, *, used_mib: int, droppable_mib: int = 0) -> None:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used_mib * MIB}\n")
    stat = f"anon {used_mib * MIB}\ninactive_file {droppable_mib * MIB}\n"
    (group / "memory.stat").write_text(stat)


def test_room_without_limits_is_the_hosts(proc: Path) -> None:
    """Groups without a limit, and hosts without the hierarchy, bound nothing."""
    mount = proc / "mount"
    limit(mount / "outer", "max", used_mib=100)
    assert procfs.groups_room_mib(proc, mount) == []
    assert procfs.groups_room_mib(proc, proc / "nowhere") == []
    assert procfs.groups_room_mib(proc / "nowhere", mount) == []


def test_room_is_that_of_every_group_around_the_node(proc: Path) -> None:
    """A service in a container has two limits; what the kernel can drop is not in the way."""
    mount = proc / "mount"
    limit(mount / "outer", str(1000 * MIB), used_mib=400, droppable_mib=100)
    limit(mount / "outer" / "inner", str(300 * MIB), used_mib=310)
    assert procfs.groups_room_mib(proc, mount) == [0, 700]


def test_room_of_a_group_outside_of_the_hierarchy_is_not_looked_for(proc: Path) -> None:
    """A process that was moved out of its namespace sees a path that leads nowhere."""
    (proc / "self" / "cgroup").write_text("0::/../../other\n")
    assert procfs.groups_room_mib(proc, proc / "mount") == []


def test_memory_that_is_available_is_no_more_than_there_is() -> None:
    """On this host, whatever it is."""
    assert 0 <= procfs.available_memory_mib() <= procfs.total_memory_mib()
