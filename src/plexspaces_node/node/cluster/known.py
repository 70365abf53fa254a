"""The records of a cluster, decoded, by whose they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from plexspaces_node.node.cluster.records import Application, Beat, Leader, Node, Placed, Status


class Kind(StrEnum):
    """The kinds of records that a view decodes."""

    NODE = "node"
    BEAT = "beat"
    LEADER = "leader"
    APPLICATION = "app"
    PLACED = "placed"
    STATUS = "status"


class Known:
    """What is known of a cluster; `view.ClusterView` keeps it up. Used on one event loop."""

    def __init__(self) -> None:
        """Nothing yet."""
        # By kind, each with its revision; a status by NODE/FULL NAME.
        self._records: dict[Kind, dict[str, tuple[Any, int]]] = {kind: {} for kind in Kind}
        self._nodes: dict[str, Node] = {}
        self._applications: dict[str, Application] = {}
        self._statuses: dict[str, dict[str, Status]] = {}
        self._on: dict[str, set[str]] = {}
        self._said_by: dict[str, set[str]] = {}

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by id, dead ones too; a view of what changes."""
        return MappingProxyType(self._nodes)

    @property
    def applications(self) -> Mapping[str, Application]:
        """The applications by full name, those being deployed too; a view of what changes."""
        return MappingProxyType(self._applications)

    @property
    def leader(self) -> tuple[Leader, int] | None:
        """Who leads, as last written, with the revision; it may be dead."""
        return self._records[Kind.LEADER].get("")

    def node(self, node: str) -> tuple[Node, int] | None:
        """Return a node and the revision of its record."""
        return self._records[Kind.NODE].get(node)

    def beat(self, node: str) -> tuple[Beat, int] | None:
        """Return a node's last beat and its revision."""
        return self._records[Kind.BEAT].get(node)

    def is_alive(self, node: str) -> bool:
        """Return whether a node is neither dead nor has left, as far as the leader has seen."""
        found = self.beat(node)
        return found is not None and not found[0].dead and not found[0].left and node in self._nodes

    def application(self, name: str) -> Application | None:
        """Return what a user has asked for under this full name."""
        return self._applications.get(name)

    def application_revision(self, name: str) -> int:
        """Return the revision of an application's record; 0 if there is none."""
        found = self._records[Kind.APPLICATION].get(name)
        return found[1] if found is not None else 0

    def placed(self, name: str) -> tuple[Placed, int] | None:
        """Return where an application runs, and the revision of that: its epoch."""
        return self._records[Kind.PLACED].get(name)

    def all_placed(self) -> Iterator[tuple[str, Placed, int]]:
        """Yield where each application runs, by full name, and the epoch of that."""
        for name, (placed, epoch) in self._records[Kind.PLACED].items():
            yield name, placed, epoch

    def placed_on(self, node: str) -> Set[str]:
        """Return the applications that run on a node, stand by, or leave it; as of now."""
        return frozenset(self._on.get(node, ()))

    def statuses(self, name: str) -> Mapping[str, Status]:
        """Return what each node has done about an application, by node."""
        return MappingProxyType(self._statuses.get(name, {}))

    def status_revision(self, node: str, name: str) -> int:
        """Return the revision of a node's status of an application; 0 if there is none."""
        found = self._records[Kind.STATUS].get(f"{node}/{name}")
        return found[1] if found is not None else 0

    def names_with_status(self, node: str | None = None) -> Set[str]:
        """Return the applications of which a node, or any, has said something; as of now."""
        if node is None:
            return frozenset(self._statuses)
        return frozenset(self._said_by.get(node, ()))

    def _keep(self, kind: Kind, subject: str, record: Any, revision: int) -> str:
        """Keep a record, or its end as None; return whose it is, as listeners are told."""
        records = self._records[kind]
        before = records.get(subject, (None, 0))[0]
        _set(records, subject, (record, revision) if record is not None else None)
        if kind is Kind.NODE:
            _set(self._nodes, subject, record)
        elif kind is Kind.APPLICATION:
            _set(self._applications, subject, record)
        elif kind is Kind.PLACED:
            self._index(subject, before, record)
        elif kind is Kind.STATUS:
            node, _, subject = subject.partition("/")
            by_node = self._statuses.setdefault(subject, {})
            _set(by_node, node, record)
            if not by_node:
                del self._statuses[subject]
            names = self._said_by.setdefault(node, set())
            (names.add if record is not None else names.discard)(subject)
            if not names:
                del self._said_by[node]
        return subject

    def _index(self, name: str, before: Placed | None, placed: Placed | None) -> None:
        """Keep up which applications are on which node."""
        for node in everywhere(before) if before is not None else ():
            if (names := self._on.get(node)) is not None:
                names.discard(name)
                if not names:
                    del self._on[node]
        for node in everywhere(placed) if placed is not None else ():
            self._on.setdefault(node, set()).add(name)


def everywhere(placed: Placed) -> tuple[str, ...]:
    """Return the nodes that have to do with an application."""
    return (*placed.nodes, *placed.standby, *placed.leaving)


def _set(records: dict[str, Any], key: str, record: Any) -> None:
    if record is None:
        records.pop(key, None)
    else:
        records[key] = record
