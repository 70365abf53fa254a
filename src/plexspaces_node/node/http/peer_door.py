"""The door for other nodes: messages and requests that they pass on, and artifacts.

Whoever comes in has proved to be a node of the cluster, and is believed who the caller is. Whether
the caller may do it, this node decides again. Nothing is passed on from here: what is not on this
node is refused with 421, and the other node looks elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from plexspaces_node.errors import InvalidArgument, PermissionDenied
from plexspaces_node.info import MessageTimings
from plexspaces_node.model import check_full_name, full_name, split_name
from plexspaces_node.node.access.gate import Gate
from plexspaces_node.node.access.identity import Identity
from plexspaces_node.node.applications.elsewhere import Message
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.applications.outcome import Done
from plexspaces_node.node.cluster.caller import (
    CALLER,
    HOP,
    SENDER,
    TELL,
    TO,
    WAITING,
    parse_caller,
    parse_waiting,
)
from plexspaces_node.node.http.door import Door
from plexspaces_node.node.http.message import Headers, Request, Response, server_timing
from plexspaces_node.node.http.origin import Origins
from plexspaces_node.node.http.problem import HttpFault, not_here, of_exception
from plexspaces_node.tasks import Leave
from plexspaces_node.trace_context import TraceContext

ARTIFACTS = b"/peer/artifacts/"

_HOP, _CALLER, _TO = HOP.encode(), CALLER.encode(), TO.encode()
_SENDER, _WAITING, _TELL = SENDER.encode(), WAITING.encode(), TELL.encode()


class Artifacts(Protocol):
    """Gives artifacts to other nodes."""

    async def answer(self, tenant: str, digest: str) -> Response:
        """Return the response with an artifact; raises `NotFound`."""


class PeerDoor(Door):
    """Answers the requests of other nodes."""

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        applications: Applications,
        gate: Gate,
        artifacts: Artifacts,
        is_member: Callable[[str], bool],
        *,
        message_bytes: int,
        message_timeout_s: float,
        most_calls: int,
    ) -> None:
        """`is_member` returns whether a node, by the name in its certificate, may come in."""
        super().__init__(
            applications,
            _NoControl(),  # type: ignore[arg-type]
            _NoOrigins(),
            gate,
            message_bytes=message_bytes,
            message_timeout_s=message_timeout_s,
            most_calls=most_calls,
        )
        self._artifacts = artifacts
        self._is_member = is_member

    async def answer(self, request: Request) -> Response:
        if request.path.startswith(ARTIFACTS) and request.refusal is None:
            return await self._artifact(request)
        return await super().answer(request)

    async def _artifact(self, request: Request) -> Response:
        tenant, _, digest = request.path[len(ARTIFACTS) :].decode("latin-1").partition("/")
        try:
            return await self._artifacts.answer(tenant, digest)
        except Exception as error:  # noqa: BLE001 - the boundary
            return of_exception(error)

    def _application_of(self, request: Request) -> tuple[str | None, bytes]:
        if request.path.startswith(ARTIFACTS):
            return None, b""
        name, _, prefix = (request.header(_TO) or b"").partition(b" ")
        if not request.path.startswith(prefix):
            raise InvalidArgument("another node passes on a request that is not below its prefix")
        return name.decode("latin-1"), prefix

    def _enter(self, request: Request, named: str | None) -> str | None:
        if not self._is_member(request.certificate):
            raise PermissionDenied(
                f"{request.certificate!r} is no node of this cluster", hint="plexspaces nodes"
            )
        if request.header(_HOP) != b"1":
            raise InvalidArgument(f"a request of another node has the header {HOP}: 1")
        if named is None:
            return None
        name, of_tenant = _names_of(named)
        if not self._applications.messages.is_here(name):
            raise not_here(name)
        # Of its tenant, whoever calls.
        return super()._enter(request, of_tenant)

    def _identity_of(self, request: Request) -> Identity:
        text = request.header(_CALLER)
        if text is None:
            raise InvalidArgument(f"a request of another node has the header {CALLER}")
        caller, identity = parse_caller(text)
        request.peer, request.scheme = caller.peer, caller.scheme
        request.is_local = caller.is_local
        return identity

    def _post(  # noqa: PLR0913 - a message, and who waits for it
        self,
        name: str,
        msg_type: str,
        request: Request,
        timeout_ns: int,
        done: Done,
        cause: TraceContext | None,
    ) -> Leave:
        sender, waiting = request.header(_SENDER), request.header(_WAITING)
        message = Message(
            *(name, msg_type, request.body, timeout_ns),
            caller=request.identity,
            sender="" if sender is None else sender.decode("latin-1"),
            waiting=() if waiting is None else parse_waiting(waiting.decode("latin-1")),
            is_told=request.header(_TELL) is not None,
            cause=cause,
        )
        if message.sender:
            check_full_name(message.sender)
        return self._applications.receive(message, done)

    def _complete(self, response: Response, timings: MessageTimings, prefix: bytes) -> Response:
        # The rest adds the node that the client asked.
        response.headers.append(server_timing(timings))
        return response


@lru_cache(maxsize=1024)
def _names_of(told: str) -> tuple[str, str]:
    """Return an application's full name, and the same with its tenant; raises `InvalidArgument`."""
    check_full_name(told)
    tenant, name = split_name(told)
    return full_name(tenant, name), f"{tenant}/{name}"


class _NoControl:
    """What there is besides applications: nothing."""

    def invoked_by(self, request: Request) -> str | None:
        del request
        return None

    def check_sender(self, request: Request) -> None:
        del request

    def body_limit(self, request: Request) -> int:
        del request
        return 0

    def asked(self, request: Request) -> tuple[str, str]:
        return f"HTTP/{request.method.decode('latin-1')}", request.path.decode("latin-1")

    async def answer(self, request: Request) -> Response:
        raise HttpFault(404, f"There is nothing at {request.path.decode('latin-1')}")


class _NoOrigins(Origins):
    """Pages are the business of the node that a browser has asked."""

    def allow(self, request: Request, headers: Headers) -> None:
        del request, headers
