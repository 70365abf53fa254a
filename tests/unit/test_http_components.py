"""What of a client's request reaches a component, and what of its response the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from plexspaces_node.errors import ActorTrapped
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import Body
from plexspaces_node.node.http import components
from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.machines.exchanges import Beginning
from plexspaces_node.tasks import Leave

SECOND_NS = 1_000_000_000


class Component:
    """Stands for every application: takes one request, and answers as it is told."""

    span = None
    waited_ns = 0
    times = None

    def __init__(self, status: int, headers: list[tuple[str, bytes]], body: bytes = b"") -> None:
        named = [link.Header(name=name, value=value) for name, value in headers]
        self._head = link.ResponseHead(status=status, headers=named)
        self._body = body
        self.head = link.RequestHead()
        self.is_closed = False

    async def exchange(
        self, name: str, head: link.RequestHead, body: Body, timeout_ns: int, cause: object
    ) -> Component:
        del name, body, timeout_ns, cause
        self.head = head
        return self

    def request(
        self,
        name: str,
        head: link.RequestHead,
        body: Body,
        timeout_ns: int,
        sent: Any,
        cause: object,
    ) -> Leave:
        del name, head, body, timeout_ns, cause
        sent(self)
        return self.leave

    def when_begun(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    async def begin(self) -> Beginning:
        return self.beginning()

    def beginning(self) -> Beginning:
        return Beginning(self._head, self._body)

    def leave(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.leave()


async def ask(component: Any, request: Request, prefix: bytes = b"") -> Response:
    """Return what a request gets whose body may come later."""
    response, _ = await components.answer(component, "app", prefix, request, SECOND_NS)
    assert component.is_closed
    return response


async def post(component: Any, request: Request) -> components.Answer | Exception:
    """Return what a request gets that is all there."""
    answered: asyncio.Future[components.Answer | Exception] = asyncio.Future()
    components.post(component, "app", b"", request, SECOND_NS, answered.set_result)
    return await answered


async def test_request_that_is_all_there_gets_the_same() -> None:
    """Response or error; after an error nothing goes on."""
    request = Request(b"GET", b"/", [(b"host", b"localhost")])
    answer = await post(Component(200, [("x-a", b"b")], b"hello"), request)
    assert isinstance(answer, tuple)
    assert (answer[0].status, answer[0].headers, answer[0].body) == (
        200,
        [(b"x-a", b"b")],
        b"hello",
    )
    broken = Component(200, [("x-a", b"b\r\nx-b: c")])
    assert isinstance(await post(broken, request), ActorTrapped)
    assert broken.is_closed


async def told(
    *headers: tuple[bytes, bytes], target: bytes = b"/", prefix: bytes = b"", scheme: str = "http"
) -> Any:
    """Return the head that a component gets of a request."""
    component = Component(200, [])
    request = Request(b"GET", target, [(b"host", b"app.localhost:8080"), *headers])
    request.peer, request.scheme = "192.0.2.1:5000", scheme
    await ask(component, request, prefix)
    return component.head


async def test_headers_of_the_request_are_passed_on() -> None:
    """Range, cookies and all, but for those of the connection and of a proxy that there is not."""
    head = await told(
        (b"range", b"bytes=0-9"),
        (b"cookie", b"a=b"),
        (b"cookie", b"c=d"),
        (b"authorization", b"Bearer x"),
        (b"x-odd", b"\xff"),
        (b"connection", b"keep-alive, X-Hop"),
        (b"x-hop", b"1"),
        (b"connection", b"x-other"),
        (b"x-other", b"2"),
        (b"te", b"trailers"),
        (b"upgrade", b"websocket"),
        (b"transfer-encoding", b"chunked"),
        (b"expect", b"100-continue"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-forwarded-prefix", b"/evil"),
    )
    assert [(each.name, each.value) for each in head.headers] == [
        ("range", b"bytes=0-9"),
        ("cookie", b"a=b"),
        ("cookie", b"c=d"),
        ("authorization", b"Bearer x"),
        ("x-odd", b"\xff"),
        ("x-forwarded-host", b"app.localhost:8080"),
        ("x-forwarded-proto", b"http"),
        ("x-forwarded-for", b"192.0.2.1"),
    ]
    assert (head.method, head.scheme, head.authority) == ("GET", "http", "app.localhost:8080")


async def test_request_over_tls_is_one_of_https() -> None:
    """So that the links which a component makes are too, and its cookies secure."""
    head = await told(scheme="https")
    assert head.scheme == "https"
    assert ("x-forwarded-proto", b"https") in [(each.name, each.value) for each in head.headers]


async def test_request_by_the_unix_socket_has_no_address() -> None:
    """There is none, and an application would have to parse a word."""
    component = Component(200, [])
    request = Request(b"GET", b"/", [(b"host", b"app.localhost:8080")])
    request.peer, request.is_local = "unix:", True
    await ask(component, request, b"")
    assert "x-forwarded-for" not in [each.name for each in component.head.headers]


@pytest.mark.parametrize(
    ("target", "prefix", "path"),
    [
        (b"/", b"", "/"),
        (b"/a%2fb//c?d=e?f", b"", "/a%2fb//c?d=e?f"),
        (b"/apps/app", b"/apps/app", "/"),
        (b"/apps/app?q", b"/apps/app", "/?q"),
        (b"/apps/app/x/../y", b"/apps/app", "/x/../y"),
    ],
)
async def test_path_is_passed_on_as_it_was_sent(target: bytes, prefix: bytes, path: str) -> None:
    """Without what the node calls the application, which a header tells."""
    head = await told(target=target, prefix=prefix)
    assert head.path == path
    prefixes = [each.value for each in head.headers if each.name == "x-forwarded-prefix"]
    assert prefixes == ([prefix] if prefix else [])


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (101, []),
        (99, []),
        (600, []),
        (200, [("x-a", b"b\r\nx-c: d")]),
        (200, [("x-a", b"b\x00")]),
        (200, [("x a", b"b")]),
        (200, [("", b"b")]),
        (200, [("x-a\n", b"b")]),
        (200, [("content-length", b"+5")]),
        (200, [("content-length", b"4")]),
        (200, [("x-a", b"b" * components.HEADERS_BYTES)]),
    ],
)
async def test_response_that_is_none_is_the_applications_fault(
    status: int, headers: list[tuple[str, bytes]]
) -> None:
    """Nothing of it reaches the client."""
    with pytest.raises(ActorTrapped, match="the application answered with"):
        await ask(Component(status, headers, b"hello"), Request(b"GET", b"/", []))


async def test_response_is_passed_on() -> None:
    """With its headers, but for those of the connection; its length is what it has."""
    component = Component(
        299,
        [
            ("content-length", b"5"),
            ("set-cookie", b"a"),
            ("set-cookie", b"b"),
            ("connection", b"close"),
            ("transfer-encoding", b"chunked"),
        ],
        b"hello",
    )
    response = await ask(component, Request(b"GET", b"/", []))
    assert (response.status, response.body, response.length) == (299, b"hello", None)
    assert response.headers == [(b"set-cookie", b"a"), (b"set-cookie", b"b")]


async def test_head_keeps_the_length_that_a_body_would_have() -> None:
    """As the component tells it."""
    component = Component(200, [("content-length", b"500")])
    response = await ask(component, Request(b"HEAD", b"/", []))
    assert response.length == 500


async def test_date_of_the_component_is_not_told_beside_the_nodes() -> None:
    """A response has one."""
    component = Component(200, [("Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), ("x-a", b"1")])
    response = await ask(component, Request(b"GET", b"/", [(b"host", b"app.localhost")]))
    assert response.headers == [(b"x-a", b"1")]
