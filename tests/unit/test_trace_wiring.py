"""A message's span on its way through a link: to the agent, and back with what it caused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.link_case import Case, Run
from support.sending import reply_of

from plexspaces_node.errors import Unavailable
from plexspaces_node.link import frames as link
from plexspaces_node.node.machines.pending import Answered
from plexspaces_node.node.outgoing.call import CallFailed, Code, Piece, Request
from plexspaces_node.node.telemetry.span import MOST_SPANS, NAME_CHARS, Kind, Span, Step
from plexspaces_node.trace_context import TraceContext, write

TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
OWN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def a_span(*, is_sampled: bool | None = True) -> Span:
    """The span of a message, without ids if it is neither sampled nor not."""
    span = Span("app", Kind.MESSAGE, "m", 0, 0)
    if is_sampled is not None:
        span.join(TraceContext(TRACE, PARENT, is_sampled))
    return span


async def sent(it: Case, span: Span | None) -> tuple[link.Invoke, asyncio.Task[Answered]]:
    """Send a message that is measured; return it as the agent gets it."""
    task = asyncio.create_task(reply_of(it.client, span=span))
    frame = await it.take()
    assert isinstance(frame, link.Invoke)
    return frame, task


async def over(it: Case, message: link.Invoke, task: asyncio.Task[Answered]) -> None:
    await it.say(it.reply(message))
    await task


def fetch(message: int, *headers: tuple[str, str]) -> bytes:
    """Return the bytes of a request of HTTP that is made for a message."""
    head = link.RequestHead(
        method="GET",
        scheme="http",
        authority="example.com:81",
        path="/",
        headers=[link.Header(name=name, value=value.encode()) for name, value in headers],
    )
    return link.encode(link.Fetch(id=7, head=head, timeout_ns=10**9, invoke=message))


class Answer:
    status = 200
    headers = ()

    def at_hand(self) -> tuple[bytes, bool]:
        return b"hello", True


def fetching(it: Case, error: Exception | None = None) -> list[Request]:
    """Have requests answered, or fail; return where they are kept."""
    requests: list[Request] = []

    @asynccontextmanager
    async def call(request: Request, body: AsyncIterator[Piece]) -> AsyncIterator[Any]:
        requests.append(request)
        if error is not None:
            raise error
        yield Answer()

    it.host.fetches = call
    return requests


def traceparents(request: Request) -> list[str]:
    return [value.decode() for name, value in request.headers if name == b"traceparent"]


@pytest.mark.parametrize("is_sampled", [True, False, None])
def test_agent_is_told_the_trace_of_a_message_that_has_one(
    run: Run, *, is_sampled: bool | None
) -> None:
    """And the span learns in which VM it is handled."""

    async def case(it: Case) -> None:
        span = a_span(is_sampled=is_sampled)
        message, task = await sent(it, span)
        assert message.traceparent == span.traceparent
        assert bool(message.traceparent) is (is_sampled is not None)
        assert span.vm_id == "vm"
        await over(it, message, task)

    run(case)


def test_calls_of_the_store_are_steps_of_the_message_that_they_are_for(run: Run) -> None:
    """Each with how long it took and how it failed; an ask and a tell are messages themselves."""

    async def case(it: Case) -> None:
        async def answer(call: link.HostCall) -> bytes:
            if isinstance(call, link.Delete):
                raise Unavailable("the disk is full")
            await asyncio.sleep(0.5)
            return b"x"

        it.host.answers = answer
        span = a_span()
        message, task = await sent(it, span)
        calls = (link.Get, link.Put, link.Delete, link.Ask, link.Tell)
        for number, kind in enumerate(calls, 1):
            await it.say(link.encode(kind(id=number, invoke=message.id)))
        for _ in calls:
            assert isinstance(await it.take(), link.Answer)
        await over(it, message, task)
        assert it.host.causes == [span] * len(calls)
        assert [(cause, step.name) for cause, step in it.host.steps] == [
            (span, "get"),
            (span, "put"),
            (span, "delete"),
        ]
        steps = [step for _, step in it.host.steps]
        assert span.children == steps
        assert all(step.kind is Kind.STORE and step.total_ns > 0 for step in steps)
        assert [step.error for step in steps[1:]] == [
            ("", ""),
            ("unavailable", "the disk is full"),
        ]

    run(case)


def test_call_for_no_message_that_is_in_flight_is_nobodys(run: Run) -> None:
    """An agent says which it is for, and may say anything."""

    async def case(it: Case) -> None:
        span = a_span()
        message, task = await sent(it, span)
        await over(it, message, task)
        for number in (0, message.id, 2**64 - 1):
            await it.say(link.encode(link.Get(id=number + 1 if not number else 5, invoke=number)))
            assert isinstance(await it.take(), link.Answer)
        assert it.host.causes == [None] * 3
        assert (it.host.steps, span.children) == ([], None)

    run(case)


def test_more_calls_than_a_tree_keeps_are_no_steps(run: Run) -> None:
    """So that one message cannot fill the memory of all, nor a collector."""

    async def case(it: Case) -> None:
        span = a_span()
        message, task = await sent(it, span)
        for number in range(MOST_SPANS + 5):
            await it.say(link.encode(link.Get(id=number + 1, invoke=message.id)))
            assert isinstance(await it.take(), link.Answer)
        await over(it, message, task)
        assert len(it.host.steps) == MOST_SPANS - 1
        assert span.tree is not None
        assert span.tree.dropped == 6

    run(case)


@pytest.mark.parametrize("is_sampled", [True, False])
def test_request_of_http_takes_its_place_in_the_trace_along(run: Run, *, is_sampled: bool) -> None:
    """Whoever answers it is below the request, and hears whether the trace is sampled."""

    async def case(it: Case) -> None:
        requests = fetching(it)
        span = a_span(is_sampled=is_sampled)
        message, task = await sent(it, span)
        await it.say(fetch(message.id))
        assert isinstance(await it.take(), link.Response)
        await over(it, message, task)
        [(cause, step)] = it.host.steps
        assert (cause, step.name, step.kind) == (span, "GET example.com:81", Kind.FETCH)
        assert step.total_ns > 0
        assert step.error == ("", "")
        assert traceparents(requests[0]) == [write(TRACE, step.span_id, is_sampled=is_sampled)]

    run(case)


def test_request_that_has_a_traceparent_keeps_it(run: Run) -> None:
    """The application traces by itself, and knows better."""

    async def case(it: Case) -> None:
        requests = fetching(it)
        message, task = await sent(it, a_span())
        await it.say(fetch(message.id, ("traceparent", OWN)))
        assert isinstance(await it.take(), link.Response)
        await over(it, message, task)
        assert traceparents(requests[0]) == [OWN]

    run(case)


def test_request_for_no_message_has_no_traceparent(run: Run) -> None:
    """Nobody knows where it belongs."""

    async def case(it: Case) -> None:
        requests = fetching(it)
        await it.say(fetch(99))
        assert isinstance(await it.take(), link.Response)
        assert traceparents(requests[0]) == []
        assert it.host.steps == []

    run(case)


def test_request_beyond_what_a_tree_keeps_is_below_its_message(run: Run) -> None:
    """The span of the request is sent to nobody, so nothing may be below it."""

    async def case(it: Case) -> None:
        requests = fetching(it)
        span = a_span()
        for _ in range(MOST_SPANS):
            span.cause(Step(Kind.STORE, "get", 0))
        message, task = await sent(it, span)
        await it.say(fetch(message.id))
        assert isinstance(await it.take(), link.Response)
        await over(it, message, task)
        assert traceparents(requests[0]) == [span.traceparent]
        assert it.host.steps == []

    run(case)


def test_request_that_fails_is_a_step_with_the_failure(run: Run) -> None:
    """With the code that the application sees; a long message is cut, for it is kept."""

    async def case(it: Case) -> None:
        said = "nobody listens " * 100
        fetching(it, CallFailed(Code.CONNECTION_REFUSED, said))
        message, task = await sent(it, a_span())
        await it.say(fetch(message.id))
        assert isinstance(await it.take(), link.Answer)
        await over(it, message, task)
        [(_, step)] = it.host.steps
        assert step.error == (Code.CONNECTION_REFUSED, said[:NAME_CHARS])

    run(case)


def test_request_that_goes_on_after_its_message_is_a_step_when_it_ends(run: Run) -> None:
    """It has begun for the message, whatever became of that."""

    async def case(it: Case) -> None:
        may = asyncio.Event()

        @asynccontextmanager
        async def call(request: Request, body: AsyncIterator[Piece]) -> AsyncIterator[Any]:
            await may.wait()
            yield Answer()

        it.host.fetches = call
        span = a_span()
        message, task = await sent(it, span)
        await it.say(fetch(message.id))
        await over(it, message, task)
        assert it.host.steps == []
        may.set()
        assert isinstance(await it.take(), link.Response)
        [(cause, step)] = it.host.steps
        assert cause is span
        assert step.total_ns > 0

    run(case)
