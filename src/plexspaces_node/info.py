"""What a node tells of itself: the frozen records that clients read.

This file owns the public shape of an application, a machine, a node, a log line and a reply. The
node's service fills them, `wire.convert` carries them, the client hands them out. Nothing here
does I/O or knows how the records travel. All durations are nanoseconds of wall time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plexspaces_node.model import (
    ApplicationState,
    ArtifactKind,
    Language,
    PhaseTimings,
    VmConfig,
    VmState,
)


@dataclass(frozen=True, slots=True)
class VmInfo:
    """A machine.

    Attributes:
        isolation: the driver that made it: `firecracker`, `qemu` or `process`.
        socket: the unix socket of its link, on the node's machine.
        rss_bytes: what it costs its host now; 0 when that cannot be measured.
        cpu_ns: the processor time it has used; 0 when that cannot be measured.
        application: the name of the one it runs, "" while it runs none.
        uptime_ns: since its agent said hello, by the node's clock; 0 before.
        missing_walls: what is to hold its agent and this host's kernel does not have.
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

    @property
    def isolated_by(self) -> str:
        """The isolation level, and what of it there is not: `process without Landlock`."""
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
    """One step of a machine's start: `start`, `hello`, `attach`, `load` or `init`."""

    name: str
    duration_ns: int


@dataclass(frozen=True, slots=True)
class VmMemory:
    """The memory inside a machine, as its agent says.

    Attributes:
        guest: it is a whole guest's; otherwise that of the agent's process, as there is no guest.
        total_bytes: what there is, for a process what its limit allows; 0 for no limit.
        used_bytes: what of it cannot be had; for a process what it has allocated.
        available_bytes: what more can be had; 0 where there is no limit.
    """

    guest: bool
    total_bytes: int
    used_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class VmInspection:
    """All that a node can find out of a machine.

    Attributes:
        pid: of the process on the node's machine that is it; 0 when there is none.
        console: the path of its console's log, on the node's machine.
        steps: of its start, in their order; those not done yet are missing.
        memory: inside it, or None, and then `memory_unknown` says why.
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
        coordinate_ns: from the node receiving each message to its reply, less compute.
    """

    messages: int = 0
    failures: int = 0
    compute_ns: int = 0
    coordinate_ns: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class ApplicationInfo:
    """An application as its node sees it now.

    Attributes:
        vm: its machine, or None while it has none.
        timings: of its last deploy or start.
        restarts: machines started anew since the deploy because one ended by itself.
        last_error: why it is Restarting or Failed, or still there after an `undeploy`; else "".
        args: of a command, after its name.
        concurrency: how many messages it handles at the same time.
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


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything on a node.

    Attributes:
        discovery_ns: how long the node took to find it out.
    """

    applications: tuple[ApplicationInfo, ...]
    empty_vms: tuple[VmInfo, ...]
    discovery_ns: int

    @property
    def vms(self) -> tuple[VmInfo, ...]:
        """Every machine, those with an application first."""
        return (*(a.vm for a in self.applications if a.vm is not None), *self.empty_vms)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node is and what it allows.

    Attributes:
        isolation_note: one line on what the isolation level protects against.
        default_vm: the size of a machine that nobody chose a size for.
        overhead_mib: what of a machine's memory is not the application's.
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
class LogLine:
    """One line of an application's log, from the agent to the client.

    Attributes:
        time_unix_ns: by the clock of whoever wrote it.
        stream: `log`, `stdout`, `stderr`, `agent` or `node`.
        level: `trace`, `debug`, `info`, `warn` or `error`.
    """

    time_unix_ns: int
    stream: str
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class MessageTimings:
    """Where the time of one message went, as measured by the node and its agent.

    Attributes:
        total_ns: from the node receiving the message to the reply being ready.
        compute_ns: inside the actor's own code.
        wait_ns: the actor waiting inside host calls.
        queue_ns: in the mailbox.
    """

    total_ns: int = 0
    compute_ns: int = 0
    wait_ns: int = 0
    queue_ns: int = 0


@dataclass(frozen=True, slots=True)
class InvokeResult:
    """A reply and its times.

    Attributes:
        round_trip_ns: from the client's request to the reply in its hands, by the client's clock;
            0 where no client was involved.
    """

    payload: bytes
    timings: MessageTimings
    round_trip_ns: int = 0


@dataclass(frozen=True, slots=True)
class StartedVm:
    """An empty machine and how long it took, from asking the driver to the agent's hello."""

    vm: VmInfo
    vm_ns: int
