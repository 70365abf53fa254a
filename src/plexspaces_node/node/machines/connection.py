"""One connection of an agent: frames in both directions, with flow control.

Combines reading (`reading`) and sending (`writing`): while the agent does not accept waiting
answers, nothing is read from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias, cast

from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import AgentFrame, Body
from plexspaces_node.node.machines.reading import Hold, Reading
from plexspaces_node.node.machines.traffic import Traffic
from plexspaces_node.node.machines.writing import Answers, Writing

ANSWER_BYTES = 256
"""How much an answer counts besides its head and body: what this process holds for it."""

AGENT_HEAD_BYTES = 128 * 1024
"""The longest head of an agent's frame: only the node's can contain an environment."""

GREETING_BYTES = 4096
"""The longest head of the first frame."""


Received: TypeAlias = "Callable[[Connection, AgentFrame, Body], None]"
"""Handles a frame of a connection."""


class Receiver(Protocol):
    """The owner of connections."""

    def opened(self, connection: Connection) -> None:
        """Record a connection that has not sent anything yet."""

    def greet(self, connection: Connection, frame: AgentFrame, body: Body) -> None:
        """Handle its first frame; see `Connection.greeted`. May raise `LinkBroken`."""

    def broken(self, connection: Connection, error: link.LinkBroken) -> None:
        """Called with the reason before the connection is closed."""

    def lost(self, connection: Connection) -> None:
        """Called when it is gone."""


class Connection(asyncio.BufferedProtocol):
    """One connection of an agent, from its first byte to its end."""

    # Created with the transport, before anybody but the event loop knows the connection.
    reading: Reading
    writing: Writing
    _transport: asyncio.Transport

    def __init__(
        self, receiver: Receiver, *, message_limit: int, traffic: Traffic | None = None
    ) -> None:
        self._receiver = receiver
        self._traffic = traffic or Traffic()
        self._received: Received = receiver.greet
        self._took_answers: Callable[[], None] = lambda: None
        self._message_limit = message_limit
        # A hello has no body, and little else.
        self._reader = link.FrameReader.of_agent(0, head_limit=GREETING_BYTES)
        self.answers = Answers()
        self.gone = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Connection {self.reading!r} {self.writing!r}>"

    @property
    def unfinished(self) -> int:
        """The number of bytes held of an incomplete frame."""
        return self._reader.unfinished

    def greeted(self, received: Received, took_answers: Callable[[], None]) -> None:
        """From now on pass frames other than a hello to `received`, which may raise `LinkBroken`.

        It must not block. `took_answers` is called when the agent has accepted waiting answers.
        """
        self._received, self._took_answers = received, took_answers
        self._reader.head_limit = AGENT_HEAD_BYTES
        self._reader.message_limit = self._message_limit

    def answer(self, frame: link.Answer | link.Kept | link.Window, body: Body = b"") -> None:
        """Send an answer; while too many answers wait, nothing is read."""
        if end := self.writing.send(frame, body):
            self.answers.add(end, frame.ByteSize() + len(body) + ANSWER_BYTES)
            if self.answers.is_full:
                self.reading.hold(Hold.ANSWERS)

    def end(self) -> None:
        """Close after everything sent has arrived."""
        self._transport.close()

    def close(self) -> None:
        """Close at once."""
        self._transport.abort()

    # ---- what the event loop calls -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.reading = Reading(self._transport)
        self.writing = Writing(self._transport, self._traffic)
        self._receiver.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._reader.room()

    def buffer_updated(self, nbytes: int) -> None:
        self._traffic.received_bytes += nbytes
        try:
            for frame, body in self._reader.filled(nbytes):
                if self._transport.is_closing():
                    return
                self._received(self, frame, body)
        except link.LinkBroken as error:
            self._receiver.broken(self, error)
            self.close()
        else:
            if self.reading.ahead_s:
                self.reading.keep_pace()

    def pause_writing(self) -> None:
        self.writing.pause()

    def resume_writing(self) -> None:
        self.writing.resume()
        if self.answers.taken(self.writing.written):
            self.reading.release(Hold.ANSWERS)
            self._took_answers()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.writing.close()
        self.reading.close()
        self.gone.set()
        self._receiver.lost(self)
