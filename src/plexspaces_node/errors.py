"""Every error of the product, named by what the caller should do next.

This module defines the error classes, their stable codes, and whether a retry can help. It knows
neither gRPC (`api.status` maps the errors) nor where an error is raised. An error of the platform
is a `PlexSpacesError`; an error of the user's own code is an `ActorError`. So a program can tell a
broken node from a broken actor.
"""

from __future__ import annotations

import shlex
from os import PathLike
from typing import ClassVar


def quoted(path: str | PathLike[str]) -> str:
    """Quote a path for a shell, for the command in a hint."""
    return shlex.quote(str(path))


class PlexSpacesError(Exception):
    """Base class of the platform's errors; never raised itself.

    Attributes:
        code: stable identifier of the class, part of the wire contract.
        retryable: whether the same request may succeed later without a change.
        hint: the command or action that helps, or None.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidArgument(PlexSpacesError):
    """The request itself is wrong; fix it."""

    code = "invalid_argument"


class Unauthenticated(PlexSpacesError):
    """The node does not know who calls; bring a token that is valid."""

    code = "unauthenticated"


class PermissionDenied(PlexSpacesError):
    """Who calls may not do this; use a token that may."""

    code = "permission_denied"


class NotFound(PlexSpacesError):
    """The named thing does not exist here; look with `list`."""

    code = "not_found"


class AlreadyExists(PlexSpacesError):
    """The name is taken; choose another or remove the old one."""

    code = "already_exists"


class WrongState(PlexSpacesError):
    """The operation is not possible in the current state, which the message names."""

    code = "wrong_state"


class ResourceExhausted(PlexSpacesError):
    """A limit was reached; back off or add capacity.

    Attributes:
        retry_after_s: after how many seconds the same request is likely to succeed, or None.
    """

    code = "resource_exhausted"
    retryable = True

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Unavailable(PlexSpacesError):
    """The node, the agent or the driver is not available now; retry later."""

    code = "unavailable"
    retryable = True


class DeadlineExceeded(PlexSpacesError):
    """The timeout was too short; decide whether to retry."""

    code = "deadline_exceeded"


class Unsupported(PlexSpacesError):
    """This driver or build does not support the operation; use another one."""

    code = "unsupported"


class VmStartFailed(PlexSpacesError):
    """A VM did not start.

    Attributes:
        step: name of the start step that failed.
    """

    code = "vm_start_failed"
    retryable = True

    def __init__(self, message: str, *, step: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step


class Internal(PlexSpacesError):
    """A bug of the platform; report it."""

    code = "internal"


class ActorError(Exception):
    """Base class of an application's own errors; the platform never retries them.

    Attributes:
        code: for `ActorFailed` the actor's own code, for `ActorTrapped` the kind of trap.
        retryable: whether the actor says that a retry may succeed.
        hint: what may help, or None.
        output: what a command wrote to stdout before it failed; b"" for an actor.
        trace_id: of its message, 32 hexadecimal digits; "" without one, and within a node.
    """

    trace_id: str = ""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retryable: bool = False,
        hint: str | None = None,
        output: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.hint = hint
        self.output = output


class ActorFailed(ActorError):
    """The actor returned its error record, or the command exited with a status other than 0."""


class ActorTrapped(ActorError):
    """The actor's WebAssembly trapped; its instance was discarded."""


PLATFORM_ERRORS: tuple[type[PlexSpacesError], ...] = (
    InvalidArgument,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    AlreadyExists,
    WrongState,
    ResourceExhausted,
    Unavailable,
    DeadlineExceeded,
    Unsupported,
    VmStartFailed,
    Internal,
)
"""Every concrete platform error; the table of `api.status` is tested against it."""


def platform_error(code: str, message: str, *, hint: str | None, step: str = "") -> PlexSpacesError:
    """Recreate a platform error from its code; an unknown code becomes `Internal`."""
    if code == VmStartFailed.code:
        return VmStartFailed(message, step=step or "unknown", hint=hint)
    for cls in PLATFORM_ERRORS:
        if cls.code == code:
            return cls(message, hint=hint)
    return Internal(f"{message} (unknown error code {code!r})", hint=hint)


def no_application(name: str) -> NotFound:
    """Return the error for a name that no application of the node has."""
    return NotFound(f"there is no application {name!r}", hint="plexspaces list")


def name_taken(name: str, state: str = "") -> AlreadyExists:
    """Return the error for a deploy under the name of an application in this state."""
    return AlreadyExists(
        f"application {name!r} is already deployed" + (f" and {state}" if state else ""),
        hint="deploy with --replace, which keeps its state, or under another --name",
    )
