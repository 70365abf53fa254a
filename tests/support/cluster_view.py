"""What a node knows of its cluster, as a test says it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from plexspaces_node.node.cluster.records import Application, Node, Placed, Status, Wanted
from plexspaces_node.tasks import Leave


def application(name: str, *, kind: str = "actor", **fields: Any) -> Application:
    """Return what a user has asked for."""
    given: dict[str, Any] = {
        "id": f"id-{name}",
        "generation": 1,
        "version": "1",
        "language": "rust",
        "digest": "0" * 64,
        "vcpus": 1,
        "memory_mib": 64,
        "created_ns": 1,
        "source": "a",
        **fields,
    }
    return Application(name=name, kind=kind, **given)


class FakeView:
    """A view that a test changes; a `routes.View`."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.dead: set[str] = set()
        self.all: dict[str, Application] = {}
        self.places: dict[str, Placed] = {}
        self.states: dict[str, dict[str, Status]] = {}
        self.listeners: list[Callable[[Any, str], None]] = []
        self.synced = asyncio.Event()
        self.synced.set()

    def add_node(self, node: str, *, http: str = "", grpc: str = "") -> None:
        """Let a node be alive, at these addresses."""
        self.nodes[node] = Node(
            id=node,
            http=http,
            grpc=grpc,
            version="1",
            level="process",
            memory_mib=1024,
            applications=10,
            incarnation=1,
        )
        self.dead.discard(node)
        self.tell("node", node)

    def kill(self, node: str) -> None:
        """Let a node be dead."""
        self.dead.add(node)
        self.tell("beat", node)

    def place(self, name: str, *nodes: str, state: str = "Running", **fields: Any) -> None:
        """Have an application run on these nodes alone."""
        self.all.setdefault(name, application(name, **fields))
        self.places[name] = Placed(id=f"id-{name}", nodes=nodes)
        self.states[name] = {}
        for node in nodes:
            self.set_state(name, node, state)
        self.tell("placed", name)

    def set_state(self, name: str, node: str, state: str, *, vm_id: str = "") -> None:
        """Have a node say what it has done about an application; "" for nothing."""
        states = self.states.setdefault(name, {})
        if state:
            states[node] = Status(id=f"id-{name}", generation=1, epoch=1, state=state, vm_id=vm_id)
        else:
            states.pop(node, None)
        self.tell("status", name)

    def stop(self, name: str) -> None:
        """Have a user want an application stopped."""
        self.all[name] = application(name, wanted=Wanted.STOPPED)
        self.states[name] = {}
        self.tell("app", name)

    def tell(self, kind: str, subject: str) -> None:
        """Tell of a change."""
        for call in tuple(self.listeners):
            call(kind, subject)

    # ---- as routes ask -------------------------------------------------------------------

    def node(self, node: str) -> tuple[Node, int] | None:
        found = self.nodes.get(node)
        return None if found is None else (found, 1)

    def is_alive(self, node: str) -> bool:
        return node in self.nodes and node not in self.dead

    @property
    def applications(self) -> Mapping[str, Application]:
        return self.all

    def application(self, name: str) -> Application | None:
        return self.all.get(name)

    def placed(self, name: str) -> tuple[Placed, int] | None:
        found = self.places.get(name)
        return None if found is None else (found, 1)

    def statuses(self, name: str) -> Mapping[str, Status]:
        return self.states.get(name, {})

    def on_change(self, call: Callable[[Any, str], None]) -> Leave:
        self.listeners.append(call)
        return lambda: self.listeners.remove(call) if call in self.listeners else None
