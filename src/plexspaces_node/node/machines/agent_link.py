"""The link to one agent: connects it, greets it, and notices when it is lost.

An agent that connects again is greeted again: it has one connection at a time. Does not know what
the frames after the greeting mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time_ns

from plexspaces_node.errors import Unavailable, WrongState
from plexspaces_node.info import LogLine
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import AgentFrame, Body
from plexspaces_node.node.machines.connection import Connection, Received
from plexspaces_node.node.machines.listener import Acceptor
from plexspaces_node.node.machines.traffic import Traffic
from plexspaces_node.tasks import cancel

RECONNECT_S = 10.0
"""How long an agent may be without a connection before its VM is replaced."""

REDIAL_S = 0.25
"""Between the loss of a link and the next attempt, if the node is the end that connects."""

GREETING_S = 5.0
"""How long a connection may take to the hello. An agent that gets no event when the host connects,
as at a virtio port, may miss it: one of 120 boots on a loaded host did."""

SEED_BYTES = 32
"""How many random bytes a guest is given: as many as its kernel needs to start with."""

_OTHER_VERSION = "the guest image is of another version, rebuild it: plexspaces image build"


class AgentLink:
    """Keeps the connection of one agent. Everything runs on one event loop.

    Attributes:
        connection: the current one, whose agent was greeted; None if there is none.
        deaf: set when the agent is known not to answer, or was lost for `RECONNECT_S`.
    """

    def __init__(  # noqa: PLR0913 - who is at both ends, and each that is told by its name
        self,
        vm_id: str,
        *,
        node_id: str,
        message_limit: int,
        received: Received,
        took_answers: Callable[[], None],
        lost: Callable[[Connection], None],
        back: Callable[[], None],
        log: Callable[[Sequence[LogLine]], None],
        traffic: Traffic | None = None,
    ) -> None:
        """Set up without a connection.

        `received` gets the frames of an agent that was greeted, `took_answers` is called when it
        has accepted answers that were waiting, `lost` when its connection is gone, `back` when it
        has one, and `log` gets errors. `traffic` counts the bytes both ways.
        """
        self.connection: Connection | None = None
        self.deaf = asyncio.Event()
        self._vm_id = vm_id
        self._node_id = node_id
        self._message_limit = message_limit
        self._received = received
        self._took_answers = took_answers
        self._lost = lost
        self._back = back
        self._log = log
        self._traffic = traffic
        self._loop = asyncio.get_running_loop()
        # Those that have not sent a hello yet, each with its timeout.
        self._ungreeted: dict[Connection, asyncio.TimerHandle] = {}
        self._lost_timer: asyncio.TimerHandle | None = None
        self._acceptor: Acceptor | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._hello: asyncio.Future[link.Hello] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<AgentLink {self._vm_id} {'connected' if self.connection else 'not connected'}>"

    def listen(self, path: Path) -> None:
        """Listen for the agent; call before the VM starts. Replaces a stale socket."""
        self._acceptor = Acceptor(path, self._new_connection)

    def dial(self, path: Path) -> None:
        """Connect to an agent at a socket, and again whenever the link breaks."""
        self._dialling = self._loop.create_task(self._keep_dialled(str(path)))

    async def hello(self) -> link.Hello:
        """Wait for the agent's first frame, without a time limit: race it with the VM's end.

        Raises `WrongState` for an agent of another generation or of another VM.
        """
        return await asyncio.shield(self._hello)

    def connected(self) -> Connection:
        """Return the current connection; raises `Unavailable` if there is none."""
        if self.connection is None:
            raise Unavailable(f"the agent of {self._vm_id} is not connected")
        return self.connection

    def drop(self) -> None:
        """Close the current connection at once, as if it were lost."""
        if self.connection is not None:
            self.connection.close()
            self.lost(self.connection)

    async def close(self) -> None:
        """Drop the connection, stop listening and connecting. Idempotent."""
        if self._acceptor is not None:
            self._acceptor.close()
        self.drop()
        if self._lost_timer is not None:
            self._lost_timer.cancel()
        if not self._hello.done():
            self._hello.cancel()
        for connection in list(self._ungreeted):
            connection.close()
        if self._dialling is not None:
            await cancel(self._dialling)

    def _new_connection(self) -> Connection:
        return Connection(self, message_limit=self._message_limit, traffic=self._traffic)

    async def _keep_dialled(self, path: str) -> None:
        while not self.deaf.is_set():
            with contextlib.suppress(OSError):
                _, connection = await self._loop.create_unix_connection(self._new_connection, path)
                try:
                    await connection.gone.wait()
                finally:
                    connection.close()
            # Long enough for the agent to see that nobody is there, and to say hello again.
            await asyncio.sleep(REDIAL_S)

    # ---- what connections call: see connection.Receiver --------------------------------

    def opened(self, connection: Connection) -> None:
        """Record a connection; it is closed if it sends no hello."""
        if self.deaf.is_set():
            connection.close()
            return
        timer = self._loop.call_later(GREETING_S, connection.close)
        self._ungreeted[connection] = timer

    def greet(self, connection: Connection, frame: AgentFrame, body: Body) -> None:
        """Answer the first frame of a connection; raises `LinkBroken` if it is not a hello."""
        if not isinstance(frame, link.Hello):
            raise link.LinkBroken("the first frame of a connection is a hello")
        refused, hint = self._refusal(frame)
        welcome = link.Welcome(
            generation=link.GENERATION,
            node_id=self._node_id,
            message_limit=self._message_limit,
            refused=refused,
            time_unix_ns=time_ns(),
            seed=os.urandom(SEED_BYTES),
        )
        connection.writing.send(welcome)
        if refused:
            self._refuse(refused, hint)
            connection.end()
            return
        self._ungreeted.pop(connection).cancel()
        connection.greeted(self._received, self._took_answers)
        # An agent connects again only after it gave up the previous connection.
        self.drop()
        self.connection = connection
        if self._lost_timer is not None:
            self._lost_timer.cancel()
        if not self._hello.done():
            self._hello.set_result(frame)
        self._back()

    def broken(self, connection: Connection, error: link.LinkBroken) -> None:
        """Log why a connection ends."""
        if isinstance(error, link.OtherGeneration) and connection in self._ungreeted:
            self._refuse(f"{error}, this node speaks {link.GENERATION}", _OTHER_VERSION)
        else:
            self._complain(f"the link is broken: {error}")

    def lost(self, connection: Connection) -> None:
        """Record that a connection is gone."""
        if timer := self._ungreeted.pop(connection, None):
            timer.cancel()
        if connection is self.connection:
            self.connection = None
            self._lost_timer = self._loop.call_later(RECONNECT_S, self.deaf.set)
            self._lost(connection)

    def _refusal(self, hello: link.Hello) -> tuple[str, str | None]:
        """Return why an agent is refused, or "", and a hint."""
        if hello.generation != link.GENERATION:
            said = f"generation {hello.generation}, this node speaks {link.GENERATION}"
            return said, _OTHER_VERSION
        if hello.vm_id != self._vm_id and (hello.vm_id or self._dialling is None):
            return f"this link is for {self._vm_id}, not {link.cut(hello.vm_id, 64)}", None
        return "", None

    def _refuse(self, refused: str, hint: str | None) -> None:
        self._complain(f"the agent was refused: {refused}")
        if not self._hello.done():
            self._hello.set_exception(WrongState(f"the agent was refused: {refused}", hint=hint))

    def _complain(self, message: str) -> None:
        self._log([LogLine(time_ns(), "node", "warn", message)])
