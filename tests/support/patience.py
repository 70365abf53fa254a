"""How much longer than usual this run of the tests may take: one factor, from one variable."""

from __future__ import annotations

import os

PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
"""What every bound of the tests is multiplied by; scripts/kvm-lab sets it for its slow machine."""


def patient(seconds: float) -> float:
    """Return how long to wait, at most, for what takes so many seconds on an ordinary machine."""
    return seconds * PATIENCE
