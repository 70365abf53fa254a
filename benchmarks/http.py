"""The HTTP door against a bare HTTP server, workerd and the node's own gRPC, by wrk.

Of messages to an actor, and of requests that a component of wasi:http answers.

And how long a quiet application takes to answer while another one takes all it can get.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import statistics
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep

from benchmarks import workerd
from benchmarks.node import PAYLOAD, Row, row
from benchmarks.serving import ROOT, serving
from plexspaces_node import NodeClient
from plexspaces_node.errors import Unsupported
from plexspaces_node.toolchains import build

ROUNDS = 5
SECONDS = 2
LONG_BYTES = 1 << 30
QUIET_PER_S = 250
"""The requests of the quiet application."""

_HELLO = ROOT / "examples" / "rust-hello-http"

_PER_SECOND = re.compile(r"Requests/sec:\s+([\d.]+)")
_REQUESTS = re.compile(r"(\d+) requests in")
_MEDIAN = re.compile(r"50%\s+([\d.]+)(us|ms|s)")
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}


def missing() -> str:
    """Return why nothing can be measured here, "" if it can."""
    return "" if shutil.which("wrk") else "wrk is not installed: apt-get install wrk"


async def measure(wasm: Path, scratch: Path, *, note: Callable[[str], None]) -> list[Row]:
    """Measure an echo of 100 bytes: requests a second, and the median of one connection.

    And requests a second of a component, unless it cannot be compiled here, which is noted.
    """
    hello = await _hello(scratch, note)
    script = scratch / "echo.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {len(PAYLOAD)})\n')
    host = [sys.executable, "-m", "benchmarks.host", str(scratch / "http-data")]
    floor = [sys.executable, "-m", "benchmarks.floor_http"]
    with serving(host) as addresses, serving(floor) as bare, ExitStack() as others:
        grpc_address, http_address = addresses.split()
        async with NodeClient(grpc_address, http=False) as client:
            await client.deploy("echo", wasm)
            await client.deploy("quiet", wasm)

            echo = "/apps/echo/e"

            async def per_second(address: str) -> float:
                return rate_of(await wrk(address + echo, 32, script))

            async def hellos_per_second(address: str) -> float:
                return rate_of(await wrk(f"{address}/apps/hello/", 32))

            async def median_us(address: str) -> float:
                return _median_us(await wrk(address + echo, 1, script))

            async def over_grpc(_: str) -> float:
                return await _grpc_per_second(client)

            async def quiet_ms(address: str) -> float:
                return await asyncio.to_thread(_quiet_p99_ms, address)

            async def beside_a_busy_one(address: str) -> float:
                busy, p99_ms = await asyncio.gather(per_second(address), quiet_ms(address))
                assert busy > 0
                return p99_ms

            rows = [
                await _rounds("HTTP, 32 connections", "/s", http_address, bare, per_second),
                await _rounds("HTTP, one connection, p50", "µs", http_address, bare, median_us),
                await _rounds(
                    "HTTP against gRPC, 32 callers", "/s", http_address, "", per_second, over_grpc
                ),
                await _rounds(
                    "HTTP, p99 beside a busy application; alone",
                    "ms",
                    http_address,
                    http_address,
                    beside_a_busy_one,
                    quiet_ms,
                ),
            ]
            if hello is not None:
                await client.deploy("hello", hello)
                name = "HTTP, a component in Rust, 32 connections"
                rows += [
                    await _rounds(name, "/s", http_address, bare, hellos_per_second, per_second),
                    await _through(f"{http_address}/apps/hello/echo", bare),
                ]
            if (program := await asyncio.to_thread(workerd.program)) is not None:
                isolates = others.enter_context(workerd.echoing(program, scratch))
                name = "HTTP against workerd, 32 connections"
                rows.append(await _rounds(name, "/s", http_address, isolates, per_second))
            return rows


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


async def _through(component: str, bare: str) -> Row:
    """Measure how fast a long body goes through a component and back, against the bare echo."""
    pairs = []
    for _ in range(ROUNDS):
        pairs.append(
            (
                await asyncio.to_thread(_mb_per_second, component),
                await asyncio.to_thread(_mb_per_second, f"{bare}/"),
            )
        )
    return row("HTTP, 1 GiB through a component and back", "MB/s", pairs)


def _mb_per_second(url: str) -> float:
    """Send `LONG_BYTES` and read them back at the same time; return MB/s each way."""
    address, _, path = url.partition("/")
    host, _, port = address.partition(":")
    head = f"POST /{path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {LONG_BYTES}\r\n\r\n"
    piece = bytes(1 << 20)
    begin = perf_counter()
    with socket.create_connection((host, int(port))) as client:

        def send() -> None:
            client.sendall(head.encode())
            for _ in range(LONG_BYTES >> 20):
                client.sendall(piece)

        sender = threading.Thread(target=send)
        sender.start()
        left, room = LONG_BYTES, bytearray(1 << 20)
        # What frames the chunks comes on top: it is told by a body that is longer.
        while left > 0:
            count = client.recv_into(room)
            if not count:
                raise RuntimeError(f"{url} ended with {left} bytes to come")
            left -= count
        sender.join()
    return LONG_BYTES / 1e6 / (perf_counter() - begin)


async def _hello(scratch: Path, note: Callable[[str], None]) -> Path | None:
    project, output = scratch / _HELLO.name, scratch / "hello.wasm"
    shutil.copytree(_HELLO, project)
    try:
        await build(project, output, progress=note)
    except Unsupported as missing:
        note(f"{_HELLO.name}: skipped: {missing.message} (hint: {missing.hint})")
        return None
    return output


async def wrk(url: str, connections: int, script: Path | None = None) -> str:
    """Return what wrk says about `SECONDS` of load; raises `RuntimeError` if something failed."""
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency"),
        *(() if script is None else ("-s", str(script))),
        f"http://{url}",
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    text = said.decode()
    if process.returncode or "Non-2xx" in text:
        raise RuntimeError(f"wrk against {url}: {text}")
    return text


def count_of(said: str) -> int:
    """Return how many requests wrk says that it has made."""
    found = _REQUESTS.search(said)
    assert found is not None, said
    return int(found[1])


def rate_of(said: str) -> float:
    """Return the requests a second of what wrk says."""
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


def _quiet_p99_ms(address: str) -> float:
    """Return the p99 of one connection to the quiet application, for a little less than a load."""
    host, _, port = address.rpartition(":")
    head = f"POST /apps/quiet/e HTTP/1.1\r\nhost: {address}\r\ncontent-length: {len(PAYLOAD)}"
    request = f"{head}\r\n\r\n".encode() + PAYLOAD
    times = []
    with socket.create_connection((host, int(port))) as connection:
        # Until the load has begun.
        sleep(0.2)
        end = perf_counter() + SECONDS - 0.4
        while (begin := perf_counter()) < end:
            connection.sendall(request)
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert answer.endswith(PAYLOAD), answer
            times.append(perf_counter() - begin)
            sleep(1 / QUIET_PER_S)
    return statistics.quantiles(times, n=100)[98] * 1e3
