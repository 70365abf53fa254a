"""What restricts a Firecracker process: its files and its command line, jailed and not.

The jailer is Firecracker's companion program for root: it creates a chroot, a cgroup and a PID
namespace, becomes a user that owns nothing else, and executes Firecracker there. A node that is not
root starts Firecracker as its own user, with limits. Then a guest that breaks out of its virtual
machine is restricted only by Firecracker's seccomp filter and that user's rights.

Pure functions make the command lines. `Places` blocks for short file operations.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import Unavailable, quoted
from plexspaces_node.model import MIB, VmConfig
from plexspaces_node.vm.bundle import Bundle
from plexspaces_node.vm.host.users import uid_of

VSOCK_PORT = 52
"""The port of the host through which a guest reaches its node."""

CONSOLE_LIMIT_BYTES = 4 * MIB
"""The maximum size of any file that Firecracker writes, such as its console log.

Firecracker ends if a write exceeds it, so a guest that floods its console ends itself. A normal
guest writes a few hundred bytes.
"""

DESCRIPTOR_LIMIT = 256

VMM_MEMORY_MIB = 64
"""What the cgroup allows beyond the guest's memory, for Firecracker itself and page tables."""

CGROUP_PARENT = "plexspaces"
WANTED_CONTROLLERS = ("cpu", "memory", "pids")

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
"""The whole environment; the jailer clears even that."""

VMM_THREADS = 16
_CGROUP_TIMEOUT_S = 1.0
_API_SOCKET = "api.sock"
_VSOCK = "v.sock"


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs to run, as absolute paths.

    Attributes:
        jailer: None if the node is not root, or runs without it.
        setpriv: from util-linux; used without a jailer, like `prlimit`.
        seccomp: leave Firecracker's own system call filters on.
    """

    firecracker: Path
    jailer: Path | None
    setpriv: str = "setpriv"
    prlimit: str = "prlimit"
    seccomp: bool = True


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The host's unified cgroup hierarchy, as far as VMs can be put into it.

    Attributes:
        mount: where it is mounted.
        controllers: those for which a new group can have limits.
    """

    mount: Path
    controllers: frozenset[str]

    def group(self, vm_id: str) -> Path:
        """Return the directory of a VM's group."""
        return self.mount / CGROUP_PARENT / vm_id


class Places:
    """Where the files of one VM are, with their names on the host and in Firecracker.

    Without a jail both names are the same. In a jail Firecracker sees only `root`, which contains
    hard links to files, so the image stays one file for all VMs.
    """

    def __init__(self, bundle: Bundle, root: Path | None) -> None:
        """Set the directories; `root` is the jail's, or None."""
        self.bundle = bundle
        self.root = root

    @classmethod
    def of(cls, bundle: Bundle, programs: Programs) -> Places:
        """Return the places of a VM that these programs run."""
        if programs.jailer is None:
            return cls(bundle, None)
        # The jailer names the directory after the program that really runs, with links resolved.
        name = programs.firecracker.resolve().name
        return cls(bundle, jail_base(bundle) / name / bundle.vm_id / "root")

    @property
    def api_socket(self) -> Path:
        """The API socket on the host; in a jail a link, because the real path is too long."""
        return self.bundle.path / _API_SOCKET

    @property
    def api_name(self) -> str:
        """The API socket's path for Firecracker."""
        return self._name(_API_SOCKET)

    @property
    def vsock_name(self) -> str:
        """The vsock device's socket path for Firecracker."""
        return self._name(_VSOCK)

    @property
    def pid_file(self) -> Path:
        """Where the jailer writes the pid of the process that it started."""
        assert self.root is not None
        return self.root / f"{self.root.parents[1].name}.pid"

    def prepare(self) -> None:
        """Create the jail's directory and the sockets' links; raises `OSError`.

        The jail's directories belong to root until the jailer runs, so that nobody can put a link
        where the jailer writes.
        """
        for name in (_API_SOCKET, _VSOCK):  # Firecracker would not start over a stale one
            (self.bundle.path / name).unlink(missing_ok=True)
        if self.root is not None:
            self.root.mkdir(mode=0o700, parents=True)
            self.api_socket.symlink_to(self.root / _API_SOCKET)

    def show(self, file: Path, name: str) -> str:
        """Make a host's file readable for Firecracker; return its path there.

        In a jail it is a hard link if possible, or a copy if the file is on another file system.
        Raises `Unavailable` if not everybody may read the file, because a jailed process owns
        nothing. Raises `OSError`.
        """
        if self.root is None:
            return str(file)
        if not file.stat().st_mode & 0o004:
            raise Unavailable(
                f"{file} cannot be read by a jailed Firecracker", hint=f"chmod a+r {quoted(file)}"
            )
        try:
            os.link(file.resolve(), self.root / name)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(file, self.root / name)
        return self._name(name)

    def show_link(self) -> None:
        """Connect the guest's vsock to the bundle's link socket; can be repeated.

        The node must already listen there: otherwise a jail gets no socket. Raises `OSError`.
        """
        name = f"{_VSOCK}_{VSOCK_PORT}"
        if self.root is None:
            with suppress(FileExistsError):
                (self.bundle.path / name).symlink_to(self.bundle.link_socket.name)
            return
        with suppress(FileNotFoundError):
            (self.root / name).unlink()
        with suppress(FileNotFoundError):
            os.link(self.bundle.link_socket, self.root / name)
            # Connecting to a socket needs the right to write to it.
            os.chown(self.bundle.link_socket, uid_of(self.bundle), -1, follow_symlinks=False)

    def _name(self, name: str) -> str:
        return f"/{name}" if self.root is not None else str(self.bundle.path / name)


def jail_base(bundle: Bundle) -> Path:
    """Return the directory below which the jailer creates a bundle's jail."""
    return bundle.path / "jail"


def firecracker_arguments(places: Places, *, seccomp: bool) -> list[str]:
    """Return Firecracker's arguments, jailed or not, without `--id`; pure."""
    # No log: the guest could fill it, and if a write exceeded the limit on files, Firecracker would
    # log that too, wait for its own lock, and hang. It reports why a start failed on stderr.
    argv = ["--api-sock", places.api_name, "--level", "Off"]
    if not seccomp:
        argv.append("--no-seccomp")
    # Firecracker ignores what follows the dashes. It marks the process as this bundle's.
    return [*argv, "--", str(places.bundle.link_socket)]


def plain_command(programs: Programs, places: Places, *, drop_capabilities: bool) -> list[str]:
    """Return the command line that runs Firecracker without the jailer; pure.

    Each program of the chain executes the next one. The process dies with the thread that starts
    it.
    """
    argv = [programs.setpriv, "--pdeathsig", "KILL", "--no-new-privs"]
    if drop_capabilities:
        argv += ["--bounding-set", "-all", "--inh-caps", "-all"]
    limits = (f"--nofile={DESCRIPTOR_LIMIT}", "--core=0", f"--fsize={CONSOLE_LIMIT_BYTES}")
    argv += ["--", programs.prlimit, *limits, "--"]
    argv += [str(programs.firecracker), "--id", places.bundle.vm_id]
    return argv + firecracker_arguments(places, seccomp=programs.seccomp)


def jailed_command(
    programs: Programs, places: Places, config: VmConfig, *, cgroups: Cgroups | None
) -> list[str]:
    """Return the command line of the jailer; pure.

    It creates the jail, starts Firecracker in a new PID namespace and ends. Firecracker's pid is
    then in `Places.pid_file`.
    """
    assert programs.jailer is not None
    bundle, uid = places.bundle, uid_of(places.bundle)
    argv = [str(programs.jailer), "--id", bundle.vm_id, "--exec-file", str(programs.firecracker)]
    argv += ["--uid", str(uid), "--gid", str(uid), "--chroot-base-dir", str(jail_base(bundle))]
    argv += ["--new-pid-ns", "--resource-limit", f"fsize={CONSOLE_LIMIT_BYTES}"]
    argv += ["--resource-limit", f"no-file={DESCRIPTOR_LIMIT}"]
    if cgroups is not None:
        argv += ["--cgroup-version", "2", "--parent-cgroup", CGROUP_PARENT]
        for setting in cgroup_settings(config, cgroups.controllers):
            argv += ["--cgroup", setting]
    return [*argv, "--", *firecracker_arguments(places, seccomp=programs.seccomp)]


def cgroup_settings(config: VmConfig, controllers: Collection[str]) -> list[str]:
    """Return a VM's limits as `FILE=VALUE`, for the available controllers; pure."""
    settings = {
        "cpu": f"cpu.max={config.vcpus * 100_000} 100000",
        "memory": f"memory.max={(config.memory_mib + VMM_MEMORY_MIB) * MIB}",
        "pids": f"pids.max={config.vcpus + VMM_THREADS}",
    }
    return [setting for name, setting in settings.items() if name in controllers]


def find_cgroups(mounts: str) -> Cgroups | None:
    """Return which limits VMs can have, from the text of /proc/mounts; None for none.

    Only the unified hierarchy is used. In a group that contains processes, as a container's
    outermost group does, the kernel allows no further controller to be passed on: there only those
    already passed on count.
    """
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "cgroup2" and "rw" in fields[3].split(","):
            mount = Path(fields[1])
            outermost = not (mount / "cgroup.type").exists()
            name = "cgroup.controllers" if outermost else "cgroup.subtree_control"
            with suppress(OSError):
                found = frozenset((mount / name).read_text().split())
                usable = found & frozenset(WANTED_CONTROLLERS)
                return Cgroups(mount, usable) if usable else None
    return None


def remove_cgroup(group: Path) -> None:
    """Remove a VM's group after its processes have ended; does nothing if there is none.

    Blocks for at most a second, until the kernel has released the last process. Raises `OSError`.
    """
    deadline = time.monotonic() + _CGROUP_TIMEOUT_S
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
