"""Frames to an agent: they wait here, in the order sent, until the agent accepts them."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections import deque
from socket import SO_SNDBUF, SOL_SOCKET

from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import Body, NodeFrame
from plexspaces_node.model import MIB
from plexspaces_node.node.machines.traffic import Traffic

ANSWERS_BYTES = 1 * MIB
"""If more than this of answers waits for the agent, nothing is read from it."""

SEND_BUFFER_BYTES = 512 * 1024
"""The kernel's buffer for bytes that an agent has not read yet."""

BACKLOG_BYTES = 1 * MIB
"""While more than this waits for an agent to read it, no body is passed on to it."""

_JOINED_BYTES = 16 * 1024
"""A shorter body is copied behind its head, because another system call costs more."""

_PIECE_BYTES = 256 * 1024
"""How much is passed to the transport at a time, which copies what the kernel does not accept."""


class Writing:
    """The stream to an agent. Nothing here blocks."""

    def __init__(self, transport: asyncio.WriteTransport, traffic: Traffic | None = None) -> None:
        """`traffic` counts what is sent, with others' streams."""
        # To be told whenever the transport holds anything at all, and when it does not.
        transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        # Fewer turns for a long message, each of which costs two context switches.
        self._socket.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES)
        # Waits for the agent, or, while that accepts everything, for the end of this step.
        self._outgoing: deque[memoryview] = deque()
        self._outgoing_bytes = 0
        self._writable = True
        self._gathers = False
        self._sent = 0
        self._traffic = traffic or Traffic()
        self._drained: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Writing {self.backlog} bytes to be taken>"

    def __len__(self) -> int:
        return len(self._outgoing)

    def send(self, frame: NodeFrame, body: Body = b"") -> int:
        """Send a frame; return where it ends in the stream, or 0 if it was accepted at once.

        Frames sent on a lost connection are lost.
        """
        transport = self._transport
        if transport.is_closing():
            return 0
        size = len(body)
        head = link.head_of(frame, size)
        self._sent += len(head) + size
        self._traffic.sent_bytes += len(head) + size
        if self._outgoing and self._writable:
            self._write_gathered()
        if size > _JOINED_BYTES:
            self._outgoing += (memoryview(head), memoryview(body))
            self._outgoing_bytes += len(head) + size
            self._write()
        elif self._writable:
            # Then nothing waits before it.
            transport.write(head + body)
        else:
            self._outgoing.append(memoryview(head + body))
            self._outgoing_bytes += len(head) + size
        return 0 if self._writable else self._sent

    def send_soon(self, frame: NodeFrame, body: Body = b"") -> int:
        """Send a frame: the first of a step of the event loop at once, others together after it.

        Short frames that wait for that cost one system call, and wake the agent once. Returns what
        `send` does.
        """
        if not self._gathers:
            self._gathers = True
            asyncio.get_running_loop().call_soon(self._end_step)
            return self.send(frame, body)
        if not self._writable or len(body) > _JOINED_BYTES or self._outgoing_bytes > _PIECE_BYTES:
            return self.send(frame, body)
        whole = link.encode(frame, body)
        self._outgoing.append(memoryview(whole))
        self._outgoing_bytes += len(whole)
        self._sent += len(whole)
        self._traffic.sent_bytes += len(whole)
        return self._sent

    @property
    def backlog(self) -> int:
        """The number of bytes that the kernel has not accepted yet."""
        return self._outgoing_bytes + self._transport.get_write_buffer_size()

    @property
    def written(self) -> int:
        """How much of the stream the kernel has accepted."""
        return self._sent - self.backlog

    def taken(self) -> int:
        """Return how much of the stream the agent's side has accepted, roughly unless it is all."""
        # The socket becomes writable only when most of it was read: that part counts too.
        unread = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        return self.written - int.from_bytes(unread, sys.byteorder)

    async def drain(self) -> None:
        """Wait until the kernel has accepted everything, or the connection is gone."""
        self._write_gathered()
        if self.backlog:
            drained = asyncio.get_running_loop().create_future()
            self._drained.append(drained)
            await drained

    async def room(self) -> None:
        """Wait while more than `BACKLOG_BYTES` waits for the agent, whatever it has allowed."""
        if self.backlog > BACKLOG_BYTES:
            await self.drain()

    def pause(self) -> None:
        """Keep what is sent: the transport holds something."""
        self._writable = False

    def resume(self) -> None:
        """Pass on what waits: the transport holds nothing any more."""
        self._writable = True
        self._write()
        if not self.backlog:
            self._wake_drained()

    def close(self) -> None:
        """Drop what waits: the connection is gone."""
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._wake_drained()

    def _end_step(self) -> None:
        self._gathers = False
        self._write_gathered()

    def _write_gathered(self) -> None:
        if self._outgoing and self._writable and not self._transport.is_closing():
            gathered = b"".join(self._outgoing)
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self._transport.write(gathered)

    def _write(self) -> None:
        outgoing = self._outgoing
        while outgoing and self._writable:
            piece = outgoing.popleft()
            if len(piece) > _PIECE_BYTES:
                outgoing.appendleft(piece[_PIECE_BYTES:])
                piece = piece[:_PIECE_BYTES]
            self._outgoing_bytes -= len(piece)
            self._transport.write(piece)

    def _wake_drained(self) -> None:
        drained, self._drained = self._drained, []
        for waiting in drained:
            if not waiting.done():
                waiting.set_result(None)


class Answers:
    """The answers in a stream that are not accepted yet, and whether they are too many."""

    def __init__(self) -> None:
        # Their ends in the stream, and their sizes.
        self._answers: deque[tuple[int, int]] = deque()
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether there are more than `ANSWERS_BYTES`."""
        return self._bytes > ANSWERS_BYTES

    def add(self, end: int, size: int) -> None:
        """Count an answer until the stream is accepted up to there."""
        self._answers.append((end, size))
        self._bytes += size

    def taken(self, written: int) -> bool:
        """Remove those that end before; return whether the limit is no longer reached."""
        was_full = self.is_full
        while self._answers and self._answers[0][0] <= written:
            self._bytes -= self._answers.popleft()[1]
        return was_full and not self.is_full
