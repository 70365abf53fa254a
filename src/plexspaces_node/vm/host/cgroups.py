"""The cgroups of a node: where its VMs compete for processor time, with bounds around each.

Below the node's own cgroup, which must be delegated to it, or below the root of the hierarchy:

    plexspaces-node                  the node itself: only leaves have processes
    plexspaces@NODE/TENANT/GROUP     the processes of one application's VM

Tenants have equal weights, and so have the applications of a tenant. Only cgroup v2 is used. This
module knows tenants only as names. Everything here blocks, for milliseconds.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import Unsupported

LEAF = "plexspaces-node"
PERIOD_US = 100_000
WANTED = ("cpu", "memory", "pids")

_NO_CPU = "systemd.unified_cgroup_hierarchy=1"
_DELEGATE = "run the node as a service: plexspaces install-service (Delegate=yes)"
_BUSY_S = 1.0
_ROUNDS = 3
_ESCAPED = re.compile(r"\\([0-7]{3})")
_MOUNTS = Path("/proc/self/mounts")
_OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node can have its cgroups.

    Attributes:
        base: the cgroup below which they are made.
        moves: whether the node must leave `base` first, because only leaves have processes.
        controllers: those of `WANTED` that there are; `cpu` is among them.
    """

    base: Path
    moves: bool
    controllers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupBounds:
    """The bounds of a cgroup, each 0 for none.

    Attributes:
        cpu_percent: processor time, in percent of one CPU.
    """

    cpu_percent: int = 0
    memory_mib: int = 0
    processes: int = 0


def find_place(mounts: Path = _MOUNTS, own: Path = _OWN) -> Place:
    """Return where this process can have cgroups; changes nothing.

    Raises `Unsupported` with what is missing on this host.
    """
    try:
        mount, lines = _mount(mounts.read_text()), own.read_text().splitlines()
    except OSError as error:
        raise Unsupported(
            f"the cgroups of this process cannot be seen: {error.strerror}", hint=f"ls -l {own}"
        ) from error
    if mount is None:
        raise Unsupported("this host has no cgroup v2", hint=_boot_hint())
    line = next((one for one in lines if one.startswith("0::")), "0::")
    name = line[3:].strip("/")
    base = mount / name if name and ".." not in name.split("/") else mount
    if base.name == LEAF:
        base = base.parent
    why = _unusable(base)
    if why is not None and base != mount:
        # Root may use the hierarchy's root, whatever started the node.
        base = mount
        why = why if _unusable(base) else None
    controllers = _words(base / "cgroup.controllers")
    if "cpu" not in controllers:
        raise Unsupported(
            "cgroup v2 has no cpu controller on this host, which uses cgroup v1 for it"
            if base == mount
            else f"the cgroup {base} has no cpu controller",
            hint=_boot_hint() if base == mount else _DELEGATE,
        )
    if why is not None:
        raise Unsupported(why, hint=_DELEGATE)
    usable = tuple(one for one in WANTED if one in controllers)
    return Place(base, not _is_root(base), usable)


class NodeCgroups:
    """The cgroups of one node. Not for several threads at once."""

    def __init__(
        self,
        root: Path,
        controllers: Iterable[str],
        *,
        remove: Callable[[Path], None] = os.rmdir,
    ) -> None:
        """Use an existing cgroup; see `open`. `remove` removes one without processes."""
        self.root = root
        self.controllers = frozenset(controllers)
        self._remove = remove

    def __repr__(self) -> str:
        return f"<NodeCgroups {self.root} {' '.join(sorted(self.controllers))}>"

    @classmethod
    def open(
        cls, place: Place, node_id: str, *, remove: Callable[[Path], None] = os.rmdir
    ) -> NodeCgroups:
        """Make the cgroups of a node, and move the node out of their way.

        Removes what an earlier run has left and nobody uses. Raises `Unsupported` if the kernel
        refuses.
        """
        root = place.base / f"plexspaces@{node_id}"
        try:
            if place.moves:
                _vacate(place.base)
            _pass_on(place.base, place.controllers)
            root.mkdir(exist_ok=True)
            _pass_on(root, place.controllers)
        except OSError as error:
            raise Unsupported(
                f"the node cannot have cgroups in {place.base}: {error.strerror}", hint=_DELEGATE
            ) from error
        found = cls(root, place.controllers, remove=remove)
        found.clear()
        return found

    def enter(self, tenant: str, group: str, pids: Iterable[int], bounds: GroupBounds) -> None:
        """Move processes into the group of an application, which is made with these bounds.

        Processes that have ended are skipped. Raises `OSError`.
        """
        path = self._group(tenant, group)
        path.parent.mkdir(exist_ok=True)
        _pass_on(path.parent, self.controllers)
        path.mkdir(exist_ok=True)
        self.bound(path, bounds)
        for pid in pids:
            with suppress(ProcessLookupError):
                (path / "cgroup.procs").write_text(str(pid))

    def bound_tenant(self, tenant: str, bounds: GroupBounds) -> None:
        """Set the bounds of a tenant, if it has a group; raises `OSError`."""
        self._bound_existing(self.root / tenant, bounds)

    def bound_group(self, tenant: str, group: str, bounds: GroupBounds) -> None:
        """Set the bounds of an application's group, if there is one; raises `OSError`."""
        self._bound_existing(self._group(tenant, group), bounds)

    def leave(self, tenant: str, group: str) -> bool:
        """Remove the group of a VM that has ended, and its tenant's if that was the last one.

        Waits for at most a second for the kernel to release the processes; returns whether the
        group is gone. It is left to `clear` otherwise.
        """
        path = self._group(tenant, group)
        gone = self._removed(path, _BUSY_S)
        if gone:
            self._removed(path.parent, 0)
        return gone

    def cpu_us(self, tenant: str, group: str = "") -> int:
        """Return the processor time of a tenant or of one group so far; 0 without a group."""
        path = self._group(tenant, group) if group else self.root / tenant
        with suppress(OSError, ValueError, KeyError):
            lines = (path / "cpu.stat").read_text().splitlines()
            return int(dict(line.split() for line in lines)["usage_usec"])
        return 0

    def clear(self) -> None:
        """Remove the groups that have no processes, such as those of a node that was killed."""
        for tenant in _below(self.root):
            for group in _below(tenant):
                self._removed(group, 0)
            self._removed(tenant, 0)

    def close(self) -> None:
        """Remove what can be removed. Idempotent."""
        self.clear()
        self._removed(self.root, 0)

    def bound(self, path: Path, bounds: GroupBounds) -> None:
        """Write the bounds of a group; raises `OSError`."""
        quota = f"{bounds.cpu_percent * PERIOD_US // 100}" if bounds.cpu_percent else "max"
        memory = str(bounds.memory_mib * 1024 * 1024) if bounds.memory_mib else "max"
        for controller, file, value in (
            ("cpu", "cpu.max", f"{quota} {PERIOD_US}"),
            ("memory", "memory.max", memory),
            ("pids", "pids.max", str(bounds.processes or "max")),
        ):
            if controller in self.controllers:
                (path / file).write_text(value)

    def _bound_existing(self, path: Path, bounds: GroupBounds) -> None:
        if path.is_dir():
            with suppress(FileNotFoundError):
                self.bound(path, bounds)

    def _group(self, tenant: str, group: str) -> Path:
        return self.root / tenant / group

    def _removed(self, path: Path, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self._remove(path)
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                    return False
                time.sleep(0.01)
            else:
                return True


def _mount(mounts: str) -> Path | None:
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "cgroup2":
            return Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[1]))
    return None


def _unusable(base: Path) -> str | None:
    """Return why a process cannot make cgroups there, None if it can."""
    files = ("cgroup.procs", "cgroup.subtree_control")
    if not all(os.access(one, os.W_OK) for one in (base, *(base / name for name in files))):
        return f"the node may not write to its cgroup {base}"
    if _is_root(base) or base.parent == base:
        return None
    others = [one for one in _words(base / "cgroup.procs") if one != str(os.getpid())]
    if others and not _is_outermost(base):
        return f"the node's cgroup {base} has other processes, such as the shell that started it"
    return None


def _is_root(base: Path) -> bool:
    """Return whether this is the root of the host, in which processes may stay."""
    return not (base / "cgroup.type").exists()


def _is_outermost(base: Path) -> bool:
    """Return whether this is all of the hierarchy that a container sees."""
    return not (base.parent / "cgroup.procs").exists()


def _vacate(base: Path) -> None:
    """Move every process of a cgroup into a leaf below it."""
    leaf = base / LEAF
    leaf.mkdir(exist_ok=True)
    # Again, because one of them may have started another meanwhile.
    for _ in range(_ROUNDS):
        for pid in _words(base / "cgroup.procs"):
            with suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)


def _pass_on(group: Path, controllers: Iterable[str]) -> None:
    """Let the groups below have these controllers."""
    missing = set(controllers) - set(_words(group / "cgroup.subtree_control"))
    if missing:
        wanted = " ".join(f"+{one}" for one in sorted(missing))
        (group / "cgroup.subtree_control").write_text(wanted)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _below(group: Path) -> list[Path]:
    with suppress(OSError):
        return [one for one in group.iterdir() if one.is_dir()]
    return []


def _boot_hint() -> str:
    return f"boot the host with cgroup v2; with systemd: {_NO_CPU} on the kernel's command line"
