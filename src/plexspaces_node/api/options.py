"""The gRPC options of a connection between client and node, chosen once for both ends.

They belong together: a client that pings more often than the server permits is cut off, and a
message must be allowed by its sender and its receiver alike.
"""

from __future__ import annotations

from typing import TypeAlias

from plexspaces_node.model import MAX_MESSAGE_LIMIT_BYTES, MIB

ChannelOptions: TypeAlias = tuple[tuple[str, int], ...]

UPLOAD_CHUNK_BYTES = 256 * 1024
"""What a client sends of an artifact at a time; a node accepts chunks of up to 1 MiB."""

ENVELOPE_BYTES = 256 * 1024
"""What a gRPC message may be longer than the payload it carries: with variables and arguments."""

LISTING_LIMIT_BYTES = 16 * MIB
"""The most a listing may be: many thousand applications."""

_PING_EVERY_MS = 60_000
_PING_TIMEOUT_MS = 20_000


def client_options() -> ChannelOptions:
    """Options of a client's channel."""
    return (
        ("grpc.max_send_message_length", MAX_MESSAGE_LIMIT_BYTES + ENVELOPE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_LIMIT_BYTES + ENVELOPE_BYTES),
        # A followed log may be silent for hours: pings find out that the node's host is gone.
        ("grpc.keepalive_time_ms", _PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.client_idle_timeout_ms", _CLIENT_IDLE_MS),
        # What may be repeated is the caller's decision, never the transport's.
        ("grpc.enable_retries", 0),
        # A node is reached directly; a proxy set for the web would be asked for 127.0.0.1 too.
        ("grpc.enable_http_proxy", 0),
        # Otherwise channels of one process share a connection and its waiting time after a
        # failure, and a node that has just come up looks absent.
        ("grpc.use_local_subchannel_pool", 1),
    )


_HANDSHAKE_MS = 10_000
"""For whoever has connected to say that HTTP/2 is meant."""

_IDLE_MS = 90_000
"""A connection without a call is closed; a client connects again with its next call. A log that is
followed is a call, however silent."""

_CLIENT_IDLE_MS = 60_000
"""A client lets go first: gRPC writes a line to the stderr of one whose server does."""


def server_options(
    message_limit: int = MAX_MESSAGE_LIMIT_BYTES,
    *,
    calls: int = 10_000,
    connections: int = 10_000,
) -> ChannelOptions:
    """Options of the server of a node with this limit for a message, for calls and connections.

    What is a little longer comes in and is refused by the node itself, which says more; what is
    much longer is not even read. See `status.from_grpc`. So it is with calls: those over the limit
    are refused by the node in words, and of one connection many times as many by gRPC.
    """
    streams = 4 * calls
    # A chunk of an artifact may be longer than the messages of a node with a small limit.
    longest = max(message_limit, MIB) + ENVELOPE_BYTES
    return (
        ("grpc.max_send_message_length", max(longest, LISTING_LIMIT_BYTES)),
        ("grpc.max_receive_message_length", longest),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_EVERY_MS // 2),
        ("grpc.keepalive_permit_without_calls", 1),
        # Without this two nodes could listen on one port and share its clients between them.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", streams),
        # Calls that the node has yet to look at, of all connections: gRPC ends some at random, with
        # CANCELLED, and past 1,000 where it is not told a number.
        ("grpc.server.max_pending_requests", 2 * streams),
        ("grpc.server.max_pending_requests_hard_limit", 2 * streams),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        # A client whose machine went without a word would have its calls for two hours more.
        ("grpc.keepalive_time_ms", _PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    )
