"""How bytes are cut into reads decides nothing: the same requests, and the same refusal."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plexspaces_node.node.http.message import Request
from plexspaces_node.node.http.reader import RequestReader
from plexspaces_node.node.http.share import Share
from plexspaces_node.node.machines.in_flight import InFlight

POST = b"POST /x HTTP/1.1\r\nhost: a\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n"
UPGRADE = b"connection: upgrade\r\nupgrade: h2c\r\n"
PARTS = (
    b"\r\n",
    b"GET /y?z HTTP/1.1\r\nhost: b\r\n\r\n",
    b"GET http://c/d HTTP/1.1\r\nhost: b\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    POST + b"content-length: 5\r\n\r\nhello",
    POST + b"content-length: 5\r\nexpect: 100-continue\r\n\r\nhello",
    CHUNKED + b"\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nf: g\r\n\r\n",
    POST + UPGRADE + b"content-length: 5\r\n\r\nhello",
    CHUNKED + UPGRADE + b"\r\n3\r\nabc\r\n0\r\n\r\n",
    POST + UPGRADE + b"\r\n",
    POST + UPGRADE + b"content-length: 99\r\n\r\n",
    CHUNKED + UPGRADE + b"\r\n63\r\n" + b"x" * 99,
    POST + b"connection: close\r\ncontent-length: 1\r\n\r\nx",
    b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    POST + b"content-length: 99\r\n\r\n",
    CHUNKED + b"\r\n63\r\n" + b"x" * 99 + b"\r\n0\r\n\r\n",
    CHUNKED + b"content-length: 1\r\n\r\n",
    POST + b"host: b\r\n\r\n",
    POST + b"a\n\r\n",
    CHUNKED + b"\r\n-1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /x HTTP/2.0\r\nhost: a\r\n\r\n",
    b"\0",
)

SAME_HEAD = POST + b"content-length: 5\r\n\r\nworld"


def read(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], int, bool, int]:
    """Return the requests, the refusal's status, whether all is over, and how many may go on."""
    requests: list[Request] = []
    proceeded: list[None] = []
    transport: Any = SimpleNamespace(pause_reading=None, resume_reading=None)
    in_flight = InFlight(1 << 20)
    reader = RequestReader(
        transport,
        body_limit=lambda _request: 64,
        on_request=requests.append,
        proceed=lambda: proceeded.append(None),
        share=Share(in_flight),
        clock=lambda: 0.0,
    )
    for piece in pieces:
        if reader.fault is None:
            reader.feed(piece)
    status = 0 if reader.fault is None else reader.fault.status
    reader.close()
    assert in_flight.bytes == 0
    read = [(request.method, request.path, bytes(request.body)) for request in requests]
    return read, status, reader.is_last, len(proceeded)


@pytest.mark.parametrize("upgrade", [PARTS[8], PARTS[9]])
def test_nothing_behind_the_body_of_an_upgrade_is_read(upgrade: bytes) -> None:
    """Not as a request, and not as more of the body."""
    alone = read([upgrade])
    for part in PARTS:
        assert read([upgrade + part]) == alone


@given(st.lists(st.sampled_from(PARTS), max_size=4), st.data())
@settings(max_examples=300)
def test_cuts_decide_nothing(parts: list[bytes], data: st.DataObject) -> None:
    """Valid requests, broken ones and what follows them."""
    whole = b"".join(parts)
    places = st.sets(st.integers(0, len(whole)), max_size=len(whole))
    cuts = [0, *sorted(data.draw(places)), len(whole)]
    pieces = [whole[begin:end] for begin, end in pairwise(cuts)]
    assert read(pieces) == read([whole])


@given(st.lists(st.sampled_from((*PARTS, SAME_HEAD)), min_size=2, max_size=6))
@example([PARTS[5], SAME_HEAD, PARTS[0] + PARTS[5], PARTS[5]])
@example([PARTS[5], PARTS[14], PARTS[5], PARTS[5]])
@example([PARTS[5] + b"\r\n", PARTS[5], SAME_HEAD + b"\r", SAME_HEAD])
@settings(max_examples=300)
def test_requests_when_each_comes_in_one_read_then_the_same_as_together(parts: list[bytes]) -> None:
    """A head that comes again, in a read of its own, is not parsed again."""
    assert read(parts) == read([b"".join(parts)])


@given(st.binary(max_size=200), st.sampled_from(PARTS), st.integers(0, 200))
@example(b"", PARTS[8], 0)
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(noise: bytes, part: bytes, at: int) -> None:
    """Nothing but a refusal comes of noise in a request, and byte by byte it is the same."""
    sent = part[:at] + noise + part[at:]
    assert read([sent]) == read([bytes([byte]) for byte in sent])
