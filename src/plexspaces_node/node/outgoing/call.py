"""The terms of an outgoing call: its request, its response, and how it fails.

Knows neither the link nor how a call is made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names, in lower case, and values."""

Piece: TypeAlias = bytes | bytearray | memoryview
"""Some bytes of a body. Nobody modifies them."""


class Code(StrEnum):
    """How a call fails: names of wasi:http's error-code."""

    REQUEST_DENIED = "http-request-denied"
    ADDRESS_PROHIBITED = "destination-ip-prohibited"
    DNS_ERROR = "dns-error"
    DNS_TIMEOUT = "dns-timeout"
    CONNECTION_REFUSED = "connection-refused"
    CONNECTION_TIMEOUT = "connection-timeout"
    CONNECTION_TERMINATED = "connection-terminated"
    CONNECTION_READ_TIMEOUT = "connection-read-timeout"
    CONNECTION_LIMIT_REACHED = "connection-limit-reached"
    CERTIFICATE_ERROR = "tls-certificate-error"
    TLS_ERROR = "tls-protocol-error"
    RESPONSE_TIMEOUT = "http-response-timeout"
    PROTOCOL_ERROR = "http-protocol-error"
    REQUEST_TOO_LARGE = "http-request-body-size"
    RESPONSE_TOO_LARGE = "http-response-body-size"
    INTERNAL_ERROR = "internal-error"


class CallFailed(Exception):
    """A call that could not be made, or whose response broke off.

    Attributes:
        code: what the application is told.
        message: what happened, for people.
        hint: what may help, or "".
    """

    def __init__(self, code: Code, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Request:
    """A request as an application sends it; nothing in it is checked yet.

    Attributes:
        authority: host and port.
        path: with the query.
        headers: not in the repr, because they contain secrets; nor is the path.
        length: of the whole body in bytes, or None if that is not known yet.
        timeout_s: until the head of the response is there, or 0 for the node's own limit.
    """

    method: str
    scheme: str
    authority: str
    path: str = field(repr=False)
    headers: Headers = field(repr=False)
    length: int | None = 0
    timeout_s: float = 0.0


class Response(Protocol):
    """A response whose head has arrived."""

    @property
    def status(self) -> int:
        """The status of the response."""

    @property
    def headers(self) -> Headers:
        """Its headers, without those of the connection."""

    def at_hand(self) -> tuple[bytes, bool]:
        """Return what of the body is here already, and whether that is its end; call it once."""

    async def more(self) -> bytes:
        """Return the next bytes of the body, b"" at its end; raises `CallFailed`."""


class Allowance(Protocol):
    """How many calls an application may make, and how fast their bodies may pass."""

    def begin_call(self) -> None:
        """Count a call until `end_call`; raises `CallFailed` if it is one too many."""

    def end_call(self) -> None:
        """Stop counting a call."""

    def spend(self, count: int) -> float:
        """Count bytes of a body; return for how many seconds to pause, 0 for not at all."""


class Unbounded:
    """An `Allowance` without bounds."""

    def begin_call(self) -> None:
        """Allow it."""

    def end_call(self) -> None:
        """Do nothing."""

    def spend(self, count: int) -> float:
        """Never pause."""
        return 0.0


UNBOUNDED = Unbounded()

Call: TypeAlias = Callable[[Request, AsyncIterator[Piece]], AbstractAsyncContextManager[Response]]
"""Makes a call whose request has this body; leaving the context ends it. Raises `CallFailed`."""
