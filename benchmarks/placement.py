"""How long it takes to place applications: all of them, and after one thing has changed.

In processor time, and without a floor: what counts is that a leader decides in a moment, however
many there are.
"""

from __future__ import annotations

import gc
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import TypeVar

from plexspaces_node.node.cluster.placement import Placement
from plexspaces_node.node.cluster.records import Application, Node, Placed

SIZES = ((10, 1_000), (1_000, 100_000))
"""Nodes and applications."""

ROUNDS = 20
_T = TypeVar("_T")


@dataclass(frozen=True)
class PlacementRow:
    """What was measured with so many nodes and applications."""

    nodes: int
    applications: int
    all_s: float
    again_s: float
    deploy_ms: float
    node_dies_ms: float
    moved: float
    least_on_a_node: int
    most_on_a_node: int


def measure(note: Callable[[str], None]) -> list[PlacementRow]:
    """Measure each size."""
    rows = []
    for nodes, applications in SIZES:
        note(f"{applications} applications on {nodes} nodes")
        rows.append(_measure(nodes, applications))
    return rows


def table(rows: list[PlacementRow]) -> str:
    """Return the rows as text."""
    lines = [
        f"{'placement: nodes × applications':32} {'all':>8} {'again':>8} {'one more':>10} "
        f"{'node dies':>10} {'moved':>6} {'on a node':>10}"
    ]
    for row in rows:
        on_a_node = f"{row.least_on_a_node} to {row.most_on_a_node}"
        lines.append(
            f"{f'{row.nodes} × {row.applications}':32} {row.all_s:6.2f} s {row.again_s:6.2f} s "
            f"{row.deploy_ms:7.2f} ms {row.node_dies_ms:7.2f} ms {row.moved:6.0f} {on_a_node:>10}"
        )
    return "\n".join(lines)


def _measure(node_count: int, application_count: int) -> PlacementRow:
    nodes = {f"n{number}": _node(number) for number in range(node_count)}
    asked = {
        f"t{number % 97}/a{number}": _application(number) for number in range(application_count)
    }
    gc.collect()
    placement, all_s = _timed(lambda: _of(nodes, asked, {}))
    result, decided_s = _timed(placement.changes)
    placed = {name: where for name, where in result.items() if where is not None}
    assert len(placed) == application_count
    again, again_s = _timed(lambda: _of(nodes, asked, placed))
    nothing, looked_s = _timed(again.changes)
    assert not nothing
    on_a_node = Counter(node for where in placed.values() for node in where.nodes)
    deploys = []
    for number in range(ROUNDS):
        more = _application(application_count + number)
        deploys.append(_timed(partial(_one_more, placement, more))[1])
    deaths, moved = [], []
    for number in range(ROUNDS):
        node = f"n{number % node_count}"
        placement.set_node(node, nodes[node], alive=False)
        changes, took_s = _timed(placement.changes)
        deaths.append(took_s)
        moved.append(len(changes))
        placement.set_node(node, nodes[node], alive=True)
        placement.changes()
    return PlacementRow(
        nodes=node_count,
        applications=application_count,
        all_s=all_s + decided_s,
        again_s=again_s + looked_s,
        deploy_ms=statistics.median(deploys) * 1e3,
        node_dies_ms=statistics.median(deaths) * 1e3,
        moved=statistics.median(moved),
        least_on_a_node=min(on_a_node.values()),
        most_on_a_node=max(on_a_node.values()),
    )


def _of(
    nodes: dict[str, Node], asked: dict[str, Application], placed: dict[str, Placed]
) -> Placement:
    placement = Placement()
    for name, node in nodes.items():
        placement.set_node(name, node, alive=True)
    for name, application in asked.items():
        placement.set_application(name, application)
    for name, where in placed.items():
        placement.set_placed(name, where)
    return placement


def _one_more(placement: Placement, application: Application) -> None:
    placement.set_application(application.name, application)
    assert placement.changes()


def _timed(work: Callable[[], _T]) -> tuple[_T, float]:
    begin = process_time()
    result = work()
    return result, process_time() - begin


def _node(number: int) -> Node:
    return Node(
        id=f"n{number}",
        http="127.0.0.1:1",
        grpc="127.0.0.1:2",
        version="1",
        level="qemu" if number % 2 else "process",
        memory_mib=64 * 1024 * (1 + number % 2),
        applications=512,
        incarnation=1,
        labels={"zone": "abc"[number % 3]},
    )


def _application(number: int) -> Application:
    """Return one of four: actors, replicas, and with demands."""
    is_actor = number % 4 < 2
    return Application(
        name=f"t{number % 97}/a{number}",
        id=str(number),
        generation=1,
        version="1",
        language="rust",
        kind="actor" if is_actor else "command",
        digest="0" * 64,
        vcpus=1,
        memory_mib=(64, 128, 256)[number % 3],
        created_ns=0,
        source="n0",
        replicas=1 if is_actor else 2,
        level="qemu" if number % 8 == 1 else "",
        on={"zone": "a"} if number % 16 == 2 else {},
    )
