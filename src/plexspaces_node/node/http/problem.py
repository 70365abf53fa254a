"""Errors as HTTP tells them: `application/problem+json` (RFC 9457) with a status that fits."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from plexspaces_node.errors import (
    ActorError,
    ActorTrapped,
    AlreadyExists,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PlexSpacesError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unsupported,
    VmStartFailed,
    WrongState,
)
from plexspaces_node.node.api.boundary import known_error
from plexspaces_node.node.cluster.caller import NOT_HERE, NOT_HERE_CODE
from plexspaces_node.node.http.hints import for_http
from plexspaces_node.node.http.message import Headers, Response
from plexspaces_node.node.http.transcode import line

RETRY_AFTER_S = 1
"""After this a client that was told to come back is likely to be served."""

CHALLENGE = 'Bearer realm="plexspaces"'
"""How a node asks for a token."""

STATUSES: dict[type[PlexSpacesError], tuple[int, str]] = {
    InvalidArgument: (400, "The request is not valid"),
    Unauthenticated: (401, "The node does not know who calls"),
    PermissionDenied: (403, "Not allowed"),
    NotFound: (404, "Not found"),
    AlreadyExists: (409, "The name is taken"),
    WrongState: (409, "Not possible in this state"),
    ResourceExhausted: (429, "A limit is reached"),
    Unavailable: (503, "Not available at the moment"),
    DeadlineExceeded: (504, "Not answered in time"),
    Unsupported: (501, "Not supported"),
    Internal: (500, "Internal error of the node"),
    VmStartFailed: (503, "The VM did not start"),
}
"""Every class of platform error, with its status and its title."""

FAILED = (422, "The application returned an error")
TRAPPED = (500, "The application crashed")


FAULTS: dict[int, tuple[str, str, bool]] = {
    400: ("invalid_argument", "The request is not valid", False),
    403: ("origin_not_allowed", "Not allowed from this web page", False),
    404: ("not_found", "Not found", False),
    405: ("method_not_allowed", "The path does not support this method", False),
    408: ("request_too_slow", "The request did not come in time", True),
    411: ("length_required", "An upload needs its length", False),
    413: ("content_too_large", "The body is too long", False),
    421: ("misdirected_request", "Not a host name of this node", False),
    429: ("resource_exhausted", "A limit is reached", True),
    431: ("headers_too_large", "The request headers are too long", False),
    501: ("unsupported", "Not supported", False),
    505: ("version_not_supported", "This version of HTTP is not supported", False),
}
"""Each status that HTTP itself gives: its code, its title, and whether a retry can help."""


class HttpFault(Exception):
    """A request that HTTP itself has a status for, one of `FAULTS`."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        hint: str = "",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.headers = headers
        self._response: Response | None = None

    @classmethod
    def of(cls, error: PlexSpacesError) -> HttpFault:
        """Return the fault that tells an error of the platform."""
        response = of_error(error)
        fault = cls(response.status, error.message, hint=error.hint or "")
        fault._response = response
        return fault

    @property
    def response(self) -> Response:
        """The response that tells it; nothing more is read from the connection."""
        if self._response is not None:
            return self._response
        code, title, retryable = FAULTS[self.status]
        members = _members(
            self.status,
            title,
            kind=code,
            code=code,
            detail=self.detail,
            retryable=retryable,
            hint=self.hint,
        )
        return _problem(self.status, members, self.headers)


def not_here(name: str) -> HttpFault:
    """Return the fault that tells another node that an application is not on this one."""
    detail = f"Application {name!r} is not on this node"
    members = _members(
        421,
        "Not on this node",
        kind=NOT_HERE_CODE,
        code=NOT_HERE_CODE,
        detail=detail,
        retryable=True,
        hint="",
    )
    fault = HttpFault(421, detail)
    fault._response = _problem(421, members, ((NOT_HERE.encode(), b"1"),))
    return fault


def of_exception(error: Exception, *, by_client: bool = False) -> Response:
    """Return the response for any error; what nobody expected is logged.

    It is for `plexspaces` and its Python client if `by_client`: with hints that name commands.
    """
    if isinstance(error, HttpFault):
        return error.response
    return of_error(known_error(error), by_client=by_client)


def of_error(
    error: PlexSpacesError | ActorError, *, output: bytes = b"", by_client: bool = False
) -> Response:
    """Return the response for an error; `output` is what a command wrote before it failed.

    Output that is not UTF-8 is in base64 too, and always for the Python client.
    """
    members = members_of(error)
    if by_client and error.hint:
        members |= _readable({"hint": error.hint})
    if output:
        members["output"] = text = output.decode("utf-8", "replace")
        if by_client or text.encode() != output:
            members["output_base64"] = b64encode(output).decode()
    return _problem(members["status"], members)


def members_of(error: PlexSpacesError | ActorError) -> dict[str, Any]:
    """Return the members of an error's problem details."""
    if isinstance(error, ActorError):
        kind = "trapped" if isinstance(error, ActorTrapped) else "failed"
        status, title = TRAPPED if isinstance(error, ActorTrapped) else FAILED
    else:
        kind = error.code
        status, title = next(
            (row for cls, row in STATUSES.items() if isinstance(error, cls)), STATUSES[Internal]
        )
    hint = error.hint or ""
    members = _members(
        status,
        title,
        kind=kind,
        code=error.code,
        detail=error.message,
        retryable=error.retryable,
        # What an actor says stays as it is.
        hint=hint if kind == "failed" else for_http(hint),
    )
    if isinstance(error, VmStartFailed):
        members["step"] = error.step
    if isinstance(error, ResourceExhausted) and error.retry_after_s is not None:
        members["retry_after_s"] = round(error.retry_after_s, 6)
    return members


def _members(  # noqa: PLR0913 - each by its name
    status: int, title: str, *, kind: str, code: str, detail: str, retryable: bool, hint: str
) -> dict[str, Any]:
    members = {
        "type": f"urn:plexspaces:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": retryable,
    }
    if hint:
        members["hint"] = hint
    # An actor may put anything into its texts.
    return _readable(members)


def _problem(
    status: int, members: dict[str, Any], headers: Sequence[tuple[bytes, bytes]] = ()
) -> Response:
    told: Headers = [(b"content-type", b"application/problem+json"), *headers]
    if status == 401:
        told.append((b"www-authenticate", CHALLENGE.encode()))
    if status in (429, 503):
        # In whole seconds, as HTTP has it: whoever waits that long does not come too early.
        after_s = math.ceil(members.get("retry_after_s", RETRY_AFTER_S))
        told.append((b"retry-after", b"%d" % max(1, after_s)))
    return Response(status, told, line(members))


def _readable(members: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for key, value in members.items()
    }
