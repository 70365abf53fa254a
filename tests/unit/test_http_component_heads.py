"""Heads of requests to components of wasi:http and of their responses, which are hostile."""

from __future__ import annotations

from typing import Any

import pytest

from plexspaces_node.errors import ActorTrapped
from plexspaces_node.link import frames as link
from plexspaces_node.node.access.identity import NOBODY, Identity, Kind
from plexspaces_node.node.http import components
from plexspaces_node.node.http.components import HEADERS_BYTES, MOST_HEADERS
from plexspaces_node.node.http.message import Headers, Request, Response
from plexspaces_node.node.machines.exchanges import Beginning
from plexspaces_node.node.telemetry.span import Kind as SpanKind
from plexspaces_node.node.telemetry.span import Span

BELOW = b"/apps/x"


class Component:
    """Answers one request with a head, as an application does that has it.

    Attributes:
        asked: the head of the request.
        span: how it is measured.
    """

    span: Span | None = None
    waited_ns = 0
    times = link.Reply()

    def __init__(
        self, status: int = 200, headers: Headers | None = None, body: bytes = b""
    ) -> None:
        self.asked = link.RequestHead()
        sent = [link.Header(name=name.decode(), value=value) for name, value in headers or []]
        self._answer = Beginning(link.ResponseHead(status=status, headers=sent), body)
        self.is_closed = False

    async def exchange(
        self, name: str, head: link.RequestHead, body: bytes, timeout: int, cause: object
    ) -> Any:
        self.asked = head
        return self

    async def begin(self) -> Beginning:
        return self._answer

    async def aclose(self) -> None:
        self.is_closed = True

    async def get(
        self,
        *headers: tuple[bytes, bytes],
        prefix: bytes = b"",
        method: bytes = b"GET",
        identity: Identity = NOBODY,
    ) -> Response:
        """Send a request and return the response, when all is closed."""
        request = Request(method, BELOW + b"/a?b", [(b"host", b"localhost"), *headers])
        request.identity = identity
        applications: Any = self
        try:
            return (await components.answer(applications, "x", prefix, request, 1))[0]
        finally:
            assert self.is_closed


@pytest.mark.parametrize("name", [b"set-cookie", b"Clear-Site-Data", b"service-worker-allowed"])
async def test_response_below_the_nodes_paths_says_nothing_for_all_of_the_node(name: bytes) -> None:
    """Its origin is that of every other application; at a name of its own it may."""
    component = Component(headers=[(name, b"x"), (b"etag", b"y")])
    assert (await component.get(prefix=BELOW)).headers == [(b"etag", b"y")]
    assert (await component.get()).headers == [(name.lower(), b"x"), (b"etag", b"y")]


async def test_response_names_its_trace_unless_the_component_has() -> None:
    """One of a request without a trace names none."""
    span = Span("x", SpanKind.MESSAGE, "GET /", 0, 0)
    component = Component()
    component.span = span
    assert (await component.get()).headers == []
    span.identify(is_sampled=True)
    assert (await component.get()).headers == [(b"traceresponse", span.traceparent.encode())]
    component = Component(headers=[(b"TraceResponse", b"own")])
    component.span = span
    assert (await component.get()).headers == [(b"traceresponse", b"own")]


async def test_component_below_the_nodes_paths_gets_no_cookies() -> None:
    """They belong to whatever else this host serves, at any port and path."""
    cookie = (b"cookie", b"session=secret")
    component = Component()
    await component.get(cookie, prefix=BELOW)
    assert "cookie" not in {each.name for each in component.asked.headers}
    await component.get(cookie)
    assert "cookie" in {each.name for each in component.asked.headers}


@pytest.mark.parametrize(
    ("authorization", "kind", "passed"),
    [
        (b"Bearer of-the-application", Kind.ANONYMOUS, True),
        (b"Basic dTpw", Kind.ANONYMOUS, True),
        (b"Basic dTpw", Kind.LOCAL, True),
        (b"Bearer of-the-application", Kind.CERTIFICATE, True),
        (b"Bearer x", Kind.TOKEN, False),
        (b"Bearer plx_of-another-node", Kind.ANONYMOUS, False),
        (b"bearer   PLX_of-another-node", Kind.LOCAL, False),
    ],
)
async def test_component_never_gets_a_token_of_a_node(
    authorization: bytes, kind: Kind, passed: bool
) -> None:
    """With it an application could do what its sender may; those of its own users it gets."""
    component = Component()
    who = Identity(kind, "ci", frozenset(), "shop")
    await component.get((b"authorization", authorization), identity=who)
    assert ("authorization" in {each.name for each in component.asked.headers}) is passed


async def test_client_cannot_say_that_it_is_another() -> None:
    """Headers of proxies are the node's own, whatever a client's `Connection` names."""
    component = Component()
    await component.get(
        (b"forwarded", b"for=1.2.3.4"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-host", b"evil.example"),
        (b"connection", b"x-forwarded-host, x-forwarded-prefix"),
        prefix=BELOW,
    )
    asked = [(each.name, each.value) for each in component.asked.headers]
    assert asked == [
        ("x-forwarded-host", b"localhost"),
        ("x-forwarded-proto", b"http"),
        ("x-forwarded-prefix", BELOW),
    ]
    assert component.asked.path == "/a?b"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (100, []),
        (101, []),
        (600, []),
        (0, []),
        (200, [(b"a", b"b\r\nset-cookie: c")]),
        (200, [(b"a", b"\0")]),
        (200, [(b"a\r\nb", b"c")]),
        (200, [(b"a b", b"c")]),
        (200, [(b"", b"c")]),
        (200, [("é".encode(), b"c")]),
        (200, [(b"content-length", b"1, 1")]),
        (200, [(b"content-length", b"+4")]),
        (200, [(b"content-length", b"5")]),
        (200, [(b"content-length", b"4"), (b"content-length", b"3")]),
        (200, [(b"a", b"b")] * (MOST_HEADERS + 1)),
        (200, [(b"a", bytes(b"b" * HEADERS_BYTES))]),
    ],
)
async def test_response_that_could_be_read_in_two_ways_is_a_failure(
    status: int, headers: Headers
) -> None:
    """Nothing of it reaches the client."""
    with pytest.raises(ActorTrapped, match="answered with") as caught:
        await Component(status, headers, b"body").get()
    assert caught.value.code == "http-protocol-error"


async def test_headers_of_the_connection_are_the_nodes() -> None:
    """A component neither frames its body nor ends the connection."""
    said: Headers = [
        (b"Transfer-Encoding", b"chunked"),
        (b"connection", b"upgrade"),
        (b"upgrade", b"x"),
        (b"trailer", b"x"),
        (b"content-length", b"4"),
    ]
    response = await Component(headers=said, body=b"body").get()
    assert (response.headers, response.length, response.body) == ([], None, b"body")
