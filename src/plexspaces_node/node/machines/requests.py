"""Requests to an agent other than messages: each gets one answer, in time or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from plexspaces_node.errors import ActorError, DeadlineExceeded, Unavailable, WrongState
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import AgentFrame
from plexspaces_node.node.machines.connection import Connection
from plexspaces_node.node.machines.pending import TICK_S

_SNAPSHOTS_AT_STOP = 2
"""How many snapshots may still come: one that is in progress, and the last one."""

Request: TypeAlias = link.Load | link.Stop | link.Measure
Answer: TypeAlias = link.Loaded | link.Stopped | link.Measured | link.Failed

_Answer = TypeVar("_Answer", link.Loaded, link.Stopped, link.Measured)


class StopRefused(WrongState):
    """The agent does not stop, because its actor's state is not saved; the VM keeps running."""


class Requests:
    """The requests to one agent that are in progress."""

    def __init__(
        self,
        vm_id: str,
        ids: Iterator[int],
        *,
        connected: Callable[[], Connection],
        emptied: Callable[[], None],
    ) -> None:
        """Number requests from `ids` and send them on the connection that `connected` returns.

        `emptied` is called when a request is no longer in progress.
        """
        self._vm_id = vm_id
        self._ids = ids
        self._connected = connected
        self._emptied = emptied
        # Each with the kind of frame that answers it.
        self._requests: dict[int, tuple[asyncio.Future[Any], type[AgentFrame]]] = {}
        # How many parts of snapshots have arrived, and snapshots that have begun.
        self._parts = self._snapshots = 0

    def __len__(self) -> int:
        return len(self._requests)

    async def send(
        self,
        frame: Request,
        answer: type[_Answer],
        timeout_s: float,
        what: str,
        *,
        step_s: float = 0.0,
    ) -> _Answer:
        """Send a request and wait for its answer; parts of snapshots extend the wait by `step_s`.

        Raises the agent's error, `StopRefused` if it was a stop, `DeadlineExceeded` and, if the
        connection is lost, `Unavailable`.
        """
        connection = self._connected()
        request_id = frame.id = next(self._ids)
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._requests[request_id] = (future, answer)
        connection.writing.send(frame)
        try:
            # The last tick is for what arrived while the node was stopped, and still has to be
            # read.
            left_s, most = timeout_s, self._snapshots + _SNAPSHOTS_AT_STOP
            while not future.done():
                parts = self._parts
                for part_s in (left_s - TICK_S, TICK_S):
                    if not future.done():
                        await asyncio.wait([future], timeout=part_s)
                more = step_s and parts != self._parts and self._snapshots <= most
                if not future.done() and not more:
                    raise late(self._vm_id, what, timeout_s)
                left_s = step_s
            return future.result()
        finally:
            self._requests.pop(request_id, None)
            if not future.cancel():
                future.exception()  # else asyncio complains that nobody looked at it
            self._emptied()

    def part_came(self, *, first: bool) -> None:
        """Record that a part of a snapshot arrived: whoever stops the agent waits for the rest."""
        self._parts += 1
        self._snapshots += first

    def fail(self, message: str) -> None:
        """End every request with `Unavailable`."""
        for future, _ in self._requests.values():
            if not future.done():
                future.set_exception(Unavailable(message))

    def settle(self, frame: Answer) -> bool:
        """Pass an answer to whoever waits for it; False if there is no such request."""
        future, answer = self._requests.get(frame.id, (None, None))
        if future is None or answer is None or future.done():
            return False
        if isinstance(frame, link.Failed):
            error = link.error_of(frame.failure)
            if answer is link.Stopped:
                error = StopRefused(error.message, hint=error.hint)
            elif isinstance(error, ActorError) and answer is not link.Loaded:
                # An actor fails while it starts, and in replies. Only an incorrect agent says so
                # here.
                error = Unavailable(f"the agent of {self._vm_id} failed: {error.message}")
            future.set_exception(error)
        elif isinstance(frame, answer):
            future.set_result(frame)
        else:
            raise link.LinkBroken(f"a {type(frame).__name__} where a {answer.__name__} was due")
        return True


def late(vm_id: str, what: str, timeout_s: float) -> DeadlineExceeded:
    """Return the error for what an agent did not do in time."""
    return DeadlineExceeded(f"{what}: the agent of {vm_id} did not answer within {timeout_s:g} s")
