"""What is sent to an agent that takes it slowly, by itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from plexspaces_node.link import frames as link
from plexspaces_node.node.machines.traffic import Traffic
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
        transport.traffic = Traffic()
        transport.writing = Writing(transport, transport.traffic)
        yield transport


def test_send_when_nothing_waits_then_it_is_taken_at_once(transport: Any) -> None:
    """A frame goes to the kernel in one piece, and there is nothing to wait for."""
    assert transport.writing.send(FRAME, b"body") == 0
    assert transport.written == [link.encode(FRAME, b"body")]
    assert transport.writing.backlog == 0


async def test_frames_of_a_step_are_sent_together_behind_the_first(transport: Any) -> None:
    """The first does not wait for others; those do until the step ends, in order."""
    writing = transport.writing
    assert writing.send_soon(FRAME, b"1") == 0
    ends = [writing.send_soon(FRAME, body) for body in (b"2", b"3")]
    assert (writing.written, writing.backlog) == (ends[0] // 2, ends[1] - ends[0] // 2)
    await asyncio.sleep(0)
    assert (writing.written, writing.backlog) == (ends[1], 0)
    frames = [link.encode(FRAME, body) for body in (b"1", b"2", b"3")]
    assert transport.written == [frames[0], frames[1] + frames[2]]
    assert transport.traffic.sent_bytes == sum(map(len, frames))
    assert writing.send_soon(FRAME, b"4") == 0


@pytest.mark.parametrize("body", [b"now", bytes(1 << 20)])
async def test_frame_that_is_sent_at_once_goes_behind_those_that_wait_for_the_step(
    transport: Any, body: bytes
) -> None:
    """Frames arrive in the order sent, however long they are."""
    bodies = (b"1", b"2", body, b"3", body)
    for each in bodies:
        send = transport.writing.send if each is body else transport.writing.send_soon
        send(FRAME, each)
    await asyncio.sleep(0)
    whole = b"".join(link.encode(FRAME, each) for each in bodies)
    assert b"".join(transport.written) == whole
    assert transport.writing.backlog == 0


async def test_frames_of_a_step_wait_as_others_when_the_kernel_is_full(transport: Any) -> None:
    """Also when it becomes full by the first of them; one who drains waits for no step."""
    transport.full = True
    for body in (b"1", b"2", b"3"):
        transport.writing.send_soon(FRAME, body)
    await asyncio.sleep(0)
    assert transport.written == [link.encode(FRAME, b"1")]
    transport.drain()
    transport.writing.send_soon(FRAME, b"4")
    transport.writing.send_soon(FRAME, b"5")
    await transport.writing.drain()
    whole = b"".join(link.encode(FRAME, body) for body in (b"1", b"2", b"3", b"4", b"5"))
    assert b"".join(transport.written) == whole


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
