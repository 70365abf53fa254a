"""What quotas cost a message, and what a tenant at its quota costs the others."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, perf_counter_ns

from benchmarks.node import PAYLOAD, ROUNDS, Row, row
from benchmarks.serving import serving
from plexspaces_node import NodeClient
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.quota import Key, Subject

AMPLE = 10**9
"""A quota that is never reached."""
NOISY_PER_S = 50
QUIET_PER_S = 100
CALLERS = 8
SECONDS = 5.0


@dataclass(frozen=True)
class Neighbour:
    """How long messages of a quiet tenant take, before and while another is at its quota.

    Attributes:
        name: what the other one does when it is refused.
        ratio: the median of the rounds' ratios of the 99th percentiles.
        noisy_per_s: how many messages of the other one were answered.
        refused_per_s: how many were refused.
    """

    name: str
    before_p99_ms: float
    during_p99_ms: float
    ratio: float
    noisy_per_s: float
    refused_per_s: float


@dataclass(frozen=True)
class QuotasReport:
    """What quotas cost."""

    rows: list[Row]
    neighbours: list[Neighbour]


def table(report: QuotasReport) -> str:
    """Return the report as text."""
    lines = [f"{'':44} {'product':>12} {'floor':>12} {'ratio':>8}"]
    lines += [
        f"{one.name:44} {one.product:9.2f} {one.unit} {one.floor:9.2f} {one.unit} {one.ratio:7.3f}×"
        for one in report.rows
    ]
    lines += ["", f"{'a neighbour at its quota':44} {'p99 before':>11} {'during':>9} {'ratio':>7}"]
    lines += [
        f"{one.name:44} {one.before_p99_ms:8.2f} ms {one.during_p99_ms:6.2f} ms {one.ratio:6.2f}×"
        f"  ({one.noisy_per_s:.0f}/s answered, {one.refused_per_s:.0f}/s refused)"
        for one in report.neighbours
    ]
    return "\n".join(lines)


async def measure(wasm: Path, scratch: Path) -> QuotasReport:
    """Measure on a node of its own."""
    host = [sys.executable, "-m", "benchmarks.host", str(scratch / "quotas")]
    with serving(host) as addresses:
        async with NodeClient(addresses.split()[0], http=False) as client:
            for name in ("free", "metered", "noisy"):
                await client.deploy(name, wasm)
            ample = {"messages_per_s": AMPLE, "in_flight": AMPLE}
            await client.set_quota(ample, application="metered")
            rows = [await _throughput(client), _admission()]
            await client.set_quota({"messages_per_s": NOISY_PER_S}, application="noisy")
            address = addresses.split()[0]
            neighbours = [
                await _neighbour(client, address, "it comes back when it was told", "patient"),
                await _neighbour(client, address, "it comes back at once, 8 callers", "hostile"),
            ]
    return QuotasReport(rows, neighbours)


async def _throughput(client: NodeClient) -> Row:
    async def per_second(name: str) -> float:
        async def caller() -> None:
            for _ in range(60):
                await client.invoke(name, PAYLOAD, type="e")

        begin = perf_counter()
        await asyncio.gather(*(caller() for _ in range(32)))
        return 32 * 60 / (perf_counter() - begin)

    await per_second("metered")
    await per_second("free")
    pairs = []
    for number in range(2 * ROUNDS):
        # In turns, so that neither always has the warmer caches.
        names = ("metered", "free") if number % 2 else ("free", "metered")
        found = {name: await per_second(name) for name in names}
        pairs.append((found["metered"], found["free"]))
    return row("throughput, 32 callers: with quotas, without", "/s", pairs)


def _admission() -> Row:
    """Measure a gate alone, with both quotas of both subjects, against one that is open."""
    quotas = Quotas()
    ample = {Key.MESSAGES_PER_S: AMPLE, Key.IN_FLIGHT: AMPLE}
    quotas.change(Subject("shop"), ample)
    quotas.change(Subject("shop", "cart"), ample)
    bounded, free = quotas.gate("shop/cart"), quotas.gate("blog/cart")

    def each_us(admit: object) -> float:
        call = admit
        assert callable(call)
        begin = perf_counter_ns()
        for _ in range(20_000):
            call()
        return (perf_counter_ns() - begin) / 20_000 / 1e3

    pairs = [(each_us(bounded.admit), each_us(free.admit)) for _ in range(ROUNDS)]
    return row("a gate: with quotas, open", "µs", pairs)


async def _neighbour(client: NodeClient, address: str, name: str, how: str) -> Neighbour:
    ratios, befores, durings, answered, refused = [], [], [], 0, 0
    await _p99_ms(client)
    for _ in range(ROUNDS):
        before = await _p99_ms(client)
        async with _noise(address, how) as counts:
            during = await _p99_ms(client)
        befores.append(before)
        durings.append(during)
        ratios.append(during / before)
        answered += counts[0]
        refused += counts[1]
    seconds = ROUNDS * SECONDS
    return Neighbour(
        name,
        statistics.median(befores),
        statistics.median(durings),
        statistics.median(ratios),
        answered / seconds,
        refused / seconds,
    )


async def _p99_ms(client: NodeClient) -> float:
    """Send messages at a steady pace, whether answers come or not; return the 99th percentile."""
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def send(at_s: float) -> None:
        await client.invoke("free", PAYLOAD, type="e")
        # From when it was to be sent: a late sender would hide what it waited for.
        times.append(loop.time() - at_s)

    begin = loop.time()
    sent = []
    for number in range(int(SECONDS * QUIET_PER_S)):
        at_s = begin + number / QUIET_PER_S
        await asyncio.sleep(max(0, at_s - loop.time()))
        sent.append(asyncio.ensure_future(send(at_s)))
    await asyncio.gather(*sent)
    return statistics.quantiles(times, n=100)[98] * 1e3


@asynccontextmanager
async def _noise(address: str, how: str) -> AsyncIterator[list[int]]:
    """Let another process send as it can in the body; then how much was answered and refused."""
    counts = [0, 0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.noise", address, how),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield counts
    finally:
        process.stdin.close()
        told = await process.stdout.read()
        await process.wait()
        counts[:] = map(int, told.split())
