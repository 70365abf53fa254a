"""How long the Firecracker driver waits, for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; many times what each takes on a host that is not busy."""

    jail_s: float = 20.0
    connect_s: float = 10.0
    """For Firecracker to serve its API, which takes it milliseconds."""
    call_s: float = 10.0
    boot_s: float = 30.0
    """For the call that loads the kernel into the guest's memory and starts it."""
    trial_s: float = 45.0
    """For the guest of `probe` to dial: less than the minute that `doctor` has for a probe."""
