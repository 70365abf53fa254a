"""The bill of a chain: what a message and all that it caused cost, and which hop to blame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plexspaces_node.node.telemetry.span import Kind, Span


class Hop(NamedTuple):
    """What one message cost without those that it caused, in nanoseconds.

    Attributes:
        wait_ns: in host calls that are not messages: keys and values, HTTP requests, sleep.
    """

    span: Span
    compute_ns: int
    wait_ns: int
    queue_ns: int
    link_ns: int

    @property
    def coordinate_ns(self) -> int:
        """All but compute."""
        return self.wait_ns + self.queue_ns + self.link_ns


class Bill(NamedTuple):
    """What a tree of messages cost.

    Attributes:
        hops: each message, a parent before its children.
        blame: the index of the hop with the most coordination.
    """

    total_ns: int
    hops: tuple[Hop, ...]
    blame: int

    @property
    def compute_ns(self) -> int:
        """In the code of all applications together."""
        return sum(hop.compute_ns for hop in self.hops)

    @property
    def coordinate_ns(self) -> int:
        """The coordination of all hops together."""
        return sum(hop.coordinate_ns for hop in self.hops)


def bill_of(root: Span) -> Bill:
    """Return the bill of a message that has ended; what has not ended costs nothing yet."""
    hops = tuple(_hop(span) for span in messages_of(root))
    blame = max(range(len(hops)), key=lambda index: hops[index].coordinate_ns)
    return Bill(root.total_ns, hops, blame)


def messages_of(root: Span) -> Iterator[Span]:
    """Yield a message and all that it caused, a parent before its children."""
    yield root
    for child in root.children or ():
        if isinstance(child, Span):
            yield from messages_of(child)


def _hop(span: Span) -> Hop:
    if not span.total_ns:
        return Hop(span, 0, 0, 0, 0)
    # What it waited for is on its children's bill. Asks that ran side by side are longer together
    # than the wait for them.
    asked_ns = sum(
        child.total_ns
        for child in span.children or ()
        if isinstance(child, Span) and child.kind is Kind.ASK
    )
    wait_ns = max(0, span.wait_ns - asked_ns)
    return Hop(span, span.compute_ns, wait_ns, span.queue_ns, span.link_ns)
