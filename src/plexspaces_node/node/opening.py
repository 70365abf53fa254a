"""Opens what the applications of a node share: the registry, artifacts, telemetry, secrets."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from plexspaces_node import __version__
from plexspaces_node.config import Config
from plexspaces_node.model import ENGINE, ENGINE_REVISION
from plexspaces_node.node.api.health import NodeHealth
from plexspaces_node.node.applications.clustered import Clustered
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.applications.shares import Shares
from plexspaces_node.node.artifacts.compile_queue import compilers
from plexspaces_node.node.artifacts.compiler import CompileLimits
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.machines.in_flight import InFlight, default_bytes, give_back_memory
from plexspaces_node.node.machines.machine import AgentLimits
from plexspaces_node.node.outgoing.outgoing import OutgoingHttp
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.sqlite_file import Bounds
from plexspaces_node.node.secrets.secrets import open_secrets
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.node.telemetry_export.opening import Source, exporting
from plexspaces_node.node.timeouts import Timeouts
from plexspaces_node.settings import LimitsSection
from plexspaces_node.vm.driver import Driver
from plexspaces_node.vm.host import procfs


async def open_context(  # noqa: PLR0913 - each by its name
    stack: AsyncExitStack,
    config: Config,
    data: DataDirectory,
    driver: Driver,
    node_health: NodeHealth,
    shares: Shares,
    timeouts: Timeouts,
    passphrase: str | None,
    attach: Callable[[Registry], Awaitable[Clustered]] | None,
) -> NodeContext:
    """Open what applications share; `stack` closes it. `attach` has it be of a cluster."""
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
        clustered=await attach(opened) if attach is not None else None,
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


def _compile_limits(limits: LimitsSection) -> CompileLimits:
    timeout_s, memory_mib = limits.compile_timeout_s, limits.compile_memory_mib
    processors = len(os.sched_getaffinity(0))
    at_once = compilers(processors, procfs.granted_memory_mib(), memory_mib)
    return CompileLimits(timeout_s, memory_mib, at_once)
