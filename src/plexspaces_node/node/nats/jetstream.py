"""JetStream's API, as far as it is used here: requests and answers in JSON, errors, its level.

Not the client's own: it hides who answers, and its errors are of many classes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from plexspaces_node.errors import Internal, ResourceExhausted, Unavailable, Unsupported

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Connection, Message

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
WRONG_LAST_SEQUENCE = 10071
WRITES_CROSS = 10164
"""A condition cannot be checked now, for another write of the key that it names is under way."""

NAME_IN_USE = 10058

_SOON = frozenset({10008, 10009, 10023, 10118, 10163, WRITES_CROSS})
"""The cluster is about to elect a leader, or has no quorum; see `jetstream_errors_generated.go`."""

_FULL = frozenset({10002, 10023, 10047, 10077})
"""No room: of memory, of storage, of the stream's own limit."""

NEEDED_LEVEL = 2
FEATURES: Mapping[int, str] = {
    1: "messages that expire",
    2: "writes fenced by another key, and several writes as one",
}
"""What the bucket uses, and the level of JetStream's API that has it."""

_PAUSE_S = 0.1
_ANSWERS_S = 0.5
"""A server without a leader says nothing; it is asked again rather than waited for."""
_HINT = "plexspaces nodes"


class ApiError(Exception):
    """JetStream has refused a request.

    Attributes:
        number: which error, of `jetstream_errors_generated.go`.
    """

    def __init__(self, number: int, code: int, description: str) -> None:
        super().__init__(f"{description} ({number})")
        self.number = number
        self.code = code
        self.description = description

    def product_error(self, what: str) -> Exception:
        """Return the error of this product that says it."""
        if self.number in _FULL:
            return ResourceExhausted(
                f"NATS has no room for {what}: {self.description}", hint="df -h"
            )
        if self.number in _SOON or self.code in (408, 503):
            return Unavailable(f"NATS cannot do {what} now: {self.description}", hint=_HINT)
        return Internal(f"NATS has refused {what}: {self}")


def decode(message: Message) -> dict[str, Any]:
    """Return what an answer says; raises `ApiError` if it is an error, `Internal` for rubbish."""
    try:
        found = msgspec.json.decode(message.data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Internal(f"NATS has answered what is not JSON: {message.data[:100]!r}") from error
    raise_error(found)
    return found


def raise_error(answer: Mapping[str, Any]) -> None:
    """Raise `ApiError` if an answer has one."""
    error = answer.get("error")
    if isinstance(error, dict):
        raise ApiError(
            int(error.get("err_code") or 0),
            int(error.get("code") or 0),
            str(error.get("description") or "without a reason")[:500],
        )


def encode(request: Mapping[str, Any]) -> bytes:
    """Return a request as it is sent."""
    return json.dumps(request).encode()


async def call(
    connection: Connection,
    method: str,
    request: Mapping[str, Any] | None = None,
    *,
    timeout_s: float = 5.0,
) -> dict[str, Any]:
    """Ask JetStream's API for something, for example `STREAM.INFO.NAME`.

    Raises `ApiError`; `Unavailable` as `Connection.request` does.
    """
    payload = encode(request) if request is not None else b""
    return decode(await connection.request(f"$JS.API.{method}", payload, timeout_s=timeout_s))


def refuse(error: ApiError, what: str) -> NoReturn:
    """Raise what an error means to those who know nothing of JetStream."""
    raise error.product_error(what) from error


async def level(connection: Connection, *, timeout_s: float = 2.0) -> int:
    """Return the level of the API; raises `Unavailable` while JetStream does not answer."""
    try:
        found = await call(connection, "INFO", timeout_s=timeout_s)
    except ApiError as error:
        refuse(error, "anything")
    api = found.get("api")
    return int(api.get("level") or 0) if isinstance(api, dict) else 0


async def wait_until_answers(connection: Connection) -> int:
    """Wait until JetStream answers, and return the level of its API."""
    while True:
        await connection.session()
        try:
            return await level(connection, timeout_s=_ANSWERS_S)
        except Unavailable:
            await asyncio.sleep(_PAUSE_S)


def missing_features(found: int) -> list[str]:
    """Return in words what JetStream of this level lacks."""
    return [words for needed, words in sorted(FEATURES.items()) if needed > found]


def check_level(found: int) -> None:
    """Raise `Unsupported` if a JetStream of this level cannot hold a cluster together.

    An older server accepts what it does not know and ignores it, conditions of writes too.
    """
    if missing := missing_features(found):
        raise Unsupported(
            f"the NATS server is too old: it lacks {'; '.join(missing)} (API level {found}, "
            f"{NEEDED_LEVEL} is needed)",
            hint="use nats-server 2.12 or later; plexspaces-node[cluster] brings one",
        )
