"""What a node costs a message and a deploy."""

from __future__ import annotations

import asyncio
import shutil
import socket
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc

from benchmarks.bare_agent import bare_agent, loaded
from benchmarks.floor import METHOD
from benchmarks.serving import serving
from plexspaces_node import NodeClient
from plexspaces_node.api.options import client_options
from plexspaces_node.link import frames as link
from plexspaces_node.model import MIB
from plexspaces_node.node.machines.agent_client import AgentClient
from plexspaces_node.node.machines.machine import SwitchedHostCalls
from plexspaces_node.programs import agent_program
from plexspaces_node.tasks import called_back

if TYPE_CHECKING:
    from support.peer import Peer

ROUNDS = 7
PAYLOAD = bytes(100)
MEMORY_BYTES = 64 * MIB
_TIMEOUT_NS = 30 * 10**9

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Row:
    """One measurement: the product, its floor, and their ratio."""

    name: str
    unit: str
    product: float
    floor: float
    ratio: float


def probe(scratch: Path) -> Path:
    """Return the tests' actor, whose message `e` is an echo."""
    from support.actors import probe  # noqa: PLC0415 - found by what bare_agent adds to the path

    wasm = scratch / "probe.wasm"
    wasm.write_bytes(probe())
    return wasm


async def measure(client: NodeClient, data: Path, wasm: Path) -> list[Row]:
    """Measure an echo and a deploy, on a node and without one."""
    await client.deploy("echo", wasm)
    code = next((data / "cache").glob("*.cwasm"))
    rows = [await _link(code)]
    with serving([sys.executable, "-m", "benchmarks.floor"]) as port:
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address, options=client_options()) as channel:
            bare: Any = channel.unary_unary(METHOD)

            async def product() -> object:
                return await client.invoke("echo", PAYLOAD, type="e")

            async def floor() -> object:
                return await bare(PAYLOAD)

            name = "round trip, echo of 100 bytes"
            rows.append(await _compare(name, "ms", product, floor, _latency_ms))
            rows.append(await _compare("throughput, 32 callers", "/s", product, floor, _per_second))
    return [*rows, *_boundary(code), await _deploys(client, wasm, code)]


async def _link(code: Path) -> Row:
    """Measure an echo through the node's end of a link and a real agent, without gRPC."""
    with TemporaryDirectory(prefix="px-") as directory:
        path = Path(directory, "echo.sock")
        async with _agent(Path(directory, "link.sock"), code) as agent:
            with (
                serving([sys.executable, "-m", "benchmarks.echo", str(path)]),
                socket.socket(socket.AF_UNIX) as bare,
            ):
                bare.connect(str(path))

                send = partial(
                    agent.post, sender="", msg_type="e", payload=PAYLOAD, timeout_ns=_TIMEOUT_NS
                )

                async def product() -> object:
                    return await called_back(send)

                async def floor() -> object:
                    bare.sendall(PAYLOAD)
                    return bare.recv(1 << 16)

                async def latency_us(call: Call) -> float:
                    return await _latency_ms(call) * 1e3

                name = "the link alone, echo of 100 bytes"
                return await _compare(name, "µs", product, floor, latency_us)


@asynccontextmanager
async def _agent(path: Path, code: Path) -> AsyncIterator[AgentClient]:
    agent = AgentClient(
        "vm-bench", SwitchedHostCalls(), node_id="bench", message_limit=MIB, in_flight_limit=64
    )
    agent.link.listen(path)
    program = await asyncio.create_subprocess_exec(
        agent_program(), "--vm-id", "vm-bench", "--link", path
    )
    try:
        await agent.link.hello()
        load = link.Load(
            application="echo",
            path=str(shutil.copyfile(code, path.with_name(code.name))),
            kind=link.Load.KIND_ACTOR,
            memory_bytes=MEMORY_BYTES,
            timeout_ns=_TIMEOUT_NS,
            mailbox=64,
            snapshot_interval_ns=_TIMEOUT_NS,
            concurrency=1,
            vcpus=1,
        )
        await agent.load(load, _nothing(), 30)
        yield agent
    finally:
        await agent.close()
        program.kill()
        await program.wait()


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _compare(
    name: str, unit: str, product: Call, floor: Call, measure: Callable[[Call], Awaitable[float]]
) -> Row:
    await measure(product)
    await measure(floor)
    pairs = [(await measure(product), await measure(floor)) for _ in range(ROUNDS)]
    return row(name, unit, pairs)


async def _latency_ms(call: Call) -> float:
    times = []
    for _ in range(300):
        begin = perf_counter()
        await call()
        times.append(perf_counter() - begin)
    return statistics.median(times) * 1e3


async def _per_second(call: Call) -> float:
    each = 40

    async def caller() -> None:
        for _ in range(each):
            await call()

    begin = perf_counter()
    await asyncio.gather(*(caller() for _ in range(32)))
    return 32 * each / (perf_counter() - begin)


def _boundary(code: Path) -> list[Row]:
    """Measure what the agent says of an echo: into the actor and back, against a copy there."""
    rows = []
    with bare_agent() as peer:
        loaded(peer, code, memory_bytes=MEMORY_BYTES)
        for size, shown in ((100, "100 B"), (100_000, "100 kB"), (MIB, "1 MiB")):
            payload = bytes(size)
            peer.invoke("e", payload)
            pairs = [(_computed_us(peer, payload), _copied_us(payload)) for _ in range(ROUNDS)]
            rows.append(row(f"into an actor and back, {shown}", "µs", pairs))
    return rows


def _computed_us(peer: Peer, payload: bytes) -> float:
    times = [peer.invoke("e", payload).compute_ns / 1e3 for _ in range(100)]
    return statistics.median(times)


def _copied_us(payload: bytes) -> float:
    there = bytearray(len(payload))
    times = []
    for _ in range(100):
        begin = perf_counter()
        there[:] = payload
        bytes(there)
        times.append((perf_counter() - begin) * 1e6)
    return statistics.median(times)


async def _deploys(client: NodeClient, wasm: Path, code: Path) -> Row:
    pairs = []
    for round_ in range(ROUNDS):
        begin = perf_counter()
        await client.deploy(f"fresh-{round_}", wasm)
        await client.invoke(f"fresh-{round_}", PAYLOAD, type="e")
        deployed = perf_counter() - begin
        await client.undeploy(f"fresh-{round_}")
        pairs.append((deployed * 1e3, await asyncio.to_thread(_without_a_node_ms, code)))
    return row("deploy to first reply, artifact cached", "ms", pairs)


def _without_a_node_ms(code: Path) -> float:
    begin = perf_counter()
    with bare_agent() as peer:
        loaded(peer, code, memory_bytes=MEMORY_BYTES)
        peer.invoke("e", PAYLOAD)
        return (perf_counter() - begin) * 1e3


def row(name: str, unit: str, pairs: list[tuple[float, float]]) -> Row:
    """Return the medians of rounds, each a pair of product and floor."""
    return Row(
        name,
        unit,
        statistics.median(product for product, _ in pairs),
        statistics.median(floor for _, floor in pairs),
        statistics.median(product / floor for product, floor in pairs),
    )
