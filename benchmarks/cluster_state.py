"""What an actor's put costs in a cluster of three, against one on a node alone.

Three NATS servers on this host, each of which syncs every write; the store of one node. Rounds of
both alternate.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from time import perf_counter_ns

from benchmarks.node import Row, row
from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.model import ArtifactKind, Language, VmConfig
from plexspaces_node.node.cluster.actor_state import ReplicatedStore
from plexspaces_node.node.nats.engine import Engine, EngineConfig, open_engine
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired, Registry
from plexspaces_node.node.registry.snapshots import SnapshotRecord

ROUNDS = 7
PUTS = 200
SERVERS = 3
VALUE = bytes(100)
STATE = bytes(1024 * 1024)
NAME, ID = "actor", "app-1"
_SETTLED_S = 60.0

_RECORD = ApplicationRecord(
    name=NAME,
    id=ID,
    version="1",
    language=Language.RUST,
    kind=ArtifactKind.ACTOR,
    digest="0" * 64,
    vm_config=VmConfig(),
    env={},
    desired=Desired.RUNNING,
    generation=1,
    request_id="",
    created_ns=0,
)


async def measure(scratch: Path) -> list[Row]:
    """Measure the median of puts of 100 bytes one after the other, and of states of 1 MiB."""
    async with AsyncExitStack() as stack:
        opening = Registry.open(scratch / "state.db")
        registry = await stack.enter_async_context(opening)
        await registry.insert_application(_RECORD)
        engine = await _engines(stack, scratch)
        store = ReplicatedStore(registry, engine.state, node="0", on_fenced=lambda _name: None)
        await store.take(NAME, ID, 1, is_first=True)
        taken_ns = 0

        async def put(at: Registry | ReplicatedStore) -> None:
            await at.kv_put(NAME, "key", VALUE)

        async def save(at: Registry | ReplicatedStore) -> None:
            nonlocal taken_ns
            taken_ns += 1
            await at.save_snapshot(NAME, SnapshotRecord(taken_ns, len(STATE)), [(0, STATE)])

        rows = []
        for name, act, times in (
            ("a put in a cluster of three, p50", put, PUTS),
            ("a state of 1 MiB in a cluster of three, p50", save, PUTS // 10),
        ):
            pairs = []
            for _ in range(ROUNDS):
                replicated = await _median_us(partial(act, store), times)
                pairs.append((replicated, await _median_us(partial(act, registry), times)))
            rows.append(row(name, "µs", pairs))
        return rows


async def _engines(stack: AsyncExitStack, scratch: Path) -> Engine:
    """Open three, and return the first one when every write goes to all."""
    token = ClusterToken.new()
    engines: list[Engine] = []
    for number in range(SERVERS):
        config = EngineConfig(
            node_id=f"n{number}",
            cluster="bench",
            token=token,
            directory=scratch / f"nats-{number}",
            routes_file=scratch / f"routes-{number}",
            address="127.0.0.1:0",
            join=tuple(one.route for one in engines[:1]),
        )
        engines.append(await stack.enter_async_context(open_engine(config)))
    async with asyncio.timeout(_SETTLED_S):
        while True:
            if await engines[0].grow(SERVERS) >= SERVERS:
                return engines[0]
            await asyncio.sleep(0.2)


async def _median_us(act: Callable[[], Awaitable[None]], times: int) -> float:
    taken = []
    for _ in range(times):
        begin_ns = perf_counter_ns()
        await act()
        taken.append(perf_counter_ns() - begin_ns)
    return statistics.median(taken) / 1e3
