"""Hosts of a test's own on a network of its own: network namespaces, and what cuts them off.

Nothing of it is in the machine's own network. A test that was killed leaves its namespaces, with
the processes in them; the next network that is made removes them, by the process in their names.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from time import monotonic, sleep

import pytest

from plexspaces_node.errors import Unavailable

PREFIX = "pxc-"
"""What the names of namespaces and mounts begin with; the number of the test's process follows."""

_NAMESPACES = Path("/run/netns")
_RULES = """
table inet pxc {
  set unheard { type ipv4_addr; }
  chain arriving { type filter hook input priority 0; ip saddr @unheard drop; }
}
"""
_numbers = itertools.count(1)


@cache
def missing() -> str:
    """Return why there can be no network of one's own here, "" if there can."""
    if os.geteuid() != 0:
        return "it takes root"
    for program in ("ip", "nft", "setpriv"):
        if _which(program) is None:
            return f"there is no {program}: make clients"
    name = f"{PREFIX}{os.getpid()}-try"
    try:
        _run("ip", "netns", "add", name)
    except Unavailable as error:
        return str(error)
    try:
        _in(name, "nft", "-f", "-", given=_RULES)
        _run("ip", "-n", name, "link", "add", "br0", "type", "bridge")
    except Unavailable as error:
        return str(error)
    finally:
        _run("ip", "netns", "del", name)
    return ""


def require(config: pytest.Config) -> None:
    """Skip the test where there can be no network of its own; with --cluster it fails there."""
    if not (why := missing()):
        return
    if config.getoption("--cluster"):
        pytest.fail(f"no network namespaces, and --cluster wants them: {why}")
    pytest.skip(f"no network namespaces: {why}")


class Host:
    """A network namespace with an address on the network."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

    def argv(self, *argv: str) -> list[str]:
        """Return the command that runs this one on the host; it ends with the test's process."""
        return [*("setpriv", "--pdeathsig", "KILL"), *("ip", "netns", "exec", self.name), *argv]

    def processes(self) -> list[int]:
        """Return the processes that run on it."""
        return _processes(self.name)

    def kill_all(self) -> None:
        """Kill what runs on it, and wait until all are gone."""
        _kill_all(self.name)

    def is_deaf_to(self, others: list[Host]) -> None:
        """Let nothing arrive from these hosts, and from all others again."""
        commands = "flush set inet pxc unheard\n"
        if others:
            addresses = ", ".join(one.address for one in others)
            commands += f"add element inet pxc unheard {{ {addresses} }}\n"
        _in(self.name, "nft", "-f", "-", given=commands)


class Network:
    """Some hosts, all connected, until somebody cuts them off.

    Attributes:
        hosts: in the order of their addresses.
    """

    def __init__(self, hub: str, hosts: list[Host]) -> None:
        self._hub = hub
        self.hosts = hosts

    def __repr__(self) -> str:
        return f"<Network {len(self.hosts)} hosts>"

    def cut(self, pairs: set[tuple[Host, Host]]) -> None:
        """Let nothing pass from the first to the second of each pair, and everything else."""
        for host in self.hosts:
            host.is_deaf_to([one for one, other in pairs if other is host])

    def part(self, *groups: list[Host]) -> None:
        """Let hosts of different groups not reach each other; who is in none reaches all."""
        pairs = {
            (one, other)
            for group, others in itertools.permutations(groups, 2)
            for one in group
            for other in others
        }
        self.cut(pairs)

    def heal(self) -> None:
        """Let everything pass."""
        self.cut(set())


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Make a network of so many hosts; at the end it is removed, with all that runs on it."""
    remove_leftovers()
    base = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
    hub = f"{base}-hub"
    hosts = [Host(f"{base}-{at}", f"10.91.0.{at}") for at in range(1, count + 1)]
    names = [hub, *(host.name for host in hosts)]
    try:
        for name in names:
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "br0", "up")
        for at, host in enumerate(hosts, 1):
            _plug(hub, f"p{at}", host)
        yield Network(hub, hosts)
    finally:
        # The hosts first: what runs there may not notice that its network goes.
        for name in reversed(names):
            _remove(name)


def _plug(hub: str, port: str, host: Host) -> None:
    _run(
        *("ip", "-n", hub, "link", "add", port, "type", "veth"),
        *("peer", "name", "eth0", "netns", host.name),
    )
    _run("ip", "-n", hub, "link", "set", port, "master", "br0", "up")
    _run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
    _run("ip", "-n", host.name, "link", "set", "eth0", "up")
    _in(host.name, "nft", "-f", "-", given=_RULES)


@contextmanager
def small_disk(place: Path, mib: int) -> Iterator[None]:
    """Have a file system of its own of so many MiB at a directory, which is made."""
    place.mkdir(parents=True, exist_ok=True)
    _run(
        *("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700"),
        *(f"{PREFIX}{os.getpid()}", str(place)),
    )
    try:
        yield
    finally:
        _run("umount", "--lazy", str(place))


def remove_leftovers() -> None:
    """Remove what tests have left whose process is gone: namespaces, their processes, mounts."""
    for name in _namespaces():
        if not _is_alive(name):
            _remove(name)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, place = line.split()[:2]
        if device.startswith(PREFIX) and not _is_alive(device):
            with suppress(Unavailable):
                _run("umount", "--lazy", place)


def leftovers() -> list[str]:
    """Return what is there of this process's own: namespaces and mounts."""
    mine = f"{PREFIX}{os.getpid()}"
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [
        *(name for name in _namespaces() if name.startswith(f"{mine}-")),
        *(line.split()[1] for line in mounts if line.split()[0] == mine),
    ]


def _namespaces() -> list[str]:
    if not _NAMESPACES.is_dir():
        return []
    return sorted(path.name for path in _NAMESPACES.iterdir() if path.name.startswith(PREFIX))


def _is_alive(name: str) -> bool:
    number = name.removeprefix(PREFIX).partition("-")[0]
    return number.isdigit() and Path(f"/proc/{number}").exists()


def _remove(name: str) -> None:
    if not (_NAMESPACES / name).exists():
        return
    # Half a namespace, of a test that was killed while it made it, has no processes to ask for.
    with suppress(Unavailable):
        _kill_all(name)
    with suppress(Unavailable):
        _run("ip", "netns", "del", name)


def _kill_all(name: str) -> None:
    deadline = monotonic() + 30
    while numbers := _processes(name):
        if monotonic() > deadline:
            raise Unavailable(f"processes {numbers} of {name} do not end")
        for number in numbers:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        # Nobody tells when a process of somebody else is gone.
        sleep(0.01)


def _processes(name: str) -> list[int]:
    """Return those that live; one that is dead and not waited for yet is none."""
    found = []
    for number in _run("ip", "netns", "pids", name).split():
        with suppress(OSError):
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                found.append(int(number))
    return found


def _in(name: str, *argv: str, given: str = "") -> str:
    return _run("ip", "netns", "exec", name, *argv, given=given)


def _run(*argv: str, given: str = "") -> str:
    """Run a program and return what it prints; raises `Unavailable` with what it says."""
    program = _which(argv[0])
    if program is None:
        raise Unavailable(f"there is no {argv[0]}")
    done = subprocess.run(
        [program, *argv[1:]],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": _path()},
    )
    if done.returncode:
        raise Unavailable(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _which(program: str) -> str | None:
    return shutil.which(program, path=_path())


def _path() -> str:
    # Not in everybody's, even root's.
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
