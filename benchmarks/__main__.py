"""Measure the node against floors taken in the same run, and print ratios.

The machines this runs on are shared and noisy: rounds of product and floor alternate, and what is
quoted is the median of the rounds' ratios, with the absolute medians beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc

from benchmarks import languages, machines
from benchmarks.floor import METHOD
from benchmarks.languages import LanguageRow
from benchmarks.machines import MachineReport
from plexspaces_node import NodeClient
from plexspaces_node.agent import contract
from plexspaces_node.agent.boundary import ComponentFunction
from plexspaces_node.agent.host import Host
from plexspaces_node.agent.wasm import Component, Engine, Store, Wasi
from plexspaces_node.wire.options import client_options

ROOT = Path(__file__).parent.parent
ROUNDS = 7
PAYLOAD = bytes(100)

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Row:
    """One measurement: the product, its floor, and their ratio."""

    name: str
    unit: str
    product: float
    floor: float
    ratio: float


async def main() -> None:
    """Run everything and print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("node", "languages", "machines"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="px-") as scratch:
        report = await _measure(Path(scratch), arguments.only)
    if arguments.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(_text(report))


@dataclass(frozen=True)
class Report:
    """What a run measured; a part that was not asked for, or has no means here, is empty."""

    node: list[Row]
    languages: list[LanguageRow]
    machines: MachineReport | None


def _text(report: Report) -> str:
    parts = []
    if report.node:
        lines = [f"{'':44} {'product':>12} {'floor':>12} {'ratio':>8}"]
        lines += [
            f"{row.name:44} {row.product:9.2f} {row.unit} {row.floor:9.2f} {row.unit} "
            f"{row.ratio:7.2f}×"
            for row in report.node
        ]
        parts.append("\n".join(lines))
    if report.languages:
        parts.append(languages.table(report.languages))
    if report.machines is not None:
        parts.append(machines.table(report.machines))
    return "\n\n".join(parts)


async def _measure(scratch: Path, only: str | None) -> Report:
    wasm = scratch / "probe.wasm"
    wasm.write_bytes(_probe())
    rows: list[Row] = []
    by_language: list[LanguageRow] = []
    by_machine = None
    if only in (None, "node", "languages"):
        with _node(scratch / "data") as address:
            async with NodeClient(address) as client:
                if only != "languages":
                    rows = await _of_node(client, wasm, scratch)
                if only != "node":
                    by_language = await languages.measure(
                        client, scratch / "data", scratch, note=_note
                    )
    if only in (None, "machines"):
        by_machine = await machines.measure(wasm, scratch, note=_note)
    return Report(rows, by_language, by_machine)


async def _of_node(client: NodeClient, wasm: Path, scratch: Path) -> list[Row]:
    await client.deploy("echo", wasm)
    with _floor() as floor:
        async with grpc.aio.insecure_channel(floor, options=client_options()) as channel:
            bare: Any = channel.unary_unary(METHOD)

            async def product() -> object:
                return await client.invoke("echo", PAYLOAD, type="e")

            async def base() -> object:
                return await bare(PAYLOAD)

            return [
                await _compare("round trip, echo of 100 bytes", "ms", product, base, _latency_ms),
                await _compare("throughput, 32 callers", "/s", product, base, _per_second),
                await _deploys(client, wasm, scratch),
            ]


async def _compare(
    name: str, unit: str, product: Call, floor: Call, measure: Callable[[Call], Awaitable[float]]
) -> Row:
    await measure(product)
    await measure(floor)
    pairs = [(await measure(product), await measure(floor)) for _ in range(ROUNDS)]
    return _row(name, unit, pairs)


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


async def _deploys(client: NodeClient, wasm: Path, scratch: Path) -> Row:
    code = next((scratch / "data" / "cache").glob("*.cwasm"))
    pairs = []
    for round_ in range(ROUNDS):
        begin = perf_counter()
        await client.deploy(f"fresh-{round_}", wasm)
        await client.invoke(f"fresh-{round_}", PAYLOAD, type="e")
        deployed = perf_counter() - begin
        await client.undeploy(f"fresh-{round_}")
        pairs.append((deployed * 1e3, _in_process_ms(code)))
    return _row("deploy to first reply, artifact cached", "ms", pairs)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _in_process_ms(code: Path) -> float:
    engine = Engine()
    host = Host(None, 1 << 20)  # type: ignore[arg-type]  # the echo calls no host function
    linker = host.linker(engine)
    begin = perf_counter()
    component = Component(engine, str(code))
    store = Store(engine)
    store.set_wasi(Wasi({}))
    store.set_epoch_deadline(1)
    instance = linker.instantiate(store, component)
    function = instance.function(contract.ACTOR, "handle-message")
    assert function is not None
    ComponentFunction(store, function, 3)("", "e", PAYLOAD)
    return (perf_counter() - begin) * 1e3


def _row(name: str, unit: str, pairs: list[tuple[float, float]]) -> Row:
    return Row(
        name,
        unit,
        statistics.median(product for product, _ in pairs),
        statistics.median(floor for _, floor in pairs),
        statistics.median(product / floor for product, floor in pairs),
    )


def _probe() -> bytes:
    sys.path.insert(0, str(ROOT / "tests"))
    from support.actors import probe  # noqa: PLC0415 - the tests' actor serves here too

    return probe()


@contextmanager
def _floor() -> Iterator[str]:
    with _serving([sys.executable, "-m", "benchmarks.floor"]) as port:
        yield f"127.0.0.1:{port}"


@contextmanager
def _node(data_dir: Path) -> Iterator[str]:
    with _serving([sys.executable, "-m", "benchmarks.host", str(data_dir)]) as address:
        yield address


@contextmanager
def _serving(argv: list[str]) -> Iterator[str]:
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(10)
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main())
