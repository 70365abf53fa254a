"""The control API as JSON below `/v1/`: the methods of the gRPC service, by its own names."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, unquote

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.invoke import Request as Invocation
from plexspaces_node.api.invoke import encode_request
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.info import NodeInfo
from plexspaces_node.model import MIB
from plexspaces_node.node.api.service import ApplicationService
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.http.message import Headers, Request, Response
from plexspaces_node.node.http.openapi import document, page
from plexspaces_node.node.http.problem import HttpFault
from plexspaces_node.node.http.routes import ROUTES, Route
from plexspaces_node.node.http.streams import Chunks, Lines
from plexspaces_node.node.http.transcode import from_json, line, to_json

BODY_BYTES = 1 * MIB
"""The longest JSON of a request; an environment has 128 KiB."""

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_HEX = re.compile(r"[0-9a-fA-F]+\Z")
_JSON: Headers = [(b"content-type", b"application/json")]
_LINES: Headers = [(b"content-type", b"application/x-ndjson")]
_BYTES: Headers = [(b"content-type", b"application/octet-stream")]
_HTML: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"x-frame-options", b"DENY"),
]
_P = TypeVar("_P", bound=Chunks)
_UPLOADS = "/v1/artifacts/"


class Caller:
    """Stands in for the context of a gRPC call."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._callbacks: list[Callable[[Any], None]] = []

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> None:
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def done(self) -> None:
        """Call what waits for the end of the call."""
        for callback in self._callbacks:
            callback(self)


class Control:
    """Answers requests below `/v1/` and those for the API's description."""

    def __init__(
        self, service: ApplicationService, artifacts: ArtifactStore, info: NodeInfo
    ) -> None:
        self._service: Any = service
        self._artifacts = artifacts
        self._artifact_bytes = info.artifact_limit_bytes
        # In base64, and with what is around it.
        self._invoke_bytes = info.message_limit_bytes * 4 // 3 + BODY_BYTES

    def __repr__(self) -> str:
        return f"<Control {len(ROUTES)} routes>"

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

    async def answer(self, request: Request) -> Response:
        """Answer a request; raises `HttpFault`, and what the service does."""
        method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
        path = request.path.decode("latin-1")
        if method == "GET" and path == "/openapi.json":
            return Response(200, list(_JSON), line(document()))
        if method == "GET" and path == "/":
            return Response(200, list(_HTML), page().encode())
        route, parameters = _find(method, path)
        if route.rpc == "UploadArtifact":
            return await self._upload(request, parameters["digest"])
        if request.body and route.method != "POST":
            raise InvalidArgument(f"{route.method} {path} takes no body")
        if route.has_body and not request.body:
            raise InvalidArgument("the body is empty, and must be a JSON object")
        kind = GetMessageClass(route.descriptor.input_type)
        message = from_json(kind, request.body, {**_queried(route, request), **parameters})
        request.body = b""
        return await self._call(route, message, request)

    async def _call(self, route: Route, message: Message, request: Request) -> Response:
        caller = Caller(request.peer)
        if route.rpc == "Invoke":
            # The application counts it from here on.
            request.release()
            return await self._invoke(cast(pb.InvokeRequest, message), caller)
        if route.rpc == "Deploy":
            return await self._deploy(route, message, request, caller)
        if route.rpc in ("Logs", "VmConsole"):
            return await self._stream(route, message, caller)
        result = await getattr(self._service, route.rpc)(message, caller)
        if route.status == 204:
            return Response(204, [])
        return _told(route, result)

    async def _deploy(
        self, route: Route, message: Message, request: Request, caller: Caller
    ) -> Response:
        events = self._service.Deploy(message, caller)
        if b"application/x-ndjson" in (request.header(b"accept") or b""):
            return Response(200, list(_LINES), await _begun(Lines(events), is_followed=False))
        last = None
        async for event in events:
            last = event
        return _told(route, last)

    async def _stream(self, route: Route, message: Any, caller: Caller) -> Response:
        if route.rpc == "Logs":
            # Nobody of that name is told before the stream begins, which may have nothing yet.
            await self._service.Inspect(pb.InspectRequest(name=message.name), caller)
            lines = Lines(self._service.Logs(message, caller))
            return Response(200, list(_LINES), await _begun(lines, is_followed=message.follow))
        await self._service.InspectVm(pb.InspectVmRequest(name=message.name), caller)
        chunks = Chunks(self._service.VmConsole(message, caller))
        return Response(200, list(_BYTES), await _begun(chunks, is_followed=message.follow))

    async def _invoke(self, message: pb.InvokeRequest, caller: Caller) -> Response:
        asked = Invocation(message.name, message.type, message.payload, message.timeout_ms)
        try:
            raw = await self._service.Invoke(encode_request(asked), caller)
            result = to_json(pb.InvokeResponse.FromString(raw))
        finally:
            caller.done()
        return Response(200, list(_JSON), line(result))

    async def _upload(self, request: Request, digest: str) -> Response:
        length = request.header(b"content-length")
        if request.stream is None or length is None:
            raise HttpFault(
                411, "An upload needs a Content-Length header", hint="curl -T app.wasm URL"
            )
        pieces, size, limit = request.stream.__aiter__(), int(length), self._artifact_bytes
        if size > limit:
            raise HttpFault(413, f"The artifact has {size} bytes, and the limit is {limit}")
        if _DIGEST.match(digest):
            result = await self._receive(digest, size, pieces, Caller(request.peer))
            return Response(201, list(_JSON), line(to_json(result)))
        if _HEX.match(digest):
            raise InvalidArgument(
                f"{digest!r} is no digest, which has 64 of the digits 0-9 and a-f",
                hint="sha256sum app.wasm; or upload it as /v1/artifacts/app.wasm",
            )
        async with self._artifacts.receive_unnamed(size, owner=request.peer) as upload:
            async for piece in upload.in_time(pieces):
                await upload.write(piece)
        received = pb.UploadArtifactResponse(digest=upload.digest, size_bytes=size)
        return Response(201, list(_JSON), line(to_json(received)))

    async def _receive(
        self, digest: str, size: int, pieces: AsyncIterator[bytes], caller: Caller
    ) -> Message:
        async def parts() -> AsyncGenerator[pb.UploadArtifactRequest, None]:
            header = pb.UploadArtifactRequest.Header(digest=digest, size_bytes=size)
            yield pb.UploadArtifactRequest(header=header)
            async for piece in pieces:
                yield pb.UploadArtifactRequest(chunk=piece)

        return cast(Message, await self._service.UploadArtifact(parts(), caller))


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
        # As curl is used: `?force` is `?force=true`.
        members[key] = {"true": True, "false": False, "": True}.get(values[-1], values[-1])
    return members


def _told(route: Route, result: Any) -> Response:
    message = getattr(result, route.answer) if route.answer else result
    return Response(route.status, list(_JSON), line(to_json(message)))


async def _begun(pieces: _P, *, is_followed: bool) -> _P:
    """Return a stream whose beginning did not fail; one that is followed may have none yet."""
    try:
        await (pieces.begin_soon() if is_followed else pieces.begin())
    except BaseException:
        await pieces.aclose()
        raise
    return pieces
