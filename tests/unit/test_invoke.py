"""A message and its reply arrive as they were, and are what the contract says, however long."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from plexspaces_node.api.generated import application_pb2 as pb
from plexspaces_node.api.invoke import (
    LONG_BYTES,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from plexspaces_node.errors import ActorFailed, ActorTrapped, Internal, InvalidArgument
from plexspaces_node.info import MessageTimings

TIMINGS = MessageTimings(1, 2, 3, 4)
SIZES = [0, 1, 127, 128, LONG_BYTES - 1, LONG_BYTES, LONG_BYTES + 100, 3_000_000]


def payload_of(size: int) -> bytes:
    """Return so many bytes that are not all alike."""
    return bytes(range(251)) * (size // 251) + bytes(size % 251)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_request_when_sent_then_it_is_the_contracts_and_arrives(size: int, kind: Any) -> None:
    """The generated code reads what we write, and we read what it writes."""
    payload = payload_of(size)
    raw = encode_request(Request("calc", "add", kind(payload), 2500))
    message = pb.InvokeRequest(name="calc", type="add", payload=payload, timeout_ms=2500)
    assert pb.InvokeRequest.FromString(raw) == message
    for each in (raw, message.SerializeToString()):
        read = decode_request(each)
        assert (read.name, read.type, read.timeout_ms) == ("calc", "add", 2500)
        assert read.payload == payload


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_reply_when_it_is_a_payload_then_it_is_the_contracts_and_arrives(
    size: int, kind: Any
) -> None:
    """An empty reply is a reply, and bytes are bytes."""
    payload = payload_of(size)
    raw = encode_reply(kind(payload), None, TIMINGS)
    message = pb.InvokeResponse.FromString(raw)
    assert (message.WhichOneof("outcome"), message.payload) == ("payload", payload)
    for each in (raw, message.SerializeToString()):
        result = decode_reply(each, round_trip_ns=9)
        assert (result.payload, result.timings, result.round_trip_ns) == (payload, TIMINGS, 9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cls", [ActorFailed, ActorTrapped])
def test_reply_when_it_is_a_failure_then_it_is_raised_with_its_output(
    cls: type[ActorFailed | ActorTrapped], size: int
) -> None:
    """The actor's own failure arrives as the exception it was, and what the program wrote."""
    output = payload_of(size)
    sent = cls("out of cheese", code="no-cheese", retryable=True, hint="buy some")
    raw = encode_reply(output, sent, TIMINGS)
    message = pb.InvokeResponse.FromString(raw)
    assert message.failure.output == output
    assert message.timings.total_ns == 1
    with pytest.raises(cls) as caught:
        decode_reply(raw)
    error = caught.value
    assert error.trace_id == ""
    assert (error.message, error.code, error.retryable, error.hint, error.output) == (
        "out of cheese",
        "no-cheese",
        True,
        "buy some",
        output,
    )


def test_request_when_it_is_long_then_its_payload_is_not_copied() -> None:
    """A view of what came in: a long message is in memory once."""
    raw = encode_request(Request("calc", "add", payload_of(LONG_BYTES), 0))
    payload = decode_request(raw).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is raw


LONG = bytes([3 << 3 | 2]) + b"\x80\x80\x04" + bytes(LONG_BYTES)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 20,
        b"\xff" * (2 * LONG_BYTES),
        LONG[:-1],
        LONG + b"\x0a",
        LONG + b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0b" + LONG,
    ],
)
def test_message_when_it_cannot_be_read_then_it_is_told_and_nothing_else_happens(
    raw: bytes,
) -> None:
    """Bytes from anywhere end in an error of the one who sent them."""
    with pytest.raises(InvalidArgument, match="cannot be read"):
        decode_request(raw)
    with pytest.raises(Internal, match="cannot be read"):
        decode_reply(raw.replace(LONG[:4], b"\x0a" + LONG[1:4], 1))


def test_request_when_a_name_is_no_text_then_it_is_told() -> None:
    """Also beside a long payload."""
    with pytest.raises(InvalidArgument, match="cannot be read"):
        decode_request(b"\x0a\x02\xff\xff" + LONG)


def test_request_when_it_is_written_otherwise_then_it_is_read_as_the_generated_code_does() -> None:
    """A payload that is there twice, unknown fields, very many of them: the last one counts."""
    other = bytes([3 << 3 | 2]) + b"\x80\x80\x04" + bytes([1]) * LONG_BYTES
    unknown = bytes([15 << 3]) + b"\x01" + bytes([14 << 3 | 5]) + bytes(4)
    unknown += bytes([13 << 3 | 1]) + bytes(8)
    for raw in (LONG + other, other + LONG, unknown + LONG + unknown, unknown * 20 + LONG):
        read = decode_request(raw)
        assert read.payload == pb.InvokeRequest.FromString(raw).payload


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_request_when_anything_is_around_a_payload_then_as_the_generated_code(
    before: bytes, after: bytes
) -> None:
    """Our reading agrees with the generated code's on whatever both accept."""
    raw = before + LONG + after
    try:
        expected = pb.InvokeRequest.FromString(raw)
    except DecodeError:
        with pytest.raises(InvalidArgument):
            decode_request(raw)
        return
    read = decode_request(raw)
    assert (read.name, read.type, bytes(read.payload), read.timeout_ms) == (
        expected.name,
        expected.type,
        expected.payload,
        expected.timeout_ms,
    )
