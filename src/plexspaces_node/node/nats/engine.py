"""The engine of a cluster, opened: a server beside the node, or one elsewhere, and two buckets.

Opening it does not wait for NATS, except for a node that founds a cluster: what is asked while
NATS is away raises `Unavailable`, and watches wait.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import InvalidArgument, Unavailable, Unsupported
from plexspaces_node.node.nats import founding, jetstream, routes, streams
from plexspaces_node.node.nats.bucket import Bucket
from plexspaces_node.node.nats.jetstream import ApiError
from plexspaces_node.node.nats.jetstream_bucket import JetStreamBucket
from plexspaces_node.node.nats.server import INSTALL, Server, free_port
from plexspaces_node.node.nats.server_files import ServerFiles, split
from plexspaces_node.private_file import read_private
from plexspaces_node.private_file import replace as replace_file
from plexspaces_node.tasks import Leave, cancel

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Connection, Target

_log = logging.getLogger(__name__)

REGISTRY, STATE = "plexspaces_registry", "plexspaces_state"
BUCKETS = (REGISTRY, STATE)

REPLICAS = 3
"""How many copies there are once there are as many servers: one of them can be lost."""

EXTERNAL_S = 5.0
"""How long the start waits to learn whether a NATS elsewhere can do what is needed."""

_CONNECTION = "plexspaces_node.node.nats.connection"
_GROW_S = 15.0
_PAUSE_S = 0.2
_NO_PEERS, _NO_REPLICAS = 10005, 10074


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
        program: the nats-server, None for the one that is installed.
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
    program: Path | None = None


class Engine:
    """What holds the nodes of a cluster together; open it with `open_engine`.

    Attributes:
        registry: what nodes tell each other; see `cluster.records`.
        state: the keys and snapshots of actors.
        fault: why the cluster cannot be used as long as it is so, "" for nothing.
    """

    def __init__(self, connection: Connection, server: Server | None, routes_file: Path) -> None:
        self.registry: Bucket = JetStreamBucket(connection, REGISTRY)
        self.state: Bucket = JetStreamBucket(connection, STATE)
        self.fault = ""
        self._connection = connection
        self._server = server
        self._routes_file = routes_file
        self._replicas = 0

    def __repr__(self) -> str:
        return f"<Engine {self._connection} {self._server}>"

    def is_connected(self) -> bool:
        """Return whether there is a connection to NATS now."""
        return self._connection.is_connected

    def when_changed(self, call: Callable[[bool], None]) -> Leave:
        """Call something with True when the connection is there, with False when it is lost."""
        return self._connection.when_changed(call)

    @property
    def server_name(self) -> str:
        """The name of the server beside the node, "" without one."""
        return self._server.files.name if self._server is not None else ""

    @property
    def route(self) -> str:
        """HOST:PORT where other servers reach it, "" without one."""
        return self._server.files.route if self._server is not None else ""

    @property
    def server_pid(self) -> int:
        """The process of the server beside the node, 0 without one, or while there is none."""
        return self._server.pid if self._server is not None else 0

    @property
    def replicas(self) -> int:
        """How many whole copies of everything there were last; 0 as long as that is not known."""
        return self._replicas

    async def settle(self) -> None:
        """Wait for NATS, check what it can do, and make the buckets if they are not there.

        Raises `Unsupported` if it is too old.
        """
        level = await jetstream.wait_until_answers(self._connection)
        jetstream.check_level(level)
        found = [await founding.made(self._connection, bucket) for bucket in BUCKETS]
        self._replicas = min(found)

    async def grow(self, server_count: int) -> int:
        """Keep three copies if there are three servers, and return how many are whole now.

        A new one takes some seconds until it is. May be called again, by one node at a time. Raises
        `Unavailable`.
        """
        wanted = REPLICAS if server_count >= REPLICAS else 1
        for bucket in BUCKETS:
            try:
                await _grow(self._connection, bucket, wanted)
            except ApiError as error:
                if error.number not in (_NO_PEERS, _NO_REPLICAS):
                    jetstream.refuse(error, f"more copies of the bucket {bucket}")
                # Not yet, or not there at all: what it has stays.
                _log.warning("no more copies of the bucket %s: %s", bucket, error)
        found = [await _replicas(self._connection, bucket) for bucket in BUCKETS]
        if min(found) != self._replicas:
            _log.info("there are %d whole copies of what the cluster keeps", min(found))
        self._replicas = min(found)
        return self._replicas

    async def look(self) -> int:
        """Return how many copies there shall be now, as another node may have seen to it.

        Raises `Unavailable`.
        """
        found = [await _replicas(self._connection, bucket) for bucket in BUCKETS]
        self._replicas = min(found)
        return self._replicas

    async def lead_here(self) -> bool:
        """Have the server beside this node lead what the cluster keeps; return whether it does.

        An election takes 4 to 9 s, in which nothing can be written: so only the end of one node
        costs one. A server that has not everything yet does not lead. May be called again, by one
        node at a time. Raises `Unavailable`.
        """
        leads = bool(self.server_name)
        for bucket in BUCKETS if leads else ():
            try:
                found = await streams.info(self._connection, bucket)
                leads = leads and streams.leader(found) == self.server_name
                if streams.is_whole_follower(found, self.server_name):
                    await streams.hand_over(self._connection, bucket, self.server_name)
            except ApiError as error:
                # It stays where it is, and works.
                _log.info("who leads the bucket %s is not changed: %s", bucket, error)
                leads = False
        return leads

    async def remove_server(self, name: str) -> None:
        """Take a server that does not come back out of the cluster; it may be called again.

        What it had is copied to another. Does nothing with a NATS elsewhere. Raises `Unavailable`.
        """
        if self._server is None or not name:
            return
        async with _connected(self._server, is_system=True) as system:
            await founding.forget(system, name)

    def know_routes(self, found: Sequence[str]) -> None:
        """Remember where the other servers are now, for this server and its next start.

        They come from other nodes: what is no address is left out. Blocks for small writes.
        """
        if self._server is None:
            return
        known = routes.checked(found, but=self.route)
        if known != self._server.routes:
            routes.write(self._routes_file, known)
            self._server.set_routes(known)


@asynccontextmanager
async def open_engine(config: EngineConfig) -> AsyncIterator[Engine]:
    """Open the engine of a node's cluster; end its server, and close it, at the end.

    A node that founds its cluster waits until that is done, some seconds. Raises `Unsupported` if
    the extra `cluster` is not installed, or a NATS elsewhere is too old; `InvalidArgument` for
    files that cannot be read or written; `Unavailable` if a cluster cannot be founded.
    """
    check_installed()
    async with AsyncExitStack() as stack:
        if config.external is not None:
            opening = _external(config, config.external)
        else:
            opening = _beside(config)
        yield await stack.enter_async_context(opening)


def check_installed() -> None:
    """Load the client of NATS; raises `Unsupported` if the extra `cluster` is not installed."""
    try:
        import_module(_CONNECTION)
    except ImportError as error:
        raise Unsupported(
            f"a cluster needs the extra `cluster`, which is not installed: {error}", hint=INSTALL
        ) from error


@asynccontextmanager
async def _beside(config: EngineConfig) -> AsyncIterator[Engine]:
    """Open an engine with a server of its own."""
    files = _files(config)
    is_member = files.member.exists()
    known = routes.checked((*config.join, *routes.read(config.routes_file)), but=files.route)
    if not is_member and not (known and files.joining.exists()):
        # Of a founding that did not come to its end. What a server has that began to join stays:
        # it may have voted.
        await asyncio.to_thread(shutil.rmtree, files.data, ignore_errors=True)
        files = replace(files, joins=bool(known))
    is_lone = not known
    if is_lone and config.join and not is_member:
        raise InvalidArgument(
            f"the node cannot join itself at {files.route}",
            hint="give the address of another node to --join, and one of its own to "
            "--cluster-address",
        )
    async with AsyncExitStack() as stack:
        if is_lone and not is_member:
            server, connection, engine = await _founded(stack, config, files)
        else:
            server, connection, engine = await _opened_beside(stack, config, files, known)
            joining = _background(engine, lambda: _join(engine, files))
            await stack.enter_async_context(joining)
        if is_lone or is_member:
            # Not for one that joins: its companion would count as a server of the others.
            company = _background(engine, lambda: founding.keep_company(server, connection))
            await stack.enter_async_context(company)
        yield engine


async def _opened_beside(
    stack: AsyncExitStack, config: EngineConfig, files: ServerFiles, known: Sequence[str]
) -> tuple[Server, Connection, Engine]:
    """Start the server and connect to it, until `stack` ends."""
    opening = Server.opened(files, known, program=config.program)
    server = await stack.enter_async_context(opening)
    connection = await stack.enter_async_context(_connected(server))
    connection.when_changed(lambda is_connected: server.answers() if is_connected else None)
    return server, connection, Engine(connection, server, config.routes_file)


async def _founded(
    stack: AsyncExitStack, config: EngineConfig, files: ServerFiles
) -> tuple[Server, Connection, Engine]:
    """Found a cluster; what does not come to an end is begun anew. Raises `Unavailable`."""
    for attempt in range(1, founding.ATTEMPTS + 1):
        async with AsyncExitStack() as own:
            server, connection, engine = await _opened_beside(own, config, files, ())
            try:
                async with _connected(server, is_system=True) as system:
                    await founding.found(server, system, connection, BUCKETS)
                await _join(engine, files)
            except Unavailable as error:
                if attempt == founding.ATTEMPTS:
                    raise
                _log.info("founding the cluster is begun anew: %s", error)
            else:
                stack.push_async_exit(own.pop_all())
                return server, connection, engine
        await asyncio.to_thread(shutil.rmtree, files.data, ignore_errors=True)
    raise AssertionError


@asynccontextmanager
async def _external(config: EngineConfig, external: ExternalNats) -> AsyncIterator[Engine]:
    """Open an engine without one."""
    target = _target(external)
    async with AsyncExitStack() as stack:
        opening = _opened(lambda: target, config.node_id)
        connection = await stack.enter_async_context(opening)
        engine = Engine(connection, None, config.routes_file)
        try:
            async with asyncio.timeout(EXTERNAL_S):
                await _settle_external(engine)
        except TimeoutError:
            _log.warning("NATS at %s does not answer yet", ", ".join(external.urls))
            await stack.enter_async_context(_background(engine, lambda: _settle_external(engine)))
        yield engine


async def _settle_external(engine: Engine) -> None:
    await engine.settle()
    # As many as it allows: how many servers there are is not for this node to know.
    with suppress(Unavailable):
        await engine.grow(REPLICAS)


async def _join(engine: Engine, files: ServerFiles) -> None:
    await engine.settle()
    await asyncio.to_thread(replace_file, files.member, b"")


@asynccontextmanager
async def _background(
    engine: Engine, work: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Do something while the engine is open; what fails is kept as its fault."""

    async def done() -> None:
        try:
            await work()
        except (Unsupported, Unavailable, InvalidArgument) as error:
            engine.fault = error.message
            _log.error("the cluster cannot be used: %s", error)

    task = asyncio.create_task(done(), name="nats settling")
    try:
        yield
    finally:
        await cancel(task)


def _files(config: EngineConfig) -> ServerFiles:
    host, port = split(config.address)
    return ServerFiles(
        directory=config.directory,
        name=config.node_id,
        cluster=config.cluster,
        token=config.token,
        host=host,
        route_port=port or free_port(),
        most_bytes=config.most_bytes,
    )


def _opened(target: Callable[[], Target], name: str) -> AbstractAsyncContextManager[Connection]:
    opened: Callable[..., AbstractAsyncContextManager[Connection]]
    opened = import_module(_CONNECTION).Connection.opened
    return opened(target, name=name)


def _connected(
    server: Server, *, is_system: bool = False
) -> AbstractAsyncContextManager[Connection]:
    make = import_module(_CONNECTION).Target

    def target() -> Target:
        user, password = server.user(is_system=is_system)
        made: Target = make((server.url,), user, password)
        return made

    return _opened(target, server.files.name)


def _target(external: ExternalNats) -> Target:
    password = ""
    if external.password_file is not None:
        what = "the password for NATS"
        password = read_private(external.password_file, what=what).decode().strip()
    if external.credentials_file is not None:
        # Only checked: the client reads it with each connection, by a package of its own.
        if find_spec("nkeys") is None:
            raise Unsupported(
                "credentials for NATS need the package nkeys, which is not installed",
                hint="pip install 'nats-py[nkeys]'",
            )
        read_private(external.credentials_file, what="the credentials for NATS")
    target: Target = import_module(_CONNECTION).Target(
        external.urls,
        external.user,
        password,
        credentials=external.credentials_file,
        ca=external.ca_file,
        speaks_tls=any(url.startswith("tls://") for url in external.urls),
    )
    return target


async def _replicas(connection: Connection, bucket: str) -> int:
    try:
        return streams.whole_replicas(await streams.info(connection, bucket))
    except ApiError as error:
        jetstream.refuse(error, f"a look at the bucket {bucket}")


async def _grow(connection: Connection, bucket: str, wanted: int) -> None:
    """Ask for more copies, until that is accepted; never for fewer."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _GROW_S
    while True:
        try:
            found = await streams.info(connection, bucket)
            if streams.wanted_replicas(found) < wanted:
                await streams.set_replicas(connection, found, wanted)
        except (ApiError, Unavailable) as error:
            refused = isinstance(error, ApiError) and error.number == _NO_REPLICAS
            if refused or loop.time() >= until:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return
