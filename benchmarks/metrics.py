"""What a scrape of 1,000 applications with messages costs, and how it feels to the event loop.

The floor of its processor time is `prometheus_client`'s own writer, given the same metrics; that of
the event loop's turns is a loop that has nothing beside it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter, thread_time
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.node import Row, row
from plexspaces_node.info import MessageTimings, NodeInfo
from plexspaces_node.model import VmConfig, VmState
from plexspaces_node.node.metrics.readings import Readings
from plexspaces_node.node.metrics.scrape import Scrapes
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.span import Kind
from plexspaces_node.node.telemetry.telemetry import Telemetry

APPLICATIONS = 1000
ROUNDS = 5
_MESSAGES = 30
_TURN_S = 0.0005


async def measure(*, note: Callable[[str], None]) -> list[Row]:
    """Measure scrapes of applications whose VMs are this process."""
    scrapes = _scrapes()
    page = scrapes.text((), None, accept="", encodings="").body
    packed = scrapes.text((), None, accept="", encodings="gzip").body
    note(f"a scrape of {APPLICATIONS} applications has {len(page)} bytes, {len(packed)} compressed")
    same = _same(page.decode())
    costs, turns = [], []
    for _ in range(ROUNDS):
        ours = _cpu_ms(lambda: scrapes.text((), None, accept="", encodings="gzip"))
        costs.append((ours, _cpu_ms(lambda: generate_latest(same))))
        beside = await _turn_ms(lambda: scrapes.answer(None, accept="", encodings="gzip"))
        turns.append((beside, await _turn_ms(lambda: asyncio.sleep(0.2))))
    name = f"a scrape of {APPLICATIONS} applications"
    return [
        row(f"{name}, CPU; by prometheus_client", "ms", costs),
        row("the event loop's turn during it; alone", "ms", turns),
    ]


def _cpu_ms(work: Callable[[], object]) -> float:
    begin_s = thread_time()
    work()
    return (thread_time() - begin_s) * 1e3


async def _turn_ms(work: Callable[[], Awaitable[object]]) -> float:
    """Return by how much turns of the event loop are late on average while this is done."""
    late_s, count = 0.0, 0
    working = asyncio.ensure_future(work())
    while not working.done():
        begin_s = perf_counter()
        await asyncio.sleep(_TURN_S)
        late_s += perf_counter() - begin_s - _TURN_S
        count += 1
    await working
    return late_s / count * 1e3


def _same(text: str) -> CollectorRegistry:
    """Return what has the same metrics as a page, for prometheus_client to write."""
    parse: Any = text_string_to_metric_families
    families: list[Metric] = list(parse(text))

    class Same:
        def collect(self) -> Iterator[Metric]:
            yield from families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Same())
    return registry


def _scrapes() -> Scrapes:
    telemetry = Telemetry()
    applications = [_application(f"shop/application-{n}", telemetry) for n in range(APPLICATIONS)]
    roster: Any = SimpleNamespace(
        supervisors=lambda: tuple(applications),
        machines=lambda: tuple(one.machine for one in applications),
    )
    info = NodeInfo("bench", "0", "process", "", 1, 1, 1, 1, 1)

    async def no_quotas() -> tuple[()]:
        return ()

    return Scrapes(Readings(info, roster, telemetry), no_quotas)


def _application(name: str, telemetry: Telemetry) -> Any:
    activity = Activity(name, telemetry)
    for _ in range(_MESSAGES):
        span = activity.begin(Kind.MESSAGE, "add", 100)
        total_ns = random.randrange(10_000, 100_000_000)
        timings = MessageTimings(total_ns, total_ns // 2, total_ns // 4, total_ns // 8)
        activity.end(span, timings, None, 100)
    machine = SimpleNamespace(
        application=name,
        agent=SimpleNamespace(in_flight=0),
        pid=os.getpid(),
        config=VmConfig(1, 64),
        state=VmState.RUNNING,
        isolation="process",
    )
    return SimpleNamespace(
        name=name,
        activity=activity,
        machine=machine,
        restarts=0,
        state="Running",
        intake=SimpleNamespace(waiting=0),
    )
