"""An advice: what to do, from which numbers, and what it is predicted to gain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from plexspaces_node.model import MIB
from plexspaces_node.telemetry import duration, number


class Rule(StrEnum):
    """What gives advice; each is a module of this folder."""

    BATCH = "batch"
    TOGETHER = "together"
    LEVEL = "level"
    MEMORY = "memory"
    COORDINATION = "coordination"


class Unit(StrEnum):
    """What a number is."""

    NS = "ns"
    BYTES = "bytes"
    PER_S = "per_s"
    RATIO = "ratio"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Fact:
    """A number that was measured."""

    name: str
    value: float
    unit: Unit


@dataclass(frozen=True, slots=True)
class Advice:
    """What to change.

    Attributes:
        application: whose it is, by its full name; "" for the applications of the node together.
        advice: what to do, in one sentence.
        facts: from which numbers.
        reckoning: how the gain follows from them, and what it takes for granted.
        saved_s_per_s: of the time of messages, per second of wall time; below 0 what it costs.
        saved_bytes: of memory.
        other: the other application of `together`.
        command: what does it, or "".
    """

    rule: Rule
    application: str
    advice: str
    facts: tuple[Fact, ...]
    reckoning: str
    saved_s_per_s: float = 0.0
    saved_bytes: int = 0
    other: str = ""
    command: str = ""


def ranked(advice: list[Advice]) -> tuple[Advice, ...]:
    """Return the largest gain first: time, then memory, then what only costs."""
    return tuple(
        sorted(advice, key=lambda one: (-one.saved_s_per_s, -one.saved_bytes, one.application))
    )


# ---- numbers in sentences --------------------------------------------------------------------


def per_second(saved_s_per_s: float) -> str:
    """Write a share of each second as a duration."""
    return f"{duration(saved_s_per_s * 1e9)} of each second"


def amount(size_bytes: float) -> str:
    """Write a number of bytes."""
    for unit, per in (("MiB", MIB), ("KiB", 1024)):
        if size_bytes >= per:
            return f"{number(size_bytes / per)} {unit}"
    return f"{size_bytes:.0f} B"


def percent(share: float) -> str:
    """Write a share of 1."""
    return f"{share * 100:.0f} %"
