"""An application's HTTP requests on the link: frames and windows, and agents that cheat.

On a clock that the tests move. The calls are made by the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from support.link_case import Case, Run

from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import WINDOW_BYTES
from plexspaces_node.node.machines.fetches import MOST_FETCHES
from plexspaces_node.node.machines.windows import ReceivedBody
from plexspaces_node.node.machines.writing import BACKLOG_BYTES
from plexspaces_node.node.outgoing.call import CallFailed, Code, Headers, Piece, Request

Serve: TypeAlias = "Callable[[Request, AsyncIterator[Piece]], Coroutine[Any, Any, Answered]]"


class Answered:
    """A response that is made of pieces, the first of which are at hand."""

    def __init__(self, *pieces: bytes, at_hand: bytes = b"", whole: bool = False) -> None:
        self.status = 200
        self.headers: Headers = [(b"content-type", b"text/plain"), (b"x-odd", b"\xff")]
        self._pieces = list(pieces)
        self._at_hand = at_hand, whole
        self.read = 0

    def at_hand(self) -> tuple[bytes, bool]:
        if self._at_hand[0] == b"broken":
            raise CallFailed(Code.PROTOCOL_ERROR, "it is broken at once")
        return self._at_hand

    async def more(self) -> bytes:
        if not self._pieces:
            return b""
        self.read += 1
        piece = self._pieces.pop(0)
        if piece == b"broken":
            raise CallFailed(Code.CONNECTION_TERMINATED, "it broke off")
        return piece


class Calls:
    """Makes calls as a test says, and counts those that are open."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.requests: list[Request] = []
        self.open = 0

    @asynccontextmanager
    async def call(self, request: Request, body: AsyncIterator[Piece]) -> AsyncIterator[Answered]:
        self.requests.append(request)
        self.open += 1
        try:
            yield await self._serve(request, body)
        finally:
            self.open -= 1


def serving(it: Case, serve: Serve) -> Calls:
    """Have the calls of a case made by this function."""
    calls = Calls(serve)
    it.host.fetches = calls.call
    return calls


def fetch(number: int = 1, *, more: bool = False, body: bytes = b"") -> bytes:
    """Return the bytes of a Fetch."""
    head = link.RequestHead(
        method="GET",
        scheme="https",
        authority="example.com",
        path="/a?b",
        headers=[link.Header(name="x-one", value=b"1")],
        more=more,
    )
    return link.encode(link.Fetch(id=number, head=head, timeout_ns=2_000_000_000), body)


def part(body: bytes, *, last: bool = False, aborted: bool = False, number: int = 1) -> bytes:
    """Return the bytes of a part of a request's body."""
    return link.encode(link.Part(id=number, of_fetch=True, last=last, aborted=aborted), body)


async def settled(it: Case) -> None:
    """Let everything happen that does not wait for the agent."""
    await asyncio.sleep(1)


def test_fetch_when_answered_at_once_then_in_one_frame(run: Run) -> None:
    """A short response costs one frame, and the request arrives as it was sent."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            assert [bytes(piece) async for piece in body] == [b"hello"]
            return Answered(at_hand=b"reply", whole=True)

        calls = serving(it, serve)
        await it.say(fetch(body=b"hello"))
        response, body = await it.take_whole()
        assert isinstance(response, link.Response)
        assert (response.id, response.head.status, response.last) == (1, 200, True)
        assert [(h.name, h.value) for h in response.head.headers][1] == ("x-odd", b"\xff")
        assert body == b"reply"
        (request,) = calls.requests
        assert request == Request(
            "GET", "https", "example.com", "/a?b", [(b"x-one", b"1")], length=5, timeout_s=2.0
        )
        assert "/a" not in repr(request)
        assert calls.open == 0

    run(case)


def test_fetch_when_its_response_is_long_then_only_a_window_is_sent(run: Run) -> None:
    """The response waits for an agent that does not allow more, and the server with it."""

    async def case(it: Case) -> None:
        pieces = [bytes([n]) * (WINDOW_BYTES // 2) for n in range(6)]
        answered = Answered(*pieces)

        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            return answered

        serving(it, serve)
        await it.say(fetch())
        assert isinstance(await it.take(), link.Response)
        got = b""
        while len(got) < WINDOW_BYTES:
            got += (await it.take_whole())[1]
        await settled(it)
        assert answered.read == 3
        for allowed in (10, WINDOW_BYTES, 4 * WINDOW_BYTES):
            await it.say(link.encode(link.Window(id=1, of_fetch=True, bytes=allowed)))
        last = False
        while not last:
            frame, body = await it.take_whole()
            assert isinstance(frame, link.Part)
            assert frame.of_fetch
            assert len(body) <= WINDOW_BYTES
            got, last = got + body, frame.last
        assert got == b"".join(pieces)

    run(case)


def test_fetch_when_its_first_piece_is_over_the_window_then_the_rest_waits(run: Run) -> None:
    """What is at hand with the head is no exception."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            return Answered(at_hand=bytes(WINDOW_BYTES + 5), whole=True)

        serving(it, serve)
        await it.say(fetch())
        response, body = await it.take_whole()
        assert isinstance(response, link.Response)
        assert (response.last, len(body)) == (False, WINDOW_BYTES)
        await it.say(link.encode(link.Window(id=1, of_fetch=True, bytes=5)))
        rest, body = await it.take_whole()
        assert isinstance(rest, link.Part)
        assert (rest.last, len(body)) == (True, 5)

    run(case)


def test_fetch_when_its_body_is_long_then_the_agent_is_allowed_more_as_it_is_taken(
    run: Run,
) -> None:
    """A body of any length goes through in the memory of a window."""

    async def case(it: Case) -> None:
        gate, taken = asyncio.Event(), bytearray()

        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            assert request.length is None
            await gate.wait()
            async for piece in body:
                taken.extend(piece)
            return Answered(whole=True)

        serving(it, serve)
        await it.say(fetch(more=True, body=b"a" * 10))
        await it.say(part(bytes(WINDOW_BYTES - 10)))
        await settled(it)
        gate.set()
        allowed = 0
        while allowed < WINDOW_BYTES // 2:
            window = await it.take()
            assert isinstance(window, link.Window)
            assert window.of_fetch
            allowed += window.bytes
        assert allowed <= WINDOW_BYTES
        await it.say(part(bytes(allowed)) + part(b"", last=True))
        while not isinstance(frame := await it.take(), link.Response):
            assert isinstance(frame, link.Window)
        assert len(taken) == WINDOW_BYTES + allowed

    run(case)


@pytest.mark.parametrize(
    "frames",
    [
        part(bytes(WINDOW_BYTES)) + part(b"1"),
        part(b"1", last=True) + part(b"2"),
        part(b"1", aborted=True) + part(b"2"),
        fetch(more=True),
    ],
    ids=["too much", "after the last", "after it broke off", "the same again"],
)
def test_agent_when_it_sends_more_than_it_may_then_its_link_is_broken(
    run: Run, frames: bytes
) -> None:
    """Nothing that an agent can send is kept without a limit."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            await asyncio.Event().wait()
            raise AssertionError

        calls = serving(it, serve)
        await it.say(fetch(more=True))
        await settled(it)
        assert calls.open == 1
        await it.say(frames)
        await settled(it)
        assert it.client.link.connection is None
        assert "the link is broken" in it.host.lines[-1].message
        assert calls.open == 0

    run(case)


def test_parts_when_no_request_is_theirs_then_they_are_ignored(run: Run) -> None:
    """A request may end before its agent knows."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            return Answered(whole=True)

        serving(it, serve)
        stray = part(b"x", number=7) + link.encode(link.Abandon(id=7))
        await it.say(stray + link.encode(link.Window(id=7, of_fetch=True, bytes=1)) + fetch(7))
        assert isinstance(await it.take(), link.Response)

    run(case)


def test_fetches_when_too_many_then_one_more_fails(run: Run) -> None:
    """An application cannot take all the connections of its node."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            await asyncio.Event().wait()
            raise AssertionError

        calls = serving(it, serve)
        for number in range(MOST_FETCHES + 1):
            await it.say(fetch(number))
        answer = await it.take()
        assert isinstance(answer, link.Answer)
        assert (answer.id, answer.failure.code) == (MOST_FETCHES, "connection-limit-reached")
        assert calls.open == MOST_FETCHES
        await it.say(link.encode(link.Abandon(id=0)))
        await settled(it)
        assert calls.open == MOST_FETCHES - 1

    run(case)


@pytest.mark.parametrize("how", ["refused", "body broke off", "defect"])
def test_fetch_when_it_fails_before_its_response_then_the_code_is_told(run: Run, how: str) -> None:
    """The guest gets an error of wasi:http."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            if how == "refused":
                raise CallFailed(Code.DNS_ERROR, "no such host", hint="look again")
            if how == "defect":
                raise ValueError("a defect")
            async for _ in body:
                pass
            raise AssertionError

        serving(it, serve)
        await it.say(fetch(more=True) + part(b"some", aborted=True))
        answer = await it.take()
        assert isinstance(answer, link.Answer)
        failure = answer.failure
        assert failure.origin == link.Failure.ORIGIN_ACTOR
        code, message = {
            "refused": ("dns-error", "no such host"),
            "body broke off": ("http-protocol-error", "the body of the request broke off"),
            "defect": ("internal-error", "internal error of the node: ValueError('a defect')"),
        }[how]
        assert (failure.code, failure.message) == (code, message)

    run(case)


def test_response_when_it_breaks_off_then_the_agent_is_told(run: Run) -> None:
    """A body that ended early does not look like a whole one."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            return Answered(b"piece", b"broken")

        serving(it, serve)
        await it.say(fetch())
        assert isinstance(await it.take(), link.Response)
        assert (await it.take_whole())[1] == b"piece"
        end = await it.take()
        assert isinstance(end, link.Part)
        assert (end.aborted, end.last) == (True, False)

    run(case)


def test_response_when_it_is_broken_at_once_then_the_request_fails(run: Run) -> None:
    """The guest waits for a head: that its body broke off would tell it nothing."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            return Answered(at_hand=b"broken")

        serving(it, serve)
        await it.say(fetch())
        answer = await it.take()
        assert isinstance(answer, link.Answer)
        assert answer.failure.code == "http-protocol-error"

    run(case)


@pytest.mark.parametrize("how", ["abandon", "link lost", "machine ends"])
def test_fetch_when_nobody_wants_it_then_the_call_ends(run: Run, how: str) -> None:
    """Nothing is left of a request, and nothing is answered."""

    async def case(it: Case) -> None:
        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            await asyncio.Event().wait()
            raise AssertionError

        calls = serving(it, serve)
        await it.say(fetch())
        await settled(it)
        assert calls.open == 1
        if how == "abandon":
            await it.say(link.encode(link.Abandon(id=1)))
        elif how == "link lost":
            it.agent.close()
        else:
            await it.client.close()
        await settled(it)
        assert calls.open == 0
        if how == "abandon":
            # The same id can be used again at once.
            await it.say(fetch())
            await settled(it)
            assert calls.open == 1

    run(case)


def test_agent_when_it_allows_all_and_reads_nothing_then_little_waits_for_it(run: Run) -> None:
    """A window that an agent gives away is no memory of the node."""

    async def case(it: Case) -> None:
        answered = Answered(*[bytes(WINDOW_BYTES)] * 100)

        async def serve(request: Request, body: AsyncIterator[Piece]) -> Answered:
            return answered

        serving(it, serve)
        await it.say(fetch() + link.encode(link.Window(id=1, of_fetch=True, bytes=1 << 62)))
        await settled(it)
        assert 0 < answered.read * WINDOW_BYTES < BACKLOG_BYTES + 3 * (1 << 20)

    run(case)


async def test_body_when_its_parts_are_tiny_then_they_are_joined() -> None:
    """A part of one byte does not cost a hundred."""
    body = ReceivedBody(lambda count: None)
    for _ in range(5000):
        body.put(b"x", last=False)
    body.put(b"", last=True)
    assert [len(part) async for part in body] == [4096, 904]
