"""What one connection holds of the node's memory for payloads."""

from __future__ import annotations

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.node.machines.in_flight import InFlight


class Share:
    """Counts the bodies and replies of one connection, of which there can be half of the limit."""

    def __init__(self, in_flight: InFlight) -> None:
        """Count in `in_flight` too."""
        self._in_flight = in_flight
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Share {self._bytes} of {self._in_flight!r}>"

    def grow(self, counted: int, more: int) -> None:
        """Count more bytes of a body of which `counted` are counted.

        Raises `ResourceExhausted` if they do not fit; a body always fits if nothing else is held.
        """
        most = self._in_flight.limit_bytes // 2
        if self._bytes > counted and self._bytes + more > most:
            raise ResourceExhausted(
                f"this connection has {self._bytes} bytes of messages that wait, and this one "
                f"would exceed its limit of {most}",
                hint="wait for replies before sending more",
            )
        if self._in_flight.bytes > counted:
            self._in_flight.check(more)
        self.add(more)

    def add(self, size: int) -> None:
        """Count bytes until `remove` is called with the same size."""
        self._bytes += size
        self._in_flight.add(size)

    def remove(self, size: int) -> None:
        """Stop counting bytes."""
        self._bytes -= size
        self._in_flight.remove(size)
