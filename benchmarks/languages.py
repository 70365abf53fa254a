"""What each language costs: the same actor, from tests/actors/conformance, built from source."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bare_agent import bare_agent, loaded
from benchmarks.serving import ROOT
from plexspaces_node import NodeClient
from plexspaces_node.errors import Unsupported
from plexspaces_node.model import MIB, Language
from plexspaces_node.toolchains import BuildEnvironment, BuildResult, build, new_project
from plexspaces_node.vm.host.procfs import resident_bytes

ACTORS = ROOT / "tests" / "actors" / "conformance"
LOAD_TARGET_MS = 10.0
MESSAGE_TARGET_US = 10.0
PAYLOAD = bytes(100)
_MEMORY_BYTES = 256 * MIB
_AGENTS = 10
_MESSAGES = 3000


@dataclass(frozen=True)
class Inside:
    """What one compiled actor costs in its agent, by the agent's own word.

    Attributes:
        load_ms: mapping the compiled artifact, instantiating it and `init`.
        message_us: a message of 100 bytes into the actor and its reply out of it.
        instance_kib: resident memory that the agent has more, after `init` and a message.
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
            note(f"{project.name}: skipped: {missing.message} (hint: {missing.hint})")
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
        inside=await asyncio.to_thread(_inside, code),
    )


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
            f"{message_us:.1f} µs{_over(message_us, MESSAGE_TARGET_US)}",
            f"{row.inside.instance_kib / 1024:.1f} MiB",
            f"{row.machine_mib:.0f} MiB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        f"\nTargets: load ≤ {LOAD_TARGET_MS:.0f} ms, message ≤ {MESSAGE_TARGET_US:.0f} µs."
    )
    return "\n".join(lines)


def _over(value: float, target: float) -> str:
    return " (!)" if value > target else ""


def _inside(code: Path) -> Inside:
    load_ms, instance_kib = [], []
    for _ in range(_AGENTS):
        with bare_agent() as peer:
            before = resident_bytes(peer.process.pid)
            answer = loaded(peer, code, memory_bytes=_MEMORY_BYTES)
            load_ms.append((answer.load_ns + answer.init_ns) / 1e6)
            assert peer.invoke("echo", PAYLOAD).payload == PAYLOAD
            instance_kib.append((resident_bytes(peer.process.pid) - before) / 1024)
            if len(load_ms) == _AGENTS:
                times = [peer.invoke("echo", PAYLOAD).compute_ns / 1e3 for _ in range(_MESSAGES)]
    # The first thousand warm caches.
    return Inside(_typical(load_ms), _typical(times[1000:]), statistics.median(instance_kib))


def _typical(times: list[float]) -> float:
    """Return the median of the faster half: what else the machine does only adds time."""
    return statistics.median(sorted(times)[: len(times) // 2])
