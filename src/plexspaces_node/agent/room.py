"""Whether there is memory for a message, asked before it is handed to an actor.

wasmtime makes of every byte that crosses into a component two values of its own, 32 and 48 bytes
long, and ends the whole process when there is no memory for them. So a message that cannot be
carried is refused here, and the next one finds the actor alive.
"""

from __future__ import annotations

from collections.abc import Callable

from plexspaces_node.agent.memory import Memory
from plexspaces_node.errors import ResourceExhausted, Unavailable

BYTES_PER_BYTE = 90
"""What a byte costs while it crosses; measured 82 to 94 for a message and as much for its reply."""

SWAP_GAIN = 4
"""How many times its free memory a guest can hold of such values: `agent.swap` compresses them to
a sixth, and other things want some too."""

UNCHECKED_BYTES = 64 * 1024
"""A message not longer than this is not worth a look at the memory."""

_MIB = 1024 * 1024


class Room:
    """The memory around an actor."""

    def __init__(self, measure: Callable[[], Memory]) -> None:
        self._measure = measure

    def check(self, length: int) -> None:
        """Raise `ResourceExhausted` when so many bytes cannot be handed to an actor now."""
        if length <= UNCHECKED_BYTES:
            return
        try:
            found = self._measure()
        except Unavailable:
            return
        if not found.total_bytes:
            return
        # The reply may be as long: most answers of that length are of the same data.
        needed = 2 * length * BYTES_PER_BYTE
        free = found.available_bytes
        room = min(free * SWAP_GAIN, free + found.swap_bytes)
        if needed <= room:
            return
        raise ResourceExhausted(
            f"handing {length} bytes to the actor takes {_mib(needed)} MiB of memory for a moment, "
            f"and of the machine's {_mib(found.total_bytes)} MiB there is room for {_mib(room)}",
            hint="deploy it with more memory, for example --memory 512, or send it in parts",
        )


def _mib(size: int) -> int:
    return -(-size // _MIB)
