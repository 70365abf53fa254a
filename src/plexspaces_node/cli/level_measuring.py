"""Measures what each isolation level costs on this host, with a probe in a node of its own."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources
from pathlib import Path
from statistics import median
from time import time_ns
from typing import NamedTuple

from plexspaces_node import __version__
from plexspaces_node.cli.embedded import node_in
from plexspaces_node.client import NodeClient
from plexspaces_node.config import Config
from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.info import MessageTimings
from plexspaces_node.isolation import make_drivers
from plexspaces_node.level_figures import LevelFigures
from plexspaces_node.toolchains.wasm.assembly import assemble
from plexspaces_node.toolchains.wasm.wrap import wrap
from plexspaces_node.vm.driver import Driver

_NAME = "level-probe"
_TYPE = "spin"
_WARM_UP = 20
_MESSAGES = 200
_STARTS = 3
_ROUNDS = 2_000_000
"""Of the probe's loop: about a millisecond of compute without emulation."""
_WORKED = 20

Say = Callable[[str], None]


class Measured(NamedTuple):
    """One level: its figures, or why there are none."""

    level: str
    figures: LevelFigures | None
    why_not: str = ""


async def measure_levels(config: Config, say: Say) -> AsyncIterator[Measured]:
    """Measure every level that works here, the strongest first.

    `say` is told each step. A level that fails is told of, and the others go on.
    """
    wasm = probe_artifact()
    for driver in make_drivers(config):
        say(f"{driver.name}: trying it")
        try:
            yield await _measure(driver, wasm, say)
        except PlexSpacesError as error:
            yield Measured(driver.name, None, error.message)
        finally:
            driver.close()


def probe_artifact() -> bytes:
    """Return the probe, made without a compiler of any language; blocks for some milliseconds."""
    text = resources.files(__package__).joinpath("level_probe.wat").read_text("utf-8")
    return wrap(assemble(text))


async def _measure(driver: Driver, wasm: bytes, say: Say) -> Measured:
    found = await driver.probe()
    if not found.ok:
        return Measured(driver.name, None, found.reason)
    with tempfile.TemporaryDirectory(prefix="plexspaces-") as directory:
        say(f"{driver.name}: starting a node")
        async with (
            node_in(driver.name, Path(directory)) as node,
            NodeClient(node.address) as client,
        ):
            vm_ns, load_ns = await _starts(client, wasm, driver.name, say)
            say(f"{driver.name}: sending {_MESSAGES + _WORKED} messages")
            passed = await _sent(client, _MESSAGES, 0)
            worked = await _sent(client, _WORKED, _ROUNDS)
    return Measured(
        driver.name,
        LevelFigures(
            driver.name,
            link_ns=_median([link_of(one) for one in passed]),
            compute_ns=_median([one.compute_ns for one in worked]),
            vm_ns=_median(vm_ns),
            load_ns=_median(load_ns),
            messages=_MESSAGES,
            starts=_STARTS,
            measured_unix_ns=time_ns(),
            version=__version__,
            emulated=found.emulated,
        ),
    )


async def _starts(
    client: NodeClient, wasm: bytes, level: str, say: Say
) -> tuple[list[int], list[int]]:
    """Deploy the probe again and again, and leave the last one."""
    vm_ns, load_ns = [], []
    for number in range(1, _STARTS + 1):
        if number > 1:
            await client.undeploy(_NAME)
        say(f"{level}: starting a VM, {number} of {_STARTS}")
        deployed = await client.deploy(_NAME, wasm)
        vm_ns.append(deployed.timings.vm_ns)
        load_ns.append(deployed.timings.load_ns + deployed.timings.init_ns)
    return vm_ns, load_ns


async def _sent(client: NodeClient, count: int, rounds: int) -> list[MessageTimings]:
    """Send messages one after the other, the first ones to warm up; return the others' times."""
    payload = rounds.to_bytes(4, "little")
    found = []
    for _ in range(min(_WARM_UP, count) + count):
        found.append((await client.invoke(_NAME, payload, type=_TYPE)).timings)
    return found[-count:]


def link_of(timings: MessageTimings) -> int:
    """Return the part of a message's time that was passing it."""
    spent = timings.compute_ns + timings.wait_ns + timings.queue_ns
    return max(0, timings.total_ns - spent)


def _median(durations_ns: Sequence[int]) -> int:
    return max(1, round(median(durations_ns)))
