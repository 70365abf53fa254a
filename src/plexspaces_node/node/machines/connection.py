"""One connection of an agent: frames in both directions, and how much of them.

What the node sends waits here, in the order sent, until the agent takes it. What the agent says
unasked is paced: past an allowance a second, or while answers lie here that it does not take, the
node stops reading from it, and the agent is the one who waits.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections import deque
from enum import Flag, auto
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Protocol, cast

from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import AgentFrame, Body, NodeFrame
from plexspaces_node.model import MIB

UNASKED_PER_S = 5_000
"""Log lines, host calls, parts of snapshots and answers to nothing that an agent may send. One
with a long head counts for several: it is parsed, and perhaps kept."""

HEAD_BYTES = 256
"""For so many more bytes of its head a frame counts for one more."""

UNASKED_BYTES_PER_S = 128 * MIB
"""Of their bodies, which are passed on as they are."""

BURST_S = 0.25
"""The allowance of so much time may be used at once."""

ANSWERS_BYTES = 1 * MIB
"""With more than this of answers that the agent has not taken it is not read from."""

ANSWER_BYTES = 256
"""For so much more than its head and body an answer counts: what this process holds for it."""

AGENT_HEAD_BYTES = 128 * 1024
"""The longest head of an agent's frame: the node's alone may carry an environment."""

GREETING_BYTES = 4096
"""The longest head of the first frame."""

SEND_BUFFER_BYTES = 512 * 1024
"""Of the kernel, for what an agent has yet to take."""

_JOINED_BYTES = 16 * 1024
"""A shorter body is copied behind its head: one call of the kernel costs more."""

_PIECE_BYTES = 256 * 1024
"""What is handed to the transport at a time, which copies what the kernel does not take."""


class Receiver(Protocol):
    """Whose connection it is."""

    def opened(self, connection: Connection) -> None:
        """Take note of a connection, which has said nothing yet."""

    def received(self, connection: Connection, frame: AgentFrame, body: Body) -> None:
        """Take a frame; must not block. May raise `LinkBroken`."""

    def broken(self, connection: Connection, error: link.LinkBroken) -> None:
        """Hear why the connection is about to be closed."""

    def took_answers(self, connection: Connection) -> None:
        """Hear that the agent took answers that it had left lying."""

    def lost(self, connection: Connection) -> None:
        """Hear that it is gone."""


class Hold(Flag):
    """Why nothing is read from an agent for the moment."""

    PACE = auto()
    """It has said more than it may a second."""
    ANSWERS = auto()
    """It does not take the answers to its host calls."""
    CALLS = auto()
    """It has asked so much that some of it waits here."""


class Allowance:
    """So much a second, of which what was not used is kept for `BURST_S`."""

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._left = per_s * BURST_S
        self._since_s = now_s

    def spend(self, amount: float, now_s: float) -> float:
        """Take an amount, be it there or not; return how many seconds on there is some again."""
        gained = (now_s - self._since_s) * self._per_s
        self._left = min(self._left + gained, self._per_s * BURST_S) - amount
        self._since_s = now_s
        return max(0.0, -self._left / self._per_s)


class Connection(asyncio.BufferedProtocol):
    """One connection of an agent, from its first byte to its end."""

    def __init__(self, receiver: Receiver, *, message_limit: int) -> None:
        self._receiver = receiver
        self._message_limit = message_limit
        self._loop = asyncio.get_running_loop()
        # A hello has no body, and little else.
        self._reader = link.FrameReader.of_agent(0, head_limit=GREETING_BYTES)
        self._transport: asyncio.Transport | None = None
        self._outgoing: deque[memoryview] = deque()
        self._outgoing_bytes = 0
        self._writable = True
        self._sent = 0
        # The ends of answers in the stream, and their sizes.
        self._answers: deque[tuple[int, int]] = deque()
        self._answers_bytes = 0
        self._drained: list[asyncio.Future[None]] = []
        self._hold = Hold(0)
        now_s = self._loop.time()
        self._unasked = Allowance(UNASKED_PER_S, now_s)
        self._unasked_bytes = Allowance(UNASKED_BYTES_PER_S, now_s)
        self._pace_s = 0.0
        self._pacing: asyncio.TimerHandle | None = None
        self._was_held = False
        self.gone = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Connection, {self.backlog} bytes to be taken, {self._hold}>"

    # ---- reading -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        # To be told whenever the transport holds anything at all, and when it does not.
        transport.set_write_buffer_limits(high=0)
        # Fewer turns for a long message, each of which costs two switches of the CPU.
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES)
        self._transport = transport
        self._receiver.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._reader.room()

    def buffer_updated(self, nbytes: int) -> None:
        assert self._transport is not None
        try:
            for frame, body in self._reader.filled(nbytes):
                if self._transport.is_closing():
                    return
                self._receiver.received(self, frame, body)
        except link.LinkBroken as error:
            self._receiver.broken(self, error)
            self.close()
        else:
            if self._pace_s:
                self._pause()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._wake_drained()
        if self._pacing is not None:
            self._pacing.cancel()
        self.gone.set()
        self._receiver.lost(self)

    def greeted(self) -> None:
        """From now on take frames that are no hello."""
        self._reader.head_limit = AGENT_HEAD_BYTES
        self._reader.message_limit = self._message_limit

    @property
    def unfinished(self) -> int:
        """Bytes that came of a frame that is not yet whole."""
        return self._reader.unfinished

    def unasked(self, count: int, frame: AgentFrame, body: Body) -> None:
        """Count what an agent said unasked; past its allowance it is not read from for a while."""
        now_s = self._loop.time()
        count += frame.ByteSize() // HEAD_BYTES
        wait_s = max(self._unasked.spend(count, now_s), self._unasked_bytes.spend(len(body), now_s))
        self._pace_s = max(self._pace_s, wait_s)

    def _pause(self) -> None:
        wait_s, self._pace_s = self._pace_s, 0.0
        if self._pacing is not None:
            self._pacing.cancel()
        self._pacing = self._loop.call_later(wait_s, self.release, Hold.PACE)
        self.hold(Hold.PACE)

    def hold(self, why: Hold) -> None:
        """Stop reading."""
        self._hold |= why
        self._was_held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def release(self, why: Hold) -> None:
        """Read on, unless something else holds too."""
        if self._hold and not (hold := self._hold & ~why):
            self._hold = hold
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        else:
            self._hold &= ~why

    def was_held(self) -> bool:
        """Tell whether something was left unread for a while since this was last asked."""
        held, self._was_held = self._was_held or bool(self._hold), False
        return held

    # ---- writing -----------------------------------------------------------------------

    def send(self, frame: NodeFrame, body: Body = b"") -> int:
        """Send a frame; return where it ends in the stream, or 0 if it was taken at once.

        What is sent on a connection that is gone is lost.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return 0
        size = len(body)
        head = link.head_of(frame, size)
        self._sent += len(head) + size
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

    def answer(self, frame: link.Answer | link.Kept, body: Body = b"") -> None:
        """Send an answer; while too much of answers is not taken nothing is read."""
        end = self.send(frame, body)
        if end:
            size = frame.ByteSize() + len(body) + ANSWER_BYTES
            self._answers.append((end, size))
            self._answers_bytes += size
            if self._answers_bytes > ANSWERS_BYTES:
                self.hold(Hold.ANSWERS)

    @property
    def backlog(self) -> int:
        """Bytes that the kernel has not taken yet."""
        held = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._outgoing_bytes + held

    @property
    def answers_full(self) -> bool:
        """So much of answers is not taken that no more should be made."""
        return self._answers_bytes > ANSWERS_BYTES

    def taken(self) -> int:
        """Return how much of the stream the agent's side has taken, roughly unless it is all."""
        assert self._transport is not None
        # The socket is written again only when most of it was read: what is read of it counts too.
        socket = self._transport.get_extra_info("socket")
        unread = int.from_bytes(fcntl.ioctl(socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return self._sent - self.backlog - unread

    async def drain(self) -> None:
        """Wait until the kernel has taken everything, or the connection is gone."""
        if self.backlog and not self.gone.is_set():
            drained = self._loop.create_future()
            self._drained.append(drained)
            await drained

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._write()
        if not self.backlog:
            self._wake_drained()

    def _write(self) -> None:
        transport, outgoing = self._transport, self._outgoing
        while outgoing and self._writable and transport is not None:
            piece = outgoing.popleft()
            if len(piece) > _PIECE_BYTES:
                outgoing.appendleft(piece[_PIECE_BYTES:])
                piece = piece[:_PIECE_BYTES]
            self._outgoing_bytes -= len(piece)
            transport.write(piece)
        if self._answers:
            self._count_answers()

    def _count_answers(self) -> None:
        written = self._sent - self.backlog
        while self._answers and self._answers[0][0] <= written:
            self._answers_bytes -= self._answers.popleft()[1]
        if Hold.ANSWERS in self._hold and self._answers_bytes <= ANSWERS_BYTES:
            self.release(Hold.ANSWERS)
            self._receiver.took_answers(self)

    def _wake_drained(self) -> None:
        drained, self._drained = self._drained, []
        for waiting in drained:
            if not waiting.done():
                waiting.set_result(None)

    def end(self) -> None:
        """Close once what was sent has arrived."""
        if self._transport is not None:
            self._transport.close()

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
