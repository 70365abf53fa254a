"""Where an artifact is compiled: short ones apart from long ones, each client in its turn.

A compilation takes as much time and memory as the artifact wants of it, up to the limits. So a
short artifact, which is compiled in a second as a rule, has a lane of its own with tight limits;
one that turns out to want more goes on in the lane of the long ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plexspaces_node.model import MIB
from plexspaces_node.node.artifacts.compiler import CompileLimits
from plexspaces_node.node.artifacts.fair_slots import Turns

SHORT_BYTES = 4 * MIB
"""An actor in Go or TypeScript is shorter; one in Python is not."""

SHORT_TIMEOUT_S = 10.0
SHORT_MEMORY_MIB = 1024

_MOST = 8


@dataclass(frozen=True, slots=True)
class Lane:
    """Some compilers, and what each of them may take."""

    turns: Turns
    limits: CompileLimits


class Lanes:
    """Every compiler of a node: as many as the limits say, but one in each lane."""

    def __init__(self, limits: CompileLimits) -> None:
        short = replace(
            limits,
            timeout_s=min(limits.timeout_s, SHORT_TIMEOUT_S),
            memory_mib=min(limits.memory_mib, SHORT_MEMORY_MIB),
        )
        places = max(1, limits.at_once // 4)
        self._short = _lane(places, short)
        self._long = _lane(max(1, limits.at_once - places), limits)

    def __repr__(self) -> str:
        return f"<Lanes short {self._short.turns!r}, long {self._long.turns!r}>"

    def of(self, size_bytes: int) -> tuple[Lane, ...]:
        """Return where an artifact of this size is compiled, in the order in which it is tried."""
        if size_bytes > SHORT_BYTES:
            return (self._long,)
        if self._short.limits == self._long.limits:
            return (self._short,)
        return self._short, self._long


def _lane(places: int, limits: CompileLimits) -> Lane:
    # Where there are several places one client does not get them all.
    return Lane(Turns(places, share=max(1, places - 1)), limits)


def compilers(processors: int, host_memory_mib: int, compile_memory_mib: int) -> int:
    """Return how many compilers a host has room for: three quarters of its memory are theirs.

    One more than processors, as one is for short artifacts; from two to eight.
    """
    fitting = host_memory_mib * 3 // 4 // compile_memory_mib
    return max(2, min(fitting, processors + 1, _MOST))
