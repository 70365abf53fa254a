"""Errors as HTTP tells them: `application/problem+json` (RFC 9457) with a status that fits."""

from __future__ import annotations

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
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    VmStartFailed,
    WrongState,
)
from plexspaces_node.node.api.boundary import known_error
from plexspaces_node.node.http.message import Headers, Response
from plexspaces_node.node.http.transcode import line

RETRY_AFTER_S = 1
"""After this a client that was told to come back is likely to be served."""

STATUSES: dict[type[PlexSpacesError], tuple[int, str]] = {
    InvalidArgument: (400, "The request is not valid"),
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


class HttpFault(Exception):
    """A request that HTTP itself has a status for."""

    def __init__(
        self,
        status: int,
        title: str,
        *,
        hint: str = "",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.hint = hint
        self.headers = headers

    @property
    def response(self) -> Response:
        """The response that tells it; nothing more is read from the connection."""
        members: dict[str, Any] = {"title": self.title, "status": self.status}
        if self.hint:
            members["hint"] = self.hint
        return _problem(self.status, _readable(members), self.headers)


def of_exception(error: Exception) -> Response:
    """Return the response for any error; what nobody expected is logged."""
    if isinstance(error, HttpFault):
        return error.response
    return of_error(known_error(error))


def of_error(error: PlexSpacesError | ActorError, *, output: bytes = b"") -> Response:
    """Return the response for an error; `output` is what a command wrote before it failed."""
    members = members_of(error)
    if output:
        members["output"] = output.decode("utf-8", "replace")
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
    members: dict[str, Any] = {
        "type": f"urn:plexspaces:problem:{kind}",
        "title": title,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "retryable": error.retryable,
    }
    if error.hint:
        members["hint"] = error.hint
    if isinstance(error, VmStartFailed):
        members["step"] = error.step
    # An actor may put anything into its texts.
    return _readable(members)


def _problem(
    status: int, members: dict[str, Any], headers: Sequence[tuple[bytes, bytes]] = ()
) -> Response:
    told: Headers = [(b"content-type", b"application/problem+json"), *headers]
    if status in (429, 503):
        told.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return Response(status, told, line(members))


def _readable(members: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for key, value in members.items()
    }
