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
from wasmtime import Store, WasiConfig
from wasmtime.component import Component

from benchmarks import languages
from benchmarks.floor import METHOD
from benchmarks.languages import LanguageRow
from plexspaces_node import NodeClient
from plexspaces_node.agent import contract
from plexspaces_node.agent.boundary import ComponentFunction
from plexspaces_node.agent.engine import make_engine
from plexspaces_node.agent.host import Host
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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="px-") as scratch, _floor() as floor:
        rows, by_language = await _measure(Path(scratch), floor)
    if arguments.json:
        both = {
            "node": [asdict(row) for row in rows],
            "languages": [asdict(row) for row in by_language],
        }
        print(json.dumps(both, indent=2))
        return
    print(f"{'':44} {'product':>12} {'floor':>12} {'ratio':>8}")
    for row in rows:
        print(
            f"{row.name:44} {row.product:9.2f} {row.unit} {row.floor:9.2f} {row.unit} "
            f"{row.ratio:7.2f}×"
        )
    print(f"\n{languages.table(by_language)}")


async def _measure(scratch: Path, floor: str) -> tuple[list[Row], list[LanguageRow]]:
    wasm = scratch / "probe.wasm"
    wasm.write_bytes(_probe())
    with _node(scratch / "data") as address:
        async with (
            NodeClient(address) as client,
            grpc.aio.insecure_channel(floor, options=client_options()) as channel,
        ):
            await client.deploy("echo", wasm)
            bare: Any = channel.unary_unary(METHOD)

            async def product() -> object:
                return await client.invoke("echo", PAYLOAD, type="e")

            async def base() -> object:
                return await bare(PAYLOAD)

            rows = [
                await _compare("round trip, echo of 100 bytes", "ms", product, base, _latency_ms),
                await _compare("throughput, 32 callers", "/s", product, base, _per_second),
                await _deploys(client, wasm, scratch),
            ]
            return rows, await languages.measure(client, scratch / "data", scratch, note=_note)


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
    engine = make_engine()
    host = Host(None, 1 << 20)  # type: ignore[arg-type]  # the echo calls no host function
    linker, _alive = host.linker(engine)
    begin = perf_counter()
    component = Component.deserialize_file(engine, str(code))
    store = Store(engine)
    store.set_wasi(WasiConfig())
    store.set_epoch_deadline(1)
    instance = linker.instantiate(store, component)
    actor = instance.get_export_index(store, contract.ACTOR)
    index = instance.get_export_index(store, "handle-message", actor)
    assert index is not None
    function = instance.get_func(store, index)
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
