"""Activity and traces as messages of the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.info import NodeInfo
from plexspaces_node.model import MIB, beside, split_name
from plexspaces_node.node.advisor.advice import Advice
from plexspaces_node.node.applications.activity_watch import NodeNow, Now
from plexspaces_node.node.telemetry.activity import Activity, Failure, Start, TypeActivity
from plexspaces_node.node.telemetry.bill import bill_of
from plexspaces_node.node.telemetry.span import Span, Step, start_of
from plexspaces_node.node.telemetry.telemetry import PHASES
from plexspaces_node.node.telemetry.timeline import Moment, Spent


def spent_to_proto(spent: Spent | TypeActivity | Moment) -> pb.TimeSpent:
    """Convert how the time of messages was spent."""
    return pb.TimeSpent(
        messages=spent.messages,
        failures=spent.failures,
        compute_ns=spent.compute_ns,
        wait_ns=spent.wait_ns,
        queue_ns=spent.queue_ns,
        link_ns=spent.link_ns,
    )


def now_to_proto(now: Now, cpu_percent: float) -> pb.ApplicationActivity:
    """Convert what an application does."""
    supervisor, record = now.supervisor, now.supervisor.record
    return pb.ApplicationActivity(
        name=supervisor.name,
        tenant=split_name(supervisor.name)[0],
        state=supervisor.state,
        language=record.language,
        kind=record.kind,
        version=record.version,
        isolation=now.isolation,
        public=record.public,
        messages_per_s=now.recent.messages / now.recent_s,
        failures_per_s=now.recent.failures / now.recent_s,
        p50_ns=now.p50_ns,
        p99_ns=now.p99_ns,
        recent=spent_to_proto(now.recent),
        total=spent_to_proto(now.activity.spent),
        in_flight=now.in_flight,
        memory_bytes=now.memory_bytes,
        memory_limit_bytes=record.vm_config.memory_mib * MIB,
        cpu_percent=cpu_percent,
        restarts=supervisor.restarts,
        last_error=supervisor.last_error,
    )


def node_to_proto(info: NodeInfo, now: NodeNow, cpu_percent: float) -> pb.NodeActivity:
    """Convert what the node does."""
    return pb.NodeActivity(
        node_id=info.node_id,
        isolation=info.isolation,
        memory_bytes=now.memory_bytes,
        cpu_percent=cpu_percent,
        loop_lag_ns=now.loop_lag_ns,
        cpus=now.cpus,
        host_memory_bytes=now.host_memory_bytes,
        granted_memory_bytes=now.granted_memory_bytes,
    )


def activity_to_proto(now: Now, sees: Callable[[str], bool]) -> pb.GetActivityResponse:
    """Convert what an application has done; those it asks are named if the viewer `sees` them."""
    activity = now.activity
    return pb.GetActivityResponse(
        application=now_to_proto(now, 0.0),
        history=map(_moment_to_proto, activity.timeline.moments()),
        types=_types_of(activity),
        asks=_asks_of(activity, sees),
        starts=map(_start_to_proto, reversed(activity.starts)),
        failures=map(_failure_to_proto, reversed(activity.failures_kept)),
    )


def _moment_to_proto(moment: Moment) -> pb.Moment:
    return pb.Moment(
        time_unix_ns=moment.end_unix_ns,
        duration_ns=moment.duration_ns,
        spent=spent_to_proto(moment),
        p50_ns=moment.p50_ns,
        p99_ns=moment.p99_ns,
        max_ns=moment.max_ns,
    )


def _types_of(activity: Activity) -> list[pb.TypeActivity]:
    by_count = sorted(activity.types.items(), key=lambda each: -each[1].messages)
    return [
        pb.TypeActivity(
            type=name,
            spent=spent_to_proto(kind),
            payload_bytes=kind.payload_bytes,
            reply_bytes=kind.reply_bytes,
        )
        for name, kind in by_count
    ]


def _asks_of(activity: Activity, sees: Callable[[str], bool]) -> list[pb.AskActivity]:
    """Return what an application asks; what it asks those that are not seen together as ""."""
    told: dict[str, pb.AskActivity] = {}
    for to, ask in activity.asks.items():
        seen = to if to and sees(beside(activity.name, to)) else ""
        one = told.setdefault(seen, pb.AskActivity(to=seen))
        one.asks += ask.asks
        one.answered += ask.answered
        one.failures += ask.failures
        one.total_ns += ask.total_ns
        one.compute_ns += ask.compute_ns
        one.wait_ns += ask.wait_ns
        one.queue_ns += ask.queue_ns
    return sorted(told.values(), key=lambda one: -one.asks)


def _start_to_proto(start: Start) -> pb.Start:
    phases = ((phase, getattr(start.timings, f"{phase}_ns")) for phase in PHASES)
    return pb.Start(
        time_unix_ns=start.time_unix_ns,
        reason=start.reason,
        cause=start.error or start.cause,
        failed=bool(start.error),
        version=start.version,
        phases=[pb.Phase(name=name, duration_ns=ns) for name, ns in phases if ns],
    )


def _failure_to_proto(failure: Failure) -> pb.MessageFailure:
    return pb.MessageFailure(
        time_unix_ns=failure.time_unix_ns,
        type=failure.type,
        origin=failure.origin,
        code=failure.code,
        message=failure.message,
        trace_id=f"{failure.trace_id:032x}",
    )


def advice_to_proto(advice: Advice) -> pb.Advice:
    """Convert an advice."""
    return pb.Advice(
        rule=advice.rule,
        application=advice.application,
        other=advice.other,
        advice=advice.advice,
        facts=[pb.Fact(name=one.name, value=one.value, unit=one.unit) for one in advice.facts],
        saved_s_per_s=advice.saved_s_per_s,
        saved_bytes=advice.saved_bytes,
        reckoning=advice.reckoning,
        command=advice.command,
    )


def trace_to_proto(
    root: Span, unix_ns: Callable[[int], int], sees: Callable[[str], bool]
) -> pb.Trace:
    """Convert a message and what it caused.

    `unix_ns` returns a time of a span as one since the epoch. Of an application that the viewer
    does not see, by `sees`, the times are told and nothing else.
    """
    tree = root.identify()
    spans = [_span_to_proto(span, parent, unix_ns, sees) for span, parent in _walk(root)]
    bill = bill_of(root)
    told = pb.Bill(
        total_ns=bill.total_ns,
        compute_ns=bill.compute_ns,
        coordination_ns=bill.coordinate_ns,
        blame=bill.blame,
    )
    for hop in bill.hops:
        seen = sees(hop.span.application)
        told.hops.add(
            span_id=f"{hop.span.span_id:016x}",
            application=hop.span.application if seen else "",
            type=hop.span.name if seen else "",
            compute_ns=hop.compute_ns,
            wait_ns=hop.wait_ns,
            queue_ns=hop.queue_ns,
            link_ns=hop.link_ns,
        )
    return pb.Trace(
        trace_id=f"{tree.trace_id:032x}", spans=spans, dropped_spans=tree.dropped, bill=told
    )


def _walk(root: Span) -> Iterator[tuple[Span | Step, Span | None]]:
    """Yield a message and all that it caused, each with its parent, which comes before."""
    yield root, None
    if root.is_cold:
        yield start_of(root), root
    for child in root.children or ():
        if isinstance(child, Step):
            yield child, root
        else:
            yield from ((each, parent or root) for each, parent in _walk(child))


def _span_to_proto(
    span: Span | Step,
    parent: Span | None,
    unix_ns: Callable[[int], int],
    sees: Callable[[str], bool],
) -> pb.Span:
    owner = span if isinstance(span, Span) else parent
    assert owner is not None
    is_seen = sees(owner.application)
    code, error = span.error or ("", "")
    told = pb.Span(
        span_id=f"{span.span_id:016x}",
        kind=pb.Span.Kind.ValueType(span.kind),
        start_unix_ns=unix_ns(span.begin_ns),
        total_ns=span.total_ns,
    )
    if parent is not None:
        told.parent_id = f"{parent.span_id:016x}"
    elif isinstance(span, Span) and span.parent_id:
        told.parent_id = f"{span.parent_id:016x}"
    if is_seen:
        told.application, told.name = owner.application, span.name
        told.error_code, told.error = code, error
    if isinstance(span, Span):
        told.compute_ns, told.wait_ns = span.compute_ns, span.wait_ns
        told.queue_ns, told.link_ns = span.queue_ns, max(0, span.link_ns)
        told.cold_start = span.is_cold
        if is_seen:
            told.payload_bytes, told.reply_bytes = span.payload_bytes, span.reply_bytes
            told.vm_id, told.version = span.vm_id, span.version
    return told
