"""Counters and times of one application's messages."""

from __future__ import annotations

from dataclasses import dataclass

from plexspaces_node.link import frames as link
from plexspaces_node.node.machines.agent_client import plausible_ns

_LEFT = "cancelled"
"""What an agent says of a request whose client left."""


@dataclass(slots=True)
class Tally:
    """Counters and times of an application's messages since the node started."""

    messages: int = 0
    failures: int = 0
    compute_ns: int = 0
    coordinate_ns: int = 0

    def add(self, *, total_ns: int, compute_ns: int, failed: bool) -> None:
        """Count an answered message."""
        self.messages += 1
        self.failures += failed
        self.compute_ns += compute_ns
        self.coordinate_ns += total_ns - compute_ns

    def add_unclaimed(self, reply: link.Reply | None, total_ns: int) -> None:
        """Count a message whose sender no longer waits; None if no reply came.

        A request that ended because its client left is no failure.
        """
        if reply is None:
            self.failures += 1
        else:
            compute_ns = plausible_ns(reply.compute_ns, total_ns)
            failed = reply.HasField("failure") and not _was_left(reply.failure)
            self.add(total_ns=total_ns, compute_ns=compute_ns, failed=failed)


def _was_left(failure: link.Failure) -> bool:
    return failure.origin == link.Failure.ORIGIN_PLATFORM and failure.code == _LEFT
