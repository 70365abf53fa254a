"""What measuring costs: the processor time of a message, and the memory of an application.

A node that measures every message as a span and traces one of a hundred, against one that only adds
up four counters, as the node did before it measured more. Rounds of both alternate.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns, time_ns

from benchmarks.http import count_of, wrk
from benchmarks.node import PAYLOAD, Row, row
from benchmarks.serving import serving_process
from benchmarks.tokens import cpu_s
from plexspaces_node import NodeClient
from plexspaces_node.errors import ActorError, ActorTrapped, PlexSpacesError
from plexspaces_node.info import MessageTimings
from plexspaces_node.model import PhaseTimings
from plexspaces_node.node.telemetry.activity import Activity, Start
from plexspaces_node.node.telemetry.span import Kind, Span, Step
from plexspaces_node.node.telemetry.telemetry import Telemetry

ROUNDS = 15
APPLICATIONS = 5
LIMIT_KIB = 64.0
"""What an application may take in memory for all that is kept of it."""

_HALF_HOUR_S = 1800
_MOMENT_S = 2
_TOO_MANY = 40
"""More than is kept of anything that has a name."""


def count_only() -> None:
    """From now on let this process measure nothing of messages but four sums."""
    one = Span("", Kind.MESSAGE, "", 0, 0)

    def begin(self: Activity, kind: Kind, name: str, size: int, parent: object = None) -> Span:
        del self, kind, size, parent
        one.name, one.begin_ns = name, perf_counter_ns()
        return one

    def end(
        self: Activity,
        span: Span,
        timings: MessageTimings,
        error: PlexSpacesError | ActorError | None,
        reply_bytes: int,
    ) -> None:
        del span, reply_bytes
        total = self.total
        total.messages += 1
        total.failures += error is not None
        total.compute_ns += timings.compute_ns
        total.link_ns += timings.total_ns - timings.compute_ns

    vars_of: dict[str, object] = {"begin": begin, "end": end}
    for name, method in vars_of.items():
        setattr(Activity, name, method)


async def measure(wasm: Path, scratch: Path) -> list[Row]:
    """Measure both nodes, each in a process of its own, and the memory in this one."""
    script = scratch / "measured.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {len(PAYLOAD)})\n')
    argv = [sys.executable, "-m", "benchmarks.host"]
    with ExitStack() as stack:
        nodes = []
        for more in ([], ["count-only"]):
            place = str(scratch / "-".join(["telemetry", *more]))
            process, addresses = stack.enter_context(serving_process([*argv, place, "100", *more]))
            async with NodeClient(addresses.split()[0]) as client:
                await client.deploy("echo", wasm)
            nodes.append((process.pid, addresses.split()[1]))

        async def cost_us(node: tuple[int, str]) -> float:
            pid, address = node
            before_s = cpu_s(pid)
            count = count_of(await wrk(f"{address}/apps/echo/e", 32, script))
            return (cpu_s(pid) - before_s) / count * 1e6

        pairs = []
        for number in range(ROUNDS):
            # Each goes first as often as the other.
            order = nodes if number % 2 else nodes[::-1]
            costs = {node: await cost_us(node) for node in order}
            pairs.append((costs[nodes[0]], costs[nodes[1]]))
    most_kib = _kib_of_a_busy_application()
    return [
        row("HTTP, CPU of a message measured; counted", "µs", pairs),
        row("memory of what is kept of an application; limit", "KiB", [(most_kib, LIMIT_KIB)]),
    ]


def _kib_of_a_busy_application() -> float:
    """Return what is kept of an application for which everything is full."""
    telemetry = Telemetry(sample=1.0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [_busy(f"application-{number}", telemetry) for number in range(APPLICATIONS)]
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        assert len(kept) == APPLICATIONS
    finally:
        tracemalloc.stop()
    return (after - before) / APPLICATIONS / 1024


def _busy(name: str, telemetry: Telemetry) -> Activity:
    activity, unix_ns = Activity(name, telemetry), time_ns()
    for number in range(_TOO_MANY):
        activity.started(Start(unix_ns, "restart", "x" * 999, "x" * 999, "1.0.0", PhaseTimings()))
        error = ActorTrapped(f"{number} " + "x" * 9999, code="c" * 999)
        activity.asked(f"other-{number}-" + "x" * 99, None, error)
        _send(activity, f"type-{number}-" + "x" * 200, number, error)
    for moment in range(_HALF_HOUR_S // _MOMENT_S):
        unix_ns += _MOMENT_S * 10**9
        for number in range(3):
            _send(activity, f"type-{number}-" + "x" * 200, moment * 1000 + number, None)
        activity.tick(0, unix_ns, _MOMENT_S * 10**9)
    for number in range(50):
        _send(activity, f"type-{number % _TOO_MANY}-" + "x" * 200, 10**6 + number, None)
    return activity


def _send(activity: Activity, name: str, number: int, error: ActorError | None) -> None:
    """Count a message that calls the store four times."""
    span = activity.begin(Kind.MESSAGE, "".join(name), 100_000 + number)
    for each in range(4):
        step = Step(Kind.STORE, f"operation {each}", span.begin_ns)
        step.end(span.begin_ns + 1000 + number)
        span.cause(step)
    total_ns = 1_000_000 + number * 1000
    activity.end(span, MessageTimings(total_ns, 300_000, 200_000, 1000), error, 100_000 + number)
