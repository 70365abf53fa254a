"""Faults of a cluster at random: which follow from a seed, and how each is made and ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import monotonic

from support.cluster.cluster import Cluster
from support.cluster.node import ClusterNode


class Kind(StrEnum):
    """What can go wrong."""

    NODE_KILLED = "node killed"
    SERVER_KILLED = "NATS server killed"
    HOST_LOST = "host lost"
    NODE_PAUSED = "node paused"
    SERVER_PAUSED = "NATS server paused"
    BOTH_PAUSED = "node and NATS server paused"
    CUT_OFF = "cut off"
    HALVES = "two halves"
    DEAF = "deaf"
    DISK_FULL = "disk full"
    ALL_KILLED = "all killed"


_WEIGHTS = {
    Kind.NODE_KILLED: 4,
    Kind.SERVER_KILLED: 3,
    Kind.HOST_LOST: 3,
    Kind.NODE_PAUSED: 3,
    Kind.SERVER_PAUSED: 2,
    Kind.BOTH_PAUSED: 2,
    Kind.CUT_OFF: 4,
    Kind.HALVES: 3,
    Kind.DEAF: 3,
    Kind.DISK_FULL: 1,
    Kind.ALL_KILLED: 1,
}
_HELD_S = (0.5, 12.0)
"""Around the time after which a node counts as dead, so that both is tried."""
_REST_S = (0.5, 8.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong for a while.

    Attributes:
        nodes: to which it happens, by their ids.
        held_s: how long it lasts; `rest_s` is the time until the next one.
    """

    kind: Kind
    nodes: tuple[str, ...]
    held_s: float
    rest_s: float

    def __str__(self) -> str:
        return f"{self.kind}: {', '.join(self.nodes)}, for {self.held_s:.1f} s"


def schedule(
    seed: int, nodes: list[str], seconds: float, *, without: frozenset[Kind] = frozenset()
) -> Iterator[Fault]:
    """Yield faults that take so long together; the same ones for the same seed and nodes."""
    dice = random.Random(seed)
    kinds = [kind for kind in Kind if kind not in without]
    weights = [_WEIGHTS[kind] for kind in kinds]
    left_s = seconds
    while left_s > 0:
        kind = dice.choices(kinds, weights)[0]
        hit = dice.sample(nodes, _how_many(kind, len(nodes), dice))
        fault = Fault(kind, tuple(hit), dice.uniform(*_HELD_S), dice.uniform(*_REST_S))
        left_s -= fault.held_s + fault.rest_s
        yield fault


def _how_many(kind: Kind, nodes: int, dice: random.Random) -> int:
    if kind is Kind.ALL_KILLED:
        return nodes
    if kind is Kind.HALVES:
        return nodes // 2
    if kind in (Kind.CUT_OFF, Kind.DEAF, Kind.DISK_FULL):
        return 1
    # Mostly what the others can do without.
    return 1 if dice.random() < 0.8 else dice.randint(1, nodes)


class Faults:
    """Makes faults in a cluster.

    Attributes:
        made: what was done, and when by the clock of the history.
    """

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._say = say
        self.made: list[tuple[float, Fault]] = []

    def __repr__(self) -> str:
        return f"<Faults {len(self.made)}>"

    async def make(self, fault: Fault) -> None:
        """Make a fault, end it after its time, and rest."""
        self.made.append((monotonic(), fault))
        self._say(str(fault))
        nodes = [self._cluster[id] for id in fault.nodes]
        try:
            await self._begin(fault.kind, nodes)
            await asyncio.sleep(fault.held_s)
        finally:
            self._end(nodes)
        await asyncio.sleep(fault.rest_s)

    async def _begin(self, kind: Kind, nodes: list[ClusterNode]) -> None:
        if kind in (Kind.CUT_OFF, Kind.HALVES):
            self._cluster.cut_off(*nodes)
        for node in nodes:
            match kind:
                case Kind.NODE_KILLED:
                    node.kill()
                case Kind.HOST_LOST | Kind.ALL_KILLED:
                    node.crash()
                case Kind.SERVER_KILLED:
                    node.kill_server()
                case Kind.NODE_PAUSED:
                    node.pause(server=False)
                case Kind.SERVER_PAUSED:
                    node.pause(node=False)
                case Kind.BOTH_PAUSED:
                    node.pause()
                case Kind.DEAF:
                    self._cluster.deafen(node)
                case Kind.DISK_FULL:
                    await asyncio.to_thread(fill_disk, node)
                case Kind.CUT_OFF | Kind.HALVES:
                    pass

    def _end(self, nodes: list[ClusterNode]) -> None:
        self._cluster.heal()
        for node in nodes:
            node.resume()
            empty_disk(node)
            if not node.is_up:
                node.start()


def fill_disk(node: ClusterNode) -> None:
    """Write until nothing more fits on the file system of a node, which is its own."""
    assert node.data_dir.is_mount(), "that would fill the disk of this machine"
    size = 1 << 20
    with _ballast(node).open("ab", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                # What is smaller may still fit.
                size //= 2


def empty_disk(node: ClusterNode) -> None:
    """Make room again."""
    with suppress(FileNotFoundError):
        _ballast(node).unlink()


def _ballast(node: ClusterNode) -> Path:
    return node.data_dir / "ballast"
