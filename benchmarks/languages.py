"""What each language costs: the same actor, from tests/actors/conformance, built from source.

As a program, `python -m benchmarks.languages CODE`, it measures one compiled actor in a process
with nothing else in it, and prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic_ns, perf_counter_ns

from plexspaces_node import NodeClient
from plexspaces_node.agent import contract
from plexspaces_node.agent.boundary import ComponentFunction
from plexspaces_node.agent.host import Host
from plexspaces_node.agent.output import Output
from plexspaces_node.agent.runtime import ActorRuntime, Settings
from plexspaces_node.agent.wasm import Component, Engine, Store, Wasi
from plexspaces_node.build import BuildEnvironment, BuildResult, build, new_project
from plexspaces_node.errors import Unsupported
from plexspaces_node.model import MIB, Language

ROOT = Path(__file__).parent.parent
ACTORS = ROOT / "tests" / "actors" / "conformance"
LOAD_TARGET_MS = 10.0
MESSAGE_TARGET_US = 60.0
PAYLOAD = bytes(100)
_LIMIT = 1 * MIB
_MEMORY_BYTES = 256 * MIB
_LOADS = 60
_INSTANCES = 20


@dataclass(frozen=True)
class Inside:
    """What one compiled actor costs in a process.

    Attributes:
        load_ms: mapping the compiled artifact, instantiating it and `init`.
        message_us: a message of 100 bytes and its reply across the boundary.
        instance_kib: resident memory of one instance more, after `init` and a message.
    """

    load_ms: float
    message_us: float
    instance_kib: float


@dataclass(frozen=True)
class LanguageRow:
    """One language.

    Attributes:
        build_s: from source, after a build of another project: what a compiler makes once on a
            machine, such as a standard library, is not counted.
        compile_s: WebAssembly to native code, once for each artifact.
        machine_mib: resident memory of a whole machine, process isolation, that runs it.
    """

    language: str
    size_bytes: int
    build_s: float
    compile_s: float
    machine_mib: float
    inside: Inside


async def measure(
    client: NodeClient, data_dir: Path, scratch: Path, *, note: Callable[[str], None]
) -> list[LanguageRow]:
    """Build and measure every language whose compiler is here; the others are noted."""
    # A build that was kept would be no measurement.
    environment = replace(BuildEnvironment.here(), cache=scratch / "builds")
    rows = []
    for project in sorted(path for path in ACTORS.iterdir() if path.is_dir()):
        language, output = Language(project.name), scratch / f"{project.name}.wasm"
        other = new_project(language, f"new-{language}", scratch / f"new-{language}")
        try:
            await build(other, progress=note, environment=environment)
            built = await build(project, output, progress=note, environment=environment)
        except Unsupported as missing:
            note(f"{project.name}: left out: {missing.message} (hint: {missing.hint})")
            continue
        rows.append(await _row(client, data_dir / "cache", built))
    return rows


async def _row(client: NodeClient, cache: Path, built: BuildResult) -> LanguageRow:
    before = set(cache.glob("*.cwasm"))
    info = await client.deploy(f"bench-{built.language}", built.path)
    await client.invoke(info.name, PAYLOAD, type="echo")
    info = await client.inspect(info.name)
    await client.undeploy(info.name)
    [code] = set(cache.glob("*.cwasm")) - before
    assert info.vm is not None
    return LanguageRow(
        language=built.language,
        size_bytes=built.size_bytes,
        build_s=built.duration_ns / 1e9,
        compile_s=info.timings.compile_ns / 1e9,
        machine_mib=info.vm.rss_bytes / MIB,
        inside=await _inside(code),
    )


async def _inside(code: Path) -> Inside:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.languages", str(code)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    return Inside(**json.loads(output))


def table(rows: list[LanguageRow]) -> str:
    """Return the rows as the table of docs/languages.md."""
    lines = [
        "| language | artifact | build | compile | load | message | instance | machine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        load_ms, message_us = row.inside.load_ms, row.inside.message_us
        cells = (
            row.language,
            f"{row.size_bytes / MIB:.2f} MiB",
            f"{row.build_s:.1f} s",
            f"{row.compile_s:.1f} s",
            f"{load_ms:.2f} ms{_over(load_ms, LOAD_TARGET_MS)}",
            f"{message_us:.0f} µs{_over(message_us, MESSAGE_TARGET_US)}",
            f"{row.inside.instance_kib:.0f} KiB",
            f"{row.machine_mib:.0f} MiB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        f"\nTargets: load ≤ {LOAD_TARGET_MS:.0f} ms, message ≤ {MESSAGE_TARGET_US:.0f} µs."
    )
    return "\n".join(lines)


def _over(value: float, target: float) -> str:
    return " (!)" if value > target else ""


def _measure_inside(code: Path) -> Inside:
    return Inside(_load_ms(code), _message_us(code), _instance_kib(code))


def _load_ms(code: Path) -> float:
    times = []
    for _ in range(_LOADS):
        begin = perf_counter_ns()
        _started(code)
        times.append((perf_counter_ns() - begin) / 1e6)
    return _typical(times)


def _message_us(code: Path) -> float:
    runtime = _started(code)
    times = []
    for _ in range(3000):
        begin = perf_counter_ns()
        reply = runtime.handle("bench", "echo", PAYLOAD, monotonic_ns() + 10**9)
        times.append((perf_counter_ns() - begin) / 1e3)
        assert reply == PAYLOAD
    # The first thousand warm caches.
    return _typical(times[1000:])


def _typical(times: list[float]) -> float:
    """Return the median of the faster half: what else the machine does only adds time."""
    return statistics.median(sorted(times)[: len(times) // 2])


_OUTPUT = Output(lambda _stream, _line: None)


def _started(code: Path) -> ActorRuntime:
    settings = Settings(
        application="echo", env={}, memory_bytes=_MEMORY_BYTES, message_limit=_LIMIT
    )
    host = Host(None, _LIMIT)  # type: ignore[arg-type]  # the echo calls no host function
    runtime = ActorRuntime(Engine(), str(code), settings, host, output=_OUTPUT)
    runtime.start(b"", monotonic_ns() + 10 * 10**9)
    return runtime


def _instance_kib(code: Path) -> float:
    engine = Engine()
    host = Host(None, _LIMIT)  # type: ignore[arg-type]  # as above
    host.deadline_ns = monotonic_ns()
    linker = host.linker(engine)
    component = Component(engine, str(code))
    stores = []

    def start() -> None:
        store = Store(engine)
        store.set_wasi(Wasi({}))
        store.set_epoch_deadline(1)
        instance = linker.instantiate(store, component)
        for name, arguments in (("init", (b"",)), ("handle-message", ("", "echo", PAYLOAD))):
            function = instance.function(contract.ACTOR, name)
            assert function is not None
            ComponentFunction(store, function, len(arguments))(*arguments)
        stores.append(store)

    # The first pays for what all share: the mapped code, and the linker's own tables.
    start()
    gc.collect()
    before = _rss_bytes()
    for _ in range(_INSTANCES):
        start()
    return (_rss_bytes() - before) / 1024 / _INSTANCES


def _rss_bytes() -> int:
    resident = Path("/proc/self/statm").read_text().split()[1]
    return int(resident) * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    print(json.dumps(asdict(_measure_inside(Path(sys.argv[1])))))
