"""Which node serves an application now, by what the cluster's registry says.

What it says may be a little old: a node that is asked for what it has not says so, and the routes
are looked at again. While an application starts or moves, its messages wait for a change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import count
from typing import Any, Protocol, TypeAlias

from plexspaces_node.errors import PlexSpacesError, Unavailable, WrongState, no_application
from plexspaces_node.model import ApplicationState, ArtifactKind
from plexspaces_node.node.applications.intake import HOLD_S
from plexspaces_node.node.cluster.records import (
    GONE,
    READY,
    Application,
    Node,
    Placed,
    Status,
    Wanted,
)
from plexspaces_node.tasks import Leave

LOOK_AGAIN_S = 0.5
"""After this a node that said it does not have an application is asked again."""

_NOT_SERVING = (READY, GONE)

Found: TypeAlias = Callable[[str | PlexSpacesError], None]
"""Called once with the id of a node, or with why there is none."""


class View(Protocol):
    """What this node knows of its cluster; see `view.ClusterView`."""

    @property
    def synced(self) -> asyncio.Event:
        """Set once it has everything; until then it is what this node remembers."""

    def node(self, node: str) -> tuple[Node, int] | None:
        """Return a node and the revision of its record."""

    def is_alive(self, node: str) -> bool:
        """Return whether a node is neither dead nor has left."""

    @property
    def applications(self) -> Mapping[str, Application]:
        """The applications by full name, those being deployed too."""

    def application(self, name: str) -> Application | None:
        """Return what a user has asked for under a full name."""

    def placed(self, name: str) -> tuple[Placed, int] | None:
        """Return where an application runs, and its epoch."""

    def statuses(self, name: str) -> Mapping[str, Status]:
        """Return what each node has done about an application, by node."""

    def on_change(self, call: Callable[[Any, str], None]) -> Leave:
        """Call something after each change with its kind and whose it is."""


class Routes:
    """The ways to applications. Used on one event loop; nothing here blocks it."""

    def __init__(self, node: str, view: View) -> None:
        """Route for the node of this id, by what `view` tells."""
        self.node = node
        self._view = view
        self._turns = count()
        # How many messages each node has from here.
        self._in_flight: dict[str, int] = {}
        self._waiting: dict[str, dict[_Waiting, None]] = {}
        self._unfollow = view.on_change(self._changed)

    def __repr__(self) -> str:
        waiting = sum(map(len, self._waiting.values()))
        return f"<Routes of {self.node}, {waiting} wait>"

    def close(self) -> None:
        """Follow no changes any more, and let nobody wait. Idempotent."""
        self._unfollow()
        for waiting in self._all_waiting():
            waiting.fail()

    def knows(self, name: str) -> bool:
        """Return whether the cluster has an application; one that is being deployed is none."""
        application = self._view.application(name)
        return application is not None and _is_deployed(application)

    def may_have(self, name: str) -> bool:
        """Return whether the cluster has an application, as far as this node can say.

        What it remembers of the time before its start may lack the last ones.
        """
        return self.knows(name) or not self._view.synced.is_set()

    def has_left(self, name: str) -> bool:
        """Return whether an application is to run on other nodes, and no more on this one."""
        placed = self._view.placed(name)
        return (
            placed is not None
            and self.node not in placed[0].nodes
            and self.node not in placed[0].leaving
            and self.knows(name)
        )

    def is_public(self, name: str) -> bool:
        """Return whether everybody may send messages to it; False for none."""
        application = self._view.application(name)
        return application is not None and application.public and _is_deployed(application)

    def is_component(self, name: str) -> bool:
        """Return whether it handles HTTP requests itself; False for none."""
        application = self._view.application(name)
        return application is not None and application.kind == ArtifactKind.HTTP_COMPONENT

    def find(self, name: str, besides: Collection[str] = ()) -> str | None:
        """Return a node that serves an application now, this one if it does; None if none does.

        Of several the one that has the fewest messages from here. None of `besides`.
        """
        running: list[str] = []
        others: list[str] = []
        for node, status in self._view.statuses(name).items():
            if node in besides or not self._is_serving(name, node, status):
                continue
            if node == self.node:
                return node
            (running if status.state == ApplicationState.RUNNING else others).append(node)
        # A node in which it starts lets its messages wait, or says why it does not.
        found = running or others
        if len(found) < 2:
            return found[0] if found else None
        in_flight = self._in_flight
        turn = next(self._turns) % len(found)
        return min(found[turn:] + found[:turn], key=lambda node: in_flight.get(node, 0))

    def when_found(
        self, name: str, found: Found, *, besides: Collection[str] = (), wait_s: float = HOLD_S
    ) -> Leave:
        """Call `found` with a node that serves an application, at the latest after `wait_s`.

        Not with one of `besides`, until something has changed or a moment has passed. If there is
        none by then, with `NotFound`, `WrongState` or `Unavailable`. Never before this returns, nor
        after the returned function was called.
        """
        waiting = _Waiting(self, name, found, besides, min(wait_s, HOLD_S))
        self._waiting.setdefault(name, {})[waiting] = None
        return waiting.leave

    def took(self, node: str) -> None:
        """Count a message to a node until `gave`."""
        self._in_flight[node] = self._in_flight.get(node, 0) + 1

    def gave(self, node: str) -> None:
        """Stop counting a message to a node."""
        left = self._in_flight[node] - 1
        if left:
            self._in_flight[node] = left
        else:
            del self._in_flight[node]

    def node_of_vm(self, vm_id: str) -> tuple[str, str] | None:
        """Return the application that has a VM, and its node; None for none that is known."""
        for name in self._view.applications:
            for node, status in self._view.statuses(name).items():
                if status.vm_id == vm_id and self._view.is_alive(node):
                    return name, node
        return None

    def why_not(self, name: str) -> PlexSpacesError | None:
        """Return why an application is not served, and will not be soon; None if it may be."""
        application = self._view.application(name)
        if application is None or not _is_deployed(application):
            return no_application(name) if self._view.synced.is_set() else None
        if application.wanted is Wanted.STOPPED:
            return WrongState(
                f"application {name!r} is Stopped", hint=f"plexspaces start --name {name}"
            )
        return None

    def nobody(self, name: str) -> PlexSpacesError:
        """Return the error for an application that no node serves though one should."""
        if (error := self.why_not(name)) is not None:
            return error
        placed = self._view.placed(name)
        if not self.knows(name):
            why = "this node does not know yet what the cluster has"
        else:
            why = placed[0].why if placed is not None else "it is not placed yet"
        told = f": {why[:200]}" if why else ""
        return Unavailable(
            f"no node serves application {name!r} at the moment{told}", hint="plexspaces nodes"
        )

    def _is_serving(self, name: str, node: str, status: Status) -> bool:
        if status.state in _NOT_SERVING or not self._view.is_alive(node):
            return False
        placed = self._view.placed(name)
        return placed is not None and (node in placed[0].nodes or node in placed[0].leaving)

    def _changed(self, kind: Any, subject: str) -> None:
        """Look again for those who wait: for an application, or for any after one of a node."""
        if not self._waiting:
            return
        is_of_node = kind in ("node", "beat")
        told = self._all_waiting() if is_of_node else self._waiting.get(subject, ())
        for each in tuple(told):
            each.look_again()

    def _all_waiting(self) -> Iterable[_Waiting]:
        return [each for waiting in self._waiting.values() for each in waiting]

    def _leave(self, waiting: _Waiting) -> None:
        of_name = self._waiting.get(waiting.name)
        if of_name is not None:
            of_name.pop(waiting, None)
            if not of_name:
                del self._waiting[waiting.name]


class _Waiting:
    """Somebody who waits for a node that serves an application."""

    def __init__(
        self, routes: Routes, name: str, found: Found, besides: Collection[str], wait_s: float
    ) -> None:
        self.name = name
        self._routes = routes
        self._found = found
        self._besides = besides
        loop = asyncio.get_running_loop()
        self._ends_s = loop.time() + wait_s
        self._loop = loop
        self._timer = loop.call_soon(self._look)

    def leave(self) -> None:
        """Wait no more. Idempotent."""
        self._timer.cancel()
        self._routes._leave(self)

    def fail(self) -> None:
        """Say that there is none."""
        self._give(self._routes.nobody(self.name))

    def look_again(self) -> None:
        """Look soon: something has changed."""
        self._besides = ()
        self._timer.cancel()
        self._timer = self._loop.call_soon(self._look)

    def _look(self) -> None:
        node = self._routes.find(self.name, self._besides)
        if node is not None:
            self._give(node)
        elif (error := self._routes.why_not(self.name)) is not None:
            self._give(error)
        elif (left_s := self._ends_s - self._loop.time()) <= 0:
            self.fail()
        elif self._besides:
            self._timer = self._loop.call_later(min(LOOK_AGAIN_S, left_s), self.look_again)
        else:
            self._timer = self._loop.call_later(left_s, self._look)

    def _give(self, found: str | PlexSpacesError) -> None:
        self.leave()
        self._found(found)


def _is_deployed(application: Application) -> bool:
    """Return whether there is an application, or was before its replacement began."""
    return not application.deploying or bool(application.before)
