"""What a node reports: the frozen records that clients read.

This module defines the public form of an application, a VM, a node, a log line and a reply. The
node's service creates them, `api.convert` converts them, and the client returns them. There is no
I/O here. All durations are nanoseconds of wall time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from plexspaces_node.model import (
    DEFAULT_TENANT,
    ApplicationState,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    VmState,
)

IN_A_CLUSTER: Mapping[str, bool] = MappingProxyType({"in_a_cluster": True})
"""Marks fields that say something only in a cluster, and are left out of output without one."""


@dataclass(frozen=True, slots=True)
class VmInfo:
    """A VM.

    Attributes:
        isolation: the driver that made it: `firecracker`, `qemu` or `process`.
        socket: the unix socket of its link, on the node's host.
        rss_bytes: the host memory that it uses now; 0 if it cannot be measured.
        cpu_ns: the processor time that it has used; 0 if it cannot be measured.
        application: the name of the application it runs, or "".
        uptime_ns: since its agent connected, by the node's clock; 0 before that.
        missing_walls: the walls of its agent that the host's kernel does not support.
        cpu_not_enforced: why its CPU share and the quota `cpu_percent` are not enforced; "" if they
            are, and without an application.
    """

    id: str
    state: VmState
    isolation: str
    socket: str
    config: VmConfig = field(default_factory=VmConfig)
    started_unix_ns: int = 0
    rss_bytes: int = 0
    cpu_ns: int = 0
    application: str = ""
    uptime_ns: int = 0
    missing_walls: tuple[str, ...] = ()
    cpu_not_enforced: str = ""

    @property
    def isolated_by(self) -> str:
        """The isolation level and its missing walls: `process without Landlock`."""
        lack = f" without {', '.join(self.missing_walls)}" if self.missing_walls else ""
        return f"{self.isolation}{lack}"

    @property
    def isolated_by_in_short(self) -> str:
        """The same for a column: `process, 1 wall missing`."""
        count = len(self.missing_walls)
        lack = f", {count} wall{'s' if count > 1 else ''} missing" if count else ""
        return f"{self.isolation}{lack}"


@dataclass(frozen=True, slots=True)
class VmStep:
    """One step of a VM's start: `start`, `hello`, `attach`, `load` or `init`."""

    name: str
    duration_ns: int


@dataclass(frozen=True, slots=True)
class VmMemory:
    """The memory inside a VM, as its agent reports it.

    Attributes:
        guest: whether this is a whole guest's memory; otherwise it is the agent's process's.
        total_bytes: the total; for a process its limit, or 0 for no limit.
        used_bytes: what is in use; for a process what it has allocated.
        available_bytes: what is available; 0 if there is no limit.
    """

    guest: bool
    total_bytes: int
    used_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class VmInspection:
    """Everything that a node can find out about a VM.

    Attributes:
        pid: the process on the node's host that is the VM; 0 if there is none.
        console: the path of its console log on the node's host.
        steps: the steps of its start, in order; steps that have not run are missing.
        memory: the memory inside it, or None, and then `memory_unknown` says why.
    """

    vm: VmInfo
    pid: int
    console: str
    steps: tuple[VmStep, ...] = ()
    memory: VmMemory | None = None
    memory_unknown: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """What an application has done since its node started.

    Attributes:
        coordinate_ns: from receiving each message to its reply, without compute.
    """

    messages: int = 0
    failures: int = 0
    compute_ns: int = 0
    coordinate_ns: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """An application on one node of a cluster.

    Attributes:
        state: as an application's, or `Ready` for a node that is prepared to take over, `Unknown`
            for one that does not answer.
        error: why it does not run there, "" if it does.
    """

    node: str
    state: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class ApplicationInfo:
    """An application as its node sees it now.

    Attributes:
        name: its full name.
        vm: its VM, or None.
        timings: of its last deploy or start.
        restarts: VMs started since the deploy to replace one that had ended by itself.
        last_error: why it is Restarting or Failed, or still exists after an `undeploy`; else "".
        args: a command's arguments after its name.
        concurrency: how many messages or requests it handles at the same time.
        allow_hosts: the hosts that it may send HTTP requests to; empty in a listing.
        tenant: whose it is; the part of its full name before the slash.
        public: whether everybody may send messages and requests to it.
        node: the node of a cluster that this is told of; "" without a cluster, as all that follows.
        nodes: every node that has to do with it.
        replicas: on how many nodes it is to run; 0 without a cluster.
        on: the labels that its nodes must have.
        level: the isolation level that they must have, "" for any.
        placement: why it runs on fewer nodes than it is to, "" if it does not.
    """

    id: str
    name: str
    version: str
    state: ApplicationState
    language: Language
    kind: ArtifactKind
    digest: str
    vm_config: VmConfig = field(default_factory=VmConfig)
    vm: VmInfo | None = None
    timings: PhaseTimings = field(default_factory=PhaseTimings)
    created_unix_ns: int = 0
    restarts: int = 0
    last_error: str = ""
    counters: Counters = field(default_factory=Counters)
    args: tuple[str, ...] = ()
    concurrency: int = 1
    allow_hosts: tuple[str, ...] = ()
    tenant: str = DEFAULT_TENANT
    public: bool = False
    node: str = field(default="", metadata=IN_A_CLUSTER)
    nodes: tuple[ReplicaInfo, ...] = field(default=(), metadata=IN_A_CLUSTER)
    replicas: int = field(default=0, metadata=IN_A_CLUSTER)
    on: Mapping[str, str] = field(default_factory=dict, metadata=IN_A_CLUSTER)
    level: str = field(default="", metadata=IN_A_CLUSTER)
    placement: str = field(default="", metadata=IN_A_CLUSTER)


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything on a node, or in its cluster.

    Attributes:
        discovery_ns: how long the node took to find it out.
        silent_nodes: the nodes that did not answer in time; what runs there is told by the records
            of the cluster.
        cluster: its name, "" without one.
    """

    applications: tuple[ApplicationInfo, ...]
    empty_vms: tuple[VmInfo, ...]
    discovery_ns: int
    silent_nodes: tuple[str, ...] = field(default=(), metadata=IN_A_CLUSTER)
    cluster: str = field(default="", metadata=IN_A_CLUSTER)

    @property
    def vms(self) -> tuple[VmInfo, ...]:
        """Every VM, those with an application first."""
        return (*(a.vm for a in self.applications if a.vm is not None), *self.empty_vms)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node is and what its limits are.

    Attributes:
        isolation_note: one line on what the isolation level protects against.
        default_vm: the size of a VM if a deploy does not set one.
        overhead_mib: the part of a VM's memory that is not for the application.
    """

    node_id: str
    version: str
    isolation: str
    isolation_note: str
    artifact_limit_bytes: int
    message_limit_bytes: int
    min_memory_mib: int
    max_memory_mib: int
    max_vcpus: int
    default_vm: VmConfig = field(default_factory=VmConfig)
    started_unix_ns: int = 0
    overhead_mib: int = 0


@dataclass(frozen=True, slots=True)
class ClusterNodeInfo:
    """A node of a cluster.

    Attributes:
        state: `up`, `draining`, `down` or `left`.
        level: the isolation level of its applications.
        memory_mib: how much memory its applications' VMs may have together.
        free_memory_mib: how much of it is not given yet.
        application_limit: how many applications it takes.
        applications: how many are placed on it.
        leads: whether it decides where applications run.
        keeps_state: whether it keeps a copy of what the cluster knows.
        route: HOST:PORT that other nodes join by, "" for none.
    """

    id: str
    state: str
    level: str
    version: str
    memory_mib: int
    free_memory_mib: int
    application_limit: int
    applications: int
    labels: Mapping[str, str] = field(default_factory=dict)
    leads: bool = False
    keeps_state: bool = False
    route: str = ""


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """A cluster and its nodes, by ID.

    Attributes:
        copies: how many nodes keep a copy of what the cluster knows.
        warnings: what an administrator should know.
        answered_by: the node that says so.
    """

    cluster: str
    nodes: tuple[ClusterNodeInfo, ...]
    copies: int
    warnings: tuple[str, ...] = ()
    answered_by: str = ""


@dataclass(frozen=True, slots=True)
class Draining:
    """What still runs on a node that is drained.

    Attributes:
        left: how many applications.
        applications: some of their names.
        why: why the first of them does not move, "" if it does.
    """

    left: int
    applications: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of an application's log, from the agent to the client.

    Attributes:
        time_unix_ns: by the clock of whoever wrote it.
        stream: `log`, `stdout`, `stderr`, `agent` or `node`.
        level: `trace`, `debug`, `info`, `warn` or `error`.
        trace_id: of the trace of the message that it was written for, 32 hexadecimal digits; or "".
    """

    time_unix_ns: int
    stream: str
    level: str
    message: str
    trace_id: str = ""


class MessageTimings(NamedTuple):
    """How long one message took, as measured by the node and its agent.

    Attributes:
        total_ns: from receiving the message to the reply being ready.
        compute_ns: in the application's own code.
        wait_ns: waiting in host calls.
        queue_ns: waiting in the mailbox.
    """

    total_ns: int = 0
    compute_ns: int = 0
    wait_ns: int = 0
    queue_ns: int = 0


@dataclass(frozen=True, slots=True)
class InvokeResult:
    """A reply and its times.

    Attributes:
        round_trip_ns: from the client's request until it has the reply, by the client's clock; 0 if
            no client was involved.
        transport: how the client sent the message, `http` or `grpc`.
        trace_id: of the message's trace, 32 hexadecimal digits; "" if it has none.
    """

    payload: bytes
    timings: MessageTimings
    round_trip_ns: int = 0
    transport: str = "grpc"
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class StartedVm:
    """An empty VM and how long its start took, from asking the driver to the agent's hello."""

    vm: VmInfo
    vm_ns: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit log.

    Attributes:
        time: when it was done, RFC 3339 in UTC with microseconds.
        kind: how who did it was known: `token`, `certificate`, `local` or `anonymous`.
        who: the name of the token or certificate, or the user's on this machine; "" if unknown.
        address: where the request came from, without its port.
        tenant: whose admin may read the line; "" for the admin of all tenants alone.
        verb: what was done, as the API calls it.
        object: what it was done to, for example an application's full name; "" for nothing named.
        result: `ok`, or the error's code.
        duration_ns: how long it took.
        count: how many equal refusals within a second the line stands for.
        lost: how many lines before it could not be written.
    """

    time: str
    kind: str
    who: str
    address: str
    tenant: str
    verb: str
    object: str
    result: str
    duration_ns: int
    count: int = 1
    lost: int = 0


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """A secret, without its value.

    Attributes:
        version: how often it was set.
        used_by: the full names of the applications that get it as a variable.
    """

    tenant: str
    name: str
    version: int
    created_unix_ns: int
    changed_unix_ns: int
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetSecret:
    """A secret that was set.

    Attributes:
        version: how often it was set.
        restarted: for each application that was restarted, why it does not run, or what was lost;
            "" for neither.
    """

    version: int
    restarted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token, without its secret.

    Attributes:
        tenant: whose applications it is for, `*` for every tenant's.
        scopes: `admin`, `deploy`, `invoke`, `read`.
        applications: a pattern for the names within the tenant, `*` for all.
        id: what its secret begins with.
        expires_unix_ns: 0 for never.
        last_used_unix_ns: 0 for never; after a crash up to a minute behind.
        state: `valid`, `expired`, or `without-secret`: it needs a new one.
    """

    name: str
    tenant: str
    scopes: tuple[str, ...]
    applications: str
    id: str
    created_unix_ns: int
    expires_unix_ns: int
    last_used_unix_ns: int
    state: str


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A token and its new secret, which the node tells once."""

    token: TokenInfo
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """Who a node says that calls.

    Attributes:
        kind: `token`, `certificate`, `local` (by a unix socket) or `anonymous`.
        name: of the token; else the kind.
        tenant: whose applications they have to do with, `*` for every tenant's.
        applications: a pattern for the names within the tenant, `*` for all.
        expires_unix_ns: 0 for never.
    """

    kind: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    applications: str
    expires_unix_ns: int = 0
