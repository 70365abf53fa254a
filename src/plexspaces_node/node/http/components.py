"""Requests that a component of wasi:http answers itself: heads and bodies on their way through.

The headers of a connection stay at the node. What a component answers is hostile until checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from time import perf_counter_ns
from typing import TypeAlias

from plexspaces_node.errors import ActorTrapped, PlexSpacesError
from plexspaces_node.info import MessageTimings
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import Body
from plexspaces_node.node.access.gate import is_token
from plexspaces_node.node.access.identity import Kind
from plexspaces_node.node.applications.message_times import timings_of
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.cluster.caller import HEADERS
from plexspaces_node.node.http.message import Headers, Request, Response
from plexspaces_node.node.http.writer import SHORT_BYTES, has_body
from plexspaces_node.node.machines.exchanges import Beginning, Exchange
from plexspaces_node.node.outgoing.headers import OF_A_CONNECTION, named_by_connection
from plexspaces_node.tasks import Leave
from plexspaces_node.trace_context import TraceContext

Answer: TypeAlias = tuple[Response, MessageTimings]
"""A response, and how long it took."""

Done: TypeAlias = Callable[[Answer | Exception], None]

HEADERS_BYTES = 64 * 1024
"""The most that all headers of a response have together."""

SANDBOX = (b"content-security-policy", b"sandbox allow-scripts allow-forms allow-popups")
"""For what lies below the paths of the node: a page of an application must not have the rights of
the node's own pages, which are of the same origin."""

TRACE_RESPONSE = b"traceresponse"
"""The header that names the trace of a request, as W3C proposes it."""

MOST_HEADERS = 256
"""The most headers of a response."""

OF_CONNECTION = OF_A_CONNECTION | {b"expect"}
"""What is of one connection alone."""

_DROPPED = (
    OF_CONNECTION
    | HEADERS
    | {
        b"host",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
    }
)
_OF_ORIGIN = frozenset(
    {
        b"clear-site-data",
        b"service-worker-allowed",
        b"set-cookie",
        b"strict-transport-security",
    }
)
"""What a response says for all of its origin: below the paths of the node that is the node, with
every other application."""

# The node tells the date itself, and a response has one.
_DROPPED_OF_RESPONSE = OF_CONNECTION | HEADERS | {b"date"}
_DROPPED_BELOW_APPS = _DROPPED_OF_RESPONSE | _OF_ORIGIN
_FIRST_STATUS, _LAST_STATUS = 200, 599
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+\Z")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_LENGTH = re.compile(rb"\d{1,18}\Z")


def body_limit(request: Request) -> int:
    """Return how long the body of a request may be that is collected, -1 for one that is not."""
    if request.header(b"transfer-encoding") is not None:
        return -1
    length = request.header(b"content-length")
    return -1 if length is not None and int(length) > SHORT_BYTES else SHORT_BYTES


def post(  # noqa: PLR0913 - a request, and who waits for its response
    applications: Applications,
    name: str,
    prefix: bytes,
    request: Request,
    timeout_ns: int,
    done: Done,
    *,
    cause: TraceContext | None = None,
) -> Leave:
    """Pass a request below `prefix`, whose body has come, to a component.

    `done` is called with the response, once it is complete or has begun, and how long that took, or
    with an error. Never before this returns, nor after the returned function was called. That ends
    also a response of which nothing was taken yet. Raises what `Applications.request` raises.
    """
    begin_ns = perf_counter_ns()

    def sent(exchange: Exchange | PlexSpacesError) -> None:
        if isinstance(exchange, PlexSpacesError):
            done(exchange)
        else:
            exchange.when_begun(partial(begun, exchange))

    def begun(exchange: Exchange) -> None:
        try:
            beginning = exchange.beginning()
            answer: Answer | Exception = _answer_of(exchange, beginning, request, prefix, begin_ns)
        except Exception as error:  # noqa: BLE001 - the boundary: whoever waits, not the agent
            exchange.leave()
            answer = error
        done(answer)

    head, body = _head_of(request, prefix, more=False), request.body
    # The application counts it from here on.
    request.release()
    return applications.request(name, head, body, timeout_ns, sent, cause)


async def answer(  # noqa: PLR0913 - as `post`
    applications: Applications,
    name: str,
    prefix: bytes,
    request: Request,
    timeout_ns: int,
    *,
    cause: TraceContext | None = None,
) -> Answer:
    """Do what `post` does for a request whose body may come later; raises the errors."""
    begin_ns = perf_counter_ns()
    first, stream = request.body, request.stream
    if stream is not None:
        first = stream.taken(link.WINDOW_BYTES)
    more = stream is not None and not stream.is_over
    head = _head_of(request, prefix, more)
    exchange = await applications.exchange(name, head, first, timeout_ns, cause)
    is_whole = True
    try:
        # As in `post`.
        request.release()
        if more and stream is not None:
            exchange.upload(aiter(stream))
        beginning = await exchange.begin()
        answered = _answer_of(exchange, beginning, request, prefix, begin_ns)
        is_whole = not answered[0].is_stream
        return answered
    finally:
        if is_whole:
            await exchange.aclose()


def _answer_of(
    exchange: Exchange, beginning: Beginning, request: Request, prefix: bytes, begin_ns: int
) -> Answer:
    """Return a response that has begun; its times, if it is a stream, are those until then."""
    head, body = beginning
    timings = timings_of(exchange.times, perf_counter_ns() - begin_ns, exchange.waited_ns)
    dropped = _DROPPED_BELOW_APPS if prefix else _DROPPED_OF_RESPONSE
    response = _response_of(head, exchange if body is None else body, request, dropped)
    span = exchange.span
    if span is not None and span.tree is not None:
        told = (name for name, _ in response.headers)
        if TRACE_RESPONSE not in told:
            response.headers.append((TRACE_RESPONSE, span.traceparent.encode()))
    return response, timings


def _head_of(request: Request, prefix: bytes, more: bool) -> link.RequestHead:
    host = request.header(b"host") or b"localhost"
    dropped = _DROPPED
    if prefix:
        # Those of everything that this host serves, at its other ports too.
        dropped = dropped | {b"cookie"}
    if request.header(b"connection") is not None:
        dropped = dropped | named_by_connection(request.headers)
    if request.identity.kind is Kind.TOKEN or is_token(request.header(b"authorization")):
        # It is for the node: with it an application could do what its sender may. Also one that
        # this node does not know, for another may.
        dropped = dropped | {b"authorization"}
    path = request.path[len(prefix) :] or b"/"
    target = path + b"?" + request.query if request.query else path
    head = link.RequestHead(
        method=request.method.decode("latin-1"),
        scheme=request.scheme,
        authority=host.decode("latin-1"),
        path=target.decode("latin-1"),
        more=more,
    )
    # A third less than from a list.
    add = head.headers.add
    for name, value in request.headers:
        if name not in dropped:
            add(name=name.decode("latin-1"), value=value)
    add(name="x-forwarded-host", value=host)
    add(name="x-forwarded-proto", value=request.scheme.encode())
    if request.peer and not request.is_local:
        add(name="x-forwarded-for", value=request.peer.rpartition(":")[0].encode())
    if prefix:
        add(name="x-forwarded-prefix", value=prefix)
    return head


def _response_of(
    head: link.ResponseHead, body: Body | Exchange, request: Request, dropped: Collection[bytes]
) -> Response:
    if not _FIRST_STATUS <= head.status <= _LAST_STATUS:
        raise _malformed(f"a response with the status {head.status}")
    if len(head.headers) > MOST_HEADERS:
        raise _malformed(f"a response with {len(head.headers)} headers")
    headers: Headers = []
    length: int | None = None
    size = 0
    for each in head.headers:
        name, value = each.name.encode().lower(), each.value
        size += len(name) + len(value)
        if size > HEADERS_BYTES or not _NAME.match(name) or not _VALUE.match(value):
            raise _malformed("a response with a malformed header, or too many")
        if name == b"content-length":
            if not _LENGTH.match(value):
                raise _malformed("a response with a malformed content-length")
            length = int(value)
        elif name not in dropped:
            headers.append((name, value))
    if not isinstance(body, Exchange) and request.method != b"HEAD" and has_body(head.status):
        if length is not None and length != len(body):
            raise _malformed(f"a body of {len(body)} bytes where {length} were told")
        length = None
    return Response(head.status, headers, body, length=length)


def _malformed(what: str) -> ActorTrapped:
    return ActorTrapped(f"the application answered with {what}", code="http-protocol-error")
