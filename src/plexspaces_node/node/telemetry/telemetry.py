"""What a node measures beside single applications, and the clock of it all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns, time_ns

from plexspaces_node.model import PhaseTimings
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.durations import Buckets
from plexspaces_node.node.telemetry.span import Ended
from plexspaces_node.node.telemetry.timeline import MOMENT_S, RECENT_NS

SAMPLE = 0.01
"""The share of messages that are traced, besides those that are rare or asked for."""

PHASES = ("upload", "compile", "vm", "load", "init")
"""The phases of bringing an application up; `PhaseTimings` has one time for each."""

_BEAT_S = 0.25
_BEATS = round(MOMENT_S / _BEAT_S)
_AT_ONCE = 16
"""How many moments are ended without a pause: each takes 0.1 ms at most."""


class Telemetry:
    """Measures a node. Used on the event loop; numbers may be read from any thread.

    Attributes:
        sample: the share of messages that are traced.
        touched: applications with messages in this moment, or in those still counted.
        phases: how long the phases of starts took.
        loop_lag: by how much the event loop was late, measured four times a second.
        export: called with each message that is traced on purpose, and with each of its steps, once
            it has ended; None for nobody.
        dropped_spans: how many of them were lost on their way to a collector; on any thread.
    """

    def __init__(self, sample: float = SAMPLE) -> None:
        self.sample = sample
        self.touched: list[Activity] = []
        self.phases = {phase: Buckets() for phase in PHASES}
        self.loop_lag = Buckets()
        self.export: Callable[[Ended], None] | None = None
        self.dropped_spans: Callable[[], int] = lambda: 0
        self._epoch_ns = time_ns() - perf_counter_ns()
        self._lags: deque[int] = deque(maxlen=round(RECENT_NS / 1e9 / _BEAT_S))
        self._timer: asyncio.TimerHandle | None = None
        self._beats = 0
        self._since_ns = perf_counter_ns()

    def __repr__(self) -> str:
        return f"<Telemetry of {len(self.touched)} active applications>"

    @property
    def recent_lag_ns(self) -> int:
        """The longest time by which the event loop was late in the last 10 s."""
        return max(self._lags, default=0)

    def unix_ns(self, perf_ns: int) -> int:
        """Return a time of `perf_counter_ns` as one since the epoch."""
        return self._epoch_ns + perf_ns

    def began(self, timings: PhaseTimings) -> None:
        """Count the phases of an application that was brought up."""
        for phase, buckets in self.phases.items():
            if phase == "compile" and timings.compile_cached:
                # It was looked up, at each restart.
                continue
            if duration_ns := getattr(timings, f"{phase}_ns"):
                buckets.add(duration_ns)

    def run(self) -> None:
        """Begin to end moments, on the running event loop, until `close`."""
        self._since_ns = perf_counter_ns()
        self._wait()

    def close(self) -> None:
        """End no more moments. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + _BEAT_S
        self._timer = loop.call_at(due_s, self._beat, due_s)

    def _beat(self, due_s: float) -> None:
        lag_ns = max(0, int((asyncio.get_running_loop().time() - due_s) * 1e9))
        self.loop_lag.add(lag_ns)
        self._lags.append(lag_ns)
        self._beats += 1
        # First of all, so that what goes wrong in one moment is not the end of them.
        self._wait()
        if self._beats % _BEATS == 0:
            self.tick()

    def tick(self) -> None:
        """End the moment of every application that has one."""
        # A clock that was set shows in what follows, and not in what was.
        self._epoch_ns = time_ns() - perf_counter_ns()
        now_ns = perf_counter_ns()
        duration_ns, self._since_ns = now_ns - self._since_ns, now_ns
        touched, self.touched = self.touched, []
        self._tick(touched, now_ns, duration_ns)

    def _tick(self, touched: list[Activity], now_ns: int, duration_ns: int) -> None:
        unix_ns = self.unix_ns(now_ns)
        for activity in touched[:_AT_ONCE]:
            if not activity.tick(now_ns, unix_ns, duration_ns):
                self.touched.append(activity)
        if rest := touched[_AT_ONCE:]:
            asyncio.get_running_loop().call_soon(self._tick, rest, now_ns, duration_ns)
