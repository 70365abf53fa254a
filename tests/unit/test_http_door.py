"""The door without applications: what it refuses, what it makes of errors, and of streams."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.errors import (
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from plexspaces_node.node.access.audit import Event
from plexspaces_node.node.access.gate import Gate, Grants, NoGrants
from plexspaces_node.node.access.identity import Identity, Kind, Scope
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.node.http.control import Control
from plexspaces_node.node.http.door import Door
from plexspaces_node.node.http.message import Request, Response, Seen
from plexspaces_node.node.http.origin import Origins
from plexspaces_node.node.http.pages import Pages
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.streams import Events, Lines

PAGE = "https://shop.example"


def door(
    answer: Callable[[Request], Awaitable[Response]],
    *,
    most_calls: int = 8,
    grants: Grants | None = None,
) -> Door:
    """A door with this in place of the control API."""
    control: Any = SimpleNamespace(answer=answer)
    none: Any = None
    origins = Origins(origins=PAGE)
    gate = Gate(grants or NoGrants(), Recorder(list[Event]().append))
    return Door(
        none,
        control,
        origins,
        gate,
        message_bytes=1,
        message_timeout_s=1,
        most_calls=most_calls,
    )


def request(*headers: tuple[bytes, bytes]) -> Request:
    return Request(b"GET", b"/v1/node", [(b"host", b"localhost"), *headers])


def told(response: Response) -> dict[str, Any]:
    assert isinstance(response.body, bytes)
    members: dict[str, Any] = json.loads(response.body)
    return members


@pytest.mark.parametrize(
    ("error", "status", "logged"),
    [
        (RecursionError("deep"), 500, 1),
        (OSError(errno.EMFILE, "too many"), 429, 0),
        (NotFound("nobody"), 404, 0),
        (HttpFault(408, "slow"), 408, 0),
    ],
)
async def test_error_becomes_a_problem(
    error: Exception, status: int, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that nobody expected; only that one is in the log."""

    async def fail(_: Request) -> Response:
        raise error

    with caplog.at_level(logging.ERROR):
        response = await door(fail).answer(request())
    assert (response.status, told(response)["status"]) == (status, status)
    assert len(caplog.records) == logged


@pytest.mark.parametrize(("after_s", "told_s"), [(0.02, b"1"), (2.4, b"3"), (None, b"1")])
async def test_limit_that_says_when_to_come_back_is_told_in_whole_seconds(
    after_s: float | None, told_s: bytes
) -> None:
    """Never less than the error says; exactly in the members."""

    async def fail(_: Request) -> Response:
        raise ResourceExhausted("too fast", retry_after_s=after_s)

    response = await door(fail).answer(request())
    assert dict(response.headers)[b"retry-after"] == told_s
    assert told(response).get("retry_after_s") == after_s


async def test_requests_beyond_the_limit_are_refused() -> None:
    """With 429 and when to come again; once one is answered there is room."""
    gate = asyncio.Event()
    asked = asyncio.Event()

    async def wait(_: Request) -> Response:
        asked.set()
        await gate.wait()
        return Response(200, [])

    busy = door(wait, most_calls=1)
    first = asyncio.create_task(busy.answer(request()))
    await asked.wait()
    refused = await busy.answer(request())
    assert (refused.status, "limits" in told(refused)["hint"]) == (429, True)
    assert any(name == b"retry-after" for name, _ in refused.headers)
    gate.set()
    assert (await first).status == 200
    assert (await busy.answer(request())).status == 200


async def test_requests_of_one_tenant_leave_room_for_others() -> None:
    """As many as it has are left, whoever comes next."""
    gate, asked = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(_: Request) -> Response:
        asked.release()
        await gate.wait()
        return Response(200, [])

    def by(tenant: bytes) -> Request:
        return request((b"authorization", b"Bearer " + tenant))

    busy = door(wait, most_calls=4, grants=_Named())
    held = []
    for tenant in (b"shop", b"shop", b"rival"):
        held.append(asyncio.create_task(busy.answer(by(tenant))))
        await asked.acquire()
    for tenant in (b"shop", b"rival"):
        refused = await busy.answer(by(tenant))
        assert (refused.status, tenant.decode() in told(refused)["detail"]) == (429, True)
    held.append(asyncio.create_task(busy.answer(by(b"blog"))))
    await asked.acquire()
    gate.set()
    assert [(await task).status for task in held] == [200] * 4
    assert (await busy.answer(by(b"shop"))).status == 200


class _Named(NoGrants):
    """Grants in which the name of a tenant is a token of it."""

    def exist(self) -> bool:
        return True

    def by_token(self, token: bytes) -> Identity:
        return Identity(Kind.TOKEN, "ci", frozenset(), token.decode())


class _Guarded(NoGrants):
    """The grants of a node that has some, of which nobody here has one."""

    def exist(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"POST", b"/v1/applications"),
        (b"POST", b"/v1/applications/cart/invoke"),
        (b"PUT", b"/v1/artifacts/app.wasm"),
    ],
)
@pytest.mark.parametrize("framing", [(b"content-length", b"900000"), (b"transfer-encoding", b"")])
async def test_long_body_of_a_stranger_is_not_read(
    method: bytes, path: bytes, framing: tuple[bytes, bytes]
) -> None:
    """Two connections could fill what all bodies share; a short one is answered as ever."""
    events: list[Event] = []
    gate = Gate(_Guarded(), Recorder(events.append))
    none: Any = None
    info: Any = SimpleNamespace(artifact_limit_bytes=1, message_limit_bytes=1_000_000)
    guarded = Door(
        none,
        Control({}, gate, none, info, none, Pages()),
        Origins(),
        gate,
        message_bytes=1,
        message_timeout_s=1,
        most_calls=8,
    )
    with pytest.raises(HttpFault) as refused:
        guarded.body_limit(Request(method, path, [(b"host", b"localhost"), framing]))
    assert refused.value.response.status == 401
    done, about = {
        b"/v1/applications": ("Deploy", ""),
        b"/v1/applications/cart/invoke": ("Invoke", "cart"),
        b"/v1/artifacts/app.wasm": ("UploadArtifact", "app.wasm"),
    }[path]
    assert [(event.result, event.verb, event.object) for event in events] == [
        ("unauthenticated", f"ApplicationService/{done}", about)
    ]
    short = Request(method, path, [(b"host", b"localhost"), (b"content-length", b"9")])
    guarded.body_limit(short)
    assert isinstance(short.refusal, Unauthenticated)
    # Its frames would keep all that was read with the request.
    assert short.refusal.__traceback__ is None
    gate.is_public = lambda name: name == "cart"
    if path.endswith(b"/invoke"):
        asked = Request(method, path, [(b"host", b"localhost"), framing])
        assert guarded.body_limit(asked) > 1_000_000


async def test_page_may_read_why_its_request_is_read_no_further() -> None:
    """The reader's refusals have the headers that any answer has."""

    async def never(_: Request) -> Response:
        raise AssertionError

    response = door(never).refusal(request((b"origin", PAGE.encode())), HttpFault(429, "much"))
    assert (b"access-control-allow-origin", PAGE.encode()) in response.headers
    assert any(name == b"retry-after" for name, _ in response.headers)


async def events(*failing: Exception, count: int = 1) -> AsyncGenerator[pb.DeployResponse, None]:
    for _ in range(count):
        yield pb.DeployResponse(phase="compile")
    for error in failing:
        raise error


class TestLines:
    async def test_error_at_once_is_raised_before_the_head(self) -> None:
        """Whether or not its beginning is waited for."""
        for begin in (Lines.begin, Lines.begin_soon):
            with pytest.raises(ResourceExhausted):
                await begin(Lines(events(ResourceExhausted("full"), count=0)))

    @pytest.mark.parametrize(
        ("error", "code", "logged"),
        [(NotFound("gone"), "not_found", 0), (ValueError("x"), "internal", 1)],
    )
    async def test_later_error_is_the_last_line(
        self, error: Exception, code: str, logged: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And the stream ends as any other."""
        lines = Lines(events(error))
        await lines.begin()
        first, last = [json.loads(line) async for line in lines]
        assert (first["phase"], last["error"]["code"]) == ("compile", code)
        assert len(caplog.records) == logged

    async def test_stream_without_a_message_is_empty(self) -> None:
        """A log may be."""
        lines = Lines(events(count=0))
        await lines.begin()
        assert [line async for line in lines] == []

    async def test_stream_that_has_nothing_yet_begins_and_can_be_closed(self) -> None:
        """Its head goes out at once; what it waits with is ended when the client leaves."""
        ended = asyncio.Event()

        async def silent() -> AsyncGenerator[pb.DeployResponse, None]:
            try:
                await asyncio.Event().wait()
                yield pb.DeployResponse()
            finally:
                ended.set()

        lines = Lines(silent())
        await lines.begin_soon()
        await lines.aclose()
        assert ended.is_set()


def parsed(stream: bytes) -> list[dict[str, str]]:
    """What a browser makes of a stream: the fields of each event, comments left out."""
    found = []
    # Each of the three ends a line.
    for block in re.split(r"(?:\r\n|\r|\n){2}", stream.decode()):
        lines = [part for part in re.split(r"\r\n|\r|\n", block) if part and part[0] != ":"]
        if lines:
            found.append(dict(part.split(": ", 1) for part in lines))
    return found


class TestEvents:
    async def test_text_of_an_application_when_sent_then_it_stays_one_event(self) -> None:
        """Whatever ends a line, or looks like a field or an event, in it."""
        texts = (
            "a\n\nevent: error\ndata: {}\n\n",
            "b\r\rdata: x",
            "c\x1b[2J\u2028\u2029\x85\x0b\x0c\0",
            ":\ndata",
            "<script>" * 10_000,
        )

        async def logged() -> AsyncGenerator[pb.LogsResponse, None]:
            for text in texts:
                yield pb.LogsResponse(message=text)

        events = Events(logged())
        await events.begin()
        got = parsed(b"".join([piece async for piece in events]))
        assert [set(event) for event in got] == [{"data"}] * len(texts)
        assert [json.loads(event["data"])["message"] for event in got] == list(texts)

    async def test_error_when_it_comes_later_then_it_is_an_event_of_its_own(self) -> None:
        """With the members of the problem; the stream ends after it."""
        later = Events(events(NotFound("gone")))
        await later.begin()
        first, last = parsed(b"".join([piece async for piece in later]))
        assert json.loads(first["data"])["phase"] == "compile"
        assert (last["event"], json.loads(last["data"])["code"]) == ("error", "not_found")

    @pytest.mark.virtual_time
    async def test_silence_when_it_lasts_then_a_comment_tells_that_the_stream_is_there(
        self,
    ) -> None:
        """Which ends nothing: the message comes when it is there, once."""
        loop, said = asyncio.get_running_loop(), asyncio.Event()

        async def slow() -> AsyncGenerator[pb.LogsResponse, None]:
            await said.wait()
            yield pb.LogsResponse(message="at last")

        stream = Events(slow())
        await stream.begin_soon()
        began_s = loop.time()
        assert [await anext(stream), await anext(stream)] == [b":\n\n"] * 2
        assert loop.time() - began_s == pytest.approx(30.0)
        said.set()
        assert [parsed(piece)[0].keys() async for piece in stream] == [{"data"}]

    async def test_stream_when_closed_while_it_waits_then_nothing_goes_on(self) -> None:
        """As when the client leaves between two events."""
        ended = asyncio.Event()

        async def silent() -> AsyncGenerator[pb.LogsResponse, None]:
            try:
                await asyncio.Event().wait()
                yield pb.LogsResponse()
            finally:
                ended.set()

        stream = Events(silent(), heartbeat_s=0)
        await stream.begin_soon()
        assert await anext(stream) == b":\n\n"
        await stream.aclose()
        assert ended.is_set()


async def test_stream_counts_as_a_call_until_it_is_closed() -> None:
    """As by gRPC; closed twice it is given back once."""

    async def silent() -> AsyncGenerator[pb.LogsResponse, None]:
        await asyncio.Event().wait()
        yield pb.LogsResponse()

    async def follow(_: Request) -> Response:
        stream = Events(silent())
        await stream.begin_soon()
        return Response(200, [], stream)

    busy = door(follow, most_calls=1)
    first = await busy.answer(request())
    assert (first.status, (await busy.answer(request())).status) == (200, 429)
    for _ in range(2):
        await cast(Any, first.body).aclose()
    second = await busy.answer(request())
    assert (second.status, (await busy.answer(request())).status) == (200, 429)
    await cast(Any, second.body).aclose()


def test_only_short_hosts_are_remembered() -> None:
    """A port of thousands of digits is a host of its own each time."""
    origins = Origins()
    for digits in (4, 1000):
        origins.application_of(Request(b"GET", b"/", [(b"host", b"localhost:" + b"1" * digits)]))
    assert "1 hosts remembered" in repr(origins)


class TwoTokens:
    """The grants of a node with a token for each of two tenants."""

    def __init__(self) -> None:
        self.known = {
            tenant.encode(): Identity(Kind.TOKEN, "ci", frozenset({Scope.INVOKE}), tenant)
            for tenant in ("shop", "rival")
        }

    def exist(self) -> bool:
        return True

    def by_token(self, token: bytes) -> Identity | None:
        return self.known.get(token)

    def by_certificate(self, name: str) -> None:
        del name

    def is_current(self, identity: Identity) -> bool:
        return identity in self.known.values()

    def watch(self, identity: Identity, ended: Callable[[], None]) -> Callable[[], None]:
        del identity, ended
        return lambda: None


async def test_connection_when_it_was_let_in_then_only_as_the_same_and_to_the_same() -> None:
    """What it remembers is worth nothing for another token, another name, or a revoked one."""
    grants, seen, none = TwoTokens(), Seen(), cast(Any, None)
    gate = Gate(grants, Recorder(list[Event]().append))
    entrance = Door(none, none, Origins(), gate, message_bytes=1, message_timeout_s=1, most_calls=8)

    def entered(path: bytes, token: bytes | None) -> str | None:
        headers = [(b"host", b"localhost")]
        if token is not None:
            headers.append((b"authorization", b"Bearer " + token))
        asked = Request(b"POST", path, headers)
        asked.seen = seen
        return entrance._entered(asked)[0]

    for _ in range(2):
        assert entered(b"/apps/cart/x", b"shop") == "shop/cart"
    assert entered(b"/apps/cart/x", b"rival") == "rival/cart"
    assert entered(b"/apps/stock/x", b"rival") == "rival/stock"
    for path, token, error in (
        (b"/apps/shop%2Fcart/x", b"rival", PermissionDenied),
        (b"/apps/stock/x", None, Unauthenticated),
        (b"/apps/stock/x", b"wrong", Unauthenticated),
    ):
        with pytest.raises(error):
            entered(path, token)
    del grants.known[b"rival"]
    with pytest.raises(Unauthenticated):
        entered(b"/apps/stock/x", b"rival")
