"""The timeouts of a node that cannot be configured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds."""

    first_hello_s: float = 15.0
    """For a VM's agent to connect: five times what a cold boot under emulation takes."""
    hello_s: float = 30.0
    """The same for the second try: a boot may hang at random if many run on few CPUs."""
    registry_busy_s: float = 5.0
    """For another program that holds the registry."""
    upload_grace_s: float = 10.0
    """How long an upload may be too slow before it is ended."""
