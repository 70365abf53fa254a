"""Connections that wait for the next request of their application; few, and not for long."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TypeAlias

from plexspaces_node.node.outgoing.connector import Destination, Stream

IDLE_S = 4.0
"""How long one waits: less than the 5 s after which common servers close it."""

MOST_IDLE = 128
"""How many wait on a node."""

Owner: TypeAlias = object
"""Whoever opened a connection; nobody else gets it."""


class IdleStreams:
    """The idle connections of a node. Used on its event loop."""

    def __init__(self, most: int = MOST_IDLE) -> None:
        self._most = most
        # The one that has waited longest is the first.
        self._waiting: OrderedDict[Stream, tuple[Owner, Destination, asyncio.TimerHandle]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, owner: Owner, destination: Destination) -> Stream | None:
        """Return an open connection to a destination, or None."""
        for stream, (whose, where, _) in reversed(list(self._waiting.items())):
            if whose is owner and where == destination:
                self._forget(stream)
                if stream.is_open:
                    return stream
                stream.close()
        return None

    def put(self, owner: Owner, destination: Destination, stream: Stream) -> None:
        """Keep a connection for a while."""
        timer = asyncio.get_running_loop().call_later(IDLE_S, self._end, stream)
        self._waiting[stream] = (owner, destination, timer)
        if len(self._waiting) > self._most:
            self._end(next(iter(self._waiting)))

    def end(self, owner: Owner) -> None:
        """Close those of this owner."""
        for stream in [one for one, (whose, *_) in self._waiting.items() if whose is owner]:
            self._end(stream)

    def close(self) -> None:
        """Close all of them. Idempotent."""
        for stream in list(self._waiting):
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        self._forget(stream)
        stream.close()

    def _forget(self, stream: Stream) -> None:
        self._waiting.pop(stream)[2].cancel()
