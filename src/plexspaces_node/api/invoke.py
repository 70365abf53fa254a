"""A message and its reply in gRPC, without copies of a long payload.

The generated code copies a payload into a message and out of it again, so that a node with a
message of 256 MiB would hold it five times. Here a long payload stays in the received bytes, or is
put directly into the bytes to send, and the generated code handles the rest. The encoding is that
of `application.proto`.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError

from plexspaces_node.api import convert
from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.errors import ActorError, Internal, InvalidArgument
from plexspaces_node.info import InvokeResult, MessageTimings
from plexspaces_node.link.frames import Body

SERVICE = pb.DESCRIPTOR.services_by_name["ApplicationService"].full_name
METHOD = "Invoke"
"""The method of the service."""

LONG_BYTES = 64 * 1024
"""Payloads from this length on are handled apart: the generated code is faster for shorter ones."""

_REQUEST_PAYLOAD = pb.InvokeRequest.PAYLOAD_FIELD_NUMBER
_REPLY_PAYLOAD = pb.InvokeResponse.PAYLOAD_FIELD_NUMBER
_REPLY_FAILURE = pb.InvokeResponse.FAILURE_FIELD_NUMBER
_FAILURE_OUTPUT = pb.ActorFailure.OUTPUT_FIELD_NUMBER

_FIELDS = 32
"""The maximum number of fields that are looked at; no client of this contract writes as many."""
_LAST_SHIFT = 63

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


class Request(NamedTuple):
    """A message to an application, as a client sent it.

    Attributes:
        payload: may be a view of the received bytes.
        timeout_ms: 0 for none.
    """

    name: str
    type: str
    payload: Body
    timeout_ms: int


def encode_request(request: Request) -> bytes:
    """Return the bytes of an `InvokeRequest`."""
    message = pb.InvokeRequest(name=request.name, type=request.type, timeout_ms=request.timeout_ms)
    return b"".join((message.SerializeToString(), *_field(_REQUEST_PAYLOAD, request.payload)))


def decode_request(raw: bytes) -> Request:
    """Parse an `InvokeRequest`; raises `InvalidArgument` if the bytes are not one."""
    rest, payload = _apart(raw, _REQUEST_PAYLOAD)
    try:
        message = pb.InvokeRequest.FromString(rest)
    except DecodeError as error:
        raise InvalidArgument(f"the request cannot be read: {error}") from error
    return Request(message.name, message.type, payload or message.payload, message.timeout_ms)


def encode_reply(
    payload: Body, failure: ActorError | None, timings: MessageTimings, trace_id: str = ""
) -> bytes:
    """Return the bytes of an `InvokeResponse`; `trace_id` is "" for a message without a trace.

    With a failure, `payload` is what the program wrote before it failed.
    """
    timings_told = convert.message_timings_to_proto(timings)
    rest = pb.InvokeResponse(timings=timings_told, trace_id=trace_id)
    if failure is None:
        # An empty payload is a payload too.
        outcome: tuple[Body, ...] = (_head(_REPLY_PAYLOAD, len(payload)), payload)
    else:
        said = convert.failure_to_proto(failure).SerializeToString()
        output = _field(_FAILURE_OUTPUT, payload)
        size = len(said) + sum(map(len, output))
        outcome = (_head(_REPLY_FAILURE, size), said, *output)
    return b"".join((*outcome, rest.SerializeToString()))


def decode_reply(raw: bytes, *, round_trip_ns: int = 0) -> InvokeResult:
    """Parse an `InvokeResponse`; raises `ActorFailed` or `ActorTrapped` if it holds a failure."""
    rest, payload = _apart(raw, _REPLY_PAYLOAD)
    try:
        message = pb.InvokeResponse.FromString(rest)
    except DecodeError as error:
        raise Internal(f"the node's reply cannot be read: {error}") from error
    if message.WhichOneof("outcome") == "failure":
        failure = convert.failure_from_proto(message.failure)
        failure.trace_id = message.trace_id
        raise failure
    timings = convert.message_timings_from_proto(message.timings)
    whole = bytes(payload) or message.payload
    return InvokeResult(whole, timings, round_trip_ns, trace_id=message.trace_id)


def _field(number: int, body: Body) -> tuple[Body, ...]:
    return (_head(number, len(body)), body) if body else ()


def _head(number: int, size: int) -> bytes:
    head = bytearray([number << 3 | _DELIMITED])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def _apart(raw: bytes, number: int) -> tuple[bytes, memoryview]:
    """Take a long field out of a message: return the rest, and a view of the field.

    The field is empty if it is not long, or if the message is not as a client would write it. The
    generated code then handles all of it.
    """
    whole, at = memoryview(raw), 0
    nothing = whole[:0]
    if len(raw) < LONG_BYTES:
        return raw, nothing
    begin = end = body = 0
    try:
        for _ in range(_FIELDS):
            if at >= len(raw):
                break
            start = at
            tag, at = _varint(whole, at)
            kind = tag & 7
            if kind == _VARINT:
                _, at = _varint(whole, at)
            elif kind == _DELIMITED:
                size, at = _varint(whole, at)
                if tag >> 3 == number:
                    if end:
                        return raw, nothing
                    begin, body, end = start, at, at + size
                at += size
            else:
                at += _FIXED_BYTES[kind]
    except (IndexError, KeyError):
        return raw, nothing
    if at != len(raw) or end - body < LONG_BYTES:
        return raw, nothing
    return b"".join((whole[:begin], whole[end:])), whole[body:end]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > _LAST_SHIFT:
            raise IndexError("a varint without an end")
