"""The control API as JSON below `/v1/`: the methods of the gRPC services, by their own names."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import parse_qs, unquote

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.invoke import Request as Invocation
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.info import NodeInfo
from plexspaces_node.model import MIB
from plexspaces_node.node.access.gate import Call, Gate
from plexspaces_node.node.access.identity import Identity
from plexspaces_node.node.access.policy import METRICS, Target
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.http.message import Headers, Request, Response
from plexspaces_node.node.http.openapi import document, page
from plexspaces_node.node.http.pages import Pages
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.routes import ROUTES, SERVICE, Route
from plexspaces_node.node.http.streams import Chunks, Events, Lines
from plexspaces_node.node.http.transcode import from_json, line, to_json

BODY_BYTES = 1 * MIB
"""The longest JSON of a request; an environment has 128 KiB."""

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_HEX = re.compile(r"[0-9a-fA-F]+\Z")
_JSON: Headers = [(b"content-type", b"application/json")]
_LINES: Headers = [(b"content-type", b"application/x-ndjson")]
_EVENTS: Headers = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # Else a proxy may keep events until it has many.
    (b"x-accel-buffering", b"no"),
]
_BYTES: Headers = [(b"content-type", b"application/octet-stream")]
_HTML: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
]
_P = TypeVar("_P", bound=Chunks)
_UPLOADS = "/v1/artifacts/"
_INVOKE = next(route for route in ROUTES if route.rpc == "Invoke")
_BEFORE: Mapping[str, tuple[str, Any]] = {
    "Logs": ("Inspect", pb.InspectRequest),
    "VmConsole": ("InspectVm", pb.InspectVmRequest),
}
"""What tells whether there is what a stream is to be of."""


class Scrapes(Protocol):
    """Has the metrics of the node."""

    async def answer(self, viewer: Identity, *, accept: str, encodings: str) -> Scraped:
        """Return those that somebody may see; the headers are of the request."""


class Scraped(Protocol):
    """What a scrape gets."""

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """What its body is."""

    @property
    def body(self) -> bytes:
        """The text of the metrics."""


class Control:
    """Answers requests below `/v1/`, those for the API's description, and for the dashboard."""

    def __init__(  # noqa: PLR0913 - what it answers from
        self,
        servicers: Mapping[str, Any],
        gate: Gate,
        artifacts: ArtifactStore,
        info: NodeInfo,
        scrapes: Scrapes,
        pages: Pages,
    ) -> None:
        """`servicers` has what serves each gRPC service, by its full name."""
        self._pages = pages
        self._servicers = servicers
        self._gate = gate
        self._artifacts = artifacts
        self._scrapes = scrapes
        self._artifact_bytes = info.artifact_limit_bytes
        # In base64, and with what is around it.
        self._invoke_bytes = info.message_limit_bytes * 4 // 3 + BODY_BYTES

    def __repr__(self) -> str:
        return f"<Control {len(ROUTES)} routes>"

    def invoked_by(self, request: Request) -> str | None:
        """Return the application that a request sends a message to, as it is written; or None."""
        found = _INVOKE.pattern.match(request.path.decode("latin-1"))
        is_message = found is not None and request.method.decode("latin-1") == _INVOKE.method
        return unquote(found["name"]) if found is not None and is_message else None

    def body_limit(self, request: Request) -> int:
        """Return how long a body may be, -1 for an upload.

        Raises `HttpFault` for a longer one: if nobody takes it, because of its path or method.
        """
        if request.method == b"PUT" and request.path.startswith(_UPLOADS.encode()):
            return -1
        limit = self._invoke_bytes if request.path.endswith(b"/invoke") else BODY_BYTES
        if (length := int(request.header(b"content-length") or 0)) > limit:
            _find(request.method.decode("latin-1"), request.path.decode("latin-1"))
            raise HttpFault(413, f"The body has {length} bytes; the limit is {limit}")
        return limit

    def asked(self, request: Request) -> tuple[str, str]:
        """Return what a request wants done, as the policy names it, and on what; for the log."""
        method, path = request.method.decode("latin-1"), request.path.decode("latin-1")
        try:
            route, found = _find(method, path)
        except HttpFault:
            return f"HTTP/{method}", path
        return route.verb, next(iter(found.values()), "")

    def check_sender(self, request: Request) -> None:
        """Raise what the gate does for nobody known, before the body of a request is read.

        Raises `HttpFault` for a path or a method that there is not.
        """
        route, found = _find(request.method.decode("latin-1"), request.path.decode("latin-1"))
        rule, identity = self._gate.rule(route.verb), request.identity
        self._gate.check_known(rule, identity)
        if rule.public:
            target = self._gate.target_of(identity.full(found["name"]))
            self._gate.check(route.verb, identity, target)

    async def answer(self, request: Request) -> Response:
        """Answer a request; raises `HttpFault`, and what the gate and the service do."""
        method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
        path = request.path.decode("latin-1")
        if method == "GET" and path == "/openapi.json":
            return Response(200, list(_JSON), line(document()))
        if method == "GET" and path == "/api":
            return Response(200, list(_HTML), page().encode())
        if method == "GET" and path == "/metrics":
            return await self._metrics(request)
        if (found := self._pages.answer(request)) is not None:
            return found
        route, parameters = _find(method, path)
        rule = self._gate.rule(route.verb)
        self._gate.check_known(rule, request.identity)
        if route.rpc == "UploadArtifact":
            members = {**_queried(route, request), **parameters}
            asked = from_json(pb.UploadArtifactRequest.Header, b"", members)
            with self._call(route, asked, request) as call:
                upload = partial(self._upload, parameters["digest"])
                perform = self._gate.recorder.recorded(route.verb, rule, upload)
                return cast(Response, await perform(request, call))
        if request.body and route.method != "POST":
            raise InvalidArgument(f"{route.method} {path} takes no body")
        if route.has_body and not request.body:
            raise InvalidArgument("the body is empty, and must be a JSON object")
        kind = GetMessageClass(route.descriptor.input_type)
        message = from_json(kind, request.body, {**_queried(route, request), **parameters})
        request.body = b""
        with self._call(route, message, request) as call:
            return await self._answer(route, message, request, call)

    async def _metrics(self, request: Request) -> Response:
        self._gate.check(METRICS, request.identity, Target())
        accept = (request.header(b"accept") or b"").decode("latin-1")
        encodings = (request.header(b"accept-encoding") or b"").decode("latin-1")
        found = await self._scrapes.answer(request.identity, accept=accept, encodings=encodings)
        headers = [(name.lower().encode(), value.encode()) for name, value in found.headers]
        return Response(200, headers, found.body)

    @contextmanager
    def _call(self, route: Route, message: Message, request: Request) -> Iterator[Call]:
        """Let a call in; raises what the gate does."""
        gate, identity = self._gate, request.identity
        target = gate.target(gate.rule(route.verb), identity, message)
        gate.check(route.verb, identity, target)
        ends: list[Callable[[Any], None]] = []
        call = Call(
            *(identity, target),
            peer=request.peer,
            left_s=lambda: None,
            done=ends.append,
            traceparent=(request.header(b"traceparent") or b"").decode("latin-1"),
        )
        try:
            yield call
        finally:
            for end in ends:
                end(call)

    async def _answer(
        self, route: Route, message: Message, request: Request, call: Call
    ) -> Response:
        serve = self._method(route)
        if route.rpc == "Invoke":
            # The application counts it from here on.
            request.release()
            return await self._invoke(serve, cast(pb.InvokeRequest, message), call)
        if route.rpc == "Deploy":
            return await self._deploy(route, serve(message, call), request)
        if route.descriptor.server_streaming:
            return await self._stream(route, message, call, request)
        result = await serve(message, call)
        if route.status == 204:
            return Response(204, [])
        return _told(route, result)

    def _method(self, route: Route) -> Any:
        """Return what serves a route."""
        method = getattr(self._servicers[route.service.full_name], route.rpc)
        return self._gate.recorder.recorded(route.verb, self._gate.rule(route.verb), method)

    async def _deploy(self, route: Route, events: Any, request: Request) -> Response:
        accepted = request.header(b"accept") or b""
        if b"application/x-ndjson" in accepted or b"text/event-stream" in accepted:
            return await _streamed(events, request, is_followed=False)
        last = None
        async for event in events:
            last = event
        return _told(route, last)

    async def _stream(self, route: Route, message: Any, call: Call, request: Request) -> Response:
        servicer = self._servicers[route.service.full_name]
        if route.rpc in _BEFORE:
            # Nobody of that name is told before the stream begins, which may have nothing yet.
            look, kind = _BEFORE[route.rpc]
            await getattr(servicer, look)(kind(name=message.name), call)
        replies = self._method(route)(message, call)
        # One that cannot be asked to end goes on.
        is_followed = getattr(message, "follow", True)
        if route.rpc == "VmConsole":
            chunks = await _begun(Chunks(replies), is_followed=is_followed)
            return Response(200, list(_BYTES), chunks)
        return await _streamed(replies, request, is_followed=is_followed)

    async def _invoke(self, serve: Any, message: pb.InvokeRequest, call: Call) -> Response:
        asked = Invocation(message.name, message.type, message.payload, message.timeout_ms)
        result = to_json(pb.InvokeResponse.FromString(await serve(asked, call)))
        return Response(200, list(_JSON), line(result))

    async def _upload(self, digest: str, request: Request, call: Call) -> Response:
        length = request.header(b"content-length")
        if request.stream is None or length is None:
            raise HttpFault(
                411, "An upload needs a Content-Length header", hint="curl -T app.wasm URL"
            )
        pieces, size, limit = request.stream.__aiter__(), int(length), self._artifact_bytes
        if size > limit:
            raise HttpFault(413, f"The artifact has {size} bytes, and the limit is {limit}")
        if _DIGEST.match(digest):
            result = await self._receive(digest, size, pieces, call)
            return Response(201, list(_JSON), line(to_json(result)))
        if _HEX.match(digest):
            raise InvalidArgument(
                f"{digest!r} is no digest, which has 64 of the digits 0-9 and a-f",
                hint="sha256sum app.wasm; or upload it as /v1/artifacts/app.wasm",
            )
        self._servicers[SERVICE.full_name].check_upload(call.tenant, size)
        async with self._artifacts.receive_unnamed(call.tenant, size, owner=request.peer) as upload:
            async for piece in upload.in_time(pieces):
                await upload.write(piece)
        call.object = upload.digest
        received = pb.UploadArtifactResponse(digest=upload.digest, size_bytes=size)
        return Response(201, list(_JSON), line(to_json(received)))

    async def _receive(
        self, digest: str, size: int, pieces: AsyncIterator[bytes], call: Call
    ) -> Message:
        async def parts() -> AsyncGenerator[pb.UploadArtifactRequest, None]:
            header = pb.UploadArtifactRequest.Header(
                digest=digest, size_bytes=size, tenant=call.tenant
            )
            yield pb.UploadArtifactRequest(header=header)
            async for piece in pieces:
                yield pb.UploadArtifactRequest(chunk=piece)

        servicer = self._servicers[SERVICE.full_name]
        return cast(Message, await servicer.UploadArtifact(parts(), call))


def _find(method: str, path: str) -> tuple[Route, dict[str, str]]:
    allowed = []
    for route in ROUTES:
        if match := route.pattern.match(path):
            if route.method == method:
                found = match.groupdict()
                return route, {route.parameters[key]: unquote(found[key]) for key in found}
            allowed.append(route.method)
    if allowed:
        raise HttpFault(
            405,
            f"{method} is not allowed at {path}",
            headers=[(b"allow", ", ".join(allowed).encode())],
        )
    hint = "GET /openapi.json lists all paths"
    if method == "PUT":
        hint = f"curl -T app.wasm http://HOST{_UPLOADS} (with the slash at the end)"
    raise HttpFault(404, f"There is nothing at {path}", hint=hint)


def _queried(route: Route, request: Request) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, values in parse_qs(request.query.decode("latin-1"), keep_blank_values=True).items():
        if key not in route.query:
            raise InvalidArgument(
                f"unknown parameter {key!r}",
                hint=f"choose from {', '.join(route.query)}" if route.query else None,
            )
        members[key] = values[-1]
        field = route.descriptor.input_type.fields_by_name.get(key)
        if field is not None and field.type == FieldDescriptor.TYPE_BOOL:
            # As curl is used: `?force` is `?force=true`.
            members[key] = {"true": True, "false": False, "": True}.get(values[-1], values[-1])
    return members


def _told(route: Route, result: Any) -> Response:
    message = getattr(result, route.answer) if route.answer else result
    return Response(route.status, list(_JSON), line(to_json(message)))


async def _streamed(
    replies: AsyncGenerator[Any, None], request: Request, *, is_followed: bool
) -> Response:
    """Return replies as events, if the request asks for those, or as lines."""
    if b"text/event-stream" in (request.header(b"accept") or b""):
        return Response(200, list(_EVENTS), await _begun(Events(replies), is_followed=is_followed))
    return Response(200, list(_LINES), await _begun(Lines(replies), is_followed=is_followed))


async def _begun(pieces: _P, *, is_followed: bool) -> _P:
    """Return a stream whose beginning did not fail; one that is followed may have none yet."""
    try:
        await (pieces.begin_soon() if is_followed else pieces.begin())
    except BaseException:
        await pieces.aclose()
        raise
    return pieces
