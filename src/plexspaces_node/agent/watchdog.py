"""Ends a guest call that runs past its deadline.

wasmtime stops guest code when the engine's epoch passes the store's deadline. Instead of ticking
a hundred times a second in an idle machine, one thread sleeps until the deadline of the call at
hand and then raises the epoch once. One engine runs one actor, so there is one call at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic_ns

from plexspaces_node.agent.wasm import Engine, Store

_IDLE_NS = 3_600_000_000_000


class Watchdog:
    """Arms deadlines on one engine. A daemon thread; it needs no end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._condition = threading.Condition()
        self._deadline_ns: int | None = None
        self._wakes_ns = 0
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextmanager
    def deadline(self, store: Store, deadline_ns: int) -> Iterator[None]:
        """Let `store` run guest code until `deadline_ns` of the monotonic clock, then trap it.

        The trap's text says "interrupt". It strikes within a millisecond or so of the deadline in
        guest code, and at once on return from a host call that outlasted it.
        """
        with self._condition:
            # Under the lock, so that no late increment meant for the call before can hit this one.
            store.set_epoch_deadline(1)
            self._deadline_ns = deadline_ns
            if deadline_ns < self._wakes_ns:
                self._condition.notify()
        try:
            yield
        finally:
            with self._condition:
                self._deadline_ns = None

    def _run(self) -> None:
        with self._condition:
            while True:
                now_ns = monotonic_ns()
                deadline_ns = self._deadline_ns
                if deadline_ns is not None and deadline_ns <= now_ns:
                    self._engine.increment_epoch()
                    self._deadline_ns = deadline_ns = None
                # Not woken for every call: a call whose deadline is later than the next wake is
                # seen then, so short calls cost one lock and no switch of threads.
                self._wakes_ns = deadline_ns if deadline_ns is not None else now_ns + _IDLE_NS
                self._condition.wait((self._wakes_ns - now_ns) / 1e9)
