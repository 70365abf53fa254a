"""The actors' requests to their node: a limited number at once, in order where it matters.

An actor waits for each answer, so a correct agent has one request for each message being handled.
An agent with too many requests waits, and is not read from meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import TypeAlias

from plexspaces_node.errors import ActorError, Internal, PlexSpacesError
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import Body, HostCall
from plexspaces_node.model import MIB
from plexspaces_node.node.machines.connection import Connection
from plexspaces_node.node.machines.reading import Hold
from plexspaces_node.node.telemetry.span import Kind, Span, Step
from plexspaces_node.tasks import cancel

_log = logging.getLogger(__name__)

Answer: TypeAlias = Callable[[HostCall, Body, Span | None], Awaitable[Body | None]]
"""Does what is asked, for the message that it is done for, if that is known."""

Made: TypeAlias = Callable[[Span, Step], None]
"""Called with a step of a message once it has ended."""

HOST_CALLS = 64
"""The maximum number of requests being handled at once."""

HOST_CALLS_BYTES = 64 * MIB
"""The maximum size of their payloads, and one more."""


class Calls:
    """The host calls of one agent."""

    def __init__(self, answer: Answer, made: Made) -> None:
        """`answer` does what is asked; a platform or actor error that it raises is the answer."""
        self._answer = answer
        self._made = made
        self._waiting: deque[tuple[Connection, HostCall, Body, Span | None]] = deque()
        self._tasks: dict[asyncio.Task[None], tuple[Connection, HostCall, int]] = {}
        self._bytes = 0
        # The store handles one call at a time: its values are large, and an actor's calls are
        # ordered.
        self._storing = False
        self._held: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._tasks) + len(self._waiting)

    def take(
        self, connection: Connection, call: HostCall, body: Body, cause: Span | None = None
    ) -> None:
        """Do what is asked when it is its turn; `cause` is the message that it is done for."""
        self._waiting.append((connection, call, body, cause))
        self._bytes += len(body)
        self.go_on()
        if self._is_full:
            self._held.add(connection)
            connection.reading.hold(Hold.CALLS)

    @property
    def _is_full(self) -> bool:
        return len(self) >= HOST_CALLS or self._bytes > HOST_CALLS_BYTES

    def go_on(self) -> None:
        """Start what may start."""
        while self._waiting and len(self._tasks) < HOST_CALLS:
            connection, call, body, cause = self._waiting[0]
            stores = isinstance(call, link.Get | link.Put | link.Delete)
            if connection.answers.is_full or (stores and self._storing):
                return
            self._waiting.popleft()
            self._storing = self._storing or stores
            task = asyncio.get_running_loop().create_task(self._do(connection, call, body, cause))
            self._tasks[task] = (connection, call, len(body))
            task.add_done_callback(self._done)

    def lost(self, connection: Connection) -> None:
        """Forget requests of this connection; the store still does what it was asked."""
        self._held.discard(connection)
        gone = [entry for entry in self._waiting if entry[0] is connection]
        self._bytes -= sum(len(body) for _, _, body, _ in gone)
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not connection)
        for task, (came_by, call, _) in self._tasks.items():
            if came_by is connection and isinstance(call, link.Ask):
                task.cancel()

    async def close(self) -> None:
        """Start no more. Idempotent."""
        self._waiting.clear()
        await cancel(*self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        _, call, size = self._tasks.pop(task)
        self._bytes -= size
        if isinstance(call, link.Get | link.Put | link.Delete):
            self._storing = False
        self.go_on()
        if not self._is_full:
            # Also one that came after the calls of the previous one.
            for held in self._held:
                held.reading.release(Hold.CALLS)
            self._held.clear()

    async def _do(
        self, connection: Connection, call: HostCall, body: Body, cause: Span | None
    ) -> None:
        answer, payload = link.Answer(id=call.id), None
        step = _step_of(call, cause)
        try:
            payload = await self._answer(call, body, cause)
        except (PlexSpacesError, ActorError) as error:
            answer.failure.CopyFrom(link.failure_of(error))
        except Exception as error:  # noqa: BLE001 - the actor waits: whatever it is, it must hear
            _log.error("internal error in a host call", exc_info=error)
            answer.failure.CopyFrom(link.failure_of(Internal(f"internal error: {error!r}")))
        if step is not None and cause is not None:
            step.end(perf_counter_ns(), (answer.failure.code, answer.failure.message))
            self._made(cause, step)
        answer.found = isinstance(call, link.Get) and payload is not None
        connection.answer(answer, payload or b"")


def _step_of(call: HostCall, cause: Span | None) -> Step | None:
    """Begin to measure a call of the store for a message; None for another call, or after many."""
    if cause is None or isinstance(call, link.Ask | link.Tell):
        return None
    step = Step(Kind.STORE, type(call).__name__.lower(), perf_counter_ns())
    return step if cause.cause(step) else None
