"""A message over one hop against one to the node that has the application, and an artifact's way.

Two nodes in processes of their own, and the same connection to each: rounds alternate.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
from pathlib import Path
from time import perf_counter_ns

from benchmarks.node import PAYLOAD, Row, row
from benchmarks.serving import serving
from plexspaces_node import NodeClient
from plexspaces_node.cluster_token import ClusterToken

ROUNDS = 7
MESSAGES = 1500


async def measure(wasm: Path, scratch: Path) -> list[Row]:
    """Measure the median of one connection's messages of 100 bytes."""
    token = ClusterToken.new().text
    program = [sys.executable, "-m", "benchmarks.hop_node"]
    with serving([*program, "b", str(scratch / "hop-b"), token]) as told:
        grpc, http, peer_http, peer_grpc = told.split()
        async with NodeClient(grpc, http=False) as client:
            await client.deploy("echo", wasm)
        other = [*program, "a", str(scratch / "hop-a"), token, "b", peer_http, peer_grpc]
        with serving(other) as told_other:
            return await asyncio.to_thread(_rounds, told_other.split()[1], http)


def _rounds(over: str, direct: str) -> list[Row]:
    pairs = []
    for _ in range(ROUNDS):
        hop = _median_us(over)
        pairs.append((hop, _median_us(direct)))
    return [row("HTTP over one hop, one connection, p50", "µs", pairs)]


def _median_us(address: str) -> float:
    """Return the median time of a message, by a client that costs as little as can be."""
    host, _, port = address.rpartition(":")
    head = f"POST /apps/echo/e HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(PAYLOAD)}\r\n"
    request = head.encode() + b"\r\n" + PAYLOAD
    times = []
    with socket.create_connection((host, int(port))) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(MESSAGES):
            begin_ns = perf_counter_ns()
            connected.sendall(request)
            reply = connected.recv(4096)
            times.append(perf_counter_ns() - begin_ns)
            assert reply.startswith(b"HTTP/1.1 200")
            assert reply.endswith(PAYLOAD)
    return statistics.median(times) / 1e3
