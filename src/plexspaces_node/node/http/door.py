"""The door: which request is a message to which application, and what its reply looks like.

`POST /apps/NAME/TYPE`, or `POST /TYPE` at the host NAME.localhost, sends a message; everything else
goes to the control API. The way of a message is short: no lock, no disk, no other application.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import msgspec

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.info import MessageTimings
from plexspaces_node.link.frames import Body
from plexspaces_node.node.applications.messages import Outcome
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.http.control import Control
from plexspaces_node.node.http.message import Request, Response
from plexspaces_node.node.http.origin import Origins
from plexspaces_node.node.http.problem import HttpFault, of_error, of_exception

APPS = b"/apps/"

MAX_TIMEOUT_S = 24 * 3600.0

_CHECKED_BYTES = 64 * 1024
"""A reply up to this is read to see whether it is JSON; of a longer one, the first byte is."""

_JSON_BEGINS = frozenset(b'{["-0123456789tfn')
_PREFER_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*(\d+(?:\.\d+)?)")
_RAW = msgspec.json.Decoder(msgspec.Raw)

JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; charset=utf-8")
BYTES = (b"content-type", b"application/octet-stream")
NOSNIFF = (b"x-content-type-options", b"nosniff")


class Door:
    """Answers every request of the HTTP port."""

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        applications: Applications,
        control: Control,
        origins: Origins,
        *,
        message_bytes: int,
        message_timeout_s: float,
        most_calls: int,
    ) -> None:
        """`control` answers what is no message; at most `most_calls` requests at once."""
        self._most_calls = most_calls
        self._calls = 0
        self._applications = applications
        self._control = control
        self._origins = origins
        self._message_bytes = message_bytes
        self._message_timeout_ns = int(message_timeout_s * 1e9)

    def __repr__(self) -> str:
        return f"<Door to {self._applications!r}>"

    def body_limit(self, request: Request) -> int:
        """Return how long a message may be, or what the control API takes."""
        if request.path.startswith(APPS) or self._origins.application_of(request):
            return self._message_bytes
        return self._control.body_limit(request)

    async def answer(self, request: Request) -> Response:
        """Answer a request; never raises but for a defect."""
        self._calls += 1
        try:
            if self._calls > self._most_calls:
                raise self._too_many()
            application = self._origins.application_of(request)
            if request.method == b"OPTIONS" and request.header(b"access-control-request-method"):
                return self._origins.preflight(request)
            if application:
                response = await self._message(application, request.path[1:], request)
            elif request.path.startswith(APPS):
                name, _, msg_type = request.path[len(APPS) :].partition(b"/")
                response = await self._message(name.decode("latin-1"), msg_type, request)
            else:
                response = await self._control.answer(request)
        except Exception as error:  # noqa: BLE001 - the boundary
            response = of_exception(error)
        finally:
            self._calls -= 1
        self._origins.allow(request, response.headers)
        return response

    def refusal(self, request: Request, fault: HttpFault) -> Response:
        """Return the response for a request of which no more is read."""
        response = fault.response
        self._origins.allow(request, response.headers)
        return response

    def _too_many(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"too many requests at once ({self._most_calls})",
            hint="send fewer at a time, or raise [limits] calls",
        )

    async def _message(self, name: str, raw_type: bytes, request: Request) -> Response:
        if request.method != b"POST":
            raise HttpFault(
                405,
                f"A message to an application is sent with POST, not {request.method.decode()}",
                hint=f"curl -d PAYLOAD http://HOST/apps/{name}/TYPE",
                headers=[(b"allow", b"POST")],
            )
        msg_type = _type_of(raw_type)
        timeout_ns = self._timeout_ns(request)
        # The application counts it from here on.
        request.release()
        outcome = await self._applications.invoke(name, msg_type, request.body, timeout_ns)
        return _reply(outcome)

    def _timeout_ns(self, request: Request) -> int:
        prefer = request.header(b"prefer")
        if prefer is not None and (wait := _PREFER_WAIT.search(prefer)):
            return int(min(float(wait[1]), MAX_TIMEOUT_S) * 1e9)
        return self._message_timeout_ns


def _reply(outcome: Outcome) -> Response:
    timing = server_timing(outcome.timings)
    if outcome.failure is not None:
        response = of_error(outcome.failure, output=bytes(outcome.payload))
        response.headers.append(timing)
        return response
    payload = outcome.payload
    return Response(200, [content_type(payload), NOSNIFF, timing], payload)


def server_timing(timings: MessageTimings) -> tuple[bytes, bytes]:
    """Return the header that tells where the time of a message went, in milliseconds."""
    compute, wait, queue = timings.compute_ns, timings.wait_ns, timings.queue_ns
    # By the agent's clock and the node's: together they may be a little more than the whole.
    rest = max(timings.total_ns - compute - wait - queue, 0)
    return (
        b"server-timing",
        b"compute;dur=%.3f, wait;dur=%.3f, queue;dur=%.3f, coordination;dur=%.3f"
        % (compute / 1e6, wait / 1e6, queue / 1e6, rest / 1e6),
    )


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
