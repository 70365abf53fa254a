"""What other nodes answer, and what only says that it does: one connection to a node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plexspaces_node.node.cluster.peer_connection import (
    HEAD_BYTES,
    MOST_HEADERS,
    Headers,
    PeerConnection,
    whole_response,
)

OK = b"HTTP/1.1 200 OK\r\n"
REPLY = OK + b"date: today\r\ncontent-length: 5\r\nserver-timing: x\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


class Wire(asyncio.Transport):
    """What a connection writes to; a transport."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aborted = False
        self.written = b""
        self.paused = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Told:
    """What is told of a response; a `peer_connection.Taker`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.end = ""
        self.proceeds = 0

    def proceed(self) -> None:
        self.proceeds += 1

    def begun(self, status: int, headers: Headers) -> None:
        assert not self.end
        assert not self.status
        self.status, self.headers = status, headers

    def came(self, piece: bytes) -> None:
        assert not self.end
        self.body += piece

    def ended(self) -> None:
        assert not self.end
        self.end = "whole"

    def broke(self, why: str) -> None:
        assert not self.end
        self.end = why


def answered(*pieces: bytes, is_head: bool = False) -> tuple[Told, PeerConnection, Wire]:
    """Return what is told of a response that comes in these pieces."""
    connection, wire, told = PeerConnection("b"), Wire(), Told()
    connection.connection_made(wire)
    connection.send(b"POST / HTTP/1.1\r\n\r\n", b"", told, is_head=is_head)
    for piece in pieces:
        if not wire.is_aborted:
            connection.data_received(piece)
    return told, connection, wire


@pytest.mark.parametrize("reply", [REPLY, CHUNKED], ids=["short", "chunked"])
async def test_response_when_cut_anywhere_then_the_same(reply: bytes) -> None:
    """In one read, where it is short, no parser looks at it."""
    whole, _, _ = answered(reply)
    assert (whole.status, whole.body, whole.end) == (200, b"hello", "whole")
    for at in range(1, len(reply)):
        told, connection, wire = answered(reply[:at], reply[at:])
        assert (told.status, told.headers, told.body) == (200, whole.headers, b"hello")
        assert told.end == "whole"
        assert connection.is_usable
        assert not wire.is_aborted


async def test_responses_when_they_come_one_after_the_other_then_each_is_told() -> None:
    """Those that a parser has looked at between those that it has not."""
    told, connection, _ = answered(REPLY)
    for reply in (CHUNKED, REPLY, REPLY[:30], REPLY):
        told = Told()
        connection.send(b"POST / HTTP/1.1\r\n\r\n", b"", told)
        connection.data_received(reply)
        if reply == REPLY[:30]:
            assert not told.status
            connection.data_received(REPLY[30:])
        assert (told.body, told.end) == (b"hello", "whole")
        assert connection.is_usable


async def test_response_when_interim_then_the_request_proceeds() -> None:
    """The final one follows, at once or later."""
    for pieces in ([b"HTTP/1.1 100 Continue\r\n\r\n", REPLY], [b"HTTP/1.1 100 C\r\n\r\n" + REPLY]):
        told, _, _ = answered(*pieces)
        assert (told.proceeds, told.status, told.end) == (1, 200, "whole")


async def test_response_when_to_head_then_it_has_no_body() -> None:
    """Its length is that of a body that is not there."""
    told, connection, _ = answered(OK + b"content-length: 5\r\n\r\n", is_head=True)
    assert (told.status, told.body, told.end) == (200, b"", "whole")
    assert (b"content-length", b"5") in told.headers
    assert connection.is_usable


LIES = {
    "garbage": b"\x00\x01\x02",
    "another protocol": b"SSH-2.0-x\r\n",
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 4\r\n\r\nhello",
    "a length that is none": OK + b"content-length: x\r\n\r\nhello",
    "a negative length": OK + b"content-length: -5\r\n\r\nhello",
    "a length beyond numbers": OK + b"content-length: %b\r\n\r\nhello" % (b"9" * 30),
    "a line feed in a value": OK + b"date: a\nb: c\r\ncontent-length: 5\r\n\r\nhello",
    "a control character in a value": OK + b"date: a\x00\r\ncontent-length: 5\r\n\r\nhello",
    "a head without end": OK + b"date: " + b"a" * (HEAD_BYTES + 1),
    "many headers": OK + b"date: a\r\n" * (MOST_HEADERS + 1) + b"content-length: 5\r\n\r\nhello",
    "a chunk that is none": OK + b"transfer-encoding: chunked\r\n\r\nx\r\n",
    "a chunk without an end": CHUNKED[:-12] + b"5;" + b"a" * (HEAD_BYTES + 1),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_response_when_it_lies_then_broken_and_closed(lie: bytes) -> None:
    """In one read or in many, and nobody gets the connection again."""
    size = max(1, len(lie) // 50)
    pieces = [lie[at : at + size] for at in range(0, len(lie), size)]
    for told, connection, wire in (answered(lie), answered(*pieces)):
        assert told.end not in ("", "whole")
        assert wire.is_aborted
        assert not connection.is_usable


async def test_response_when_longer_than_it_says_then_what_is_more_is_nobodys() -> None:
    """It may not be taken for the response to the next request."""
    for more in (b"x", REPLY):
        told, connection, wire = answered(REPLY + more)
        assert (told.status, told.body, told.end) == (200, b"hello", "whole")
        assert wire.is_aborted
        assert not connection.is_usable
        told, connection, wire = answered(REPLY, more)
        assert (told.body, told.end) == (b"hello", "whole")
        assert wire.is_aborted
        assert not connection.is_usable


async def test_response_when_shorter_than_it_says_then_broken_at_the_end() -> None:
    """What has come of it was told."""
    told, connection, _ = answered(REPLY[:-1])
    assert (told.status, told.body, told.end) == (200, b"hell", "")
    connection.connection_lost(None)
    assert told.end == "it was closed"


async def test_response_when_nobody_wants_it_any_more_then_nothing_is_told() -> None:
    """The connection is closed, for the other node shall know."""
    told, connection, wire = answered(REPLY[:-1])
    connection.leave()
    connection.data_received(b"o")
    connection.connection_lost(None)
    assert told.end == ""
    assert wire.is_aborted


async def test_response_when_closing_is_told_then_the_connection_is_not_used_again() -> None:
    """Whether the parser sees it or not."""
    told, connection, _ = answered(REPLY.replace(b"date: today", b"connection: close"))
    assert told.end == "whole"
    assert not connection.is_usable


@pytest.mark.parametrize(
    "data",
    [
        REPLY.replace(b"200 OK", b"204 No Content"),
        REPLY.replace(b"200 OK", b"100 Continue"),
        REPLY.replace(b"HTTP/1.1", b"HTTP/1.0"),
        REPLY.replace(b"date", b"Date"),
        REPLY.replace(b"date", b"x-other"),
        REPLY.replace(b": 5", b": 05x"),
        REPLY.replace(b"today", b"to\rday"),
        REPLY + b"x",
        REPLY[:-1],
        CHUNKED,
        b"",
    ],
)
async def test_whole_response_when_it_is_not_what_a_node_writes_then_none(data: bytes) -> None:
    """The parser says what it is."""
    assert whole_response(data) is None
    assert whole_response(REPLY) is not None
