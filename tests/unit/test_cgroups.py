"""The cgroups of a node, in a directory that stands in for the kernel's file system."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.doctor.shares import check_shares
from plexspaces_node.errors import Unsupported
from plexspaces_node.vm.host.cgroups import LEAF, GroupBounds, NodeCgroups, Place, find_place

CONTROLLERS = "cpuset cpu io memory pids"


class Kernel:
    """A hierarchy: files are as the kernel would have them; a write to `cgroup.procs` is a move."""

    def __init__(self, directory: Path, own: str, controllers: str = CONTROLLERS) -> None:
        self.mount = directory / "cgroup"
        self.mounts = directory / "mounts"
        self.own = directory / "own"
        self.mounts.write_text(f"proc /proc proc rw 0 0\ncgroup2 {self.mount} cgroup2 rw 0 0\n")
        self.own.write_text(f"4:memory:/x\n0::{own}\n")
        self.mount.mkdir()
        self.group(self.mount, controllers, procs="1\n")
        path = self.mount
        for part in Path(own).parts[1:]:
            path = path / part
            path.mkdir()
            self.group(path, controllers)
            (path / "cgroup.type").write_text("domain")
        self.base = path

    def group(self, path: Path, controllers: str, *, procs: str = "") -> None:
        (path / "cgroup.controllers").write_text(controllers)
        (path / "cgroup.subtree_control").write_text("")
        (path / "cgroup.procs").write_text(procs)

    def place(self) -> Place:
        return find_place(self.mounts, self.own)


def remove(path: Path) -> None:
    """Remove a cgroup as the kernel does: its files are no obstacle, processes and groups are."""
    if not path.exists():
        raise FileNotFoundError(path)
    procs = path / "cgroup.procs"
    if any(one.is_dir() for one in path.iterdir()) or (procs.exists() and procs.read_text()):
        raise OSError(errno.EBUSY, "busy")
    shutil.rmtree(path)


def opened(tmp_path: Path, *, controllers: str = "cpu memory pids") -> NodeCgroups:
    root = tmp_path / "plexspaces@n"
    root.mkdir()
    (root / "cgroup.subtree_control").write_text("")
    return NodeCgroups(root, controllers.split(), remove=remove)


class TestPlace:
    def test_place_when_the_nodes_cgroup_is_delegated_then_it_is_there(
        self, tmp_path: Path
    ) -> None:
        """The node alone is in it, as in a service of systemd: it moves into a leaf."""
        kernel = Kernel(tmp_path, "/system.slice/plexspaces.service")
        (kernel.base / "cgroup.procs").write_text(f"{os.getpid()}\n")
        assert kernel.place() == Place(kernel.base, True, ("cpu", "memory", "pids"))

    def test_place_when_the_node_is_in_its_leaf_already_then_above_it(self, tmp_path: Path) -> None:
        """A second start in the same cgroup finds the same place."""
        kernel = Kernel(tmp_path, f"/system.slice/plexspaces.service/{LEAF}")
        assert kernel.place().base == kernel.base.parent

    def test_place_when_a_shell_is_in_the_cgroup_then_root_uses_the_hierarchys_root(
        self, tmp_path: Path
    ) -> None:
        """Nobody else's processes are moved."""
        kernel = Kernel(tmp_path, "/user.slice/session-1.scope")
        (kernel.base / "cgroup.procs").write_text(f"77\n{os.getpid()}\n")
        assert kernel.place() == Place(kernel.mount, False, ("cpu", "memory", "pids"))

    def test_place_when_in_a_container_then_all_its_processes_move(self, tmp_path: Path) -> None:
        """The outermost group of a container has processes, and is not the root of the host."""
        kernel = Kernel(tmp_path, "/")
        (kernel.mount / "cgroup.type").write_text("domain")
        assert kernel.place() == Place(kernel.mount, True, ("cpu", "memory", "pids"))

    def test_place_when_the_host_uses_cgroup_v1_then_said(self, tmp_path: Path) -> None:
        """A hierarchy without controllers is of no use: the hint names the kernel's parameter."""
        with pytest.raises(Unsupported, match="uses cgroup v1") as caught:
            Kernel(tmp_path, "/", controllers="").place()
        assert "unified_cgroup_hierarchy=1" in (caught.value.hint or "")

    def test_place_when_there_is_no_cgroup2_then_said(self, tmp_path: Path) -> None:
        """Neither mounted nor usable."""
        kernel = Kernel(tmp_path, "/")
        kernel.mounts.write_text("proc /proc proc rw 0 0\n")
        with pytest.raises(Unsupported, match="no cgroup v2"):
            kernel.place()

    def test_place_when_proc_cannot_be_read_then_said(self, tmp_path: Path) -> None:
        """A node starts without shares, as on any host that has none."""
        (tmp_path / "mounts").write_text("")
        with pytest.raises(Unsupported, match="cannot be seen: No such file"):
            find_place(tmp_path / "mounts", tmp_path / "missing")


class TestOpen:
    def test_open_when_the_base_has_processes_then_they_move_and_controllers_are_passed_on(
        self, tmp_path: Path
    ) -> None:
        """No internal processes: the node is in a leaf before the controllers are passed on."""
        base = tmp_path
        (base / "cgroup.procs").write_text("")
        (base / "cgroup.subtree_control").write_text("memory")
        found = NodeCgroups.open(Place(base, True, ("cpu", "memory")), "n1", remove=remove)
        assert found.root == base / "plexspaces@n1"
        assert (base / LEAF).is_dir()
        assert (base / "cgroup.subtree_control").read_text() == "+cpu"
        assert (found.root / "cgroup.subtree_control").read_text() == "+cpu +memory"

    def test_open_when_an_earlier_node_was_killed_then_its_groups_are_removed(
        self, tmp_path: Path
    ) -> None:
        """Those with processes stay: they are another node's."""
        for name, procs in (("shop/app-1", ""), ("shop/app-2", "9"), ("gone/app-3", "")):
            group = tmp_path / "plexspaces@n1" / name
            group.mkdir(parents=True)
            (group / "cgroup.procs").write_text(procs)
        found = NodeCgroups.open(Place(tmp_path, False, ("cpu",)), "n1", remove=remove)
        assert sorted(p.name for p in found.root.rglob("*") if p.is_dir()) == ["app-2", "shop"]

    def test_open_when_the_kernel_refuses_then_unsupported(self, tmp_path: Path) -> None:
        """As where the cgroup is not the node's."""
        (tmp_path / "cgroup.subtree_control").mkdir()
        with pytest.raises(Unsupported, match="cannot have cgroups") as caught:
            NodeCgroups.open(Place(tmp_path, False, ("cpu",)), "n1", remove=remove)
        assert "Delegate=yes" in (caught.value.hint or "")


class TestGroups:
    def test_enter_when_bounded_then_written_before_the_process_moves(self, tmp_path: Path) -> None:
        """Percent of one CPU, mebibytes and a number, each for its controller."""
        groups = opened(tmp_path)
        groups.enter("shop", "app-1", [12], GroupBounds(150, 64, 20))
        path = groups.root / "shop" / "app-1"
        assert {file.name: file.read_text() for file in path.iterdir()} == {
            "cgroup.procs": "12",
            "cpu.max": "150000 100000",
            "memory.max": str(64 * 2**20),
            "pids.max": "20",
        }
        assert (path.parent / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"

    def test_bound_when_changed_then_only_what_exists_is_written(self, tmp_path: Path) -> None:
        """A quota of a tenant without a running VM waits for its next one."""
        groups = opened(tmp_path, controllers="cpu")
        groups.bound_tenant("shop", GroupBounds(50))
        assert not (groups.root / "shop").exists()
        groups.enter("shop", "app-1", [], GroupBounds())
        groups.bound_tenant("shop", GroupBounds(50))
        groups.bound_group("shop", "app-1", GroupBounds(20))
        groups.bound_group("shop", "app-2", GroupBounds(20))
        assert (groups.root / "shop" / "cpu.max").read_text() == "50000 100000"
        assert (groups.root / "shop" / "app-1" / "cpu.max").read_text() == "20000 100000"
        groups.bound_tenant("shop", GroupBounds())
        assert (groups.root / "shop" / "cpu.max").read_text() == "max 100000"
        assert not (groups.root / "shop" / "app-1" / "memory.max").exists()

    def test_leave_when_the_last_of_a_tenant_then_nothing_is_left(self, tmp_path: Path) -> None:
        """The tenant's group goes with its last application; a second time is harmless."""
        groups = opened(tmp_path)
        for name in ("app-1", "app-2"):
            groups.enter("shop", name, [], GroupBounds())
        assert groups.leave("shop", "app-1")
        assert (groups.root / "shop").is_dir()
        assert groups.leave("shop", "app-2")
        assert groups.leave("shop", "app-2")
        assert not (groups.root / "shop").exists()
        groups.close()
        assert not groups.root.exists()

    def test_cpu_when_there_is_a_group_then_its_time(self, tmp_path: Path) -> None:
        """As the kernel counts it; none without a group."""
        groups = opened(tmp_path)
        groups.enter("shop", "app-1", [], GroupBounds())
        (groups.root / "shop" / "cpu.stat").write_text("usage_usec 123\nuser_usec 100\n")
        assert groups.cpu_us("shop") == 123
        assert groups.cpu_us("shop", "app-1") == 0


class TestDoctor:
    def test_doctor_when_shares_hold_then_where_and_what_is_missing(self, tmp_path: Path) -> None:
        """One line that names the place."""
        config = ConfigBootstrap.load(flags={"node.data_dir": str(tmp_path)})
        place = Place(Path("/sys/fs/cgroup/x"), True, ("cpu", "memory"))
        [found] = check_shares(config, find=lambda: place)
        assert found.ok
        assert found.detail == "enforced, by cgroups below /sys/fs/cgroup/x, without pids"

    def test_doctor_when_they_do_not_then_no_fault_and_what_helps(self, tmp_path: Path) -> None:
        """A node runs without, and the line is not to be overlooked."""
        config = ConfigBootstrap.load(flags={"node.data_dir": str(tmp_path)})

        def find() -> Place:
            raise Unsupported("this host has no cgroup v2", hint="another host")

        [found] = check_shares(config, find=find)
        assert found.ok is None
        assert (found.detail, found.hint) == (
            "not enforced: this host has no cgroup v2",
            "another host",
        )
        off = ConfigBootstrap.load(flags={"node.data_dir": str(tmp_path), "node.cgroups": False})
        assert "cgroups is off" in check_shares(off, find=find)[0].detail
