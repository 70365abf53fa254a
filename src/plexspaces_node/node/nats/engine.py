"""The engine of a cluster, opened: a server beside the node, or one elsewhere, and two buckets.

Opening it does not wait for NATS, except for a node that founds a cluster: what is asked while
NATS is away raises `Unavailable`, and watches wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import Unsupported
from plexspaces_node.node.nats.bucket import Bucket
from plexspaces_node.tasks import Leave

INSTALL = "pip install 'plexspaces-node[cluster]'"
REGISTRY, STATE = "plexspaces_registry", "plexspaces_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalNats:
    """A NATS that somebody else runs.

    Attributes:
        urls: nats://HOST:PORT or tls://HOST:PORT.
        password_file: a file that only its owner may read; likewise `credentials_file`.
        ca_file: the PEM file of the authority of its certificate, None for those of the host.
    """

    urls: tuple[str, ...]
    user: str = ""
    password_file: Path | None = None
    credentials_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an engine is opened with.

    Attributes:
        node_id: the name of the node and of its server.
        cluster: the name of the cluster.
        token: its secret.
        directory: where the server's files and data are, DATA_DIR/nats; made if it is not there.
        routes_file: where the addresses of other servers are remembered.
        address: HOST:PORT on which the server listens for other servers; port 0 takes a free one.
        join: HOST:PORT of servers of the cluster; empty for the node that founds it.
        external: the NATS to use instead of a server beside the node.
        most_bytes: how much disk the server may use.
    """

    node_id: str
    cluster: str
    token: ClusterToken
    directory: Path
    routes_file: Path
    address: str = "127.0.0.1:9400"
    join: tuple[str, ...] = ()
    external: ExternalNats | None = None
    most_bytes: int = 16 * 1024**3


class Engine:
    """What holds the nodes of a cluster together; open it with `open_engine`.

    Attributes:
        registry: what nodes tell each other; see `cluster.records`.
        state: the keys and snapshots of actors.
        server_name: the name of the server beside the node, "" without one.
        route: HOST:PORT where other servers reach it, "" without one.
    """

    registry: Bucket
    state: Bucket
    server_name: str
    route: str

    def is_connected(self) -> bool:
        """Return whether there is a connection to NATS now."""
        raise NotImplementedError

    @property
    def replicas(self) -> int:
        """How many copies of everything there shall be; 0 as long as that is not known."""
        raise NotImplementedError

    def when_changed(self, call: ConnectionCall) -> Leave:
        """Call something with True when the connection is there, with False when it is lost."""
        raise NotImplementedError

    async def grow(self, server_count: int) -> int:
        """Keep three copies if there are three servers, and return how many there are now.

        May be called again, by one node at a time. Raises `Unavailable`.
        """
        raise NotImplementedError

    async def remove_server(self, name: str) -> None:
        """Take a server that does not come back out of the cluster; it may be called again.

        What it had is copied to another. Raises `Unavailable`.
        """
        raise NotImplementedError

    def know_routes(self, routes: tuple[str, ...]) -> None:
        """Remember where the other servers are now, for this server and its next start."""
        raise NotImplementedError


class ConnectionCall:
    """What `Engine.when_changed` calls."""

    def __call__(self, is_connected: bool) -> None:
        """Take what has become of the connection."""


@asynccontextmanager
async def open_engine(config: EngineConfig) -> AsyncIterator[Engine]:
    """Open the engine of a node's cluster; end its server, and close it, at the end.

    A node that founds its cluster waits until that is done, some seconds. Raises `Unsupported` if
    the extra `cluster` is not installed, `InvalidArgument` for files that cannot be read.
    """
    raise Unsupported("clusters are not built yet", hint=INSTALL)
    yield Engine()
