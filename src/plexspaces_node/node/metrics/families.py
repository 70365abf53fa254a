"""Every metric of a node: its name, its kind, its meaning, its labels.

`docs/metrics.md` is compared with this by a test.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What a metric is, as Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family(NamedTuple):
    """A metric; `labels` are the names of its labels, without the `le` of a histogram."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


_APPLICATION = ("application", "tenant")

REASONS = ("vm_ended", "unresponsive", "actor_left", "start_failed")
"""Why a VM was replaced, in the words of `Supervisor`."""

MESSAGES = Family("plexspaces_messages_total", Kind.COUNTER, "Messages answered.", _APPLICATION)
FAILURES = Family(
    "plexspaces_message_failures_total",
    Kind.COUNTER,
    "Messages that ended in an error of the actor or the platform.",
    _APPLICATION,
)
COMPUTE_TIME = Family(
    "plexspaces_compute_seconds_total",
    Kind.COUNTER,
    "Time inside the actor's own code.",
    _APPLICATION,
)
COORDINATE_TIME = Family(
    "plexspaces_coordinate_seconds_total",
    Kind.COUNTER,
    "Time of messages outside the actor's own code.",
    _APPLICATION,
)
DURATION = Family(
    "plexspaces_message_duration_seconds",
    Kind.HISTOGRAM,
    "How long messages took, from receiving them to their reply.",
    _APPLICATION,
)
COMPUTE = Family(
    "plexspaces_message_compute_seconds",
    Kind.HISTOGRAM,
    "The part of it inside the actor's own code.",
    _APPLICATION,
)
QUEUE = Family(
    "plexspaces_message_queue_seconds",
    Kind.HISTOGRAM,
    "The part of it in which they waited to be handled.",
    _APPLICATION,
)
COORDINATION = Family(
    "plexspaces_message_coordination_seconds",
    Kind.HISTOGRAM,
    "The part of it outside the actor's own code.",
    _APPLICATION,
)
IN_FLIGHT = Family(
    "plexspaces_messages_in_flight",
    Kind.GAUGE,
    "Messages that wait or are not answered yet.",
    _APPLICATION,
)
PAYLOAD_BYTES = Family(
    "plexspaces_message_payload_bytes_total",
    Kind.COUNTER,
    "Payloads of the messages answered.",
    _APPLICATION,
)
REPLY_BYTES = Family(
    "plexspaces_message_reply_bytes_total", Kind.COUNTER, "Their replies.", _APPLICATION
)
STATE = Family(
    "plexspaces_application_state",
    Kind.GAUGE,
    "1 for the state that an application is in.",
    (*_APPLICATION, "state"),
)
VM_RESTARTS = Family(
    "plexspaces_vm_restarts_total",
    Kind.COUNTER,
    "Machines restarted because one ended by itself.",
    _APPLICATION,
)
RESTARTS = Family(
    "plexspaces_restarts_total",
    Kind.COUNTER,
    f"The same by reason: {', '.join(REASONS)}.",
    (*_APPLICATION, "reason"),
)
VM_MEMORY = Family(
    "plexspaces_vm_memory_bytes",
    Kind.GAUGE,
    "Memory of the host that an application's VM uses.",
    _APPLICATION,
)
VM_MEMORY_LIMIT = Family(
    "plexspaces_vm_memory_limit_bytes",
    Kind.GAUGE,
    "Memory that the VM was given.",
    _APPLICATION,
)
VM_CPU = Family(
    "plexspaces_vm_cpu_seconds_total",
    Kind.COUNTER,
    "Processor time of an application's VM; begins at 0 with each VM.",
    _APPLICATION,
)
APPLICATIONS = Family("plexspaces_applications", Kind.GAUGE, "Applications by state.", ("state",))
VMS = Family(
    "plexspaces_vms",
    Kind.GAUGE,
    "VMs by state and isolation level, without those that are being started.",
    ("state", "isolation"),
)
QUOTA_LIMIT = Family(
    "plexspaces_quota_limit",
    Kind.GAUGE,
    "Quotas that are set; the label application is empty for a tenant's.",
    (*_APPLICATION, "key", "unit"),
)
QUOTA_USED = Family(
    "plexspaces_quota_used",
    Kind.GAUGE,
    "What is used of them now; of a rate, in the last second.",
    (*_APPLICATION, "key", "unit"),
)
BUILD = Family(
    "plexspaces_build_info",
    Kind.GAUGE,
    "1, with the node's version and isolation level.",
    ("version", "isolation"),
)
PHASES = Family(
    "plexspaces_deploy_phase_duration_seconds",
    Kind.HISTOGRAM,
    "How long each phase took of bringing an application up.",
    ("phase",),
)
LOOP_LAG = Family(
    "plexspaces_event_loop_lag_seconds",
    Kind.HISTOGRAM,
    "By how much the node's event loop was late, measured four times a second.",
)
LINK_BYTES = Family(
    "plexspaces_link_bytes_total",
    Kind.COUNTER,
    "Bytes to and from the agents in the VMs: sent, received.",
    ("direction",),
)
NODE_IN_FLIGHT = Family(
    "plexspaces_in_flight_bytes", Kind.GAUGE, "Payloads and unread replies that the node holds."
)
NODE_IN_FLIGHT_LIMIT = Family(
    "plexspaces_in_flight_limit_bytes", Kind.GAUGE, "How many of them it may hold."
)
CALLS = Family(
    "plexspaces_calls_in_progress",
    Kind.GAUGE,
    "Calls and requests that are handled now.",
    ("protocol",),
)
AUDIT_DROPPED = Family(
    "plexspaces_audit_dropped_total",
    Kind.COUNTER,
    "Lines of the audit log that were lost before they were on disk.",
)
SPANS_DROPPED = Family(
    "plexspaces_spans_dropped_total",
    Kind.COUNTER,
    "Spans of traces that were lost on their way to the collector.",
)
DAMAGES = Family(
    "plexspaces_registry_damage_total",
    Kind.COUNTER,
    "How often the registry was found damaged.",
)
STORE = Family(
    "plexspaces_artifact_store_bytes",
    Kind.GAUGE,
    "Disk space that artifacts and their native code take up.",
)

OF_APPLICATIONS = (
    *(MESSAGES, FAILURES, COMPUTE_TIME, COORDINATE_TIME),
    *(DURATION, COMPUTE, QUEUE, COORDINATION),
    *(IN_FLIGHT, PAYLOAD_BYTES, REPLY_BYTES),
    *(STATE, VM_RESTARTS, RESTARTS, VM_MEMORY, VM_MEMORY_LIMIT, VM_CPU),
    *(APPLICATIONS, VMS, QUOTA_LIMIT, QUOTA_USED, BUILD),
)
"""What everybody gets of what they may see."""

OF_NODE = (
    *(PHASES, LOOP_LAG, LINK_BYTES, NODE_IN_FLIGHT, NODE_IN_FLIGHT_LIMIT, CALLS),
    *(AUDIT_DROPPED, SPANS_DROPPED, DAMAGES, STORE),
)
"""What only they get who may see everything."""
