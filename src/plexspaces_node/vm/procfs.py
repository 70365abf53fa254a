"""What the kernel tells of processes through /proc: identity, kinship, arguments, cost.

Pure reading: nothing here starts, signals or awaits anything. A process is named by its pid and
the time it started, because a pid alone comes to mean another process. Every function copes with
processes that vanish while it reads. A scan of all of /proc takes a few milliseconds: off the
event loop with it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessId(NamedTuple):
    """A process and no other, for as long as the machine is not booted again.

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
    """Return the identity of the process that has this pid now; None when there is none.

    One that has ended and was not reaped yet counts only with `zombie`.
    """
    stat = _read_stat(pid)
    return stat.id if stat is not None and (zombie or _runs(stat)) else None


def boot_id() -> str:
    """Return what tells this boot of the host from every other."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def tree(root: int) -> list[ProcessId]:
    """Return what lives of a process, its descendants and the session it leads, parents first."""
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
    """Return the other processes whose command line has each of these as an argument."""
    wanted = {os.fsencode(argument) for argument in arguments}
    found = []
    for pid in _all_pids():
        try:
            line = (_PROC / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        if pid != os.getpid() and wanted <= set(line.split(b"\0")):
            identity = identify(pid)
            if identity is not None:
                found.append(identity)
    return found


def resident_bytes(pid: int) -> int:
    """Return the memory of the process that is in RAM, shared pages included; 0 when it ended."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all the process's threads so far; 0 when it ended."""
    # The kernel's per-process CPU clock, as clock_getcpuclockid(3) builds its number. It counts
    # nanoseconds where /proc/PID/stat counts hundredths of a second.
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def total_memory_mib() -> int:
    """Return the memory of this host."""
    return _memory_mib("MemTotal")


def available_memory_mib() -> int:
    """Return how much of this host's memory a new process could use without swapping."""
    return _memory_mib("MemAvailable")


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
    # The second field, the name in parentheses, may hold blanks and parentheses itself.
    fields = text[text.rindex(b")") + 2 :].split()
    return _Stat(
        id=ProcessId(pid, int(fields[19])),
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
    )
