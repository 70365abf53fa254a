"""HTTP requests to a component on the link: heads, bodies and windows, and agents that cheat.

On a clock that the tests move.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.link_case import Case, Run

from plexspaces_node.errors import ActorTrapped, PlexSpacesError, Unavailable
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import WINDOW_BYTES
from plexspaces_node.model import MIB
from plexspaces_node.node.machines.exchanges import Exchange
from plexspaces_node.node.machines.pending import Answered
from plexspaces_node.node.machines.reading import BURST_S, UNASKED_BYTES_PER_S
from plexspaces_node.node.machines.writing import BACKLOG_BYTES

HEAD = link.RequestHead(method="GET", scheme="http", authority="app.localhost", path="/")
WITH_BODY = link.RequestHead(
    method="POST", scheme="http", authority="app.localhost", path="/", more=True
)
OK = link.ResponseHead(status=200)


class Asked:
    """An exchange, and the agent's last word on it."""

    def __init__(self, it: Case, head: link.RequestHead = HEAD, body: bytes = b"") -> None:
        self.replies: list[Answered | PlexSpacesError] = []
        self.exchange = it.client.exchange(head, body, 5_000_000_000, self.replies.append)


async def begun(it: Case, body: bytes = b"one") -> Asked:
    """Send a request whose response has begun, and goes on."""
    asked = Asked(it)
    invoke = await it.take()
    assert isinstance(invoke, link.Invoke)
    await it.say(link.encode(link.Response(id=invoke.id, head=OK), body))
    assert (await asked.exchange.begin()).body is None
    return asked


def part(body: bytes, *, last: bool = False) -> bytes:
    return link.encode(link.Part(id=1, last=last), body)


async def pieces_of(exchange: Exchange) -> bytes:
    return b"".join([bytes(piece) async for piece in exchange])


async def pieces_of_begun(asked: Asked) -> bytes:
    await asked.exchange.begin()
    return await pieces_of(asked.exchange)


async def ended(it: Case) -> None:
    """Wait until the link is gone."""
    assert await it.loop.sock_recv(it.agent, 1 << 20) == b""


def test_short_response_is_in_the_reply(run: Run) -> None:
    """The request arrives as it was sent, and nothing is left of it."""

    async def case(it: Case) -> None:
        asked = Asked(it)
        invoke = await it.take()
        assert isinstance(invoke, link.Invoke)
        assert (invoke.request, invoke.type) == (HEAD, "")
        await it.say(link.encode(link.Reply(id=invoke.id, response=OK, compute_ns=5), b"hello"))
        head, body = await asked.exchange.begin()
        assert (head, body) == (OK, b"hello")
        assert asked.exchange.times is not None
        assert asked.exchange.times.compute_ns == 5
        await asked.exchange.aclose()
        assert (len(asked.replies), it.client.in_flight) == (1, 0)

    run(case)


def test_response_comes_piece_by_piece(run: Run) -> None:
    """Each is there before the next is sent, and it takes as long as it takes."""

    async def case(it: Case) -> None:
        asked = await begun(it)
        assert await anext(asked.exchange) == b"one"
        # Long past the message's timeout.
        await asyncio.sleep(600)
        await it.say(part(b"two"))
        assert await anext(asked.exchange) == b"two"
        await it.say(part(b"three", last=True))
        assert await pieces_of(asked.exchange) == b"three"
        assert not asked.replies
        await it.say(link.encode(link.Reply(id=1)))
        await it.client.idle()
        assert len(asked.replies) == 1

    run(case)


def test_agent_gets_a_window_when_the_client_has_read(run: Run) -> None:
    """Not before: a client that does not read stops the component."""

    async def case(it: Case) -> None:
        asked = await begun(it, bytes(WINDOW_BYTES))
        assert len(await anext(asked.exchange)) == WINDOW_BYTES
        window = await it.take()
        assert isinstance(window, link.Window)
        assert (window.id, window.bytes, window.of_fetch) == (1, WINDOW_BYTES, False)

    run(case)


@pytest.mark.parametrize(
    "said",
    [
        part(bytes(WINDOW_BYTES)) + part(b"x"),
        part(b""),
        link.encode(link.Response(id=1, head=OK), b""),
        part(b"", last=True) + part(b"x"),
    ],
    ids=["more than allowed", "nothing", "a second response", "after the last"],
)
def test_agent_that_cheats_breaks_its_link(run: Run, said: bytes) -> None:
    """And the client hears that the response broke off."""

    async def case(it: Case) -> None:
        asked = await begun(it, b"")
        await it.say(said)
        await ended(it)
        assert isinstance(asked.replies[0], Unavailable)

    run(case)


def test_response_that_breaks_off_says_why(run: Run) -> None:
    """A failure after the head is that of the body."""

    async def case(it: Case) -> None:
        asked = await begun(it)
        failure = link.Failure(origin=link.Failure.ORIGIN_TRAP, code="unreachable", message="oh")
        await it.say(link.encode(link.Reply(id=1, failure=failure)))
        with pytest.raises(ActorTrapped, match="oh"):
            await pieces_of(asked.exchange)
        await asked.exchange.aclose()

    run(case)


def test_lost_link_ends_every_exchange(run: Run) -> None:
    """Whether its response has begun or not."""

    async def case(it: Case) -> None:
        asked = await begun(it)
        other = Asked(it)
        it.agent.close()
        with pytest.raises(Unavailable):
            await other.exchange.begin()
        with pytest.raises(Unavailable):
            await pieces_of(asked.exchange)
        assert it.client.in_flight == 0

    run(case)


def test_beginning_is_told_in_the_step_in_which_it_comes(run: Run) -> None:
    """Once for each exchange; not for one that was closed before."""

    async def case(it: Case) -> None:
        told: list[str] = []
        whole, stream, closed = Asked(it), Asked(it), Asked(it)
        whole.exchange.when_begun(lambda: told.append("whole"))
        stream.exchange.when_begun(lambda: told.append("stream"))
        closed.exchange.when_begun(lambda: told.append("closed"))
        closed.exchange.leave()
        for _ in range(3):
            assert isinstance(await it.take(), link.Invoke)
        first = link.encode(link.Reply(id=1, response=OK), b"hello")
        second = link.encode(link.Response(id=2, head=OK), b"one")
        others = [link.encode(link.Reply(id=number)) for number in (2, 3)]
        await it.say(first + second + b"".join(others))
        await it.client.idle()
        assert told == ["whole", "stream"]
        assert (len(whole.replies), len(stream.replies), len(closed.replies)) == (1, 1, 1)

    run(case)


def test_client_that_leaves_cancels_the_component(run: Run) -> None:
    """Its reply comes later and is passed on; parts until then are dropped."""

    async def case(it: Case) -> None:
        asked = await begun(it)
        await asked.exchange.aclose()
        cancel = await it.take()
        assert isinstance(cancel, link.Cancel)
        assert cancel.id == 1
        await it.say(part(b"late") + link.encode(link.Reply(id=1)))
        await it.client.idle()
        assert (len(asked.replies), it.host.unclaimed_replies) == (1, [])

    run(case)


def test_body_is_sent_no_faster_than_the_component_reads(run: Run) -> None:
    """One window at first, and then as much as it allows."""

    async def case(it: Case) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(WINDOW_BYTES)
            yield b"end"

        asked = Asked(it, WITH_BODY, b"head")
        invoke, first = await it.take_whole()
        assert (type(invoke), first) == (link.Invoke, b"head")
        asked.exchange.upload(pieces())
        frame, body = await it.take_whole()
        assert (type(frame), len(body)) == (link.Part, WINDOW_BYTES - 4)
        await it.say(link.encode(link.Window(id=1, bytes=5)))
        sent = [await it.take_whole() for _ in range(2)]
        assert [len(body) for _, body in sent] == [4, 1]
        await it.say(link.encode(link.Window(id=1, bytes=WINDOW_BYTES)))
        body = (await it.take_whole())[1]
        assert body == b"nd"
        last, _ = await it.take_whole()
        assert isinstance(last, link.Part)
        assert last.last
        await it.say(link.encode(link.Reply(id=1, response=OK)))
        await asked.exchange.begin()
        await asked.exchange.aclose()

    run(case)


@pytest.mark.parametrize("ends", [True, False])
def test_agent_that_never_replies_is_deaf(run: Run, *, ends: bool) -> None:
    """Its response was complete, or its client has left: nothing else can be due."""

    async def case(it: Case) -> None:
        asked = await begun(it)
        if ends:
            await it.say(part(b"", last=True))
            assert await pieces_of(asked.exchange) == b"one"
        await asked.exchange.aclose()
        await it.client.deaf.wait()
        assert it.client.in_flight == 0

    run(case)


def test_parts_of_nobody_are_paced(run: Run) -> None:
    """No window bounds them."""

    async def case(it: Case) -> None:
        await begun(it)
        begin_s = it.loop.time()
        for _ in range(1024):
            await it.say(link.encode(link.Part(id=9), bytes(MIB // 4)))
        assert it.loop.time() - begin_s > 256 * MIB / UNASKED_BYTES_PER_S - 2 * BURST_S

    run(case)


def test_body_that_breaks_off_is_aborted(run: Run) -> None:
    """The component hears that the rest will not come."""

    async def case(it: Case) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begin"
            raise ConnectionError("the client left")

        asked = Asked(it, WITH_BODY)
        await it.take()
        asked.exchange.upload(pieces())
        assert (await it.take_whole())[1] == b"begin"
        aborted = await it.take()
        assert isinstance(aborted, link.Part)
        assert aborted.aborted
        await asked.exchange.aclose()

    run(case)


def test_agent_that_allows_all_and_reads_nothing_holds_little(run: Run) -> None:
    """A window that an agent gives away is no memory of the node."""

    async def case(it: Case) -> None:
        taken = 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal taken
            for _ in range(100):
                taken += WINDOW_BYTES
                yield bytes(WINDOW_BYTES)

        asked = Asked(it, WITH_BODY)
        await it.take()
        asked.exchange.upload(pieces())
        await it.say(link.encode(link.Window(id=1, bytes=1 << 62)))
        await asyncio.sleep(1)
        assert 0 < taken < BACKLOG_BYTES + 3 * MIB
        await asked.exchange.aclose()

    run(case)


def test_body_of_which_the_rest_is_not_wanted_is_aborted(run: Run) -> None:
    """A component that reads on after its response has not to wait until its time is over."""

    async def case(it: Case) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begin"
            await asyncio.Event().wait()

        asked = Asked(it, WITH_BODY)
        await it.take()
        asked.exchange.upload(pieces())
        assert (await it.take_whole())[1] == b"begin"
        await it.say(link.encode(link.Response(id=1, head=OK, last=True), b""))
        assert await pieces_of_begun(asked) == b""
        await asked.exchange.aclose()
        aborted = await it.take()
        assert isinstance(aborted, link.Part)
        assert aborted.aborted
        assert not asked.replies

    run(case)


def test_application_that_stops_cuts_responses_that_go_on(run: Run) -> None:
    """Their clients hear it; those that have not begun keep their time."""

    async def case(it: Case) -> None:
        stream, other = await begun(it), Asked(it)
        await it.take()
        it.client.exchanges.cut(streams_only=True)
        assert isinstance(await it.take(), link.Cancel)
        assert await anext(stream.exchange) == b"one"
        with pytest.raises(Unavailable, match="stopped or replaced"):
            await anext(stream.exchange)
        beginning = asyncio.ensure_future(other.exchange.begin())
        await asyncio.sleep(0)
        assert not beginning.done()
        it.client.exchanges.cut()
        with pytest.raises(Unavailable, match="stopped or replaced"):
            await beginning

    run(case)
