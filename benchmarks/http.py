"""The HTTP door against a bare HTTP server and against the node's own gRPC, by wrk."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.node import PAYLOAD, Row, row
from benchmarks.serving import serving
from plexspaces_node import NodeClient

ROUNDS = 5
SECONDS = 2
_PER_SECOND = re.compile(r"Requests/sec:\s+([\d.]+)")
_MEDIAN = re.compile(r"50%\s+([\d.]+)(us|ms|s)")
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}


def missing() -> str:
    """Return why nothing can be measured here, "" if it can."""
    return "" if shutil.which("wrk") else "wrk is not installed: apt-get install wrk"


async def measure(wasm: Path, scratch: Path) -> list[Row]:
    """Measure an echo of 100 bytes: requests a second, and the median of one connection."""
    script = scratch / "echo.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {len(PAYLOAD)})\n')
    host = [sys.executable, "-m", "benchmarks.host", str(scratch / "http-data")]
    floor = [sys.executable, "-m", "benchmarks.floor_http"]
    with serving(host) as addresses, serving(floor) as bare:
        grpc_address, http_address = addresses.split()
        async with NodeClient(grpc_address) as client:
            await client.deploy("echo", wasm)

            async def per_second(address: str) -> float:
                return _rate(await _wrk(address, script, connections=32))

            async def median_us(address: str) -> float:
                return _median_us(await _wrk(address, script, connections=1))

            async def over_grpc(_: str) -> float:
                return await _grpc_per_second(client)

            return [
                await _rounds("HTTP, 32 connections", "/s", http_address, bare, per_second),
                await _rounds("HTTP, one connection, p50", "µs", http_address, bare, median_us),
                await _rounds(
                    "HTTP against gRPC, 32 callers", "/s", http_address, "", per_second, over_grpc
                ),
            ]


async def _rounds(  # noqa: PLR0913 - each by its name
    name: str,
    unit: str,
    product: str,
    floor: str,
    measured: Callable[[str], Awaitable[float]],
    of_floor: Callable[[str], Awaitable[float]] | None = None,
) -> Row:
    pairs = []
    for _ in range(ROUNDS):
        pairs.append((await measured(product), await (of_floor or measured)(floor)))
    return row(name, unit, pairs)


async def _wrk(address: str, script: Path, *, connections: int) -> str:
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", str(script)),
        f"http://{address}/apps/echo/e",
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    text = said.decode()
    if process.returncode or "Non-2xx" in text:
        raise RuntimeError(f"wrk against {address}: {text}")
    return text


def _rate(said: str) -> float:
    found = _PER_SECOND.search(said)
    assert found is not None, said
    return float(found[1])


def _median_us(said: str) -> float:
    found = _MEDIAN.search(said)
    assert found is not None, said
    return float(found[1]) * _MICROSECONDS[found[2]]


async def _grpc_per_second(client: NodeClient) -> float:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + SECONDS
    counts = [0] * 32

    async def caller(number: int) -> None:
        while loop.time() < end_s:
            await client.invoke("echo", PAYLOAD, type="e")
            counts[number] += 1

    await asyncio.gather(*map(caller, range(32)))
    return sum(counts) / SECONDS
