"""The timeouts of the Firecracker driver."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds; many times what each takes on an idle host."""

    jail_s: float = 20.0
    connect_s: float = 10.0
    """For Firecracker to serve its API, which takes milliseconds."""
    call_s: float = 10.0
    boot_s: float = 30.0
    """For the call that loads the kernel into the guest's memory and starts it."""
    trial_s: float = 45.0
    """For the guest of `probe` to connect: less than the minute that `doctor` gives a probe."""
