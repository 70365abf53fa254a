"""What a node answers to a message by HTTP, as its clients and other nodes read it."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from plexspaces_node.errors import (
    PLATFORM_ERRORS,
    ActorError,
    ActorFailed,
    ActorTrapped,
    Internal,
    InvalidArgument,
    PlexSpacesError,
    ResourceExhausted,
    platform_error,
)
from plexspaces_node.info import MessageTimings

TIMES, TRACE = b"server-timing", b"traceresponse"
"""The headers that tell how long a message took, and its trace; in lower case."""

_TIMES = re.compile(
    rb"compute;dur=([0-9]{1,12}(?:\.[0-9]{1,9})?), wait;dur=([0-9]{1,12}(?:\.[0-9]{1,9})?), "
    rb"queue;dur=([0-9]{1,12}(?:\.[0-9]{1,9})?), coordination;dur=([0-9]{1,12}(?:\.[0-9]{1,9})?)"
)
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_SERVER_ERRORS = 500
_PLATFORM_CODES = frozenset(error.code for error in PLATFORM_ERRORS)


def timings_of(headers: Mapping[bytes, bytes]) -> MessageTimings:
    """Return how long a message took; raises `Internal` for an answer that does not say it."""
    timings = parse_times(headers.get(TIMES, b""))
    if timings is None:
        raise Internal("the node's reply cannot be read: it has no times")
    return timings


def parse_times(text: bytes) -> MessageTimings | None:
    """Return what the header of a node's times says; None for any other."""
    found = _TIMES.fullmatch(text)
    if found is None:
        return None
    told = found.groups()
    # One by one: a generator takes longer than the rest of this.
    compute, wait = round(float(told[0]) * 1e6), round(float(told[1]) * 1e6)
    queue, rest = round(float(told[2]) * 1e6), round(float(told[3]) * 1e6)
    return MessageTimings(compute + wait + queue + rest, compute, wait, queue)


def trace_id_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the id of the trace that a response names, "" for none."""
    found = _TRACE.fullmatch(headers.get(TRACE, b""))
    return "" if found is None else found[1].decode()


def error_of(status: int, body: bytes) -> PlexSpacesError | ActorError:
    """Return the error that problem details tell; `Internal` if they do not."""
    try:
        return _error(json.loads(body), status)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Internal(f"the node's reply cannot be read: {bytes(body[:200])!r}")


def _error(problem: dict[str, Any], status: int) -> PlexSpacesError | ActorError:
    """Return the error that problem details tell; raises KeyError and others if they do not."""
    kind = problem["type"].rpartition(":")[2]
    code, message, hint = problem["code"], problem["detail"], problem.get("hint")
    cls = {"failed": ActorFailed, "trapped": ActorTrapped}.get(kind)
    if cls is not None:
        output = b64decode(problem.get("output_base64", ""))
        return cls(message, code=code, retryable=problem["retryable"], hint=hint, output=output)
    if code in _PLATFORM_CODES:
        error = platform_error(code, message, hint=hint, step=problem.get("step", ""))
        if isinstance(error, ResourceExhausted) and "retry_after_s" in problem:
            error.retry_after_s = float(problem["retry_after_s"])
        return error
    # HTTP's own: the request was not as it should be.
    return (Internal if status >= _SERVER_ERRORS else InvalidArgument)(message, hint=hint)
