"""What has ended, on its way to a collector: the event loop fills a queue, a thread empties it.

The event loop takes no lock and waits for nothing. Whatever the collector does, at most `MOST`
spans wait; more are counted and forgotten. Knows nothing of OpenTelemetry.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from plexspaces_node.node.telemetry.span import Ended

_log = logging.getLogger(__name__)

MOST = 4096
"""How many spans wait at most: some megabytes."""

BATCH = 512
"""How many are sent at once; as many wake the thread."""

INTERVAL_S = 2.0
"""How long a span waits at most while the collector answers."""

FLUSH_S = 2.0
"""How long the end of a node waits for the last of them."""

PAUSES_S = (1.0, 30.0)
"""The first pause after a failure, and the longest: each is twice the one before."""

TELL_EACH_S = 60.0
"""The time between two lines of the log about spans that are lost."""

_ABORT_S = 0.5


class Collector(Protocol):
    """Where spans are sent; used by one thread."""

    def send(self, batch: Sequence[Ended]) -> str:
        """Send spans; return why they were not sent, or "". Blocks for seconds."""

    def abort(self) -> None:
        """End a `send` that goes on; from another thread. Later ones fail. Idempotent."""

    def close(self) -> None:
        """Give back what it has taken, after the last `send`. Idempotent."""


class Exporter:
    """Sends spans to a collector, until it is closed."""

    def __init__(
        self,
        collector: Collector,
        *,
        most: int = MOST,
        interval_s: float = INTERVAL_S,
        pauses_s: tuple[float, float] = PAUSES_S,
        flush_s: float = FLUSH_S,
    ) -> None:
        """Begin to send; `aclose` must be called."""
        self._collector = collector
        self._most = most
        self._interval_s = interval_s
        self._pauses_s = pauses_s
        self._flush_s = flush_s
        self._queue: deque[Ended] = deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self.sent = 0
        # Each is written by one thread: the event loop's, and the one that sends.
        self._refused = self._failed = 0
        self._told, self._tell_at_s = 0, 0.0
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Exporter {len(self._queue)} waiting, {self.sent} sent, {self.dropped} dropped>"

    @property
    def dropped(self) -> int:
        """How many spans were lost; on any thread."""
        return self._refused + self._failed

    def take(self, ended: Ended) -> None:
        """Send something that has ended, or count it as lost; on the event loop."""
        waiting = len(self._queue)
        if waiting >= self._most:
            self._refused += 1
            return
        self._queue.append(ended)
        # Once for as many: this takes a lock, which nobody holds for longer than a moment.
        if waiting + 1 == BATCH:
            self._wake.set()

    async def aclose(self) -> None:
        """Send what waits, for `FLUSH_S` at most, and end the thread. Idempotent."""
        self._closing.set()
        self._wake.set()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._thread.join(self._flush_s)
        self._collector.abort()
        self._thread.join(_ABORT_S)
        self._collector.close()
        self._failed += len(self._queue)
        self._queue.clear()
        self._tell("the node has ended", is_last=True)

    def _run(self) -> None:
        pause_s, longest_s = self._pauses_s
        while not self._closing.is_set():
            self._wake.wait(self._interval_s)
            self._wake.clear()
            why = self._flush()
            self._tell(why)
            if not why:
                pause_s = self._pauses_s[0]
            elif not self._closing.wait(pause_s):
                pause_s = min(2 * pause_s, longest_s)
        self._tell(self._flush())

    def _flush(self) -> str:
        """Send all that waits; return why that was not possible."""
        queue = self._queue
        while count := min(len(queue), BATCH):
            batch = [queue.popleft() for _ in range(count)]
            try:
                why = self._collector.send(batch)
            except Exception as error:  # noqa: BLE001 - the boundary: spans are not worth more
                _log.error("internal error in sending spans", exc_info=error)
                why = f"internal error: {error!r}"
            if why:
                self._failed += count
                return why
            self.sent += count
        return ""

    def _tell(self, why: str, *, is_last: bool = False) -> None:
        """Say in the log how many were lost since it was last said, if that is long enough ago."""
        dropped, now_s = self.dropped, monotonic()
        if dropped == self._told or (now_s < self._tell_at_s and not is_last):
            return
        lost, self._told, self._tell_at_s = dropped - self._told, dropped, now_s + TELL_EACH_S
        because = why or "more ended than could be sent"
        _log.warning("%d spans were not sent to the collector: %s", lost, because)
