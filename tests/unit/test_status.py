"""Errors survive the wire, ours and others'."""

from __future__ import annotations

from collections import Counter

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from plexspaces_node.api.status import DETAILS_KEY, TABLE, from_grpc, to_grpc
from plexspaces_node.errors import (
    PLATFORM_ERRORS,
    ActorError,
    ActorFailed,
    ActorTrapped,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    VmStartFailed,
)

ADDRESS = "127.0.0.1:9000"


def received(
    code: grpc.StatusCode, details: str = "", metadata: tuple[tuple[str, str | bytes], ...] = ()
) -> grpc.aio.AioRpcError:
    """The exception a client's call ends with."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details)


def travel(error: PlexSpacesError | ActorError) -> PlexSpacesError | ActorError:
    """Send an error through the encoding and back."""
    code, text, metadata = to_grpc(error)
    return from_grpc(received(code, text, metadata), address=ADDRESS)


def of_class(cls: type[PlexSpacesError], message: str, hint: str | None) -> PlexSpacesError:
    """An error of the class, with a step where it takes one."""
    if cls is VmStartFailed:
        return VmStartFailed(message, step="boot", hint=hint)
    return cls(message, hint=hint)


def test_table_when_compared_with_the_classes_then_each_appears_once() -> None:
    """No platform error is without a code, and none has two."""
    assert Counter(row.error for row in TABLE) == Counter(PLATFORM_ERRORS)


def test_table_when_read_backwards_then_every_code_has_one_class() -> None:
    """Any status another program may send is read as exactly one class, OK aside."""
    sent = Counter({row.code for row in TABLE})
    read = sent + Counter(code for row in TABLE for code in row.also)
    assert read == Counter(code for code in grpc.StatusCode if code is not grpc.StatusCode.OK)


@pytest.mark.parametrize("cls", PLATFORM_ERRORS)
@pytest.mark.parametrize("hint", ["plexspaces list", None])
def test_platform_error_when_sent_then_class_message_and_hint_survive(
    cls: type[PlexSpacesError], hint: str | None
) -> None:
    """Every class of error arrives as what it was, with its hint or without one."""
    arrived = travel(of_class(cls, "größer als 5 – nein\nzwei", hint))
    assert type(arrived) is cls
    assert (arrived.message, arrived.hint) == ("größer als 5 – nein\nzwei", hint)


def test_resource_exhausted_when_it_says_when_to_come_back_then_that_survives() -> None:
    """As google.rpc.RetryInfo, which clients of other makes read too."""
    back = travel(ResourceExhausted("too fast", hint="wait", retry_after_s=0.25))
    assert isinstance(back, ResourceExhausted)
    assert (back.retry_after_s, back.hint) == (0.25, "wait")
    _, _, metadata = to_grpc(ResourceExhausted("too fast", retry_after_s=0.25))
    status, after = Status(), RetryInfo()
    status.ParseFromString(metadata[0][1])
    assert [detail.Unpack(after) for detail in status.details] == [False, True]
    assert after.retry_delay.ToMilliseconds() == 250


def test_vm_start_failed_when_sent_then_the_step_survives() -> None:
    """The name of the failing step reaches the client."""
    arrived = travel(VmStartFailed("no hello in 5 s", step="handshake"))
    assert isinstance(arrived, VmStartFailed)
    assert arrived.step == "handshake"


@pytest.mark.parametrize("cls", [ActorFailed, ActorTrapped])
def test_actor_error_when_sent_then_it_is_not_taken_for_the_platforms(
    cls: type[ActorError],
) -> None:
    """What an actor did wrong in a deploy arrives as the actor's, with its own code."""
    arrived = travel(cls("no such table", code="bad-init", retryable=True, hint="look at logs"))
    assert type(arrived) is cls
    assert (arrived.message, arrived.code, arrived.retryable, arrived.hint) == (
        "no such table",
        "bad-init",
        True,
        "look at logs",
    )


def test_message_when_very_long_then_it_is_cut_to_what_grpc_carries() -> None:
    """A traceback of any length leaves the metadata within gRPC's 8 KiB."""
    _code, text, metadata = to_grpc(Internal("ß" * 100_000, hint="é" * 10_000))
    in_base64 = len(metadata[0][1]) * 4 // 3
    percent_encoded = len(text.encode()) * 3
    assert in_base64 + percent_encoded < 8000
    arrived = travel(Internal("ß" * 100_000))
    assert arrived.message.endswith("ß…")


def test_message_when_not_unicode_then_it_is_sent_all_the_same() -> None:
    """A lone surrogate from a broken guest does not break the answer."""
    assert travel(NotFound("bad \ud800 name")).message == "bad ? name"


def test_unavailable_when_nothing_listens_then_the_hint_starts_a_node() -> None:
    """The commonest failure says what to do."""
    said = "failed to connect to all addresses; last error: UNKNOWN: Connection refused"
    arrived = from_grpc(received(grpc.StatusCode.UNAVAILABLE, said), address=ADDRESS)
    assert isinstance(arrived, Unavailable)
    assert arrived.message == "no node answers at 127.0.0.1:9000"
    assert arrived.hint == "plexspaces start-node --node-id my-node"


@pytest.mark.parametrize("address", ["192.0.2.1:9000", "node.example:9000", "unix:///tmp/x"])
def test_unavailable_when_the_node_is_elsewhere_then_the_hint_starts_none_here(
    address: str,
) -> None:
    """A node that is started on this host is not the one that was asked for."""
    said = "failed to connect to all addresses; last error: UNKNOWN: Connection refused"
    error = from_grpc(received(grpc.StatusCode.UNAVAILABLE, said), address=address)
    assert "start-node" not in str(error.hint)
    assert "on its host" in str(error.hint)


def test_socket_when_another_users_then_it_is_not_allowed_and_the_hint_is_a_token() -> None:
    """A node does answer there; it is the kernel that does not let this user in."""
    said = "failed to connect to all addresses; last error: connect failed: Permission denied"
    error = from_grpc(received(grpc.StatusCode.UNAVAILABLE, said), address="unix:/srv/node.sock")
    assert isinstance(error, PermissionDenied)
    assert "plexspaces login" in str(error.hint)


def test_unavailable_when_nothing_listens_elsewhere_then_the_hint_starts_a_node_there() -> None:
    """A node that the hint starts is one that the same command then finds."""
    said = "failed to connect to all addresses; last error: UNKNOWN: Connection refused"
    error = received(grpc.StatusCode.UNAVAILABLE, said)
    hint = from_grpc(error, address="127.0.0.1:21999").hint
    assert hint == "plexspaces start-node --node-id my-node --address 127.0.0.1:21999"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("errors resolving nowhere:9000: Domain name not found", "Domain name not found"),
        ("failed to connect to all addresses; last error: UNKNOWN: Endpoint closing", "closing"),
    ],
)
def test_unavailable_when_something_else_is_the_matter_then_it_is_told(said: str, why: str) -> None:
    """A name that does not resolve and a port of another program are told from an empty port."""
    arrived = from_grpc(received(grpc.StatusCode.UNAVAILABLE, said), address=ADDRESS)
    assert arrived.message.startswith("no node answers at 127.0.0.1:9000 (")
    assert why in arrived.message


def test_call_when_the_server_refused_its_stream_then_it_is_one_too_many() -> None:
    """What a server did not even look at is an overload, and may be sent again."""
    said = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"
    arrived = from_grpc(received(grpc.StatusCode.UNAVAILABLE, said), address=ADDRESS)
    assert isinstance(arrived, ResourceExhausted)
    assert arrived.hint == "send fewer at a time"


def test_unavailable_when_connections_are_closed_at_once_then_the_node_is_not_called_absent() -> (
    None
):
    """A node that has as many connections as it takes is there, and no second one is started."""
    said = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:1:2: Socket closed"
    arrived = from_grpc(received(grpc.StatusCode.UNAVAILABLE, said), address=ADDRESS)
    assert isinstance(arrived, Unavailable)
    assert "it has reached its limit" in arrived.message
    assert "start-node" not in (arrived.hint or "")


def test_unavailable_when_the_connection_broke_then_it_says_so() -> None:
    """A node that died in a call is not called absent."""
    arrived = from_grpc(received(grpc.StatusCode.UNAVAILABLE, "Socket closed"), address=ADDRESS)
    assert isinstance(arrived, Unavailable)
    assert "was lost (Socket closed)" in arrived.message


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, Unsupported),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidArgument),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.UNKNOWN, Internal),
    ],
)
def test_foreign_status_when_received_then_its_code_decides(
    code: grpc.StatusCode, cls: type[PlexSpacesError]
) -> None:
    """A status without our details becomes the class its code stands for, never VmStartFailed."""
    arrived = from_grpc(received(code, "said elsewhere"), address=ADDRESS)
    assert type(arrived) is cls


def test_details_when_malformed_or_of_another_domain_then_the_code_decides() -> None:
    """Somebody else's details, or rubbish, do not break the client."""
    detail = Any()
    detail.Pack(ErrorInfo(domain="example.com", reason="not_found"))
    other = Status(message="theirs", details=[detail]).SerializeToString()
    for value in (b"\xff\xff\xff", other, b""):
        error = received(grpc.StatusCode.INTERNAL, "theirs", ((DETAILS_KEY, value),))
        arrived = from_grpc(error, address=ADDRESS)
        assert type(arrived) is Internal
        assert "theirs (INTERNAL from 127.0.0.1:9000)" in arrived.message


def test_reason_when_unknown_then_internal_names_it() -> None:
    """An error class of a newer node is not lost in silence."""
    detail = Any()
    detail.Pack(ErrorInfo(domain="plexspaces", reason="brand_new"))
    value = Status(message="something new", details=[detail]).SerializeToString()
    error = received(grpc.StatusCode.ABORTED, "x", ((DETAILS_KEY, value),))
    arrived = from_grpc(error, address=ADDRESS)
    assert type(arrived) is Internal
    assert "brand_new" in arrived.message
