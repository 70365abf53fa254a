"""How long a node waits, where nobody configures it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    first_hello_s: float = 15.0
    """For a machine's agent to say hello: five times what a cold boot under emulation takes."""
    hello_s: float = 30.0
    """The same for the second try: a boot may hang at random where many run on few CPUs."""
    registry_busy_s: float = 5.0
    """For another program that holds the registry."""
    upload_grace_s: float = 10.0
    """For an upload that is too slow, until it is ended."""
