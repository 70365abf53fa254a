"""What applications do and have done: the frozen records that clients read, and how to write times.

Their fields are those of `telemetry.proto`, which says what each means; `api.convert_telemetry`
makes them. All durations are nanoseconds of wall time, measured by the node and its agents.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


def duration(ns: float) -> str:
    """Write a duration with three digits, in the unit that suits it."""
    for unit, per in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(ns) >= per:
            return f"{number(ns / per)} {unit}"
    return f"{ns:.0f} ns"


def number(value: float) -> str:
    """Write a number with three digits, or with all that are before its point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


class SpanKind(StrEnum):
    """What a span is."""

    UNSPECIFIED = "unspecified"
    MESSAGE = "message"
    ASK = "ask"
    TELL = "tell"
    FETCH = "fetch"
    STORE = "store"
    START = "start"


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """How the time of messages was spent."""

    messages: int = 0
    failures: int = 0
    compute_ns: int = 0
    wait_ns: int = 0
    queue_ns: int = 0
    link_ns: int = 0

    @property
    def coordination_ns(self) -> int:
        """All time but compute."""
        return self.wait_ns + self.queue_ns + self.link_ns

    @property
    def total_ns(self) -> int:
        """Compute and coordination together."""
        return self.compute_ns + self.coordination_ns


@dataclass(frozen=True, slots=True)
class ApplicationActivity:
    """What one application does now."""

    name: str
    tenant: str = ""
    state: str = ""
    language: str = ""
    kind: str = ""
    version: str = ""
    isolation: str = ""
    public: bool = False
    messages_per_s: float = 0.0
    failures_per_s: float = 0.0
    p50_ns: int = 0
    p99_ns: int = 0
    recent: TimeSpent = TimeSpent()
    total: TimeSpent = TimeSpent()
    in_flight: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    cpu_percent: float = 0.0
    restarts: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class NodeActivity:
    """What the node itself uses, and what it has given to VMs."""

    node_id: str
    isolation: str = ""
    memory_bytes: int = 0
    cpu_percent: float = 0.0
    loop_lag_ns: int = 0
    cpus: int = 0
    host_memory_bytes: int = 0
    granted_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ActivityUpdate:
    """At first what every application does; then what changed since the update before.

    Attributes:
        removed: the names of applications that are gone.
        node: None for a caller who may not see it.
    """

    applications: tuple[ApplicationActivity, ...] = ()
    removed: tuple[str, ...] = ()
    node: NodeActivity | None = None
    time_unix_ns: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """What happened in a short time that ended at `time_unix_ns`."""

    time_unix_ns: int
    duration_ns: int
    spent: TimeSpent
    p50_ns: int
    p99_ns: int
    max_ns: int


@dataclass(frozen=True, slots=True)
class TypeActivity:
    """The messages of one type; the type "" is of those over the limit, together."""

    type: str
    spent: TimeSpent
    payload_bytes: int
    reply_bytes: int


@dataclass(frozen=True, slots=True)
class AskActivity:
    """What an application asked another one.

    Attributes:
        answered: how many of the asks were answered; times are of these.
        total_ns: from the node's receiving them to their answers.
        compute_ns, wait_ns, queue_ns: of the application that was asked.
    """

    to: str
    asks: int
    failures: int
    total_ns: int
    compute_ns: int
    wait_ns: int = 0
    queue_ns: int = 0
    answered: int = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a start."""

    name: str
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Start:
    """A deploy, a replacement, a start, a restart or a recovery."""

    time_unix_ns: int
    reason: str
    cause: str
    failed: bool
    version: str
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class MessageFailure:
    """A message that failed."""

    time_unix_ns: int
    type: str
    origin: str
    code: str
    message: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class ActivityReport:
    """What one application has done."""

    application: ApplicationActivity
    history: tuple[Moment, ...]
    types: tuple[TypeActivity, ...]
    asks: tuple[AskActivity, ...]
    starts: tuple[Start, ...]
    failures: tuple[MessageFailure, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A message, or a call that an application made while it handled one."""

    span_id: str
    parent_id: str
    kind: SpanKind
    application: str
    name: str
    start_unix_ns: int
    total_ns: int
    compute_ns: int = 0
    wait_ns: int = 0
    queue_ns: int = 0
    link_ns: int = 0
    payload_bytes: int = 0
    reply_bytes: int = 0
    error_code: str = ""
    error: str = ""
    vm_id: str = ""
    version: str = ""
    cold_start: bool = False


@dataclass(frozen=True, slots=True)
class Hop:
    """What one message of a trace cost, without those that it caused."""

    span_id: str
    application: str
    type: str
    compute_ns: int
    wait_ns: int
    queue_ns: int
    link_ns: int

    @property
    def coordination_ns(self) -> int:
        """All time but compute."""
        return self.wait_ns + self.queue_ns + self.link_ns


@dataclass(frozen=True, slots=True)
class Bill:
    """What a tree of messages cost, and where."""

    total_ns: int = 0
    compute_ns: int = 0
    coordination_ns: int = 0
    hops: tuple[Hop, ...] = ()
    blame: int = 0

    @property
    def to_blame(self) -> Hop | None:
        """The hop with the most coordination; None without hops."""
        return self.hops[self.blame] if self.blame < len(self.hops) else None


@dataclass(frozen=True, slots=True)
class Trace:
    """A message and what it caused; each span after its parent."""

    trace_id: str
    spans: tuple[Span, ...]
    dropped_spans: int = 0
    bill: Bill = Bill()


@dataclass(frozen=True, slots=True)
class Fact:
    """A number that was measured; the unit is ns, bytes, per_s, ratio or count."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What to change, by what was measured."""

    rule: str
    application: str
    other: str
    advice: str
    facts: tuple[Fact, ...]
    saved_s_per_s: float
    saved_bytes: int
    reckoning: str
    command: str


@dataclass(frozen=True, slots=True)
class AdviceReport:
    """All advice, the largest gain first, and what there is too little data for."""

    advice: tuple[Advice, ...] = ()
    insufficient: tuple[str, ...] = ()
