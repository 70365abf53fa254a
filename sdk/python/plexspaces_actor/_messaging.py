"""Messages to other applications of the node, by name."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from . import _host
from ._errors import ActorFailure
from ._payload import BadValue, decode, encode

T = TypeVar("T")
_LONGEST_MS = 2**32 - 1


def tell(to: str, message_type: str, payload: object = None) -> None:
    """Send `payload` without waiting for a reply; returns when it is in the other's mailbox.

    Raises `ActorFailure`, for example if the application does not exist or its mailbox is full.
    """
    _host.current().tell(to, message_type, encode(payload))


@overload
def ask(to: str, message_type: str, payload: object = ..., *, timeout: float = ...) -> bytes: ...
@overload
def ask(
    to: str, message_type: str, payload: object = ..., *, reply: type[T], timeout: float = ...
) -> T: ...
def ask(
    to: str,
    message_type: str,
    payload: object = None,
    *,
    reply: Any = bytes,
    timeout: float = 5.0,
) -> Any:
    """Send `payload`, wait for the answer at most `timeout` seconds and return it as a `reply`.

    Raises `ActorFailure`: the other application's error record, the node's (``call-cycle`` if the
    chain of asks would lead back to an actor that already waits in it), or ``bad-reply`` if the
    answer is not of the requested type. If it is not caught, it becomes the answer of the handler
    that asked.
    """
    if timeout <= 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    timeout_ms = min(max(1, round(timeout * 1000)), _LONGEST_MS)
    answer = _host.current().ask(to, message_type, encode(payload), timeout_ms)
    try:
        return decode(answer, reply)
    except BadValue as exc:
        raise ActorFailure("bad-reply", f"the answer of {to!r} to {message_type!r}: {exc}") from exc
