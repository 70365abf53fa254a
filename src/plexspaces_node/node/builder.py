"""The composition root: reads the configuration, builds every part of a node, and shuts it down.

`NodeBuilder` is the public way to run a node inside a program; the command line uses it too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from importlib import import_module
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Self

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from plexspaces_node import __version__, level_figures
from plexspaces_node.api.invoke import SERVICE
from plexspaces_node.api.options import ChannelOptions, server_options
from plexspaces_node.cluster_token import KEPT
from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.errors import InvalidArgument, Unavailable, WrongState, quoted
from plexspaces_node.http_notice import TLS_SCHEME, Notice, posted
from plexspaces_node.info import NodeInfo
from plexspaces_node.isolation import choose_driver, make_drivers
from plexspaces_node.model import VmConfig
from plexspaces_node.node import unix_sockets
from plexspaces_node.node.access import audit
from plexspaces_node.node.access.gate import Gate
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.advisor.advisor import Advisor
from plexspaces_node.node.api import descriptors
from plexspaces_node.node.api.boundary import Boundary
from plexspaces_node.node.api.cluster import Nodes
from plexspaces_node.node.api.health import NodeHealth
from plexspaces_node.node.api.listen import (
    bind,
    bind_unix,
    check_can_listen,
    peer_certificate_name,
)
from plexspaces_node.node.api.service import ApplicationService, Operations, ServiceLimits
from plexspaces_node.node.api.services import Services, services_of
from plexspaces_node.node.applications.activity_watch import ActivityWatch
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.applications.shares import Shares
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.http.control import Control
from plexspaces_node.node.http.door import Door
from plexspaces_node.node.http.origin import Origins
from plexspaces_node.node.http.pages import Pages
from plexspaces_node.node.http.server import HttpServer
from plexspaces_node.node.machines.leftovers import end_machines
from plexspaces_node.node.metrics.readings import Readings
from plexspaces_node.node.metrics.scrape import Scrapes, serve_metrics
from plexspaces_node.node.node import Node
from plexspaces_node.node.opening import open_context
from plexspaces_node.node.telemetry_export.opening import check_installed
from plexspaces_node.node.timeouts import Timeouts
from plexspaces_node.node.tls import NodeTls
from plexspaces_node.settings import TlsSection
from plexspaces_node.tasks import Background
from plexspaces_node.vm.driver import Driver

if TYPE_CHECKING:
    from plexspaces_node.node.clustering import Clustering
    from plexspaces_node.node.http.peering import Membership, Peering

_CLUSTERING = "plexspaces_node.node.clustering"
_PEERING = "plexspaces_node.node.http.peering"
"""Loaded for a node of a cluster alone."""

_log = logging.getLogger(__name__)

HEALTH_CALLS = 1000
"""How many health checks and watches a node handles at once."""


class NodeBuilder:
    """Builds a node: `async with NodeBuilder("my-node").with_address(...).build() as node:`.

    Every `with_` method returns the builder. Anything not set comes from the environment and
    `release.toml`, as on the command line.
    """

    def __init__(self, node_id: str) -> None:
        self._flags: dict[str, object] = {"node.id": node_id}
        self._config: Config | None = None
        self._config_file: Path | None = None
        self._driver: Driver | None = None
        self._timeouts = Timeouts()
        self._passphrase: str | None = None
        self._speaks_tls = True
        self._level_figures = level_figures.default_path()
        self._membership: Membership | None = None

    def with_address(self, address: str) -> Self:
        """Listen on HOST:PORT; port 0 takes a free one, which `Node.address` then contains."""
        self._flags["node.address"] = address
        return self

    def with_isolation(self, level: str) -> Self:
        """Use `auto`, `firecracker`, `qemu` or `process`."""
        self._flags["node.isolation"] = level
        return self

    def with_data_dir(self, path: Path | str) -> Self:
        """Use this data directory."""
        self._flags["node.data_dir"] = str(path)
        return self

    def with_config_file(self, path: Path | str) -> Self:
        """Read this `release.toml`."""
        self._config_file = Path(path)
        return self

    def with_config(self, config: Config) -> Self:
        """Use a complete configuration; nothing else is read then."""
        self._config = config
        return self

    def with_setting(self, key: str, value: object) -> Self:
        """Set any setting by its dotted key, for example `limits.message_bytes`."""
        self._flags[key] = value
        return self

    def without_tls(self) -> Self:
        """Speak no TLS, whatever `[tls]` says; for a node that only its own program uses."""
        self._speaks_tls = False
        return self

    def with_driver(self, driver: Driver) -> Self:
        """Start VMs with this driver, whatever the isolation setting says."""
        self._driver = driver
        return self

    def with_membership(self, membership: Membership) -> Self:
        """Be a node of a cluster that the program itself keeps together; for tests."""
        self._membership = membership
        return self

    def with_passphrase(self, passphrase: str) -> Self:
        """Make the key of the secrets of this passphrase, which `[secrets] passphrase` asks for."""
        self._passphrase = passphrase
        return self

    def with_timeouts(self, timeouts: Timeouts) -> Self:
        """Use these timeouts; for tests."""
        self._timeouts = timeouts
        return self

    def with_level_figures(self, path: Path) -> Self:
        """Read what isolation levels cost from this file, not from the user's."""
        self._level_figures = path
        return self

    def _checked_config(self) -> Config:
        config = self._config or ConfigBootstrap.load(self._config_file, self._flags)
        if not self._speaks_tls:
            # As if there were no certificate, so that no port is open to other hosts.
            config = config.model_copy(update={"tls": TlsSection()})
        config.check_listen()
        check_installed(config.otel.endpoint)
        return config

    @asynccontextmanager
    async def build(self) -> AsyncIterator[Node]:
        """Start the node; drain it at the end.

        Raises `InvalidArgument`, `WrongState` for a data directory in use, `Unavailable` for a
        port in use, `Unsupported` for an isolation level that does not work here, or for traces
        without the extra `otel`. A node that does not start leaves nothing of a data directory
        that it would have been the first in.
        """
        config = self._checked_config()
        tls = NodeTls.of(config.tls)
        async with AsyncExitStack() as stack:
            data = await _data_directory(stack, config)
            clustering = await stack.enter_async_context(_clustering(config, data))
            driver, note = await choose_driver(config, self._driver)
            stack.callback(driver.close)
            audit_log = await stack.enter_async_context(
                audit.AuditLog(data.audit, config.limits.audit_bytes)
            )
            shares = await stack.enter_async_context(
                Shares.open(config.node.id, wanted=config.node.cgroups)
            )
            limits, node_health = config.limits, NodeHealth()
            context = await open_context(
                *(stack, config, data, driver, node_health, shares),
                *(self._timeouts, self._passphrase, clustering.attach if clustering else None),
            )
            applications = Applications(context)
            info = _describe(config, driver, note)
            server = _server(stack, config)
            tokens = await _tokens(stack, config, context, data, clustering, applications)
            gate = Gate(tokens.known, Recorder(audit_log.note))
            gate.is_public = applications.is_public
            advisor = _advisor(stack, applications, context, info, self._level_figures)
            others = (applications, context, audit_log, tokens, advisor)
            services, peering = await _peered(
                *(stack, config, self._membership, clustering, info, gate, others)
            )
            scrapes = _scrapes(context, applications, info, node_health, audit_log)
            _register(server, services, gate, node_health, limits.calls, tls, scrapes)
            metrics_port = stack.enter_context(serve_metrics(config.node.metrics_address, scrapes))
            control = _control(services, gate, context.artifacts, info, scrapes)
            http = _http_server(config, context, applications, control, gate, tls, scrapes, peering)
            stack.callback(http.close)
            address = bind(server, config.node.address, tls.credentials() if tls else None)
            http_address, http_fault = await _bind(http, config)
            sockets = await _bind_unix(stack, server, http if config.http.address else None, data)
            notice = stack.enter_context(ExitStack())
            node = Node(
                info,
                address=address,
                http_address=http_address,
                http_fault=http_fault,
                speaks_tls=tls is not None,
                is_unguarded=lambda: not tokens.exist(),
                metrics_port=metrics_port,
                recovered=await applications.recover(*((clustering.waits,) if clustering else ())),
                applications=applications,
                server=server,
                http=http,
                withdraw_notice=notice.close,
                health=node_health,
                grace_s=config.node.grace_s,
                peering=peering,
                clustering=clustering,
            )
            _warn_of_a_weaker_level(node, data.swap_level(driver.name), make_drivers(config))
            # From now on a client may have been told about something in it.
            data.keep()
            stack.callback(_audit_life(audit_log, config.node.id))
            await _serve(server, http, node_health, node)
            notice.enter_context(_notice(address, http_address, tls, sockets))
            for end in (audit_log.end_followers, advisor.watch.close):
                notice.callback(end)
            _watch(stack, config, tls)
            stack.push_async_callback(node.drain)
            yield node


def _clustering(
    config: Config, data: DataDirectory
) -> AbstractAsyncContextManager[Clustering | None]:
    """Open the node's part in its cluster; None for a node alone."""
    section = config.cluster
    if not (section.name or section.join or (data.path / KEPT).exists()):
        return nullcontext()
    opening: Callable[..., AbstractAsyncContextManager[Clustering | None]]
    opening = import_module(_CLUSTERING).open_clustering
    return opening(config, data)


async def _peered(  # noqa: PLR0913 - each by its name
    stack: AsyncExitStack,
    config: Config,
    membership: Membership | None,
    clustering: Clustering | None,
    info: NodeInfo,
    gate: Gate,
    others: tuple[Applications, NodeContext, audit.AuditLog, Tokens, Advisor],
) -> tuple[Services, Peering | None]:
    """Open the ways to other nodes; return the services, which pass on what is not here."""
    applications, context, *_ = others

    def serving(operations: Operations | None = None, nodes: Nodes | None = None) -> Services:
        """Return the services: about what is here, or with operations about a cluster."""
        limits = ServiceLimits(config.limits.message_timeout_s, context.in_flight)
        service = ApplicationService(
            applications, context.artifacts, info, limits, gate, operations
        )
        return services_of(service, *others, nodes)

    here = serving(None, clustering.nodes if clustering else None)
    membership = clustering.peers() if clustering is not None else membership
    if membership is None:
        return here, None
    shared = (applications, context, here, gate.recorder, _server_options(config))
    opening: Callable[..., AbstractAsyncContextManager[Peering]]
    opening = import_module(_PEERING).open_peering
    peering = await stack.enter_async_context(opening(membership, *shared))
    if clustering is None:
        return peering.forwarding.before(here), peering
    operations, here_only = clustering.operate(applications, context, peering)
    here[SERVICE][0].operations = here_only
    return peering.forwarding.before(serving(operations, clustering.nodes)), peering


@contextmanager
def _notice(
    address: str, http_address: str, tls: NodeTls | None, sockets: Notice
) -> Iterator[None]:
    if tls is not None and http_address:
        http_address = TLS_SCHEME + http_address
    with ExitStack() as stack:
        try:
            stack.enter_context(posted(address, sockets._replace(http_address=http_address)))
        except (OSError, InvalidArgument) as error:
            # Clients use gRPC, by TCP, then.
            _log.info("clients are not told the node's sockets: %s", error)
        yield


async def _data_directory(stack: AsyncExitStack, config: Config) -> DataDirectory:
    """Hold the data directory until `stack` ends, and end what a killed node has left running."""
    data = stack.enter_context(DataDirectory.open(config.node.data_dir, config.node.id))
    if data.unfinished.exists():
        raise WrongState(
            f"a backup was not completely restored into {data.path}",
            hint=f"plexspaces restore BACKUP --data-dir {quoted(data.path)}",
        )
    # After it, so that the error names a node that already runs, and not only its port.
    await check_can_listen(config.node.address)
    # Before a level is tried: they may use the memory that a trial needs, and have to end even if
    # no level works. Their directories are removed when there is a driver. Trial VMs are created
    # beside them, where the next start finds leftovers of a killed node.
    await end_machines(data.vms)
    return data


def _audit_life(audit_log: audit.AuditLog, node: str) -> Callable[[], None]:
    """Note that a node has started; return what notes that it has stopped."""
    audit_log.note(audit.of_node("Node/Start", node))
    return lambda: audit_log.note(audit.of_node("Node/Stop", node))


async def _serve(
    server: grpc.aio.Server, http: HttpServer, node_health: NodeHealth, node: Node
) -> None:
    """Answer from now on, and be a node of the cluster."""
    await server.start()
    await http.serve()
    if node.peering is not None:
        await node.peering.ports.serve()
    await node_health.serve()
    if node.clustering is not None:
        await node.clustering.join(node.info, node.applications.bounds)


async def _tokens(  # noqa: PLR0913 - each by its name
    stack: AsyncExitStack,
    config: Config,
    context: NodeContext,
    data: DataDirectory,
    clustering: Clustering | None,
    applications: Applications,
) -> Tokens:
    """Open the tokens; `stack` closes them. Raises `InvalidArgument` if a port needs some."""
    opening = Tokens.open(context.registry.tokens, data.token_key)
    tokens = await stack.enter_async_context(opening)
    if clustering is not None:
        await clustering.share(applications, context, tokens)
    config.check_grants(exist=tokens.exist())
    return tokens


async def _bind_unix(
    stack: AsyncExitStack, server: grpc.aio.Server, http: HttpServer | None, data: DataDirectory
) -> Notice:
    """Reserve the unix sockets, as far as there can be some; `stack` removes them."""
    grpc_socket = http_socket = ""
    for path in (data.grpc_socket, data.http_socket):
        is_grpc = path == data.grpc_socket
        if not unix_sockets.has_room(path) or (http is None and not is_grpc):
            continue
        stack.callback(unix_sockets.remove, path)
        try:
            if is_grpc:
                bind_unix(server, path)
                grpc_socket = str(path)
            elif http is not None:
                await http.bind_unix(path)
                http_socket = str(path)
        except OSError as error:
            _log.warning("no unix socket %s: %s", path, error.strerror)
    return Notice(grpc_socket=grpc_socket, http_socket=http_socket)


def _watch(stack: AsyncExitStack, config: Config, tls: NodeTls | None) -> None:
    """Say in the log what an administrator should know of the ports, now and while it lasts."""
    for key, address in config.open_addresses():
        _log.warning(
            "%s %s can be reached from other hosts without TLS, by [node] allow_remote",
            *(key, address),
        )
    if tls is not None:
        stack.callback(asyncio.get_running_loop().create_task(tls.watch()).cancel)


def _control(
    services: Services, gate: Gate, artifacts: ArtifactStore, info: NodeInfo, scrapes: Scrapes
) -> Control:
    servicers = {name: one for name, (one, _) in services.items()}
    return Control(servicers, gate, artifacts, info, scrapes, Pages())


def _http_server(  # noqa: PLR0913 - each by its name
    config: Config,
    context: NodeContext,
    applications: Applications,
    control: Control,
    gate: Gate,
    tls: NodeTls | None,
    scrapes: Scrapes,
    peering: Peering | None,
) -> HttpServer:
    http, limits = config.http, config.limits
    origins = Origins(
        hosts=http.hosts,
        origins=http.cors_origins,
        any_address=config.node.allow_remote,
        certified=lambda: tls.hosts if tls is not None else (),
    )
    door = Door(
        applications,
        control,
        origins,
        gate,
        message_bytes=limits.message_bytes,
        message_timeout_s=limits.message_timeout_s,
        most_calls=limits.calls,
        nodes=None if peering is None else peering.nodes,
    )
    scrapes.calls["http"] = lambda: door.calls
    return HttpServer(
        door,
        in_flight=context.in_flight,
        most_connections=_connections(config),
        access_log=http.access_log,
        tls=tls.context if tls else None,
    )


def _advisor(
    stack: AsyncExitStack,
    applications: Applications,
    context: NodeContext,
    info: NodeInfo,
    levels: Path | None,
) -> Advisor:
    """Return what watches applications and gives advice; `stack` ends what it does by itself."""
    watch = ActivityWatch(applications.roster, context, info)
    advisor = Advisor(watch, levels=lambda: level_figures.read(levels))
    upkeep = Background("advisor", lambda error: _log.error("no more advice", exc_info=error))
    upkeep.run(advisor.run())
    stack.push_async_callback(upkeep.end)
    return advisor


def _scrapes(
    context: NodeContext,
    applications: Applications,
    info: NodeInfo,
    node_health: NodeHealth,
    audit_log: audit.AuditLog,
) -> Scrapes:
    readings = Readings(
        info,
        applications.roster,
        context.telemetry,
        traffic=context.agent_limits.traffic,
        in_flight=context.in_flight,
        audit_dropped=lambda: audit_log.dropped,
        damages=lambda: node_health.damages,
        store_bytes=lambda: context.artifacts.total_bytes,
    )
    return Scrapes(readings, applications.quotas.bounded)


async def _bind(server: HttpServer, config: Config) -> tuple[str, str]:
    """Reserve the HTTP port; return its address, or "" and why there is none.

    Raises `Unavailable` unless the address is the default, for a second node on a host has a
    default that is taken, and is as useful without.
    """
    address = config.http.address
    if not address:
        return "", ""
    hint = 'choose another [http] address, or "off"'
    try:
        await check_can_listen(address, hint=hint)
        try:
            return await server.bind(address), ""
        except OSError as error:
            # Somebody took it since.
            raise Unavailable(f"cannot listen on {address}: {error}", hint=hint) from error
    except Unavailable as error:
        if config.origin("http.address") != "default":
            raise
        _log.warning("HTTP is off: %s", error)
        return "", error.message


def _describe(config: Config, driver: Driver, note: str) -> NodeInfo:
    can, limits, default = driver.capabilities, config.limits, config.default_vm
    return NodeInfo(
        node_id=config.node.id,
        version=__version__,
        isolation=driver.name,
        isolation_note=note,
        artifact_limit_bytes=limits.artifact_bytes,
        message_limit_bytes=limits.message_bytes,
        min_memory_mib=can.min_memory_mib,
        max_memory_mib=can.max_memory_mib,
        max_vcpus=can.max_vcpus,
        default_vm=VmConfig(default.vcpus, default.memory_mib),
        started_unix_ns=time_ns(),
        overhead_mib=can.overhead_mib,
    )


def _warn_of_a_weaker_level(node: Node, before: str, drivers: Sequence[Driver]) -> None:
    levels = [driver.name for driver in drivers]
    if node.is_empty or not {before, node.isolation} <= set(levels):
        return
    if levels.index(node.isolation) > levels.index(before):
        _log.warning(
            "isolation level %s is weaker than %s, at which the applications of this node ran "
            "before; to use that again: --isolation %s",
            *(node.isolation, before, before),
        )


def _server(stack: AsyncExitStack, config: Config) -> grpc.aio.Server:
    """Make the gRPC server; `stack` ends it also if it never starts, or gRPC would complain."""
    server = grpc.aio.server(options=_server_options(config))
    stack.push_async_callback(server.stop, None)
    return server


def _server_options(config: Config) -> ChannelOptions:
    limits = config.limits
    connections = _connections(config)
    return server_options(limits.message_bytes, calls=limits.calls, connections=connections)


def _connections(config: Config) -> int:
    """Return how many connections each port may have."""
    ports = 2 if config.http.address else 1
    limit = descriptors.in_force()
    return descriptors.for_connections(limit, config.limits.applications, ports=ports)


def _register(  # noqa: PLR0913 - each by its name
    server: grpc.aio.Server,
    services: Services,
    gate: Gate,
    node_health: NodeHealth,
    most_calls: int,
    tls: NodeTls | None,
    scrapes: Scrapes,
) -> None:
    # Without one that asks for it, no call pays for the look.
    names_clients = tls is not None and tls.asks_clients
    certificate_of = peer_certificate_name if names_clients else lambda _: ""
    boundary = Boundary(server, gate, most_calls=most_calls, certificate_of=certificate_of)
    for servicer, add in services.values():
        boundary.serve(add, servicer)
    # A pool of its own: health checks are answered whatever else the node does.
    health_boundary = Boundary(server, gate, most_calls=HEALTH_CALLS, certificate_of=certificate_of)
    health_boundary.serve(health_pb2_grpc.add_HealthServicer_to_server, node_health.servicer)
    names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    boundary.serve(
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server,
        reflection.aio.ReflectionServicer(names),
    )
    scrapes.calls["grpc"] = lambda: boundary.calls
