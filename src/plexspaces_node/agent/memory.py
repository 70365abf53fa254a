"""How much memory is in use, as the agent sees it: of its whole guest, or of its process alone.

Pure reading of /proc, a few dozen microseconds. Knows nothing of the link.
"""

from __future__ import annotations

import ctypes
import resource
from collections import namedtuple

from plexspaces_node.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import NamedTuple

    class Memory(NamedTuple):
        """What `wire.link.Measured` carries, and the swap space that is free."""

        guest: bool
        total_bytes: int
        used_bytes: int
        available_bytes: int
        swap_bytes: int = 0
else:
    # Without `typing`, which is long to import at every start of a machine.
    Memory = namedtuple(
        "Memory", "guest total_bytes used_bytes available_bytes swap_bytes", defaults=(0,)
    )

LARGE_BYTES = 1024 * 1024
"""What is allocated at this length or above goes back to the kernel when it is freed."""

_PROC = "/proc"
_M_MMAP_THRESHOLD = -3


def give_back_large() -> None:
    """Have the C library keep nothing of what one long message took."""
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def of_guest(proc: Path | str = _PROC) -> Memory:
    """Return the memory of the machine this kernel runs; raises `Unavailable`."""
    found = _fields(f"{proc}/meminfo", "MemTotal", "MemAvailable", "SwapFree")
    total, available = found["MemTotal"], found["MemAvailable"]
    return Memory(True, total, total - available, available, found["SwapFree"])


def of_process(proc: Path | str = _PROC) -> Memory:
    """Return what this process has allocated of what its limit allows; raises `Unavailable`.

    Both count private writable pages whether they were touched or not, as RLIMIT_DATA does.
    """
    used = _fields(f"{proc}/self/status", "VmData")["VmData"]
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return Memory(False, 0, used, 0)
    return Memory(False, limit, used, max(0, limit - used))


def _fields(file: str, *names: str) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        with open(file) as opened:
            lines = opened.readlines()
        for line in lines:
            name, _, value = line.partition(":")
            if name in names:
                found[name] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError) as error:
        raise Unavailable(f"{file} cannot be read: {error}") from error
    if missing := set(names) - set(found):
        raise Unavailable(f"{file} does not tell {', '.join(sorted(missing))}")
    return found
