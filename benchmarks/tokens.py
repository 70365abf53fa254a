"""What tokens cost: right ones on the way of each message, and many wrong ones everybody else.

A node with tokens against one without, by HTTP and by gRPC, both over TCP: in the processor time of
the node for each message, which other work on the same host does not change.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import grpc

from benchmarks.http import count_of, wrk
from benchmarks.node import PAYLOAD, Row, row
from benchmarks.serving import serving_process
from plexspaces_node import NodeClient
from plexspaces_node.api.invoke import METHOD, SERVICE, Request, encode_request

ROUNDS = 5
SECONDS = 2.0
WRONG_PER_S = 10_000
Measured = Callable[[str, str], Awaitable[int]]
"""Sends messages for some seconds to a node by its addresses, and returns how many."""

RIGHT_PER_S = 500
"""The requests of somebody who is no part of the flood."""


async def measure(wasm: Path, scratch: Path, *, note: Callable[[str], None]) -> list[Row]:
    """Measure both nodes, each in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.host"]
    with ExitStack() as stack:
        places = [str(scratch / "open"), str(scratch / "guarded")]
        open_, guarded = (stack.enter_context(serving_process([*argv, place])) for place in places)
        for _, addresses in (open_, guarded):
            async with NodeClient(addresses.split()[0]) as client:
                await client.deploy("echo", wasm)
        async with NodeClient(guarded[1].split()[0]) as client:
            secret = (await client.create_token("ci", scopes=["invoke"])).secret
        nodes = []
        for process, addresses in (guarded, open_):
            grpc_address, http_address = addresses.split()
            nodes.append((process.pid, grpc_address, http_address))
        rows = []
        for name, measured in (("HTTP", _by_wrk(scratch, secret)), ("gRPC", _by_calls(secret))):
            pairs = [[await _cost_us(one, measured) for one in nodes] for _ in range(ROUNDS)]
            told = f"{name}, CPU of a message with a token; without"
            rows.append(row(told, "µs", [(guarded, open_) for guarded, open_ in pairs]))
        return rows + await _beside_a_flood(nodes[0][2], secret, note)


async def _cost_us(node: tuple[int, str, str], measured: Measured) -> float:
    """Return the processor time of a node's process for each message."""
    pid, *addresses = node
    before_s = cpu_s(pid)
    count = await measured(*addresses)
    return (cpu_s(pid) - before_s) / count * 1e6


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _by_wrk(scratch: Path, secret: str) -> Measured:
    # Both nodes are sent it, and one looks.
    script = scratch / "with-token.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = string.rep("x", {len(PAYLOAD)})\n'
        f'wrk.headers["Authorization"] = "Bearer {secret}"\n'
    )

    async def measured(_: str, http_address: str) -> int:
        return count_of(await wrk(f"{http_address}/apps/echo/e", 32, script))

    return measured


def _by_calls(secret: str) -> Measured:
    metadata = (("authorization", f"Bearer {secret}"),)

    async def measured(address: str, _: str) -> int:
        request = encode_request(Request("echo", "e", PAYLOAD, 0))
        loop = asyncio.get_running_loop()
        count = 0
        async with grpc.aio.insecure_channel(address) as channel:
            invoke: Any = channel.unary_unary(f"/{SERVICE}/{METHOD}")
            end_s = loop.time() + SECONDS

            async def call() -> None:
                nonlocal count
                while loop.time() < end_s:
                    await invoke(request, metadata=metadata)
                    count += 1

            await asyncio.gather(*(call() for _ in range(32)))
        return count

    return measured


async def _beside_a_flood(address: str, secret: str, note: Callable[[str], None]) -> list[Row]:
    """Measure p50 and p99 of somebody with a right token, while others bring wrong ones; alone."""
    argv = [sys.executable, "-m", "benchmarks.flood", address, str(WRONG_PER_S)]
    beside, alone = [], []
    for _ in range(ROUNDS):
        alone.append(await asyncio.to_thread(_times_ms, address, secret))
        with serving_process(argv) as (flood, _):
            beside.append(await asyncio.to_thread(_times_ms, address, secret))
            assert flood.stdin is not None
            assert flood.stdout is not None
            flood.stdin.close()
            note(f"{flood.stdout.readline().strip()} wrong tokens a second")
    return [
        row(
            f"HTTP, {name} beside {WRONG_PER_S} wrong tokens/s; alone",
            "ms",
            [(of(one), of(other)) for one, other in zip(beside, alone, strict=True)],
        )
        for name, of in (("p50", statistics.median), ("p99", _p99))
    ]


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def _times_ms(address: str, secret: str) -> list[float]:
    host, _, port = address.rpartition(":")
    request = (
        f"POST /apps/echo/e HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {secret}\r\n"
        f"content-length: {len(PAYLOAD)}\r\n\r\n"
    ).encode() + PAYLOAD
    times = []
    with socket.create_connection((host, int(port))) as connection:
        end = perf_counter() + SECONDS
        while (begin := perf_counter()) < end:
            connection.sendall(request)
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            times.append((perf_counter() - begin) * 1e3)
            sleep(1 / RIGHT_PER_S)
    return times
