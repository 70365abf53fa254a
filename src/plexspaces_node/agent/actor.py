"""One actor: a bounded mailbox and the thread that works through it.

Messages are handled one at a time, in order. Between them the state is snapshotted: at most once
an interval while messages flow, and when the mailbox has been empty for that long. After a trap
the instance is made anew from the last snapshot. Owns no socket: replies go to callbacks.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic_ns, perf_counter_ns

from plexspaces_node.agent.runtime import Runtime, in_time
from plexspaces_node.errors import (
    ActorError,
    DeadlineExceeded,
    PlexSpacesError,
    ResourceExhausted,
)
from plexspaces_node.wire.link import Invoke, LinkFailure, Reply, failure_of

SNAPSHOT_TIMEOUT_NS = 5_000_000_000
"""For a snapshot, which the contract wants small and quick."""


# Written out, since what would write them is long to import, at every start of a machine.


class _Arrived:
    __slots__ = ("arrived_ns", "deadline_ns", "message")

    def __init__(self, message: Invoke, arrived_ns: int) -> None:
        self.message = message
        self.arrived_ns = arrived_ns
        self.deadline_ns = arrived_ns + message.timeout_ns


class _Stop:
    __slots__ = ("done", "timeout_ns")

    def __init__(self, timeout_ns: int, done: Callable[[], None]) -> None:
        self.timeout_ns = timeout_ns
        self.done = done


class Outlets:
    """Where an actor's results go; each is called on the actor's own thread.

    Attributes:
        complain: takes one line about the actor for its log.
    """

    __slots__ = ("complain", "reply", "state")

    def __init__(
        self,
        *,
        reply: Callable[[Reply], None],
        state: Callable[[bytes], None],
        complain: Callable[[str], None],
    ) -> None:
        self.reply = reply
        self.state = state
        self.complain = complain


class Actor:
    """An actor that has been started; its thread ends after `stop`."""

    def __init__(
        self, runtime: Runtime, outlets: Outlets, *, mailbox: int, snapshot_interval_ns: int
    ) -> None:
        self._runtime = runtime
        self._outlets = outlets
        self._mailbox = mailbox
        self._interval_ns = snapshot_interval_ns
        self._queue: SimpleQueue[_Arrived | _Stop | Callable[[], None]] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._answered = 0
        self._last_state = b""
        self._changed_ns: int | None = None

    def start(
        self,
        state: bytes,
        timeout_ns: int,
        done: Callable[[int, ActorError | PlexSpacesError | None], None],
    ) -> None:
        """Start the thread and, on it, the instance; returns at once.

        `done` is called on that thread with the time `init` took and what it raised, or None.
        """

        def begin() -> None:
            started_ns = perf_counter_ns()
            error: ActorError | PlexSpacesError | None = None
            try:
                self._last_state = state
                self._runtime.start(state, in_time(timeout_ns))
            except (ActorError, PlexSpacesError) as raised:
                error = raised
            done(perf_counter_ns() - started_ns, error)

        self._queue.put(begin)
        threading.Thread(target=self._work, name="actor", daemon=True).start()

    def post(self, message: Invoke) -> None:
        """Put a message into the mailbox; its reply comes through the outlet.

        Raises `ResourceExhausted` when the mailbox is full.
        """
        if self._queue.qsize() >= self._mailbox:
            raise ResourceExhausted(
                f"the mailbox is full: {self._mailbox} messages wait",
                hint="send slower, or raise [limits] mailbox",
            )
        self._queue.put(_Arrived(message, monotonic_ns()))

    def cancel(self, message_id: int) -> None:
        """Not handle a message that still waits; one being handled is handled to its end.

        Either way it is answered.
        """
        # Ids rise, so one that was answered needs no remembering.
        if message_id > self._answered:
            self._cancelled.add(message_id)

    def stop(self, timeout_ns: int, done: Callable[[], None]) -> None:
        """After the messages that wait: snapshot, shut the instance down, call `done`, end."""
        self._queue.put(_Stop(timeout_ns, done))

    def resend_state(self) -> None:
        """Have the last snapshot sent again, to a node that may have missed it."""
        self._queue.put(lambda: self._outlets.state(self._last_state))

    def _work(self) -> None:
        try:
            self._run()
        except BaseException:  # noqa: BLE001 - a dead actor in a live agent would answer nobody
            sys.excepthook(*sys.exc_info())
            os._exit(70)

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=self._until_snapshot_s())
            except Empty:
                self._snapshot(SNAPSHOT_TIMEOUT_NS)
                continue
            if isinstance(item, _Stop):
                self._end(item)
                return
            if isinstance(item, _Arrived):
                self._answer(item)
            else:
                item()
            if self._changed_ns is not None and self._until_snapshot_s() == 0:
                self._snapshot(SNAPSHOT_TIMEOUT_NS)

    def _until_snapshot_s(self) -> float | None:
        if self._changed_ns is None:
            return None
        return max(0, self._changed_ns + self._interval_ns - monotonic_ns()) / 1e9

    def _answer(self, item: _Arrived) -> None:
        message = item.message
        self._answered = message.id
        queue_ns = monotonic_ns() - item.arrived_ns
        payload, failure = b"", None
        measured = self._runtime.measured
        measured.compute_ns = measured.wait_ns = 0
        try:
            payload = self._handle(item)
        except (ActorError, PlexSpacesError) as error:
            failure = failure_of(error)
        self._outlets.reply(
            Reply(message.id, payload, failure, measured.compute_ns, measured.wait_ns, queue_ns)
        )
        # After the reply: it may have come after the cancellation, which must not be kept for ever.
        self._cancelled.discard(message.id)
        if not self._runtime.alive:
            self._revive(failure)

    def _handle(self, item: _Arrived) -> bytes:
        if item.message.id in self._cancelled:
            raise DeadlineExceeded("nobody waits for the message any more")
        if monotonic_ns() >= item.deadline_ns:
            raise DeadlineExceeded(
                "the message's time ran out in the mailbox",
                hint="give it more time, or send slower",
            )
        if not self._runtime.alive:
            self._runtime.start(self._last_state, item.deadline_ns)
        message = item.message
        if self._runtime.stateful and self._changed_ns is None:
            self._changed_ns = monotonic_ns()
        return self._runtime.handle(message.sender, message.type, message.payload, item.deadline_ns)

    def _revive(self, failure: LinkFailure | None) -> None:
        self._changed_ns = None
        why = failure.message if failure else "it trapped"
        self._outlets.complain(f"the actor runs again from its last snapshot: {why}")
        try:
            self._runtime.start(self._last_state, in_time(SNAPSHOT_TIMEOUT_NS))
        except (ActorError, PlexSpacesError) as error:
            # The next message tries again and carries the error to whoever sent it.
            self._outlets.complain(f"the actor could not be made anew: {error}")

    def _snapshot(self, timeout_ns: int) -> None:
        self._changed_ns = None
        if not self._runtime.stateful or not self._runtime.alive:
            return
        try:
            state = self._runtime.snapshot(in_time(timeout_ns))
        except (ActorError, PlexSpacesError) as error:
            self._outlets.complain(f"no snapshot: {error}")
            if not self._runtime.alive:
                self._revive(failure_of(error))
            return
        if state != self._last_state:
            self._last_state = state
            self._outlets.state(state)

    def _end(self, stop: _Stop) -> None:
        if self._changed_ns is not None:
            self._snapshot(stop.timeout_ns)
        if self._runtime.alive:
            try:
                self._runtime.shutdown(in_time(stop.timeout_ns))
            except (ActorError, PlexSpacesError) as error:
                self._outlets.complain(f"shutdown: {error}")
        stop.done()
