"""How many bytes went over the links of a node, both ways."""

from __future__ import annotations


class Traffic:
    """The bytes of all links together. Changed on the event loop; read from any thread.

    Attributes:
        sent_bytes: to agents, also those that a lost connection did not take any more.
        received_bytes: from agents.
    """

    __slots__ = ("received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.sent_bytes = self.received_bytes = 0

    def __repr__(self) -> str:
        return f"<Traffic {self.sent_bytes} bytes sent, {self.received_bytes} received>"
