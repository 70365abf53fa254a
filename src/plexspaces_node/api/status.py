"""Errors in gRPC: one table of error classes and gRPC codes for both directions.

An error is sent as a gRPC status whose `grpc-status-details-bin` holds a `google.rpc.Status` with
one `ErrorInfo`, and a `RetryInfo` if the error says when to come back, so that a client in any
language can read it. This module only encodes and decodes errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from plexspaces_node.address import DEFAULT_ADDRESS, is_loopback, split_address
from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
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
    platform_error,
)

DOMAIN = "plexspaces"
"""The domain of the platform's errors; `ErrorInfo.reason` is the code."""
ACTOR_DOMAIN = "plexspaces.actor"
"""The domain of an application's error outside `Invoke`; `reason` is failed or trapped."""

DETAILS_KEY = "grpc-status-details-bin"
START_NODE_HINT = "plexspaces start-node --node-id my-node"

# gRPC refuses trailing metadata over 8 KiB. The details are sent in base64 beside the plain text,
# which is percent-encoded (threefold if it is not ASCII). An actor's traceback is cut.
_MESSAGE_BYTES = 3072
_HINT_BYTES = 512
_PLAIN_BYTES = 512

_TOO_LONG = re.compile(r"essage larger than max \((\d+) vs\. \d+\)")
"""gRPC's own message about a message that was too long to read."""

_NO_CONNECTION = ("failed to connect", "errors resolving", "dns resolution")
_NOBODY_THERE = ("connection refused", "no such file")
_REFUSED = "rst_stream with error code 7"
"""gRPC's messages about a call that a server did not accept: nothing of it was done."""
_CLOSED_AT_ONCE = ("socket closed", "connection reset")
"""gRPC's messages about a connection that was accepted and then closed at once."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """One row: the class, the code it is sent as, and foreign codes that mean it."""

    error: type[PlexSpacesError]
    code: grpc.StatusCode
    also: tuple[grpc.StatusCode, ...] = ()


TABLE: tuple[Mapping, ...] = (
    Mapping(
        InvalidArgument,
        grpc.StatusCode.INVALID_ARGUMENT,
        also=(grpc.StatusCode.OUT_OF_RANGE,),
    ),
    Mapping(Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    Mapping(PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    Mapping(NotFound, grpc.StatusCode.NOT_FOUND),
    Mapping(AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    Mapping(WrongState, grpc.StatusCode.FAILED_PRECONDITION),
    Mapping(ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Mapping(
        Unavailable,
        grpc.StatusCode.UNAVAILABLE,
        also=(grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED),
    ),
    Mapping(DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    Mapping(Unsupported, grpc.StatusCode.UNIMPLEMENTED),
    Mapping(
        Internal,
        grpc.StatusCode.INTERNAL,
        also=(grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS),
    ),
    # Distinguished from Internal only by its details, so it comes after it.
    Mapping(VmStartFailed, grpc.StatusCode.INTERNAL),
)
"""Every class of `errors.PLATFORM_ERRORS` once; the first row with a code is used for foreign
errors."""

TrailingMetadata = tuple[tuple[str, bytes], ...]


def to_grpc(error: PlexSpacesError | ActorError) -> tuple[grpc.StatusCode, str, TrailingMetadata]:
    """Return the code, the plain text and the trailing metadata to end a call with.

    Texts are cut to what gRPC can carry. An actor's error is for calls whose reply has no field for
    it, such as a deploy whose actor fails in init.
    """
    code = _code_of(error)
    info = ErrorInfo(domain=DOMAIN, reason=error.code)
    if isinstance(error, ActorError):
        info.domain = ACTOR_DOMAIN
        info.reason = "trapped" if isinstance(error, ActorTrapped) else "failed"
        info.metadata["code"] = _cut(error.code, _HINT_BYTES)
        info.metadata["retryable"] = "true" if error.retryable else "false"
    if error.hint is not None:
        info.metadata["hint"] = _cut(error.hint, _HINT_BYTES)
    if isinstance(error, VmStartFailed):
        info.metadata["step"] = _cut(error.step, _HINT_BYTES)
    details: list[Message] = [info]
    if isinstance(error, ResourceExhausted) and error.retry_after_s is not None:
        after = RetryInfo()
        after.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(after)
    number: int = code.value[0]
    status = Status(code=number, message=_cut(error.message, _MESSAGE_BYTES))
    for detail in details:
        status.details.add().Pack(detail)
    plain = _cut(error.message, _PLAIN_BYTES)
    return code, plain, ((DETAILS_KEY, status.SerializeToString()),)


def from_grpc(error: grpc.aio.AioRpcError, *, address: str) -> PlexSpacesError | ActorError:
    """Recreate the error of a call; an error that no node made is mapped by its code.

    Args:
        error: what the call raised.
        address: the address of the node, for the message.
    """
    ours = _read_details(error)
    if ours is not None:
        return ours
    said = error.details() or "no reason given"
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unreachable(said, address)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (sizes := _TOO_LONG.search(said)):
        return InvalidArgument(
            f"a message of {sizes[1]} bytes exceeds the limit of the node at {address}",
            hint="send it in parts, or raise the node's [limits] message_bytes",
        )
    if code is grpc.StatusCode.CANCELLED:
        return Unavailable(
            f"the node at {address} dropped the call: it has too many of them, or is stopping",
            hint="send fewer at a time, or check the node's own output",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"the node at {address} did not answer in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unsupported(
            f"the server at {address} does not know this call ({said})",
            hint="check --node-address, and that node and client have the same version",
        )
    return _class_of(code)(f"{said} ({code.name} from {address})")


def _code_of(error: PlexSpacesError | ActorError) -> grpc.StatusCode:
    if isinstance(error, ActorError):
        return grpc.StatusCode.FAILED_PRECONDITION
    for row in TABLE:
        if isinstance(error, row.error):
            return row.code
    return grpc.StatusCode.INTERNAL


def _class_of(code: grpc.StatusCode) -> type[PlexSpacesError]:
    for row in TABLE:
        if code is row.code or code in row.also:
            return row.error
    return Internal


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the code of the node's error that a call ended with, "" for one of another's."""
    found = _details_of(error)
    return "" if found is None or found[1].domain != DOMAIN else found[1].reason


def _read_details(error: grpc.aio.AioRpcError) -> PlexSpacesError | ActorError | None:
    found = _details_of(error)
    return None if found is None else _timed(_rebuild(found[0].message, found[1]), found[0])


def _details_of(error: grpc.aio.AioRpcError) -> tuple[Status, ErrorInfo] | None:
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        status, info = Status(), ErrorInfo()
        try:
            status.ParseFromString(value)
            for detail in status.details:
                if detail.Unpack(info) and info.domain in (DOMAIN, ACTOR_DOMAIN):
                    return status, info
        except DecodeError:
            # Details of another program: only the code counts.
            return None
    return None


def _timed(error: PlexSpacesError | ActorError, status: Status) -> PlexSpacesError | ActorError:
    """Return an error with when to come back, if the node has said so."""
    after = RetryInfo()
    if isinstance(error, ResourceExhausted):
        for detail in status.details:
            if detail.Unpack(after):
                error.retry_after_s = after.retry_delay.ToNanoseconds() / 1e9
    return error


def _rebuild(message: str, info: ErrorInfo) -> PlexSpacesError | ActorError:
    hint = info.metadata.get("hint")
    if info.domain == DOMAIN:
        return platform_error(info.reason, message, hint=hint, step=info.metadata.get("step", ""))
    cls = ActorTrapped if info.reason == "trapped" else ActorFailed
    retryable = info.metadata.get("retryable") == "true"
    return cls(message, code=info.metadata.get("code", ""), retryable=retryable, hint=hint)


def _unreachable(said: str, address: str) -> PlexSpacesError:
    lowered = said.lower()
    if _REFUSED in lowered:
        return ResourceExhausted(
            f"the node at {address} has too many calls of this connection",
            hint="send fewer at a time",
        )
    if address.startswith("unix:") and "permission denied" in lowered:
        return PermissionDenied(
            f"the socket {address} is for the node's own user and root",
            hint="run the command with sudo, or use the node's port and a token: plexspaces login",
        )
    if any(sign in lowered for sign in _NO_CONNECTION):
        if any(sign in lowered for sign in _CLOSED_AT_ONCE):
            return Unavailable(
                f"the server at {address} closes connections at once: it has reached its "
                "limit, or is not a node",
                hint="try again in a minute, when idle ones are closed; plexspaces doctor shows "
                "how many descriptors a node may have",
            )
        nobody = any(sign in lowered for sign in _NOBODY_THERE)
        why = "" if nobody else f" ({said.rpartition('last error: ')[2]})"
        if not _is_here(address):
            # A command that starts one on this host would not help.
            hint = "check the address, and on its host that the node runs: plexspaces whoami"
        else:
            there = "" if address in (DEFAULT_ADDRESS, "") else f" --address {address}"
            hint = START_NODE_HINT + there
        return Unavailable(f"no node answers at {address}{why}", hint=hint)
    return Unavailable(
        f"the connection to the node at {address} was lost ({said})",
        hint="check the node's own output, then try again",
    )


def _is_here(address: str) -> bool:
    try:
        return is_loopback(split_address(address)[0])
    except ValueError:
        return False


def _cut(text: str, limit: int) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode("utf-8")
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"
