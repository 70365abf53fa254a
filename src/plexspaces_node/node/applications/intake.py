"""Where messages come into an application: to its agent at once, or in line until it has one.

While an application starts, is restarted or is replaced, its messages wait: in the order in which
they came, for a limited time, and limited in number and bytes as messages in flight are. Knows
nothing of states; see `supervisor`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from plexspaces_node.errors import PlexSpacesError, ResourceExhausted
from plexspaces_node.model import MIB
from plexspaces_node.node.applications.task_scope import shutting_down
from plexspaces_node.node.machines.agent_client import IN_FLIGHT_BYTES, AgentClient
from plexspaces_node.node.machines.machine import AgentLimits
from plexspaces_node.tasks import Leave

HOLD_S = 10.0
"""How long a message waits for its application at most. Replacing a microVM takes 1 to 6 s."""

Turn: TypeAlias = asyncio.Future[AgentClient]
"""The agent that takes a waiting message, or why none does."""


class Place:
    """A message's place in the line.

    Attributes:
        turn: done when the wait is over; whoever joined has to leave then.
    """

    __slots__ = ("size", "timer", "turn")

    def __init__(self, turn: Turn, size: int, timer: asyncio.TimerHandle) -> None:
        self.turn = turn
        self.size = size
        self.timer = timer


class Intake:
    """Where messages come into one application. Used only on the event loop.

    Attributes:
        agent: takes messages now; None while they wait or are refused.
    """

    def __init__(self, refusal: Callable[[], PlexSpacesError], limits: AgentLimits) -> None:
        """Refuse messages for now; `refusal` makes the error for one that cannot be passed on."""
        self.agent: AgentClient | None = None
        self._refusal = refusal
        self._limits = limits
        # The agent that those in line go to, before others go to it directly.
        self._next: AgentClient | None = None
        self._holds = False
        self._closed = False
        self._line: dict[Turn, Place] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Intake to {self.agent!r}, {self.waiting} wait>"

    @property
    def takes(self) -> bool:
        """Whether messages are passed on or wait, and are not refused."""
        return self.agent is not None or self._next is not None or self._holds

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._line)

    def open(self, agent: AgentClient) -> None:
        """Pass messages to `agent`; those that wait come first."""
        if agent is not self._next:
            self._next = agent
            self.agent = None if self._line else agent
            for turn in self._line:
                self._give(turn)

    def hold(self) -> None:
        """Let messages wait from now on."""
        self.agent = self._next = None
        self._holds = True

    def refuse(self) -> None:
        """Refuse messages from now on, and those that wait."""
        self.agent = self._next = None
        self._holds = False
        self._fail_all()

    def close(self) -> None:
        """Let none wait any more, because the node is shutting down; an agent still takes them."""
        self._closed = True
        self._fail_all()

    def post(
        self,
        send: Callable[[AgentClient], Leave],
        failed: Callable[[PlexSpacesError], None],
        *,
        size: int,
        timeout_ns: int,
    ) -> Leave:
        """Call `send` with the agent, now or in the message's turn, or `failed` if that is never.

        The returned function takes the message out of the line, or out of the agent's hands. Raises
        what `join` and `send` raise; later, `failed` gets that.
        """
        if self.agent is not None:
            return send(self.agent)
        return _Waiting(self, self.join(size, timeout_ns), send, failed).leave

    def join(self, size: int, timeout_ns: int) -> Place:
        """Put a message of `size` bytes in line; `leave` must follow when its turn is done.

        The wait lasts at most as long as the message's own timeout and `HOLD_S`. The message must
        be sent in the same step in which it leaves: its turn is then.
        Raises the refusal if messages are refused, and `ResourceExhausted` if too many wait.
        """
        if self._closed or not (self._holds or self._next):
            raise self._error()
        self._check_room(size)
        loop = asyncio.get_running_loop()
        turn: Turn = loop.create_future()
        timer = loop.call_later(min(timeout_ns / 1e9, HOLD_S), self._fail, turn)
        place = self._line[turn] = Place(turn, size, timer)
        self._bytes += size
        self._limits.in_flight.add(size)
        if self._next is not None:
            # Others are about to be sent, and it comes after them: a turn that is done already
            # would not be waited for.
            loop.call_soon(self._give, turn)
        return place

    def leave(self, place: Place) -> None:
        """Take a message out of the line; it is sent now, or never."""
        del self._line[place.turn]
        place.timer.cancel()
        self._bytes -= place.size
        self._limits.in_flight.remove(place.size)
        if place.turn.done() and not place.turn.cancelled():
            # Whoever left early does not ask, and asyncio would complain of it.
            place.turn.exception()
        if not self._line:
            self.agent = self._next

    def _check_room(self, size: int) -> None:
        limits = self._limits
        if self.waiting >= limits.in_flight_limit:
            raise ResourceExhausted(
                f"too many messages wait for the application ({self.waiting})",
                hint="send more slowly, or raise [limits] mailbox",
            )
        if self._bytes > max(IN_FLIGHT_BYTES, limits.message_limit):
            raise ResourceExhausted(
                f"too many messages wait for the application ({self._bytes} bytes)",
                hint="send more slowly: at most "
                f"{IN_FLIGHT_BYTES // MIB} MiB, or one message, can wait at a time",
            )
        limits.in_flight.check(size, held=self._bytes)

    def _error(self) -> PlexSpacesError:
        return shutting_down() if self._closed else self._refusal()

    def _give(self, turn: Turn) -> None:
        if self._next is not None and not turn.done():
            turn.set_result(self._next)

    def _fail(self, turn: Turn) -> None:
        if not turn.done():
            turn.set_exception(self._error())

    def _fail_all(self) -> None:
        for turn in self._line:
            self._fail(turn)


class _Waiting:
    """A message in line that nobody awaits: it is sent in its turn."""

    def __init__(
        self,
        intake: Intake,
        place: Place,
        send: Callable[[AgentClient], Leave],
        failed: Callable[[PlexSpacesError], None],
    ) -> None:
        self._intake = intake
        self._place = place
        self._send = send
        self._failed = failed
        self._sent: Leave | None = None
        self._has_left = False
        place.turn.add_done_callback(self._its_turn)

    def leave(self) -> None:
        if self._sent is not None:
            self._sent()
        else:
            # Its turn may have come already, with the call of it still to follow.
            self._has_left = True
            self._place.turn.cancel()

    def _its_turn(self, turn: Turn) -> None:
        self._intake.leave(self._place)
        if self._has_left:
            return
        try:
            self._sent = self._send(turn.result())
        except PlexSpacesError as error:
            self._failed(error)
