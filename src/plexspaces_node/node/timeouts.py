"""How long a node waits, where nobody configures it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    registry_busy_s: float = 5.0
    """For another program that holds the registry."""
    upload_grace_s: float = 10.0
    """For an upload that is too slow, until it is ended."""
