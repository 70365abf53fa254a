"""How much room the nodes have, and which of them an application gets: see `placement`."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import attrgetter

from plexspaces_node.node.cluster.records import Application, Node, NodeState

_LOOKED_AT = 16
"""Of more nodes than this, so many are compared for each application, chosen by its name: the load
of 1,000 nodes is as even then, and choosing is 60 times faster. All are, if none of these has room.
"""

_NUMBERS = struct.Struct(f"<{_LOOKED_AT}I")

_MOST_KINDS = 1000
"""For how many kinds of demands the nodes that meet them are remembered."""


@dataclass(slots=True, eq=False)
class Site:
    """A node, and what is on it.

    Attributes:
        node: its record; None if it has been removed.
        memory_mib, applications: what is taken of its room; `standbys`: for how many it stands by.
        names: the applications that have to do with it.
        leaving_mib: how much of the memory is of applications that leave it.
        yielding_mib: what is about to leave it too, because it has too much.
        load: how much of its room is taken, of 1; `load_as_standby`: if it had what it stands by
            for, too.
    """

    id: str
    node: Node | None = None
    alive: bool = False
    memory_mib: int = 0
    applications: int = 0
    standbys: int = 0
    names: set[str] = field(default_factory=set)
    leaving_mib: int = 0
    yielding_mib: int = 0
    load: float = 1.0
    load_as_standby: float = 1.0

    def can_run(self, asked: Application) -> bool:
        """Return whether it is one that the application may run on, if it has room."""
        node = self.node
        return (
            node is not None
            and self.alive
            and node.state is NodeState.UP
            and asked.level in ("", node.level)
            and all(node.labels.get(label) == value for label, value in asked.on.items())
        )

    def has_room(self, memory_mib: int) -> bool:
        """Return whether one more application of this size fits."""
        node = self.node
        return (
            node is not None
            and self.applications < node.applications
            and self.memory_mib + memory_mib <= node.memory_mib
        )

    def has_too_much(self) -> bool:
        """Return whether more memory is taken than there is, for long."""
        stays_mib = self.memory_mib - self.leaving_mib - self.yielding_mib
        return self.node is not None and stays_mib > self.node.memory_mib

    def weigh(self) -> None:
        """Find anew how much of its room is taken: of memory or applications, what is scarcer."""
        node = self.node
        if node is None or not node.memory_mib or not node.applications:
            self.load = self.load_as_standby = 1.0
            return
        self.load = max(self.memory_mib / node.memory_mib, self.applications / node.applications)
        as_standby = (self.applications + self.standbys) / node.applications
        self.load_as_standby = max(self.load, as_standby)


class Rooms:
    """The nodes of a cluster by id."""

    def __init__(self) -> None:
        """None yet."""
        self._sites: dict[str, Site] = {}
        self._by_kind: dict[object, list[Site]] = {}
        self._has_freed = False
        # For a kind of demands: a size for which no node has room, until some is freed.
        self._too_large: dict[object, int] = {}

    def set_node(self, node: str, record: Node | None, *, alive: bool) -> bool:
        """Say how a node is now, and return whether that matters to anybody."""
        site = self._of(node)
        if site.alive == alive and _what_counts(site.node) == _what_counts(record):
            site.node = record
            return False
        site.node, site.alive = record, alive
        site.weigh()
        self._by_kind.clear()
        self.freed()
        if record is None and not site.names:
            del self._sites[node]
        return True

    def site(self, node: str) -> Site | None:
        """Return a node; None for one of which nothing is known any more."""
        site = self._sites.get(node)
        return site if site is not None and site.node is not None else None

    def is_alive(self, node: str) -> bool:
        """Return whether there is such a node, and it is alive."""
        return (site := self.site(node)) is not None and site.alive

    def names_on(self, node: str) -> Set[str]:
        """Return the applications that have to do with a node."""
        return self._sites[node].names if node in self._sites else frozenset()

    def enter(self, node: str, name: str) -> None:
        """Say that an application has to do with a node."""
        self._of(node).names.add(name)

    def leave(self, node: str, name: str) -> None:
        """Say that it has not any more."""
        site = self._of(node)
        site.names.discard(name)
        if site.node is None and not site.names:
            del self._sites[node]

    def occupy(self, node: str, memory_mib: int, sign: int = 1) -> None:
        """Take the room of one application on a node; give it back with -1."""
        site = self._of(node)
        site.memory_mib += sign * memory_mib
        site.applications += sign
        site.weigh()

    def is_left(self, node: str, memory_mib: int, sign: int = 1) -> None:
        """Say of room that is taken that its application leaves; with -1 that it does not."""
        self._of(node).leaving_mib += sign * memory_mib

    def stand_by(self, node: str, sign: int = 1) -> None:
        """Count an application for which a node stands by; with -1 not any more."""
        site = self._of(node)
        site.standbys += sign
        site.weigh()

    def freed(self) -> None:
        """Say that there may be room now for what had none."""
        self._has_freed = True
        self._too_large.clear()

    def take_freed(self) -> bool:
        """Return whether that was said since the last call."""
        freed, self._has_freed = self._has_freed, False
        return freed

    def none_yields(self) -> None:
        """Forget what was about to move away."""
        for site in self._sites.values():
            site.yielding_mib = 0

    def fitting(self, asked: Application) -> Sequence[Site]:
        """Return the nodes on which an application may run, if they have room, by id."""
        kind = _kind_of(asked)
        if (found := self._by_kind.get(kind)) is None:
            if len(self._by_kind) >= _MOST_KINDS:
                self._by_kind.clear()
            found = [self._sites[node] for node in sorted(self._sites)]
            found = self._by_kind[kind] = [site for site in found if site.can_run(asked)]
        return found

    def choose(self, asked: Application, without: Collection[str]) -> str | None:
        """Return the node with the least load that has room for an application, None for none."""
        kind = _kind_of(asked)
        if self._too_large.get(kind, asked.memory_mib + 1) <= asked.memory_mib:
            return None
        fitting = self.fitting(asked)
        for some in _looked_at(asked.name, fitting):
            best, least = None, 2.0
            for site in some:
                # The first of equal ones: each application has its own order.
                if site.load < least and site.has_room(asked.memory_mib) and site.id not in without:
                    best, least = site.id, site.load
            if best is not None:
                return best
        if not any(site.has_room(asked.memory_mib) for site in fitting):
            self._too_large[kind] = asked.memory_mib
        return None

    def choose_standby(self, asked: Application, without: Collection[str]) -> str | None:
        """Return a node to keep an application's artifact, of some one with room."""
        for some in _looked_at(asked.name, self.fitting(asked)):
            others = [site for site in some if site.id not in without]
            roomy = [site for site in others if site.has_room(asked.memory_mib)]
            if some := roomy or others:
                return min(some, key=attrgetter("load_as_standby")).id
        return None

    def _of(self, node: str) -> Site:
        if (site := self._sites.get(node)) is None:
            site = self._sites[node] = Site(node)
        return site


def _what_counts(node: Node | None) -> object:
    if node is None:
        return None
    return node.state, node.level, node.memory_mib, node.applications, dict(node.labels)


def _kind_of(asked: Application) -> object:
    """Return what an application demands of nodes, beside room."""
    return asked.level, tuple(sorted(asked.on.items())) if asked.on else ()


def _looked_at(name: str, sites: Sequence[Site]) -> Iterator[Sequence[Site]]:
    """Yield the nodes to compare, in an order of the application's own: a few of many, then all."""
    if not sites:
        return
    numbers = _NUMBERS.unpack(blake2b(name.encode()).digest())
    begin = numbers[0] % len(sites)
    if len(sites) > _LOOKED_AT:
        yield [sites[number % len(sites)] for number in numbers]
    yield [*sites[begin:], *sites[:begin]]
