"""Where the values of the metrics come from, and what of them somebody may see.

Everything is read on the thread that serves a scrape, while the event loop goes on: what it changes
is copied in one step before it is gone through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import ProcessCollector

from plexspaces_node.info import NodeInfo
from plexspaces_node.model import MIB, ApplicationState, VmState, split_name
from plexspaces_node.node.applications.roster import Roster, in_flight_of
from plexspaces_node.node.applications.roster import Viewer as ViewerOfApplications
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.machines.in_flight import InFlight
from plexspaces_node.node.machines.machine import Machine
from plexspaces_node.node.machines.traffic import Traffic
from plexspaces_node.node.metrics import families
from plexspaces_node.node.metrics.families import Family
from plexspaces_node.node.metrics.page import Page, labels_of
from plexspaces_node.node.telemetry.activity import Activity
from plexspaces_node.node.telemetry.durations import Buckets
from plexspaces_node.node.telemetry.telemetry import Telemetry
from plexspaces_node.quota import IN_BYTES, Key, SubjectUse
from plexspaces_node.vm.host import procfs

_NANO = 1e-9

_SCALES = {Key.MEMORY_MIB: MIB, Key.CPU_PERCENT: 0.01}
_UNITS = {
    **dict.fromkeys(IN_BYTES, "bytes"),
    Key.OUTGOING_BYTES: "bytes_per_second",
    Key.MESSAGES_PER_S: "messages_per_second",
    Key.CPU_PERCENT: "cpus",
    Key.VCPUS: "cpus",
}
_VM_STATES = frozenset({VmState.EMPTY, VmState.RUNNING, VmState.STOPPING})
_COUNT = "1"
"""The unit of what is counted."""


class Viewer(ViewerOfApplications, Protocol):
    """Somebody who sees some of the metrics."""

    def covers_tenant(self, tenant: str) -> bool:
        """Return whether they may see all applications of a tenant."""


@dataclass(frozen=True, slots=True)
class Readings:
    """The parts of a node that are read; what is called is called on any thread.

    Attributes:
        calls: for each protocol, how many calls are handled now.
    """

    info: NodeInfo
    roster: Roster
    telemetry: Telemetry
    traffic: Traffic = field(default_factory=Traffic)
    in_flight: InFlight = field(default_factory=InFlight)
    calls: dict[str, Callable[[], int]] = field(default_factory=dict)
    audit_dropped: Callable[[], int] = int
    damages: Callable[[], int] = int
    store_bytes: Callable[[], int] = int


def write(
    page: Page, readings: Readings, uses: Sequence[SubjectUse], viewer: Viewer | None
) -> None:
    """Write what a viewer may see, None for everything; `uses` are the quotas that are set."""
    seen = readings.roster.visible(viewer)
    sees_all = viewer is None or viewer.is_of_all()
    _write_counters(page, [(_labels(one), one) for one in seen])
    _write_vms(page, [(_labels(one), one.machine) for one in seen if one.machine is not None])
    states = Counter(one.state for one in seen)
    page.add(families.APPLICATIONS, ((f'state="{one}"', states[one]) for one in ApplicationState))
    machines, possible = readings.roster.machines(), _VM_STATES
    if not sees_all:
        machines = tuple(one for one in machines if viewer and viewer.covers(one.application))
        possible = _VM_STATES - {VmState.EMPTY}
    kinds = Counter({(state, readings.info.isolation): 0 for state in sorted(possible)})
    kinds.update((one.state, one.isolation) for one in machines)
    names = families.VMS.labels
    page.add(families.VMS, ((labels_of(names, kind), count) for kind, count in kinds.items()))
    _write_quotas(page, [one for one in uses if _sees(viewer, one)])
    build = (readings.info.version, readings.info.isolation)
    page.add(families.BUILD, [(labels_of(families.BUILD.labels, build), 1)])
    if sees_all:
        _write_node(page, readings)


def _labels(supervisor: Supervisor) -> str:
    tenant, application = split_name(supervisor.name)
    return labels_of(families.MESSAGES.labels, (application, tenant))


_Applications = Sequence[tuple[str, Supervisor]]

_COUNTERS: Sequence[tuple[Family, Callable[[Supervisor], float]]] = (
    (families.MESSAGES, lambda one: one.activity.total.messages),
    (families.FAILURES, lambda one: one.activity.total.failures),
    (families.COMPUTE_TIME, lambda one: one.activity.total.compute_ns * _NANO),
    (families.COORDINATE_TIME, lambda one: one.activity.spent.coordinate_ns * _NANO),
    (families.VM_RESTARTS, lambda one: one.restarts),
    (families.IN_FLIGHT, in_flight_of),
    (families.PAYLOAD_BYTES, lambda one: one.activity.total.payload_bytes),
    (families.REPLY_BYTES, lambda one: one.activity.total.reply_bytes),
)

_HISTOGRAMS: Sequence[tuple[Family, Callable[[Activity], Buckets]]] = (
    (families.DURATION, lambda activity: activity.duration),
    (families.COMPUTE, lambda activity: activity.compute),
    (families.QUEUE, lambda activity: activity.queue),
    (families.COORDINATION, lambda activity: activity.coordination),
)


def _write_counters(page: Page, seen: _Applications) -> None:
    for family, value in _COUNTERS:
        page.add(family, ((labels, value(one)) for labels, one in seen))
    # One that has had no message yet has no histogram: it would be 96 lines of nothing.
    used = [(labels, one.activity) for labels, one in seen if one.activity.total.messages]
    for family, buckets in _HISTOGRAMS:
        page.add_histograms(family, ((labels, buckets(one)) for labels, one in used))
    page.add(families.STATE, ((f'{labels},state="{one.state}"', 1) for labels, one in seen))
    page.add(families.RESTARTS, _restarts(seen))


def _restarts(seen: _Applications) -> Iterator[tuple[str, float]]:
    for labels, one in seen:
        # Also those that there were none of: a rate is of what was 0 before.
        counts = {**dict.fromkeys(families.REASONS, 0), **one.activity.restarts}
        for reason, count in counts.items():
            yield f'{labels},reason="{reason}"', count


def _write_vms(page: Page, running: Sequence[tuple[str, Machine]]) -> None:
    found = [(labels, one, one.pid) for labels, one in running]
    memory = [(labels, procfs.resident_bytes(pid)) for labels, _, pid in found if pid]
    # It has ended, or nobody can tell.
    page.add(families.VM_MEMORY, [(labels, value) for labels, value in memory if value])
    limits = ((labels, one.config.memory_mib * MIB) for labels, one, _ in found)
    page.add(families.VM_MEMORY_LIMIT, limits)
    spent = [(labels, procfs.cpu_ns(pid)) for labels, _, pid in found if pid]
    page.add(families.VM_CPU, [(labels, value * _NANO) for labels, value in spent if value])


def _sees(viewer: Viewer | None, use: SubjectUse) -> bool:
    subject = use.subject
    if viewer is None:
        return True
    if subject.application:
        return viewer.covers(subject.full)
    return viewer.covers_tenant(subject.tenant)


def _write_quotas(page: Page, uses: Iterable[SubjectUse]) -> None:
    limits, used = [], []
    for one in uses:
        for use in one.quotas:
            key = use.key
            scale, unit = _SCALES.get(key, 1), _UNITS.get(key, _COUNT)
            values = (one.subject.application, one.subject.tenant, key, unit)
            labels = labels_of(families.QUOTA_LIMIT.labels, values)
            limits.append((labels, use.limit * scale))
            # How much of a CPU is used says the rate of the VMs' processor time.
            if key is not Key.CPU_PERCENT:
                used.append((labels, use.used * scale))
    page.add(families.QUOTA_LIMIT, limits)
    page.add(families.QUOTA_USED, used)


def _write_node(page: Page, readings: Readings) -> None:
    phases = ((f'phase="{name}"', one) for name, one in readings.telemetry.phases.items())
    page.add_histograms(families.PHASES, phases)
    page.add_histograms(families.LOOP_LAG, [("", readings.telemetry.loop_lag)])
    traffic = readings.traffic
    directions = (("sent", traffic.sent_bytes), ("received", traffic.received_bytes))
    page.add(families.LINK_BYTES, ((f'direction="{one}"', count) for one, count in directions))
    page.add(families.NODE_IN_FLIGHT, [("", readings.in_flight.bytes)])
    page.add(families.NODE_IN_FLIGHT_LIMIT, [("", readings.in_flight.limit_bytes)])
    calls = tuple(readings.calls.items())
    page.add(families.CALLS, ((f'protocol="{name}"', count()) for name, count in calls))
    page.add(families.AUDIT_DROPPED, [("", readings.audit_dropped())])
    page.add(families.SPANS_DROPPED, [("", readings.telemetry.dropped_spans())])
    page.add(families.DAMAGES, [("", readings.damages())])
    page.add(families.STORE, [("", readings.store_bytes())])
    page.add_other(ProcessCollector(registry=None).collect())
