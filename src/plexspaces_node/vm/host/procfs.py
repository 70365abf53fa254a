"""What the kernel reports about processes in /proc: identity, kinship, arguments, resources.

Only reads: nothing here starts, signals or awaits anything. A process is identified by its pid and
its start time, because a pid is reused. All functions handle processes that vanish while they are
read. A scan of all of /proc takes a few milliseconds, so it must not run on the event loop.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LINE_BYTES = 4096
_STATUS_MEMORY = re.compile(rb"^(VmHWM|VmRSS|RssAnon):\s+(\d+) kB$", re.MULTILINE)


class ProcessId(NamedTuple):
    """The identity of one process, until the host is rebooted.

    Attributes:
        start_ticks: when it started, in clock ticks since boot: field 22 of /proc/PID/stat.
    """

    pid: int
    start_ticks: int


class _Stat(NamedTuple):
    id: ProcessId
    state: str
    parent: int
    session: int


def identify(pid: int, *, zombie: bool = False) -> ProcessId | None:
    """Return the identity of the process that has this pid now; None if there is none.

    A process that has ended but has not been reaped only counts with `zombie`.
    """
    stat = _read_stat(pid)
    return stat.id if stat is not None and (zombie or _runs(stat)) else None


@cache
def boot_id() -> str:
    """Return what distinguishes this boot of the host from any other."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def tree(root: int) -> list[ProcessId]:
    """Return the process, its descendants and its session, parents first, if they live."""
    stats = [stat for stat in _all_stats() if _runs(stat)]
    found = {root}
    members: list[ProcessId] = []
    grown = True
    while grown:
        grown = False
        for stat in stats:
            pid = stat.id.pid
            related = stat.parent in found or stat.session == root
            if (pid == root or related) and stat.id not in members:
                members.append(stat.id)
                found.add(pid)
                grown = True
    return sorted(members, key=lambda member: member.start_ticks)


def with_arguments(*arguments: str) -> list[ProcessId]:
    """Return the other processes whose command line contains each of these arguments."""
    return with_any_arguments([arguments])


def with_any_arguments(each: Sequence[Sequence[str]]) -> list[ProcessId]:
    """Return the other processes that have all arguments of at least one of these; one scan."""
    wanted = [{os.fsencode(argument) for argument in arguments} for arguments in each]
    if not wanted:
        return []
    found = []
    for pid in _all_pids():
        try:
            line = (_PROC / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        given = set(line.split(b"\0"))
        if pid != os.getpid() and any(arguments <= given for arguments in wanted):
            identity = identify(pid)
            if identity is not None:
                found.append(identity)
    return found


def resident_bytes(pid: int) -> int:
    """Return the process's memory in RAM, shared pages included; 0 if it has ended."""
    # With plain system calls, because a listing asks for every VM: 10 µs instead of 34.
    try:
        file = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(file, _LINE_BYTES).split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0
    finally:
        os.close(file)


class ProcessMemory(NamedTuple):
    """The memory of a process in RAM.

    Attributes:
        peak_bytes: the most of `resident_bytes` in its life.
        anonymous_bytes: what of it is in no file.
    """

    peak_bytes: int
    resident_bytes: int
    anonymous_bytes: int


def memory_of(pid: int) -> ProcessMemory | None:
    """Return the memory of a process; None if it has ended, or the kernel does not tell."""
    try:
        with (_PROC / str(pid) / "status").open("rb") as file:
            found = dict(_STATUS_MEMORY.findall(file.read(_LINE_BYTES)))
    except OSError:
        return None
    if len(found) < len(ProcessMemory._fields):
        return None
    return ProcessMemory(*(int(found[name]) * 1024 for name in (b"VmHWM", b"VmRSS", b"RssAnon")))


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all the process's threads so far; 0 if it has ended."""
    # The kernel's per-process CPU clock, as clock_getcpuclockid(3) builds its number. It counts
    # nanoseconds where /proc/PID/stat counts hundredths of a second.
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


@cache
def total_memory_mib() -> int:
    """Return the memory of this host."""
    return _memory_mib("MemTotal")


@cache
def granted_memory_mib() -> int:
    """Return the memory of this host, or the limit of a container or service."""
    return min([total_memory_mib(), *_in_groups(_limit_mib)])


def available_memory_mib() -> int:
    """Return how much memory a new process of ours could use without swapping or being killed.

    The host's available memory, or less in a container or service with a limit.
    """
    return min([_memory_mib("MemAvailable"), *groups_room_mib()])


def groups_room_mib(proc: Path = _PROC, mount: Path = _CGROUPS) -> list[int]:
    """Return what is left of each memory limit of the unified hierarchy for this process.

    Files that the kernel can drop from memory count as free. Empty if there are no limits.
    """
    return _in_groups(_room_mib, proc, mount)


def _in_groups(
    look: Callable[[Path], int | None], proc: Path = _PROC, mount: Path = _CGROUPS
) -> list[int]:
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), None)
    if own is None or ".." in own.split("/"):
        return []
    group = mount / own
    chain = [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]
    return [found for found in map(look, chain) if found is not None]


def _limit_mib(group: Path) -> int | None:
    try:
        return int((group / "memory.max").read_text()) // (1024 * 1024)
    except (OSError, ValueError):  # also for `max`, which is no limit
        return None


def _room_mib(group: Path) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        droppable = int(stat.get("inactive_file", "0"))
    except (OSError, ValueError):  # also for `max`, which is no limit
        return None
    return max(0, limit - used + droppable) // (1024 * 1024)


def _memory_mib(name: str) -> int:
    text = (_PROC / "meminfo").read_text()
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None, f"the kernel always gives {name}"
    return int(match.group(1)) // 1024


def _all_pids() -> Iterator[int]:
    for name in os.listdir(_PROC):
        if name.isdigit():
            yield int(name)


def _all_stats() -> Iterator[_Stat]:
    for pid in _all_pids():
        stat = _read_stat(pid)
        if stat is not None:
            yield stat


def _runs(stat: _Stat) -> bool:
    return stat.state not in "ZX"


def _read_stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field, the name in parentheses, may itself contain blanks and parentheses.
    fields = text[text.rindex(b")") + 2 :].split()
    return _Stat(
        id=ProcessId(pid, int(fields[19])),
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
    )
