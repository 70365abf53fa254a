"""The parts of a node that its applications and VMs use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from plexspaces_node.model import split_name
from plexspaces_node.node.applications.clustered import ActorStore, Clustered
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.applications.received_states import StateMemory
from plexspaces_node.node.applications.shares import Shares
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.node.machines.machine import AgentLimits
from plexspaces_node.node.outgoing.outgoing import OutgoingHttp
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.secrets.secrets import Secrets
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.settings import LimitsSection
from plexspaces_node.vm.driver import Driver
from plexspaces_node.vm.host import procfs


@dataclass(frozen=True, slots=True)
class NodeContext:
    """The parts of a node that its applications share.

    Attributes:
        vms: the directory of the VMs' bundles.
        logs: the directory of the applications' logs.
        grace_s: how long running messages have to finish when an application is stopped.
        host_memory_mib: the memory that this host allows the node.
        clustered: what its actors have of its cluster; None for a node alone.
    """

    driver: Driver
    vms: Path
    logs: Path
    registry: Registry
    artifacts: ArtifactStore
    limits: LimitsSection
    agent_limits: AgentLimits
    grace_s: float
    secrets: Secrets
    in_flight: InFlight = field(default_factory=InFlight)
    states: StateMemory = field(default_factory=StateMemory)
    outgoing: OutgoingHttp = field(default_factory=OutgoingHttp)
    quotas: Quotas = field(default_factory=Quotas)
    shares: Shares = field(default_factory=Shares)
    telemetry: Telemetry = field(default_factory=Telemetry)
    host_memory_mib: int = field(default_factory=procfs.granted_memory_mib)
    clustered: Clustered | None = None

    @property
    def store(self) -> ActorStore:
        """Where the actors' keys and states are."""
        return self.registry if self.clustered is None else self.clustered.store

    def agent_limits_of(self, name: str) -> AgentLimits:
        """Return the limits of an application's agent, which counts for its tenant."""
        share = self.in_flight.share_of(split_name(name)[0])
        return replace(self.agent_limits, in_flight=share)
