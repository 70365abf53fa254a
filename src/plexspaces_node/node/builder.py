"""The composition root: reads the configuration, builds every part of a node, and shuts it down.

`NodeBuilder` is the public way to run a node inside a program; the command line uses it too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from time import time_ns
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from plexspaces_node import __version__, level_figures
from plexspaces_node.api.options import ChannelOptions, server_options
from plexspaces_node.config import Config, ConfigBootstrap
from plexspaces_node.errors import InvalidArgument, Unavailable, WrongState, quoted
from plexspaces_node.http_notice import TLS_SCHEME, Notice, posted
from plexspaces_node.info import NodeInfo
from plexspaces_node.isolation import choose_driver, make_drivers
from plexspaces_node.model import ENGINE, ENGINE_REVISION, VmConfig
from plexspaces_node.node import unix_sockets
from plexspaces_node.node.access import audit
from plexspaces_node.node.access.gate import Gate
from plexspaces_node.node.access.record import Recorder
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.advisor.advisor import Advisor
from plexspaces_node.node.api import descriptors
from plexspaces_node.node.api.boundary import Boundary
from plexspaces_node.node.api.health import NodeHealth
from plexspaces_node.node.api.listen import (
    bind,
    bind_unix,
    check_can_listen,
    peer_certificate_name,
)
from plexspaces_node.node.api.service import ApplicationService, ServiceLimits
from plexspaces_node.node.api.services import Services, services_of
from plexspaces_node.node.applications.activity_watch import ActivityWatch
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.applications.shares import Shares
from plexspaces_node.node.artifacts.compile_queue import compilers
from plexspaces_node.node.artifacts.compiler import CompileLimits
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.http.control import Control
from plexspaces_node.node.http.door import Door
from plexspaces_node.node.http.origin import Origins
from plexspaces_node.node.http.pages import Pages
from plexspaces_node.node.http.peering import Membership, Peering, open_peering
from plexspaces_node.node.http.server import HttpServer
from plexspaces_node.node.machines.in_flight import InFlight, default_bytes, give_back_memory
from plexspaces_node.node.machines.leftovers import end_machines
from plexspaces_node.node.machines.machine import AgentLimits
from plexspaces_node.node.metrics.readings import Readings
from plexspaces_node.node.metrics.scrape import Scrapes, serve_metrics
from plexspaces_node.node.node import Node
from plexspaces_node.node.outgoing.outgoing import OutgoingHttp
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.sqlite_file import Bounds
from plexspaces_node.node.secrets.secrets import open_secrets
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.node.telemetry_export.opening import Source, check_installed, exporting
from plexspaces_node.node.timeouts import Timeouts
from plexspaces_node.node.tls import NodeTls
from plexspaces_node.settings import LimitsSection, TlsSection
from plexspaces_node.tasks import Background
from plexspaces_node.vm.driver import Driver
from plexspaces_node.vm.host import procfs

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
            data = stack.enter_context(DataDirectory.open(config.node.data_dir, config.node.id))
            _check_restored(data)
            # After it, so that the error names a node that already runs, and not only its port.
            await check_can_listen(config.node.address)
            # Before a level is tried: they may use the memory that a trial needs, and have to end
            # even if no level works. Their directories are removed when there is a driver. Trial
            # VMs are created beside them, where the next start finds leftovers of a killed node.
            await end_machines(data.vms)
            driver, note = await choose_driver(config, self._driver)
            stack.callback(driver.close)
            audit_log = audit.AuditLog(data.audit, config.limits.audit_bytes)
            await stack.enter_async_context(audit_log)
            opening = Shares.open(config.node.id, wanted=config.node.cgroups)
            shares = await stack.enter_async_context(opening)
            limits, node_health = config.limits, NodeHealth()
            context = await _open(stack, config, self, data, driver, node_health, shares)
            applications, artifacts = Applications(context), context.artifacts
            info = _describe(config, driver, note)
            server = grpc.aio.server(options=_server_options(config))
            service_limits = ServiceLimits(limits.message_timeout_s, context.in_flight)
            tokens, gate = await _gate(stack, config, context.registry, data, audit_log)
            gate.is_public = applications.is_public
            service = ApplicationService(applications, artifacts, info, service_limits, gate)
            advisor = _advisor(stack, applications, context, info, self._level_figures)
            services = services_of(service, applications, context, audit_log, tokens, advisor)
            shared = (applications, context, services, gate.recorder, _server_options(config))
            peering = await stack.enter_async_context(open_peering(self._membership, *shared))
            services = services if peering is None else peering.services
            scrapes = _scrapes(context, applications, info, node_health, audit_log)
            _register(server, services, gate, node_health, limits.calls, tls, scrapes)
            metrics_port = stack.enter_context(serve_metrics(config.node.metrics_address, scrapes))
            control = _control(services, gate, artifacts, info, scrapes)
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
                recovered=await applications.recover(),
                applications=applications,
                server=server,
                http=http,
                withdraw_notice=notice.close,
                health=node_health,
                grace_s=config.node.grace_s,
                peering=peering,
            )
            _warn_of_a_weaker_level(node, data.swap_level(driver.name), make_drivers(config))
            # From now on a client may have been told about something in it.
            data.keep()
            audit_log.note(audit.of_node("Node/Start", config.node.id))
            stack.callback(lambda: audit_log.note(audit.of_node("Node/Stop", config.node.id)))
            await _serve(server, http, node_health, peering)
            notice.enter_context(_notice(address, http_address, tls, sockets))
            notice.callback(audit_log.end_followers)
            notice.callback(advisor.watch.close)
            _watch(stack, config, tls)
            stack.push_async_callback(node.drain)
            yield node


async def _gate(
    stack: AsyncExitStack,
    config: Config,
    registry: Registry,
    data: DataDirectory,
    audit_log: audit.AuditLog,
) -> tuple[Tokens, Gate]:
    """Open the tokens; `stack` closes them. Raises `InvalidArgument` if a port needs some."""
    tokens = await stack.enter_async_context(Tokens.open(registry.tokens, data.token_key))
    config.check_grants(exist=tokens.exist())
    return tokens, Gate(tokens.known, Recorder(audit_log.note))


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


def _check_restored(data: DataDirectory) -> None:
    if data.unfinished.exists():
        raise WrongState(
            f"a backup was not completely restored into {data.path}",
            hint=f"plexspaces restore BACKUP --data-dir {quoted(data.path)}",
        )


async def _serve(
    server: grpc.aio.Server, http: HttpServer, node_health: NodeHealth, peering: Peering | None
) -> None:
    """Answer from now on."""
    await server.start()
    await http.serve()
    if peering is not None:
        await peering.ports.serve()
    await node_health.serve()


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


async def _open(  # noqa: PLR0913 - each by its name
    stack: AsyncExitStack,
    config: Config,
    builder: NodeBuilder,
    data: DataDirectory,
    driver: Driver,
    node_health: NodeHealth,
    shares: Shares,
) -> NodeContext:
    """Open what applications share; `stack` closes it."""
    timeouts, passphrase = builder._timeouts, builder._passphrase
    limits = config.limits
    most_bytes = limits.in_flight_bytes or default_bytes(procfs.granted_memory_mib())
    in_flight = InFlight(most_bytes, give_back=give_back_memory)
    stack.callback(in_flight.close)
    registry = Registry.open(
        data.registry,
        keyvalue_limit_bytes=limits.keyvalue_bytes,
        bounds=Bounds(limits.registry_bytes, busy_s=timeouts.registry_busy_s),
        on_damage=node_health.damage,
    )
    artifacts = ArtifactStore(
        data.path,
        limit_bytes=limits.artifact_bytes,
        engine=f"{ENGINE} settings {ENGINE_REVISION}",
        limits=_compile_limits(limits),
        upload_grace_s=timeouts.upload_grace_s,
    )
    outgoing = OutgoingHttp()
    stack.callback(outgoing.close)
    opened = await stack.enter_async_context(registry)
    telemetry = _telemetry(stack, config, driver)
    quotas = Quotas(await opened.quotas.load())
    shares.follow(quotas)
    return NodeContext(
        driver=driver,
        vms=data.vms,
        logs=data.logs,
        registry=opened,
        artifacts=await stack.enter_async_context(artifacts),
        limits=limits,
        agent_limits=AgentLimits(
            config.node.id,
            limits.message_bytes,
            in_flight_limit=limits.mailbox,
            in_flight=in_flight,
            timeouts=timeouts,
        ),
        in_flight=in_flight,
        outgoing=outgoing,
        quotas=quotas,
        shares=shares,
        telemetry=telemetry,
        grace_s=config.node.grace_s,
        secrets=await open_secrets(opened.secrets, config.secrets, data.path, passphrase),
    )


def _telemetry(stack: AsyncExitStack, config: Config, driver: Driver) -> Telemetry:
    telemetry, endpoint = Telemetry(config.otel.sample), config.otel.endpoint
    telemetry.run()
    stack.callback(telemetry.close)
    if endpoint:
        source = Source(config.node.id, __version__, driver.name)
        exporter = exporting(endpoint, source, telemetry)
        stack.push_async_callback(exporter.aclose)
    return telemetry


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


def _compile_limits(limits: LimitsSection) -> CompileLimits:
    timeout_s, memory_mib = limits.compile_timeout_s, limits.compile_memory_mib
    processors = len(os.sched_getaffinity(0))
    at_once = compilers(processors, procfs.granted_memory_mib(), memory_mib)
    return CompileLimits(timeout_s, memory_mib, at_once)


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
