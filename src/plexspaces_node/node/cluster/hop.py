"""A request on its way to a node that serves an application: found, sent, and sent elsewhere.

It is sent to another node if the first cannot be reached, or says that it does not have the
application; never after it was sent for any other reason, for it may have been done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

from plexspaces_node.errors import DeadlineExceeded, PlexSpacesError, Unavailable
from plexspaces_node.link.frames import Body
from plexspaces_node.node.cluster.caller import NOT_HERE
from plexspaces_node.node.cluster.peer_connection import Headers, PeerConnection
from plexspaces_node.node.cluster.peers import Peers
from plexspaces_node.node.cluster.routes import Routes
from plexspaces_node.tasks import Leave

SLACK_S = 1.0
"""How much longer this node waits for a response to begin than the other one."""

_MISDIRECTED = 421
_NOT_HERE = NOT_HERE.encode()


class Taker(Protocol):
    """Takes the response of another node. After `ended` or `failed` nothing is called."""

    def proceed(self) -> None:
        """Send the body, by `Hop.connection`."""

    def begun(self, status: int, headers: Headers) -> None:
        """Take the head."""

    def came(self, piece: bytes) -> None:
        """Take a piece of the body."""

    def ended(self) -> None:
        """Hear that the response is complete."""

    def failed(self, error: PlexSpacesError) -> None:
        """Hear that there is none, or that the rest of it will not come."""

    def here(self) -> None:
        """Hear that the application is on this node by now: nothing was sent."""


class Hop:
    """One request; a `peer_connection.Taker`. Used on one event loop.

    Attributes:
        due_s: when it ends at the latest, by the clock of the event loop.
        connection: that it was sent by, for the rest of its body, and to pause what comes; None
            before and after.
        waited_ns: how long it waited for a node that serves its application.
    """

    __slots__ = (
        "_begin_ns",
        "_besides",
        "_body",
        "_ends_s",
        "_head",
        "_is_begun",
        "_is_head",
        "_is_here",
        "_is_misdirected",
        "_leave",
        "_loop",
        "_name",
        "_node",
        "_peers",
        "_routes",
        "_taker",
        "connection",
        "due_s",
        "waited_ns",
    )

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        routes: Routes,
        peers: Peers,
        is_here: Callable[[str], bool],
        *,
        name: str,
        head: bytes,
        body: Body,
        timeout_s: float,
        is_head: bool = False,
    ) -> None:
        """Set up a request; `is_here` returns whether this node has an application by now."""
        self._routes, self._peers, self._is_here = routes, peers, is_here
        self._name, self._head, self._body, self._is_head = name, head, body, is_head
        self._loop = asyncio.get_running_loop()
        self._ends_s = self._loop.time() + timeout_s
        self.due_s = self._ends_s + SLACK_S
        self._besides = {routes.node}
        self.connection: PeerConnection | None = None
        self._is_begun = self._is_misdirected = False
        self._leave: Leave | None = None
        self._node = ""
        self._begin_ns = perf_counter_ns()
        self.waited_ns = 0

    def __repr__(self) -> str:
        return f"<Hop to {self._node or '?'} for {self._name}>"

    def start(self, taker: Taker) -> None:
        """Send it, now or once there is a node for it; `taker` gets the response.

        Nothing is called before this returns.
        """
        self._taker = taker
        self._peers.deadlines.add(self)
        self._go()

    def leave(self) -> None:
        """Want nothing any more: the other node ends what it does for this. Idempotent."""
        self._peers.deadlines.remove(self)
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.leave()
            self._done_with(connection)

    # ---- the way to a node ---------------------------------------------------------------

    def _go(self) -> None:
        """Try a node that serves the application, once there is one."""
        node = self._routes.find(self._name, self._besides)
        if node is None:
            self._find()
        else:
            self._try(node)

    def _find(self) -> None:
        left_s = self._ends_s - self._loop.time()
        self._leave = self._routes.when_found(
            self._name, self._found, besides=self._besides, wait_s=max(0.0, left_s)
        )

    def _found(self, node: str | PlexSpacesError) -> None:
        self._leave = None
        if not isinstance(node, str):
            self._let_go().failed(node)
        elif node == self._routes.node:
            if self._is_here(self._name):
                self._let_go().here()
            else:
                # It says that it runs it, and does not yet.
                self._besides = {node}
                self._find()
        else:
            self._besides = {self._routes.node}
            self._try(node)

    def _try(self, node: str) -> None:
        self._node = node
        connection = self._peers.idle(node)
        if connection is None:
            self._leave = self._peers.connect(node, self._connected)
        else:
            self._send(connection)

    def _connected(self, connection: PeerConnection | PlexSpacesError) -> None:
        self._leave = None
        if isinstance(connection, PeerConnection):
            self._send(connection)
        else:
            self._try_another()

    def _try_another(self) -> None:
        self._besides = {*self._besides, self._node}
        self._go()

    def _send(self, connection: PeerConnection) -> None:
        self.connection = connection
        self.waited_ns = perf_counter_ns() - self._begin_ns
        self._routes.took(self._node)
        connection.send(self._head, self._body, self, is_head=self._is_head)

    def _hand_back(self) -> bool:
        """Give back the connection; return whether another node is tried instead of its own."""
        connection, self.connection = self.connection, None
        assert connection is not None
        self._done_with(connection)
        if not self._is_misdirected:
            return False
        self._is_misdirected = False
        self._try_another()
        return True

    def _done_with(self, connection: PeerConnection) -> None:
        self._routes.gave(connection.node)
        self._peers.give_back(connection)

    # ---- what its connection calls -------------------------------------------------------

    def proceed(self) -> None:
        self._taker.proceed()

    def begun(self, status: int, headers: Headers) -> None:
        if status == _MISDIRECTED and any(name == _NOT_HERE for name, _ in headers):
            self._is_misdirected = True
            return
        self._is_begun = True
        self._peers.deadlines.remove(self)
        self._taker.begun(status, headers)

    def came(self, piece: bytes) -> None:
        if not self._is_misdirected:
            self._taker.came(piece)

    def ended(self) -> None:
        if not self._hand_back():
            self._let_go().ended()

    def broke(self, why: str) -> None:
        if self._hand_back():
            return
        what = "in the middle of its response" if self._is_begun else "before it answered"
        self._let_go().failed(
            Unavailable(
                f"the connection to node {self._node!r} was lost {what} ({why}); "
                "whether it handled the message is not known",
                hint="plexspaces nodes",
            )
        )

    # ---- the end -------------------------------------------------------------------------

    def expire(self) -> None:
        """Hear that it took too long."""
        if self.connection is None:
            error: PlexSpacesError = self._routes.nobody(self._name)
        else:
            error = DeadlineExceeded(f"node {self._node!r} did not answer in time")
        taker = self._let_go()
        self.leave()
        taker.failed(error)

    def _let_go(self) -> Taker:
        """Return whom to tell the last thing.

        It knows this, too: together they would go only with the next collection.
        """
        self._peers.deadlines.remove(self)
        taker = self._taker
        del self._taker
        return taker
