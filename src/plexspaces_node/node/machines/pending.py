"""Messages in flight to one agent, and when it counts as deaf.

An agent ends a message at its deadline by itself, whatever its application does. An agent that does
not answer the oldest message for a while after that, nor shows another sign of life, is deaf: this
is found out once, for all of its messages. Knows no frames but the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TypeAlias

from plexspaces_node.errors import DeadlineExceeded, PlexSpacesError
from plexspaces_node.link import frames as link
from plexspaces_node.node.machines.connection import Connection
from plexspaces_node.node.machines.in_flight import InFlight, TenantShare
from plexspaces_node.node.telemetry.span import Span

SILENCE_NS = 1_000_000_000
"""How long past a message's deadline, or the last sign of life after it, an agent may stay silent
before it counts as deaf."""

TICKS = 4
"""The number of parts of a silence, each timed from the end of the previous one: a node that was
itself stopped misses one of them, and in the others receives what was sent meanwhile."""

HELD = 10
"""How many silences are allowed while the node chooses not to read everything that the agent sends:
the reply may be behind that."""

TICK_S = SILENCE_NS / TICKS / 1e9

_LEAST_S = 0.01
"""The time between two checks, however many messages end one after the other."""

Answered: TypeAlias = tuple[link.Reply, link.Body]
"""A reply, which may contain an application's failure, and its payload."""

Done: TypeAlias = Callable[[Answered | PlexSpacesError], None]
"""Called once, on the event loop, with the reply to a message or with why there is none."""

_Signs: TypeAlias = tuple[int, int, int]
"""Signs of life: the oldest message, what the agent has yet to accept, the bytes received of a
frame."""


class Message:
    """A message that was sent and not yet answered.

    Attributes:
        done: called with the reply or an error; None once the sender has left.
        end: where it ends in the stream, until the agent's side has accepted all of it; then 0.
        due_s: when its agent is first checked, by the clock of the event loop.
        is_stream: whether its answer comes in parts, for as long as somebody takes them.
        span: how it is measured, if somebody does.
    """

    __slots__ = (
        "begin_s",
        "done",
        "due_s",
        "end",
        "id",
        "is_stream",
        "quiet",
        "signs",
        "size",
        "span",
        "timeout_ns",
    )

    def __init__(  # noqa: PLR0913 - what is known of it, each by its name
        self,
        message_id: int,
        done: Done,
        *,
        begin_s: float,
        size: int,
        timeout_ns: int,
        end: int,
        span: Span | None,
    ) -> None:
        self.id = message_id
        self.span = span
        self.done: Done | None = done
        self.size = size
        self.timeout_ns = timeout_ns
        self.end = end
        self.begin_s = begin_s
        self.due_s = begin_s + timeout_ns / 1e9 + TICK_S
        self.is_stream = False
        self.quiet = 0
        self.signs: _Signs | None = None

    def prolong(self, now_s: float) -> None:
        """Begin its time again: more of it was sent."""
        self.due_s = now_s + self.timeout_ns / 1e9 + TICK_S


class Pending:
    """The messages in flight to one agent, in the order sent."""

    def __init__(  # noqa: PLR0913 - each of those that are told, by its name
        self,
        connection: Callable[[], Connection | None],
        *,
        give_up: Callable[[int], None],
        deaf: Callable[[], None],
        late_reply: Callable[[Span | None, link.Reply | None, link.Body], None],
        emptied: Callable[[], None],
        in_flight: InFlight | TenantShare,
    ) -> None:
        """Set up without messages.

        `connection` is the current one, if any. `give_up` is called for a message that nobody waits
        for any more, `deaf` if the agent is, `late_reply` for a reply whose sender has left, and
        `emptied` when no message is in flight any more. All are counted in `in_flight`.
        """
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._give_up = give_up
        self._deaf = deaf
        self._late_reply = late_reply
        self._emptied = emptied
        self._in_flight = in_flight
        self._messages: dict[int, Message] = {}
        # One timer for all of them, set for the earliest; those answered meanwhile are skipped.
        self._timer: asyncio.TimerHandle | None = None
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._messages

    def span_of(self, message_id: int) -> Span | None:
        """Return how a message in flight is measured; None without one."""
        message = self._messages.get(message_id)
        return None if message is None else message.span

    def add(  # noqa: PLR0913 - what is known of it, each by its name
        self,
        message_id: int,
        done: Done,
        *,
        size: int,
        timeout_ns: int,
        end: int,
        span: Span | None = None,
    ) -> Message:
        """Watch a message that was just sent and ends there in the stream."""
        begin_s = self._loop.time()
        message = Message(
            *(message_id, done),
            begin_s=begin_s,
            size=size,
            timeout_ns=timeout_ns,
            end=end,
            span=span,
        )
        self._messages[message_id] = message
        self.bytes += size
        self._in_flight.add(size)
        due_s = begin_s + TICK_S if end else message.due_s
        if self._timer is None or due_s < self._timer.when():
            self._set_timer(due_s)
        return message

    def settle(self, reply: link.Reply, body: link.Body) -> bool:
        """Pass a reply to whoever waits for it; False if no such message is in flight."""
        message = self._remove(reply.id)
        if message is None:
            return False
        # An exchange and its message know each other: what they hold would go only with the next
        # collection.
        done, message.done = message.done, None
        if done is None:
            self._late_reply(message.span, reply, body)
        else:
            self._call(done, (reply, body))
        return True

    def end(self, message: Message) -> None:
        """Give a message up whose reply is still of interest."""
        if message.id in self._messages:
            self.watch(message)
            self._give_up(message.id)

    def watch(self, message: Message) -> None:
        """Expect the reply of a stream in the message's time from now on: nothing else is due."""
        if not message.is_stream or message.id not in self._messages:
            return
        message.is_stream = False
        message.prolong(self._loop.time())
        if self._timer is None or message.due_s < self._timer.when():
            self._set_timer(message.due_s)

    def left(self, message: Message) -> None:
        """Record that the sender of a message no longer waits for it. Idempotent."""
        if message.id in self._messages and message.done is not None:
            message.done = None
            self._give_up(message.id)

    def fail(self, error: Callable[[Message], PlexSpacesError]) -> None:
        """End every message with an error of its own."""
        for message in list(self._messages.values()):
            self._fail(message, error(message))

    def close(self) -> None:
        """Stop watching. A timer of a long message would keep all of this until then."""
        if self._timer is not None:
            self._timer.cancel()

    def _fail(self, message: Message, error: PlexSpacesError) -> None:
        self._remove(message.id)
        if message.done is None:
            self._late_reply(message.span, None, b"")
        else:
            self._call(message.done, error)

    def _call(self, done: Done, answer: Answered | PlexSpacesError) -> None:
        try:
            done(answer)
        except Exception as error:  # noqa: BLE001 - the boundary: whoever waits, not the agent
            context = {"message": f"a reply was not taken by {done!r}", "exception": error}
            self._loop.call_exception_handler(context)

    def _remove(self, message_id: int) -> Message | None:
        message = self._messages.pop(message_id, None)
        if message is not None:
            self.bytes -= message.size
            self._in_flight.remove(message.size)
            if not self._messages:
                self._emptied()
        return message

    # ---- silence -----------------------------------------------------------------------

    def _set_timer(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._check_silence)

    def _check_silence(self) -> None:
        """Check messages whose time is over, and those that are still being accepted."""
        self._timer = None
        connection = self._connection()
        if connection is None or not self._messages:
            return
        now_s, due_s = self._loop.time(), inf
        patience = TICKS * HELD if connection.reading.was_held() else TICKS
        taken: int | None = None
        awaited = [each for each in self._messages.values() if not each.is_stream]
        if not awaited:
            return
        oldest = awaited[0].id
        for message in awaited:
            rest = 0
            if message.end:
                taken = connection.writing.taken() if taken is None else taken
                rest = max(0, message.end - taken)
                if not rest:
                    # It was just accepted: its time begins.
                    message.end, message.signs = 0, None
                    message.due_s = now_s + message.timeout_ns / 1e9 + TICK_S
                elif self._never_begun(message, rest, now_s, oldest):
                    continue
            if now_s >= message.due_s:
                signs = (oldest, rest, connection.unfinished)
                message.quiet = message.quiet + 1 if signs == message.signs else 1
                message.signs = signs
                if message.quiet >= patience and not self._ended_alone(message, oldest):
                    self._deaf()
                    return
            watched = message.end or now_s >= message.due_s
            due_s = min(due_s, now_s + TICK_S if watched else message.due_s)
        if due_s < inf:
            self._set_timer(max(due_s, now_s + _LEAST_S))

    def _never_begun(self, message: Message, rest: int, now_s: float, oldest: int) -> bool:
        """End a message that was not accepted in its time: the agent is busy accepting others."""
        patience_s = (message.timeout_ns + SILENCE_NS) / 1e9
        late = now_s >= message.begin_s + patience_s and rest >= message.size
        return late and self._ended_alone(message, oldest)

    def _ended_alone(self, message: Message, oldest: int) -> bool:
        """End a message that waits behind one with more time: the VM is healthy."""
        if message.id == oldest:
            return False
        self._give_up(message.id)
        self._fail(
            message,
            DeadlineExceeded(
                f"the message timed out after {message.timeout_ns / 1e9:g} s while others were "
                "handled",
                hint="set a longer timeout, or send more slowly",
            ),
        )
        return True
