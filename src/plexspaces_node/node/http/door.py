"""The door: which request is a message to which application, and what its reply looks like.

`POST /apps/NAME/TYPE`, or `POST /TYPE` at the host NAME.localhost, sends a message; everything else
goes to the control API. The way of a message is short: no lock, no disk, no task, no other
application.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from plexspaces_node.errors import PlexSpacesError, ResourceExhausted, Unauthenticated
from plexspaces_node.info import MessageTimings
from plexspaces_node.link.frames import Body
from plexspaces_node.node.access import fair_share
from plexspaces_node.node.access.gate import Gate
from plexspaces_node.node.access.identity import NOBODY, Identity, Kind
from plexspaces_node.node.access.policy import INVOKE
from plexspaces_node.node.access.record import REFUSALS
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.applications.outcome import Done, Outcome
from plexspaces_node.node.cluster.elsewhere import OtherNodes
from plexspaces_node.node.http import components, forward, forward_message
from plexspaces_node.node.http.control import Control
from plexspaces_node.node.http.message import Request, Response, server_timing
from plexspaces_node.node.http.origin import Origins
from plexspaces_node.node.http.problem import HttpFault, of_error, of_exception
from plexspaces_node.node.http.streams import Counted
from plexspaces_node.tasks import Leave
from plexspaces_node.trace_context import TraceContext, parse

APPS = b"/apps/"

MAX_TIMEOUT_S = 24 * 3600.0

_CHECKED_BYTES = 64 * 1024
"""A reply up to this is read to see whether it is JSON; of a longer one, the first byte is."""

_UNLOOKED_BYTES = 64 * 1024
"""So much is read of somebody whose request is refused, so that the connection can stay."""

_JSON_BEGINS = frozenset(b'{["-0123456789tfn')
_PREFER_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*(\d+(?:\.\d+)?)")
_RAW = msgspec.json.Decoder(msgspec.Raw)

CLIENT = b"plexspaces-client"
"""The header of requests by `plexspaces` and its Python client: see `problem.of_error`."""

JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; charset=utf-8")
BYTES = (b"content-type", b"application/octet-stream")
NOSNIFF = (b"x-content-type-options", b"nosniff")

Replied: TypeAlias = Callable[[Response], None]
"""Called once with the response to a request."""


class Door:
    """Answers every request of the HTTP port."""

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        applications: Applications,
        control: Control,
        origins: Origins,
        gate: Gate,
        *,
        message_bytes: int,
        message_timeout_s: float,
        most_calls: int,
        nodes: OtherNodes | None = None,
    ) -> None:
        """`control` answers what is no message; at most `most_calls` requests at once.

        `nodes` has the applications that are not here; None for a node that is in no cluster.
        """
        self._nodes = nodes
        self._most_calls = most_calls
        self.calls = 0
        """How many requests are being handled."""
        self._share = fair_share.calls(most_calls)
        self._applications = applications
        self._control = control
        self._origins = origins
        self._gate = gate
        self._message_bytes = message_bytes
        self._message_timeout_ns = int(message_timeout_s * 1e9)

    def __repr__(self) -> str:
        return f"<Door to {self._applications!r}>"

    def body_limit(self, request: Request) -> int:
        """Return how long a message may be, or what the control API takes.

        Raises `HttpFault` for a longer one to nobody, and for one of somebody who may not send it:
        a limit is not what is in its way.
        """
        try:
            name, _ = self._entered(request)
            is_strangers = request.identity is NOBODY and _length(request) > 0
            if name is None and (is_strangers or not _has_short_body(request)):
                # Otherwise strangers could fill the memory that all bodies share.
                self._control.check_sender(request)
        except PlexSpacesError as error:
            if _has_short_body(request):
                # `post` or `answer` says it, and the connection stays.
                # Without the frames of all who called, which have what was read with it.
                request.refusal = error.with_traceback(None)
                return _UNLOOKED_BYTES
            self._note(request, error)
            raise HttpFault.of(error) from error
        if name is None:
            return self._control.body_limit(request)
        if self._applications.is_component(name) and not _is_by_client(request):
            return components.body_limit(request)
        is_unknown = name not in self._applications.roster.applications
        if (
            is_unknown
            and not self._applications.messages.is_elsewhere(name)
            and _length(request) > self._message_bytes
        ):
            raise HttpFault(404, f"there is no application {name!r}", hint="GET /v1/applications")
        return self._message_bytes

    def post(self, request: Request, done: Replied) -> Leave | None:
        """Send a request to an application; `done` is called with the response.

        Never before this returns. The returned function is called instead when the client leaves,
        or while nothing was taken of a response that is a stream. Returns None for a request of
        which the body comes in parts, or that is not to an application: `answer` is for those.
        """
        try:
            if _is_preflight(request):
                return None
            name, prefix = self._entered(request)
            if name is None:
                return None
            # The client asks for a message's result and its times, as by gRPC.
            if self._applications.is_component(name) and not _is_by_client(request):
                if request.stream is not None:
                    return None
                return self._pass_on(name, prefix, request, done)
            if request.method != b"POST":
                return None
            return self._send(name, prefix, request, done)
        except Exception as error:  # noqa: BLE001 - the boundary
            self._note(request, error)
            response = of_exception(error, by_client=_is_by_client(request))
            is_unknown = isinstance(error, Unauthenticated)
        self._origins.allow(request, response.headers)
        delay_s = self._gate.pace.next_s() if is_unknown else 0.0
        # Never before this returns.
        return asyncio.get_running_loop().call_later(delay_s, done, response).cancel

    def _send(self, name: str, prefix: bytes, request: Request, done: Replied) -> Leave:
        tenant = self._check_room(request.identity)
        raw_type, timeout_ns = request.path[len(prefix) + 1 :], self._timeout_ns(request)
        msg_type = _type_of(raw_type)
        # The application counts it from here on.
        request.release()

        def answered(response: Response) -> None:
            self._give(tenant)
            self._origins.allow(request, response.headers)
            done(response)

        def replied(outcome: Outcome | PlexSpacesError) -> None:
            answered(_reply_or_error(outcome, request))

        def leave() -> None:
            self._give(tenant)
            left()

        def here() -> Leave:
            return self._post(name, msg_type, request, timeout_ns, replied, _cause_of(request))

        nodes = self._nodes
        if nodes is not None and self._applications.messages.is_elsewhere(name):
            left = forward_message.post(nodes, name, prefix, request, timeout_ns, answered, here)
        else:
            left = here()
        self._take(tenant)
        return leave

    def _post(  # noqa: PLR0913 - a message, and who waits for it
        self,
        name: str,
        msg_type: str,
        request: Request,
        timeout_ns: int,
        done: Done,
        cause: TraceContext | None,
    ) -> Leave:
        return self._applications.post(
            name, msg_type, request.body, timeout_ns, done, cause, caller=request.identity
        )

    def _pass_on(self, name: str, prefix: bytes, request: Request, done: Replied) -> Leave:
        tenant = self._check_room(request.identity)
        waits = True

        def answered(answer: components.Answer | Exception) -> None:
            nonlocal waits
            waits = False
            self._give(tenant)
            if isinstance(answer, Exception):
                response = of_exception(answer, by_client=False)
            else:
                response = self._complete(*answer, prefix)
            self._origins.allow(request, response.headers)
            done(response)

        def leave() -> None:
            if waits:
                self._give(tenant)
            left()

        timeout_ns = self._timeout_ns(request)

        def here() -> Leave:
            return components.post(
                self._applications,
                *(name, prefix, request, timeout_ns),
                answered,
                cause=_cause_of(request),
            )

        if self._nodes is not None and self._applications.messages.is_elsewhere(name):
            left = forward.post(self._nodes, name, prefix, request, timeout_ns, answered, here)
        else:
            left = here()
        self._take(tenant)
        return leave

    async def answer(self, request: Request) -> Response:
        """Answer a request that `post` does not take; never raises but for a defect."""
        tenant: str | None = None
        delay_s = 0.0
        try:
            if _is_preflight(request):
                return self._origins.preflight(request)
            name, prefix = self._entered(request)
            tenant = self._check_room(request.identity)
            self._take(tenant)
            if name is None:
                response = await self._control.answer(request)
                if response.is_stream:
                    # A call until it ends, as by gRPC.
                    closed, tenant = partial(self._give, tenant), None
                    response.body = Counted(response.body, closed)
            elif self._applications.is_component(name):
                timeout_ns = self._timeout_ns(request)
                is_here = not self._applications.messages.is_elsewhere(name)
                nodes = None if is_here else self._nodes
                answer = _answer_of_component(
                    self._applications, nodes, name, prefix, request, timeout_ns
                )
                response = self._complete(*await answer, prefix)
            else:
                if not self._applications.messages.is_elsewhere(name):
                    # Nobody of that name is told first.
                    self._applications.roster.named(name)
                raise _not_post(name, request)
        except Exception as error:  # noqa: BLE001 - the boundary
            self._note(request, error)
            response = of_exception(error, by_client=_is_by_client(request))
            if isinstance(error, Unauthenticated):
                delay_s = self._gate.pace.next_s()
        finally:
            if tenant is not None:
                self._give(tenant)
        if delay_s:
            await asyncio.sleep(delay_s)
        self._origins.allow(request, response.headers)
        return response

    def _complete(self, response: Response, timings: MessageTimings, prefix: bytes) -> Response:
        """Add to a component's response what the node says about it."""
        response.headers.append(server_timing(timings))
        if prefix and components.SANDBOX not in response.headers:
            response.headers.append(components.SANDBOX)
        return response

    def watch(self, request: Request, ended: Callable[[], None]) -> Callable[[], None]:
        """Call `ended` once whoever has sent a request may not any more."""
        return self._gate.watch(request.identity, ended)

    def refusal(self, request: Request, fault: HttpFault) -> Response:
        """Return the response for a request of which no more is read."""
        response = fault.response
        self._origins.allow(request, response.headers)
        return response

    def _check_room(self, identity: Identity) -> str:
        """Return for whom a request counts; raises `ResourceExhausted` if there are too many."""
        if self.calls >= self._most_calls:
            raise ResourceExhausted(
                f"too many requests at once ({self._most_calls})",
                hint="send fewer at a time, or raise [limits] calls",
            )
        tenant = fair_share.tenant_of(identity)
        self._share.check(tenant, self.calls)
        return tenant

    def _take(self, tenant: str) -> None:
        self.calls += 1
        self._share.take(tenant)

    def _give(self, tenant: str) -> None:
        self.calls -= 1
        self._share.give(tenant)

    def _application_of(self, request: Request) -> tuple[str | None, bytes]:
        """Return the application that is asked, None for the node, and how its paths begin.

        Raises `HttpFault` for a host or a page that may not ask.
        """
        if called := self._origins.application_of(request):
            return called, b""
        path = request.path
        if not path.startswith(APPS):
            return None, b""
        raw = path[len(APPS) :].partition(b"/")[0]
        # The slash of a full name; nothing else of a name is ever encoded.
        name = raw.replace(b"%2F", b"/").replace(b"%2f", b"/") if b"%" in raw else raw
        if request.header(b"sec-fetch-dest") is not None:
            # A browser's.
            self._origins.check_part(request)
        return name.decode("latin-1"), APPS + raw

    def _entered(self, request: Request) -> tuple[str | None, bytes]:
        """Let a request in, once: return to whom it is, and how its paths begin.

        That is the full name of an application, None for the node.
        """
        if request.refusal is not None:
            raise request.refusal
        if request.entered is None:
            named, prefix = self._application_of(request)
            request.entered = self._enter(request, named), prefix
        return request.entered

    def _enter(self, request: Request, named: str | None) -> str | None:
        """Let a request in that asks for an application by this name, None for the node.

        The control API asks the gate itself. A public application may have users, and tokens of
        theirs, that the node knows nothing of.
        """
        gate, seen = self._gate, request.seen
        try:
            request.identity = self._identity_of(request)
        except Unauthenticated:
            asked = self._control.invoked_by(request) if named is None else named
            if asked is None or not gate.is_public(NOBODY.full(asked)):
                raise
            request.identity = NOBODY
        if named is None:
            return None
        if seen is not None and seen.named == named and seen.let_in is request.identity:
            return seen.name
        name = request.identity.full(named)
        is_own = gate.check(INVOKE, request.identity, gate.target_of(name))
        if is_own and seen is not None:
            seen.let_in, seen.named, seen.name = request.identity, named, name
        return name

    def _identity_of(self, request: Request) -> Identity:
        """Return who sends a request; raises as `Gate.identify` does."""
        authorization, seen = request.header(b"authorization"), request.seen
        if authorization is not None and seen is not None:
            is_same = seen.authorization == authorization
            if is_same and self._gate.is_current(seen.identity):
                return seen.identity
        identity = self._gate.identify(
            authorization, certificate=request.certificate, is_local=request.is_local
        )
        if authorization is not None and seen is not None and identity.kind is Kind.TOKEN:
            seen.authorization, seen.identity = authorization, identity
        return identity

    def _note(self, request: Request, error: Exception) -> None:
        """Note a request that the gate did not let in."""
        if isinstance(error, REFUSALS):
            named, _ = self._application_of(request)
            verb, about = (INVOKE, named) if named is not None else self._control.asked(request)
            self._gate.recorder.refused(
                error, verb, peer=request.peer, identity=request.identity, about=about
            )

    def _timeout_ns(self, request: Request) -> int:
        prefer = request.header(b"prefer")
        told_ns = None if prefer is None else _wait_ns(prefer)
        return self._message_timeout_ns if told_ns is None else told_ns


@lru_cache(maxsize=64)
def _wait_ns(prefer: bytes) -> int | None:
    """Return how long a client wants to wait at most; None if it does not say it."""
    wait = _PREFER_WAIT.search(prefer)
    return None if wait is None else int(min(float(wait[1]), MAX_TIMEOUT_S) * 1e9)


def _has_short_body(request: Request) -> bool:
    if request.header(b"transfer-encoding") is not None:
        return False
    return _length(request) <= _UNLOOKED_BYTES


def _length(request: Request) -> int:
    return int(request.header(b"content-length") or 0)


def _answer_of_component(  # noqa: PLR0913 - a request, and whoever answers it
    applications: Applications,
    nodes: OtherNodes | None,
    name: str,
    prefix: bytes,
    request: Request,
    timeout_ns: int,
) -> Awaitable[components.Answer]:
    """Answer a request to a component, on other nodes if there are some."""
    cause = _cause_of(request)
    here = partial(components.answer, applications, name, prefix, request, timeout_ns, cause=cause)
    if nodes is not None:
        return forward.answer(nodes, name, prefix, request, timeout_ns, here)
    return here()


def _is_preflight(request: Request) -> bool:
    return (
        request.method == b"OPTIONS"
        and request.header(b"access-control-request-method") is not None
    )


def _not_post(name: str, request: Request) -> HttpFault:
    return HttpFault(
        405,
        f"A message to an application is sent with POST, not {request.method.decode()}",
        hint=f"curl -d PAYLOAD http://HOST/apps/{name.replace('/', '%2F')}/TYPE",
        headers=[(b"allow", b"POST")],
    )


def _reply_or_error(outcome: Outcome | PlexSpacesError, request: Request) -> Response:
    try:
        return _reply(outcome, request)
    except Exception as error:  # noqa: BLE001 - the boundary
        return of_exception(error)


def _reply(outcome: Outcome | PlexSpacesError, request: Request) -> Response:
    if isinstance(outcome, PlexSpacesError):
        return of_error(outcome, by_client=_is_by_client(request))
    if outcome.failure is not None:
        output, by_client = bytes(outcome.payload), _is_by_client(request)
        response = of_error(outcome.failure, output=output, by_client=by_client)
    else:
        response = Response(200, [content_type(outcome.payload), NOSNIFF], outcome.payload)
    response.headers.append(server_timing(outcome.timings))
    if outcome.span is not None and outcome.span.tree is not None:
        response.headers.append((components.TRACE_RESPONSE, outcome.span.traceparent.encode()))
    return response


def _cause_of(request: Request) -> TraceContext | None:
    """Return the trace that a client says its message belongs to; None without, or malformed.

    That of a stranger counts for nothing: everybody could have all their messages traced.
    """
    header = request.header(b"traceparent")
    if header is None or request.identity is NOBODY:
        return None
    return parse(header.decode("latin-1"))


def _is_by_client(request: Request) -> bool:
    return request.header(CLIENT) is not None


def content_type(payload: Body) -> tuple[bytes, bytes]:
    """Return the content type of a payload: JSON, other text, or bytes."""
    if not payload:
        return BYTES
    is_short = len(payload) <= _CHECKED_BYTES
    if payload[0] in _JSON_BEGINS:
        if not is_short:
            return JSON if payload[0] in b"{[" else BYTES
        try:
            _RAW.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            return JSON
    if is_short:
        try:
            str(payload, "utf-8")
        except UnicodeDecodeError:
            return BYTES
        return TEXT
    return BYTES


def _type_of(raw: bytes) -> str:
    try:
        return (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise HttpFault(400, "The message's type is not UTF-8") from error
