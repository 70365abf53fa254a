"""Requests to an agent that are no messages: each gets one answer, in time or not at all."""

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
"""That may still come: one that is at hand, and the last."""

Request: TypeAlias = link.Load | link.Stop | link.Measure
Answer: TypeAlias = link.Loaded | link.Stopped | link.Measured | link.Failed

_Answer = TypeVar("_Answer", link.Loaded, link.Stopped, link.Measured)


class StopRefused(WrongState):
    """The agent does not end, as its actor's state is not saved; the machine lives on."""


class Requests:
    """The requests to one agent that are on their way."""

    def __init__(
        self,
        vm_id: str,
        ids: Iterator[int],
        *,
        connected: Callable[[], Connection],
        emptied: Callable[[], None],
    ) -> None:
        """Number requests from `ids` and send them by what `connected` returns or raises.

        `emptied` is called when one is no longer on its way.
        """
        self._vm_id = vm_id
        self._ids = ids
        self._connected = connected
        self._emptied = emptied
        # Each with the kind of frame that answers it.
        self._requests: dict[int, tuple[asyncio.Future[Any], type[AgentFrame]]] = {}
        # As many parts of snapshots as have come, and snapshots that have begun.
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
        """Send a request and wait for its answer, for `step_s` more after parts of snapshots.

        Raises what the agent says went wrong, `StopRefused` where it was to stop,
        `DeadlineExceeded` and, when the connection is lost, `Unavailable`.
        """
        connection = self._connected()
        request_id = frame.id = next(self._ids)
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._requests[request_id] = (future, answer)
        connection.writing.send(frame)
        try:
            # The last tick is for what came while the node was stopped, and is yet to be read.
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
        """Note that a part of a snapshot came: whoever stops the agent waits for the rest."""
        self._parts += 1
        self._snapshots += first

    def fail(self, message: str) -> None:
        """End every request with `Unavailable`."""
        for future, _ in self._requests.values():
            if not future.done():
                future.set_exception(Unavailable(message))

    def settle(self, frame: Answer) -> bool:
        """Hand an answer to whoever waits for it; False when it was not asked for."""
        future, answer = self._requests.get(frame.id, (None, None))
        if future is None or answer is None or future.done():
            return False
        if isinstance(frame, link.Failed):
            error = link.error_of(frame.failure)
            if answer is link.Stopped:
                error = StopRefused(error.message, hint=error.hint)
            elif isinstance(error, ActorError) and answer is not link.Loaded:
                # An actor fails while it starts, and in replies. Only a lying agent says so here.
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
