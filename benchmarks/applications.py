"""What a thousand applications cost a node at process level: deploys, a listing, a restart."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.serving import serving_process
from plexspaces_node import NodeClient
from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.model import ApplicationState
from plexspaces_node.vm.host.procfs import available_memory_mib

COUNT = 1000
EDGE_TARGET = 1.2
LIST_TARGET_MS = 60.0
RESTART_TARGET_S = 6.0
MEMORY_TARGET_GIB = 10.0
_EDGE = 50
_LISTINGS = 9
_LOOK_S = 0.2
"""Between two listings, each of which costs the node what it takes to start a few of them."""
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ApplicationsReport:
    """What was measured of `COUNT` applications of one node.

    Attributes:
        first_ms: deploy and first reply, median of the first `_EDGE`.
        last_ms: the same of the last `_EDGE`.
        answered: how many answered a message once all were deployed.
        list_ms: a listing of all of them, to the client, median.
        memory_gib: what the host has less available than before the node started.
        serving_s: after kill -9, from the next start to the first listing.
        restart_s: from that start until all of them run again.
    """

    first_ms: float
    last_ms: float
    answered: int
    list_ms: float
    memory_gib: float
    serving_s: float
    restart_s: float


async def measure(wasm: Path, data: Path, *, note: Callable[[str], None]) -> ApplicationsReport:
    """Deploy `COUNT` applications, list them, kill the node and start it again."""
    argv = [sys.executable, "-m", "benchmarks.host", str(data), str(COUNT)]
    before_mib = available_memory_mib()
    with serving_process(argv) as (process, addresses):
        async with NodeClient(addresses.split()[0]) as client:
            note(f"applications: {COUNT} deploys")
            deploys_ms = [await _deployed_ms(client, f"app-{n}", wasm) for n in range(COUNT)]
            answered = [await _answers(client, f"app-{n}") for n in range(COUNT)]
            list_ms = statistics.median([await _list_ms(client) for _ in range(_LISTINGS)])
            memory_gib = (before_mib - available_memory_mib()) / 1024
        process.kill()
        process.wait()
    note("applications: the node was killed, and starts again")
    begin = perf_counter()
    with serving_process(argv) as (_, addresses):
        async with NodeClient(addresses.split()[0]) as client:
            await client.list()
            serving_s = perf_counter() - begin
            async with asyncio.timeout(_TIMEOUT_S):
                while not await _all_run(client):  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(_LOOK_S)
            restart_s = perf_counter() - begin
    return ApplicationsReport(
        first_ms=statistics.median(deploys_ms[:_EDGE]),
        last_ms=statistics.median(deploys_ms[-_EDGE:]),
        answered=sum(answered),
        list_ms=list_ms,
        memory_gib=memory_gib,
        serving_s=serving_s,
        restart_s=restart_s,
    )


def table(report: ApplicationsReport) -> str:
    """Return the report as a list."""
    edges = report.last_ms / report.first_ms
    return "\n".join(
        [
            f"{COUNT} applications, process isolation",
            f"  answered                               {report.answered:6d}",
            f"  deploy to first reply, the first {_EDGE}    {report.first_ms:6.1f} ms",
            f"  the last {_EDGE}                            {report.last_ms:6.1f} ms, "
            f"{edges:.2f}×{_over(edges, EDGE_TARGET)}",
            f"  list                                   {report.list_ms:6.1f} ms"
            f"{_over(report.list_ms, LIST_TARGET_MS)}",
            f"  memory, the node's included            {report.memory_gib:6.1f} GiB"
            f"{_over(report.memory_gib, MEMORY_TARGET_GIB)}",
            f"  after kill -9, the node serves in      {report.serving_s:6.1f} s",
            f"  and all of them run in                 {report.restart_s:6.1f} s"
            f"{_over(report.restart_s, RESTART_TARGET_S)}",
        ]
    )


def _over(value: float, target: float) -> str:
    return f" (!) target ≤ {target:g}" if value > target else ""


async def _deployed_ms(client: NodeClient, name: str, wasm: Path) -> float:
    begin = perf_counter()
    await client.deploy(name, wasm)
    await client.invoke(name, b"", type="e")
    return (perf_counter() - begin) * 1e3


async def _answers(client: NodeClient, name: str) -> bool:
    try:
        return (await client.invoke(name, b"hello", type="e")).payload == b"hello"
    except PlexSpacesError:
        return False


async def _list_ms(client: NodeClient) -> float:
    begin = perf_counter()
    assert len((await client.list()).applications) == COUNT
    return (perf_counter() - begin) * 1e3


async def _all_run(client: NodeClient) -> bool:
    found = (await client.list()).applications
    return all(application.state is ApplicationState.RUNNING for application in found)
