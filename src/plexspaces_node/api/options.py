"""The gRPC options of a connection between client and node, defined once for both ends.

They belong together: a client that pings more often than the server permits is disconnected, and a
message must be allowed by its sender and its receiver.
"""

from __future__ import annotations

from typing import TypeAlias

from plexspaces_node.model import MAX_MESSAGE_LIMIT_BYTES, MIB

ChannelOptions: TypeAlias = tuple[tuple[str, int], ...]

UPLOAD_CHUNK_BYTES = 256 * 1024
"""How much of an artifact a client sends at a time; a node accepts chunks of up to 1 MiB."""

ENVELOPE_BYTES = 256 * 1024
"""How much longer than its payload a gRPC message can be, with variables and arguments."""

LISTING_LIMIT_BYTES = 16 * MIB
"""The maximum size of a listing: many thousand applications."""

_PING_EVERY_MS = 60_000
_PING_TIMEOUT_MS = 20_000


def client_options() -> ChannelOptions:
    """Options of a client's channel."""
    return (
        ("grpc.max_send_message_length", MAX_MESSAGE_LIMIT_BYTES + ENVELOPE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_LIMIT_BYTES + ENVELOPE_BYTES),
        # A followed log can be silent for hours: pings detect that the node's host is gone.
        ("grpc.keepalive_time_ms", _PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.client_idle_timeout_ms", _CLIENT_IDLE_MS),
        # The caller decides about retries, never the transport.
        ("grpc.enable_retries", 0),
        # A node is reached directly; a web proxy would be asked for 127.0.0.1 too.
        ("grpc.enable_http_proxy", 0),
        # Otherwise all channels of a process share a connection and its backoff after a failure,
        # and a node that has just started seems absent.
        ("grpc.use_local_subchannel_pool", 1),
    )


_HANDSHAKE_MS = 10_000
"""How long a new connection may take to start HTTP/2."""

_IDLE_MS = 90_000
"""How long a connection without a call stays open; a client reconnects with its next call. A
followed log is a call, even if it is silent."""

_CLIENT_IDLE_MS = 60_000
"""A client disconnects first, because gRPC writes a line to its stderr if the server does."""


def server_options(
    message_limit: int = MAX_MESSAGE_LIMIT_BYTES,
    *,
    calls: int = 10_000,
    connections: int = 10_000,
) -> ChannelOptions:
    """Options of the server of a node with these limits for a message, for calls and connections.

    A message that is a little too long is received and refused by the node itself, with a better
    error; one that is much too long is not even read. See `status.from_grpc`. Calls are treated the
    same: the node refuses those over the limit with an error, and gRPC refuses many times as many
    on one connection.
    """
    streams = 4 * calls
    # A chunk of an artifact can be longer than the messages of a node with a small limit.
    longest = max(message_limit, MIB) + ENVELOPE_BYTES
    return (
        ("grpc.max_send_message_length", max(longest, LISTING_LIMIT_BYTES)),
        ("grpc.max_receive_message_length", longest),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_EVERY_MS // 2),
        ("grpc.keepalive_permit_without_calls", 1),
        # Without this, two nodes could listen on one port and share its clients between them.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", streams),
        # Calls that the node has not looked at yet, of all connections: gRPC ends some of them at
        # random with CANCELLED, from 1,000 on unless it is given a number.
        ("grpc.server.max_pending_requests", 2 * streams),
        ("grpc.server.max_pending_requests_hard_limit", 2 * streams),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
        # Otherwise the calls of a client whose host disappeared would stay for two more hours.
        ("grpc.keepalive_time_ms", _PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    )
