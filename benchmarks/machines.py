"""What a microVM costs: QEMU's machines against a bare boot of the same kernel.

Under KVM where it works, by emulation elsewhere; the table says which.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks.bare_boot import bare_boot_s
from plexspaces_node import NodeBuilder, NodeClient
from plexspaces_node.client import DeployOptions
from plexspaces_node.config import ConfigBootstrap
from plexspaces_node.errors import ActorError, PlexSpacesError, Unsupported
from plexspaces_node.isolation import open_image
from plexspaces_node.model import MIB, VmConfig
from plexspaces_node.toolchains import build
from plexspaces_node.toolchains.workload import examples, primes_payload, primes_reply
from plexspaces_node.vm.host.tsc import host_tsc_khz
from plexspaces_node.vm.qemu.command import Accelerator, Emulator
from plexspaces_node.vm.qemu.driver import QemuDriver
from plexspaces_node.vm.qemu.sandbox import find_qemu

COPY_TARGET = 0.2
BOOT_TARGET = 1.25
BOOTS = 20
AT_ONCE = 4
_ROUNDS = 5
_SIZES_MIB = (80, 84, 88, 92, 96, 112, 128, 160, 192, 256, 384, 512)
_PRIMES = 30_000


@dataclass(frozen=True)
class MachineReport:
    """What was measured of QEMU's machines.

    Attributes:
        how: the isolation, in the driver's words.
        deploy_s: from an empty node to the first reply, artifact cached, the machine a copy.
        boots_s: the same where the machine boots.
        bare_s: a bare boot of the same kernel to its first user process.
        ratio: median of the rounds' ratios of the first to the last.
        boots_ratio: of the second to the last.
        booted: how many of `BOOTS` deploys, `AT_ONCE` at a time, answered.
        host_mib: resident memory of a machine of 256 MiB on the host, median.
        least_mib: smallest memory at which each example answered its workload.
    """

    how: str
    deploy_s: float
    boots_s: float
    bare_s: float
    ratio: float
    boots_ratio: float
    booted: int
    host_mib: float
    least_mib: dict[str, int]


async def measure(
    wasm: Path, scratch: Path, *, note: Callable[[str], None]
) -> MachineReport | None:
    """Measure, or note why not: without QEMU or an image there is nothing to measure."""
    image = partial(open_image, ConfigBootstrap.load())
    driver, booting = QemuDriver(image), QemuDriver(image, usual=None)
    health = await driver.probe()
    if not health.ok:
        note(f"machines: left out: {health.reason} (hint: {health.hint})")
        return None
    note(f"machines: {health.reason}")
    emulator = _emulator(emulated=health.emulated)
    async with (
        _node(driver, scratch / "copies") as client,
        _node(booting, scratch / "boots") as other,
    ):
        rounds = await _starts(client, other, wasm, partial(bare_boot_s, image(), emulator))
        booted, host_mib = await _many(client, wasm, note)
        least = {name: mib async for name, mib in _least(client, scratch, note)}
    deploy_s, boots_s, bare_s = zip(*rounds, strict=True)
    return MachineReport(
        how=driver.capabilities.isolation,
        deploy_s=statistics.median(deploy_s),
        boots_s=statistics.median(boots_s),
        bare_s=statistics.median(bare_s),
        ratio=statistics.median(deployed / bare for deployed, _, bare in rounds),
        boots_ratio=statistics.median(boots / bare for _, boots, bare in rounds),
        booted=booted,
        host_mib=host_mib,
        least_mib=least,
    )


@asynccontextmanager
async def _node(driver: QemuDriver, data_dir: Path) -> AsyncIterator[NodeClient]:
    builder = NodeBuilder("bench-vm").with_address("127.0.0.1:0").with_driver(driver)
    async with (
        builder.with_data_dir(data_dir).build() as node,
        NodeClient(node.address) as client,
    ):
        yield client


def table(report: MachineReport) -> str:
    """Return the report as the lists of docs/qemu.md."""
    over = _over(report.ratio, COPY_TARGET)
    boots_over = _over(report.boots_ratio, BOOT_TARGET)
    lines = [
        f"Machines: {report.how}",
        f"  deploy to first reply, artifact cached  {report.deploy_s:6.2f} s",
        f"  the same where the machine boots        {report.boots_s:6.2f} s",
        f"  bare boot to its first user process     {report.bare_s:6.2f} s",
        f"  ratio of the first                      {report.ratio:6.2f}×{over}",
        f"  ratio of the second                     {report.boots_ratio:6.2f}×{boots_over}",
        f"  booted and answered, {AT_ONCE} at a time         {report.booted} of {BOOTS}",
        f"  host memory of a machine of 256 MiB     {report.host_mib:6.0f} MiB",
        "  least memory with which an example works:",
    ]
    for name, mib in report.least_mib.items():
        lines.append(f"    {name:38}{mib:6d} MiB")
    return "\n".join(lines)


def _over(ratio: float, target: float) -> str:
    # As it is shown, to two digits.
    return "" if round(ratio, 2) <= target else f" (!) target ≤ {target}×"


def _emulator(*, emulated: bool) -> Emulator:
    if emulated:
        return Emulator(find_qemu(), Accelerator.TCG, host_tsc_khz())
    return Emulator(find_qemu(), Accelerator.KVM)


async def _starts(
    client: NodeClient,
    booting: NodeClient,
    wasm: Path,
    bare_boot: Callable[[VmConfig], Awaitable[float]],
) -> list[tuple[float, float, float]]:
    # The first of each compiles the artifact and brings the image into the host's memory.
    for node in (client, booting):
        await _deployed_s(node, wasm)
    return [
        (
            await _deployed_s(client, wasm),
            await _deployed_s(booting, wasm),
            await bare_boot(VmConfig()),
        )
        for _ in range(_ROUNDS)
    ]


async def _deployed_s(client: NodeClient, wasm: Path) -> float:
    begin = perf_counter()
    await client.deploy("fresh", wasm)
    await client.invoke("fresh", b"", type="e")
    took = perf_counter() - begin
    await client.undeploy("fresh")
    return took


async def _many(client: NodeClient, wasm: Path, note: Callable[[str], None]) -> tuple[int, float]:
    """Deploy `BOOTS` applications, `AT_ONCE` at a time: how many answered, and their memory."""
    free = asyncio.Semaphore(AT_ONCE)
    resident: list[float] = []

    async def one(name: str) -> None:
        async with free:
            try:
                await client.deploy(name, wasm)
                await client.invoke(name, b"", type="e")
                vm = (await client.inspect(name)).vm
                assert vm is not None
                resident.append(vm.rss_bytes / MIB)
                await client.undeploy(name)
            except PlexSpacesError as error:
                note(f"machines: {name}: {error}")

    await asyncio.gather(*(one(f"many-{number}") for number in range(BOOTS)))
    return len(resident), statistics.median(resident) if resident else 0.0


async def _least(
    client: NodeClient, scratch: Path, note: Callable[[str], None]
) -> AsyncIterator[tuple[str, int]]:
    for project in examples():
        output = scratch / f"{project.name}.wasm"
        try:
            await build(project.path, output, progress=note)
        except Unsupported as missing:
            note(f"{project.name}: skipped: {missing.message} (hint: {missing.hint})")
            continue
        for memory_mib in _SIZES_MIB:
            if await _works(client, output, memory_mib, note):
                yield project.name, memory_mib
                break


async def _works(
    client: NodeClient, wasm: Path, memory_mib: int, note: Callable[[str], None]
) -> bool:
    try:
        await client.deploy("least", wasm, options=DeployOptions(memory_mib=memory_mib))
    except (ActorError, PlexSpacesError) as error:
        note(f"{wasm.stem}: {memory_mib} MiB: {error}")
        return False
    try:
        reply = await client.invoke("least", primes_payload(_PRIMES), type="primes", timeout_s=60)
    except (ActorError, PlexSpacesError) as error:
        note(f"{wasm.stem}: {memory_mib} MiB: {error}")
        return False
    finally:
        await client.undeploy("least")
    return reply.payload == primes_reply(_PRIMES)
