"""Long replies that clients have not read yet, counted by connection."""

from __future__ import annotations

from collections import Counter
from typing import Any

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.access.gate import Call
from plexspaces_node.node.machines.in_flight import InFlight


class UntakenReplies:
    """Limits how much one client can leave unread. Used only on the event loop."""

    def __init__(self, in_flight: InFlight) -> None:
        """Count replies in `in_flight`, of which one connection can have half."""
        self._in_flight = in_flight
        self._bytes: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<UntakenReplies {sum(self._bytes.values())} bytes>"

    def add(self, size: int, call: Call) -> None:
        """Count a reply until its client has read it."""
        peer = call.peer()

        def taken(_: Any) -> None:
            self._in_flight.remove(size)
            self._bytes[peer] -= size
            if not self._bytes[peer]:
                del self._bytes[peer]

        self._in_flight.add(size)
        self._bytes[peer] += size
        call.add_done_callback(taken)

    def check(self, call: Call) -> None:
        """Raise `ResourceExhausted` for a connection that has left too much unread."""
        if not self._bytes:
            return
        untaken, most = self._bytes.get(call.peer(), 0), self._in_flight.limit_bytes // 2
        if untaken > most:
            raise ResourceExhausted(
                f"this connection has {untaken} bytes of unread replies, more than its limit of "
                f"{most}",
                hint="read the replies, or send less at a time",
            )
