"""What a cluster takes and costs: nodes that die, deploys, several nodes' throughput, memory.

All nodes are on this machine and share its cores: what several do together is bounded by them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks import http
from benchmarks.node import PAYLOAD, Row, row
from benchmarks.serving import with_tests
from plexspaces_node.client import DeployOptions

if TYPE_CHECKING:
    from support.cluster.cluster import Cluster
    from support.cluster.node import ClusterNode

FAILOVERS = 9
DEPLOYS = 15
APPLICATIONS = 40
"""Of which the cost of one is told."""
ROUNDS = 3
_LOOK_S = 0.02
_TIMEOUT_S = 60.0
_OK = 200
_SMALL = DeployOptions(memory_mib=64)


@dataclass(frozen=True)
class Failover:
    """How long nobody answered for an application after its node was killed.

    Attributes:
        name: what kind of application.
        times_s: of each time.
    """

    name: str
    times_s: list[float]


@dataclass(frozen=True)
class Cost:
    """What something costs, in the unit that its name tells."""

    name: str
    value: float


@dataclass(frozen=True)
class ClusterReport:
    """What was measured of clusters.

    Attributes:
        throughput: echoes a second that 1, 2 and 3 nodes give together.
    """

    failovers: list[Failover]
    rows: list[Row]
    throughput: list[float]
    costs: list[Cost]


def missing() -> str:
    """Return why nothing can be measured here, "" if it can."""
    return "" if find_spec("nats") else "pip install 'plexspaces-node[cluster]'"


def table(report: ClusterReport) -> str:
    """Return the report as text."""
    lines = [f"{'a node is killed: first answer after':44} {'p50':>9} {'worst':>9}"]
    for one in report.failovers:
        worst = max(one.times_s)
        lines.append(
            f"{one.name:44} {statistics.median(one.times_s):7.2f} s {worst:7.2f} s"
            f"  (of {len(one.times_s)})"
        )
    lines += ["", f"{'':44} {'cluster':>12} {'one node':>12} {'ratio':>8}"]
    lines += [
        f"{one.name:44} {one.product:9.2f} {one.unit} {one.floor:9.2f} {one.unit} {one.ratio:7.2f}×"
        for one in report.rows
    ]
    if report.throughput:
        told = ", ".join(f"{one:,.0f}/s" for one in report.throughput)
        lines += ["", f"{'echoes of 1, 2 and 3 nodes together':44} {told}"]
    lines += ["", *(f"{one.name:44} {one.value:12,.1f}" for one in report.costs)]
    return "\n".join(lines)


async def measure(wasm: Path, scratch: Path, *, note: Callable[[str], None]) -> ClusterReport:
    """Measure a single node, and three nodes that are a cluster."""
    note("cluster: a single node")
    async with _alone(scratch / "alone") as single:
        resting_mib = _memory_mib(single.pid)
        alone_ms = await _deploys_ms(single, wasm, "alone")
    note("cluster: three nodes")
    async with _three(scratch / "three") as running:
        costs = _memory_costs(running, resting_mib)
        together_ms = await _deploys_ms(running.nodes[0], wasm, "together")
        rows = [
            row("deploy to first reply", "ms", list(zip(together_ms, alone_ms, strict=True))),
        ]
        costs += await _application_costs(running, wasm)
        throughput: list[float] = []
        if why := http.missing():
            note(f"throughput is not measured: {why}")
        else:
            throughput = await _throughput(running, scratch)
        failovers = [
            await _failovers("an actor", running, wasm, note),
            await _failovers("an HTTP component, one replica", running, _page(scratch), note),
        ]
    return ClusterReport(failovers, rows, throughput, costs)


def _page(scratch: Path) -> Path:
    from support.actors import http_component  # noqa: PLC0415 - below tests, which is added

    page = scratch / "page.wasm"
    page.write_bytes(http_component())
    return page


@asynccontextmanager
async def _alone(directory: Path) -> AsyncIterator[ClusterNode]:
    """A node that is in no cluster."""
    with_tests()
    from support.cluster.node import ClusterNode  # noqa: PLC0415

    directory.mkdir()
    node = ClusterNode("alone", directory / "alone", address=f"127.99.{os.getpid() % 250}.1")
    try:
        node.start()
        await node.serving()
        yield node
    finally:
        node.crash()


@asynccontextmanager
async def _three(directory: Path) -> AsyncIterator[Cluster]:
    with_tests()
    from support.cluster.cluster import cluster  # noqa: PLC0415

    directory.mkdir()
    async with cluster(directory, 3, in_network=False) as running:
        await running.agrees()
        yield running


def _memory_mib(*pids: int) -> float:
    """Return how much memory these processes have for themselves."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1])
    return total / 1024


def _memory_costs(running: Cluster, resting_mib: float) -> list[Cost]:
    node = statistics.median(_memory_mib(one.pid) for one in running.nodes)
    server = statistics.median(_memory_mib(*one.servers()) for one in running.nodes)
    return [
        Cost("memory of a node alone, MiB", resting_mib),
        Cost("memory of a node in a cluster, MiB", node),
        Cost("memory of its NATS server, MiB", server),
        Cost("what clustering adds to a node, MiB", node - resting_mib + server),
    ]


async def _deploys_ms(node: ClusterNode, wasm: Path, prefix: str) -> list[float]:
    """Deploy and remove, one after the other; return how long each took to its first reply."""
    times = []
    async with node.client() as client:
        for at in range(DEPLOYS + 1):
            name = f"{prefix}-{at}"
            begin = perf_counter()
            await client.deploy(name, wasm, options=_SMALL)
            await client.invoke(name, PAYLOAD, type="e")
            times.append((perf_counter() - begin) * 1e3)
            await client.undeploy(name)
    # The first one compiled it.
    return times[1:]


async def _application_costs(running: Cluster, wasm: Path) -> list[Cost]:
    """Deploy some actors, and see what that adds to each node and its NATS server."""
    nodes = running.nodes
    async with nodes[0].client() as client:
        before = [_of_node(node) for node in nodes]
        names = [f"cost-{at}" for at in range(APPLICATIONS)]
        for name in names:
            await client.deploy(name, wasm, options=_SMALL)
        await running.agrees(*names)
        after = [_of_node(node) for node in nodes]
        for name in names:
            await client.undeploy(name)
    each = [
        statistics.mean(
            (one[at] - other[at]) / APPLICATIONS for one, other in zip(after, before, strict=True)
        )
        for at in range(3)
    ]
    return [
        Cost("an application: on the disk of each NATS server, KiB", each[0]),
        Cost("an application: memory of each NATS server, KiB", each[1]),
        Cost("an application: memory of each node, KiB", each[2]),
    ]


def _of_node(node: ClusterNode) -> tuple[float, float, float]:
    disk = sum(path.stat().st_size for path in (node.data_dir / "nats").rglob("*.blk"))
    return disk / 1024, _memory_mib(*node.servers()) * 1024, _memory_mib(node.pid) * 1024


async def _throughput(running: Cluster, scratch: Path) -> list[float]:
    """Send to 1, 2 and 3 nodes at once what each has itself."""
    async with running.nodes[0].client() as client:
        wish = DeployOptions(memory_mib=64, replicas=3)
        await client.deploy("page", _page(scratch), options=wish)
    await running.agrees("page")
    rates = []
    for count in range(1, len(running.nodes) + 1):
        nodes = running.nodes[:count]

        async def together(nodes: list[ClusterNode] = nodes) -> float:
            told: list[Awaitable[str]] = [
                http.wrk(f"{node.http_address}/apps/page/", 32 // len(nodes)) for node in nodes
            ]
            return sum(http.rate_of(one) for one in await asyncio.gather(*told))

        rates.append(statistics.median([await together() for _ in range(ROUNDS)]))
    async with running.nodes[0].client() as client:
        await client.undeploy("page")
    return rates


async def _failovers(
    name: str, running: Cluster, wasm: Path, note: Callable[[str], None]
) -> Failover:
    """Kill the node of an application again and again, with its NATS server."""
    async with running.nodes[0].client() as client:
        await client.deploy("victim", wasm, options=_SMALL)
    times_s = []
    for _ in range(FAILOVERS):
        await running.agrees("victim")
        owner = await _owner(running)
        others = running.others(owner)
        owner.crash()
        begin = perf_counter()
        await asyncio.wait_for(_answer(others[0]), _TIMEOUT_S)
        times_s.append(perf_counter() - begin)
        note(f"cluster: {name}: {times_s[-1]:.2f} s")
        await running.restart()
    await running.agrees("victim")
    async with running.nodes[0].client() as client:
        await client.undeploy("victim")
    return Failover(name, times_s)


async def _owner(running: Cluster) -> ClusterNode:
    async with running.nodes[0].client() as client:
        listed = (await client.list()).applications
    (found,) = [one for one in listed if one.name == "victim"]
    return running[next(one.node for one in found.nodes if one.state == "Running")]


async def _answer(node: ClusterNode) -> None:
    """Ask until there is an answer."""
    from support.cluster.sending import NoAnswerError, NotSentError, Sender  # noqa: PLC0415

    sender = Sender(node)
    try:
        while True:
            try:
                told = await sender.send("victim", "e", PAYLOAD, timeout_s=1.0)
                if told.status == _OK:
                    return
            except (NoAnswerError, NotSentError):
                pass
            await asyncio.sleep(_LOOK_S)
    finally:
        sender.close()
