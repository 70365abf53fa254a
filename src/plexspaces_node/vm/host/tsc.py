"""The rate of this host's time stamp counter, measured without privileges.

Under emulation a guest's counter runs at the host's rate, but its kernel has to find that rate by
comparing the counter with an emulated timer. On a loaded host that comparison fails at random and
the boot hangs. If the command line gives the rate, the kernel does not compare.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time
from collections.abc import Callable

_MEASURE_S = 0.05
_TRIES = 20
# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_COUNTER = bytes.fromhex("0f3148c1e2204809d0c3")


def host_tsc_khz() -> int | None:
    """Measure the counter's rate in kHz, to about one part in 10,000. Blocks for 50 ms.

    None if there is no such counter, or if a program may not make memory executable.
    """
    if platform.machine() != "x86_64":
        return None
    try:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    code.write(_READ_COUNTER)
    buffer = ctypes.c_char.from_buffer(code)
    counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(buffer))
    try:
        begin_ns, begin = _sample(counter)
        time.sleep(_MEASURE_S)
        end_ns, end = _sample(counter)
    finally:
        # A mapping cannot be closed while something points into it.
        del buffer
        code.close()
    return round((end - begin) * 1_000_000 / (end_ns - begin_ns))


def _sample(counter: Callable[[], int]) -> tuple[int, int]:
    """Read clock and counter at the same moment: the closest of several tries."""
    samples = []
    for _ in range(_TRIES):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        count = counter()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        samples.append((after - before, (before + after) // 2, count))
    _, moment, count = min(samples)
    return moment, count
