"""What the rules look at: figures of one application that were measured in a stretch of time."""

from __future__ import annotations

from typing import NamedTuple

from plexspaces_node.node.telemetry.timeline import Spent


class TypeFigures(NamedTuple):
    """The messages of one type."""

    name: str
    spent: Spent
    payload_bytes: int
    reply_bytes: int


class AskFigures(NamedTuple):
    """What was asked of another application.

    Attributes:
        to: its full name.
        asks: how many were answered; all is of these.
        total_ns: from the node's receiving the ask to its answer.
        compute_ns, wait_ns, queue_ns: of the application that was asked.
    """

    to: str
    asks: int
    total_ns: int
    compute_ns: int
    wait_ns: int
    queue_ns: int

    @property
    def link_ns(self) -> int:
        """The time for passing the asks and their answers."""
        return max(0, self.total_ns - self.compute_ns - self.wait_ns - self.queue_ns)


class Figures(NamedTuple):
    """One application.

    Attributes:
        name: its full name.
        seconds: how long the stretch of time is, at least 2.
        active_s: in how much of it there were messages, to 2 s.
        is_component: whether it handles HTTP requests; the types are their methods.
    """

    name: str
    seconds: float
    active_s: float
    spent: Spent
    types: tuple[TypeFigures, ...] = ()
    asks: tuple[AskFigures, ...] = ()
    is_component: bool = False


def total_ns(spent: Spent) -> int:
    """Return how long the messages took altogether."""
    return spent.compute_ns + spent.coordinate_ns
