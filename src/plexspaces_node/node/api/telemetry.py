"""The gRPC service of activity, traces and advice: ask, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import islice
from time import perf_counter_ns, time_ns

from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.api.generated import telemetry_pb2_grpc as pb_grpc
from plexspaces_node.errors import InvalidArgument, ResourceExhausted
from plexspaces_node.model import check_name, check_trace_id
from plexspaces_node.node.access.fair_share import FairShare, tenant_of
from plexspaces_node.node.access.gate import Call
from plexspaces_node.node.advisor.advisor import Advisor
from plexspaces_node.node.api.telemetry_messages import (
    activity_to_proto,
    advice_to_proto,
    node_to_proto,
    now_to_proto,
    trace_to_proto,
)
from plexspaces_node.node.applications.activity_watch import ActivityWatch

INTERVAL_MS = 2000
INTERVALS_MS = (500, 60_000)
"""The shortest and the longest time between two responses that can be asked for."""

MOST_WATCHERS = 32
"""How many watch at once: each has every application looked at once an interval."""

TRACES = 10

_FEWER = "close another page of the dashboard, or another `plexspaces top`"
_AT_ONCE = 50
"""Applications that are looked at without a pause for others."""


class TelemetryService(pb_grpc.TelemetryServiceServicer):
    """`plexspaces.node.v1.TelemetryService`; errors are mapped by a `Boundary`."""

    def __init__(self, advisor: Advisor) -> None:
        self._watch = advisor.watch
        self._advisor = advisor
        self._watchers = 0
        self._share = FairShare(MOST_WATCHERS, what="watchers of activity", hint=_FEWER)

    async def WatchActivity(  # type: ignore[override]
        self, request: pb.WatchActivityRequest, call: Call
    ) -> AsyncIterator[pb.WatchActivityResponse]:
        interval_ms = request.interval_ms or INTERVAL_MS
        if not INTERVALS_MS[0] <= interval_ms <= INTERVALS_MS[1]:
            raise InvalidArgument(
                f"an interval is from {INTERVALS_MS[0]} to {INTERVALS_MS[1]} ms, not {interval_ms}"
            )
        with self._counted(tenant_of(call.identity)):
            view = _View(self._watch, call, request.tenant)
            yield await view.changes()
            while await self._watch.pause(interval_ms / 1000):
                yield await view.changes()

    async def GetActivity(  # type: ignore[override]
        self, request: pb.GetActivityRequest, call: Call
    ) -> pb.GetActivityResponse:
        now = await self._watch.now(self._watch.named(call.name))
        return activity_to_proto(now, call.identity.covers)

    async def ListTraces(  # type: ignore[override]
        self, request: pb.ListTracesRequest, call: Call
    ) -> pb.ListTracesResponse:
        kept = self._watch.named(call.name).activity.traces
        if request.trace_id:
            check_trace_id(request.trace_id)
            spans = kept.of(int(request.trace_id, 16))
        else:
            spans = kept.slowest() if request.slowest else kept.newest()
        unix_ns, sees = self._watch.unix_ns, call.identity.covers
        return pb.ListTracesResponse(
            traces=[
                trace_to_proto(span, unix_ns, sees)
                for span in islice(spans, request.limit or TRACES)
            ]
        )

    async def Advise(  # type: ignore[override]
        self, request: pb.AdviseRequest, call: Call
    ) -> pb.AdviseResponse:
        name = request.name
        if request.tenant:
            check_name(request.tenant, what="tenant")
            if name and "/" not in name:
                name = f"{request.tenant}/{name}"
        full = call.identity.full(name) if name else ""
        report = await self._advisor.advise(call.identity, tenant=request.tenant, name=full)
        return pb.AdviseResponse(
            advice=map(advice_to_proto, report.advice), insufficient=report.insufficient
        )

    @contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        """Count a watcher of a tenant; raises `ResourceExhausted` if there are too many."""
        if self._watchers >= MOST_WATCHERS:
            raise ResourceExhausted(f"too many watchers of activity ({MOST_WATCHERS})", hint=_FEWER)
        self._share.check(tenant, self._watchers)
        self._share.take(tenant)
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1
            self._share.give(tenant)


class _View:
    """What one caller has been told, to tell what changed since."""

    def __init__(self, watch: ActivityWatch, call: Call, tenant: str) -> None:
        self._watch = watch
        self._viewer = call.identity
        self._tenant = tenant
        self._told: dict[str, pb.ApplicationActivity] = {}
        self._used: dict[str, tuple[int, int]] = {}

    async def changes(self) -> pb.WatchActivityResponse:
        """Return what is new."""
        response = pb.WatchActivityResponse(time_unix_ns=time_ns())
        supervisors = self._watch.visible(self._viewer, self._tenant)
        for number, supervisor in enumerate(supervisors):
            if number and number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            name, now = supervisor.name, await self._watch.now(supervisor)
            told = now_to_proto(now, self._percent(name, now.cpu_ns))
            if self._told.get(name) != told:
                self._told[name] = told
                response.applications.append(told)
        names = {supervisor.name for supervisor in supervisors}
        for name in [name for name in self._told if name not in names]:
            del self._told[name]
            self._used.pop(name, None)
            response.removed.append(name)
        if self._viewer.is_of_all():
            node = self._watch.node_now()
            percent = self._percent("", node.cpu_ns)
            response.node.CopyFrom(node_to_proto(self._watch.info, node, percent))
        return response

    def _percent(self, name: str, cpu_ns: int) -> float:
        """Return how much of one CPU was used since the last call; 0 for the first."""
        now_ns = perf_counter_ns()
        before_ns, then_ns = self._used.get(name, (cpu_ns, 0))
        self._used[name] = (cpu_ns, now_ns)
        # A VM that was replaced has used less than the one before.
        return 100 * max(0, cpu_ns - before_ns) / (now_ns - then_ns)
