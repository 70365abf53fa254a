"""What is sent to an agent that takes it slowly, by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from plexspaces_node.link import frames as link
from plexspaces_node.node.machines.writing import ANSWERS_BYTES, Answers, Writing

FRAME = link.Cancel(id=1)


class Transport:
    """Takes everything, and holds what it is told to hold, as asyncio's does."""

    def __init__(self, taken: socket.socket) -> None:
        self.written: list[bytes] = []
        self.held_bytes = 0
        self.full = False
        self.writing: Writing | None = None
        self._socket = taken

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._socket

    def get_write_buffer_size(self) -> int:
        return self.held_bytes

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))
        if self.full:
            self.held_bytes += len(data)
            assert self.writing is not None
            self.writing.pause()

    def drain(self) -> None:
        """Have the kernel take all that is held."""
        self.full, self.held_bytes = False, 0
        assert self.writing is not None
        self.writing.resume()


@pytest.fixture
def transport() -> Iterator[Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport: Any = Transport(ours)
        transport.writing = Writing(transport)
        yield transport


def test_send_when_nothing_waits_then_it_is_taken_at_once(transport: Any) -> None:
    """A frame goes to the kernel in one piece, and there is nothing to wait for."""
    assert transport.writing.send(FRAME, b"body") == 0
    assert transport.written == [link.encode(FRAME, b"body")]
    assert transport.writing.backlog == 0


def test_send_when_the_kernel_is_full_then_frames_wait_in_order(transport: Any) -> None:
    """Each is told where it ends; a long body that came first goes before a short one."""
    transport.full = True
    long = bytes(1 << 20)
    ends = [transport.writing.send(FRAME, body) for body in (b"", long, b"last")]
    assert ends == sorted(set(ends))
    assert (ends[-1], transport.writing.written) == (transport.writing.backlog, 0)
    transport.drain()
    whole = b"".join(link.encode(FRAME, body) for body in (b"", long, b"last"))
    assert b"".join(transport.written) == whole
    assert transport.writing.written == ends[-1] == len(whole)


async def test_drain_when_something_waits_then_it_returns_once_all_is_taken(
    transport: Any,
) -> None:
    """Also when the connection goes: nobody waits for what nobody will take."""
    for end in (transport.drain, transport.writing.close):
        transport.full = True
        transport.writing.send(FRAME, b"x")
        draining = asyncio.create_task(transport.writing.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        end()
        await draining


def test_answers_when_too_many_are_taken_then_that_is_told_once() -> None:
    """Between, nobody makes more; those that still wait count on."""
    answers = Answers()
    answers.add(10, ANSWERS_BYTES)
    assert not answers.is_full
    answers.add(20, 1)
    assert answers.is_full
    assert not answers.taken(9)
    assert answers.taken(10)
    assert not answers.is_full
    assert not answers.taken(20)
