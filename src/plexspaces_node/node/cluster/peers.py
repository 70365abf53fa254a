"""The connections to other nodes: kept, bounded, and closed when they are not needed any more."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from plexspaces_node.address import split_address
from plexspaces_node.errors import PlexSpacesError, ResourceExhausted, Unavailable
from plexspaces_node.node.cluster import short_tls
from plexspaces_node.node.cluster.deadlines import Deadlines
from plexspaces_node.node.cluster.peer_connection import PeerConnection
from plexspaces_node.node.cluster.routes import View
from plexspaces_node.tasks import Leave, cancel

MOST_CONNECTIONS = 512
"""To one node; each carries one request at a time, streams among them."""

MOST_WAITING = 4096
"""How many requests wait for a connection to one node."""

CONNECT_S = 2.0
"""How long it takes to connect at most, with the handshake."""

IDLE_S = 60.0
"""After this a connection is closed: the other node does so after 75 s."""

SWEEP_S = 10.0

RETRY_S = 0.3
"""For so long after a connection failed no other is tried to that node."""

Connected: TypeAlias = Callable[[PeerConnection | PlexSpacesError], None]
"""Called once with a connection that can take a request, or with why there is none."""


class Peers:
    """The connections of this node to the others. Used on one event loop.

    Attributes:
        deadlines: of the requests that are sent by them.
    """

    def __init__(
        self, view: View, context: ssl.SSLContext, *, most_connections: int = MOST_CONNECTIONS
    ) -> None:
        """Connect to nobody yet; `context` proves that this is a node, and asks for the same."""
        self.deadlines = Deadlines()
        self._view = view
        self._context = context
        self._most = most_connections
        self._peers: dict[str, _Peer] = {}
        self._unfollow = view.on_change(self._changed)
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Peers {self.connections} connections to {len(self._peers)} nodes>"

    @property
    def connections(self) -> int:
        """How many connections there are, to all nodes."""
        return sum(len(peer.all) for peer in self._peers.values())

    def idle(self, node: str) -> PeerConnection | None:
        """Take a connection that is not used; None if there is none."""
        peer = self._peers.get(node)
        return None if peer is None else peer.take()

    def connect(self, node: str, connected: Connected) -> Leave:
        """Call `connected` with a connection of the caller's own, once there is one.

        Never before this returns, nor after the returned function was called.
        """
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer(node, self._opened, self._most)
        if self._timer is None:
            self._sweep()
        return peer.want(connected)

    def give_back(self, connection: PeerConnection) -> None:
        """Let others have a connection whose response is complete, or that has ended."""
        peer = self._peers.get(connection.node)
        if peer is None:
            connection.close()
        else:
            peer.free(connection)

    async def aclose(self) -> None:
        """Close every connection; whoever has or wants one is told. Idempotent."""
        self._unfollow()
        if self._timer is not None:
            self._timer.cancel()
        peers = tuple(self._peers.values())
        self._peers.clear()
        for peer in peers:
            await peer.aclose()
        self.deadlines.close()

    async def _opened(self, node: str) -> PeerConnection:
        found = self._view.node(node)
        if found is None or not found[0].http:
            raise _unreachable(node, "it is not known where it is")
        try:
            host, port = split_address(found[0].http)
            async with asyncio.timeout(CONNECT_S):
                # It must be that node, and not only one of the cluster.
                connection = await short_tls.connected(
                    self._context, (host, port), node, lambda: PeerConnection(node)
                )
        except TimeoutError:
            raise _unreachable(node, f"it does not answer within {CONNECT_S:g} s") from None
        except (OSError, ValueError) as error:
            raise _unreachable(node, str(error)) from error
        return connection

    def _changed(self, kind: Any, subject: str) -> None:
        """Close the connections to a node that is dead, or none of the cluster any more."""
        peer = self._peers.get(subject) if kind in ("node", "beat") else None
        if peer is not None and not self._view.is_alive(subject):
            peer.close_all("the node is dead, or has left")

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for peer in self._peers.values():
            peer.close_idle(loop.time() - IDLE_S)
        self._timer = loop.call_later(SWEEP_S, self._sweep)


class _Peer:
    """The connections to one node."""

    def __init__(self, node: str, opened: Callable[[str], Any], most: int) -> None:
        self.node = node
        self.all: set[PeerConnection] = set()
        self._opened = opened
        self._most = most
        self._idle: list[PeerConnection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._wanting: deque[_Wanting] = deque()
        self._failed: PlexSpacesError | None = None
        self._failed_until_s = 0.0

    def take(self) -> PeerConnection | None:
        while self._idle:
            # The one that was used last: the others become old, and are closed.
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            self._drop(connection)
        return None

    def want(self, connected: Connected) -> Leave:
        loop = asyncio.get_running_loop()
        wanting = _Wanting(connected)
        if self._failed is not None and loop.time() < self._failed_until_s and not self.all:
            return loop.call_soon(wanting.give, self._failed).cancel
        if len(self._wanting) >= MOST_WAITING:
            full = ResourceExhausted(
                f"too many messages wait for a connection to node {self.node!r}",
                hint="send more slowly, or run the application on more nodes",
            )
            return loop.call_soon(wanting.give, full).cancel
        self._wanting.append(wanting)
        if len(self.all) + len(self._opening) < self._most:
            self._begin_to_open()
        return wanting.leave

    def free(self, connection: PeerConnection) -> None:
        if not connection.is_usable or connection not in self.all:
            self._drop(connection)
            self._replace()
            return
        while self._wanting:
            wanting = self._wanting.popleft()
            if wanting.wants:
                wanting.give(connection)
                return
        self._idle.append(connection)

    def close_idle(self, before_s: float) -> None:
        for connection in tuple(self._idle):
            if not connection.is_usable or connection.idle_since_s < before_s:
                self._idle.remove(connection)
                self._drop(connection)

    def close_all(self, why: str) -> None:
        for task in self._opening:
            task.cancel()
        self._idle.clear()
        for connection in tuple(self.all):
            self._drop(connection)
        self._fail_all(_unreachable(self.node, why))

    async def aclose(self) -> None:
        opening = tuple(self._opening)
        self.close_all("this node shuts down")
        await cancel(*opening)

    async def _open(self) -> None:
        try:
            connection = await self._opened(self.node)
        except PlexSpacesError as error:
            self._failed = error
            self._failed_until_s = asyncio.get_running_loop().time() + RETRY_S
            if not self.all:
                self._fail_all(error)
            return
        self._failed = None
        self.all.add(connection)
        self.free(connection)

    def _replace(self) -> None:
        """Open another connection for those who wait, in place of one that has ended."""
        if self._wanting and not self._opening and len(self.all) < self._most:
            self._begin_to_open()

    def _begin_to_open(self) -> None:
        task = asyncio.get_running_loop().create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _drop(self, connection: PeerConnection) -> None:
        connection.close()
        self.all.discard(connection)

    def _fail_all(self, error: PlexSpacesError) -> None:
        wanting, self._wanting = self._wanting, deque()
        for each in wanting:
            each.give(error)


class _Wanting:
    """A request that waits for a connection."""

    __slots__ = ("_connected",)

    def __init__(self, connected: Connected) -> None:
        self._connected: Connected | None = connected

    @property
    def wants(self) -> bool:
        return self._connected is not None

    def give(self, connection: PeerConnection | PlexSpacesError) -> None:
        connected, self._connected = self._connected, None
        if connected is not None:
            connected(connection)

    def leave(self) -> None:
        self._connected = None


def _unreachable(node: str, why: str) -> Unavailable:
    return Unavailable(f"node {node!r} cannot be reached: {why}", hint="plexspaces nodes")
