"""The service of activity and traces, for a fake node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc

from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.api.generated.telemetry_pb2_grpc import TelemetryServiceServicer

Enter = Callable[[str, grpc.ServicerContext], None]
MS = 1_000_000


def activity(
    name: str, compute_ms: int = 900, coordination_ms: int = 100, **more: object
) -> pb.ApplicationActivity:
    """What an application does: 40 messages in the last 10 s, so long in all."""
    spent = pb.TimeSpent(
        messages=40,
        failures=1,
        compute_ns=compute_ms * MS,
        wait_ns=0,
        queue_ns=0,
        link_ns=coordination_ms * MS,
    )
    said: dict[str, object] = {
        "tenant": "default",
        "state": "Running",
        "language": "rust",
        "kind": "actor",
        "version": "1",
        "isolation": "process",
        "messages_per_s": 4.0,
        "failures_per_s": 0.1,
        "p50_ns": 21 * MS,
        "p99_ns": 44 * MS,
        "recent": spent,
        "total": spent,
        "memory_bytes": 30 << 20,
        "memory_limit_bytes": 128 << 20,
        "cpu_percent": 12.5,
        "restarts": 2,
    }
    return pb.ApplicationActivity(name=name, **{**said, **more})  # type: ignore[arg-type]


NODE = pb.NodeActivity(
    node_id="fake-1",
    isolation="process",
    memory_bytes=90 << 20,
    cpu_percent=7.5,
    loop_lag_ns=2 * MS,
    cpus=2,
    host_memory_bytes=8 << 30,
    granted_memory_bytes=256 << 20,
)

CHAIN = pb.Trace(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    spans=[
        pb.Span(
            span_id="00f067aa0ba902b7",
            kind=pb.Span.KIND_MESSAGE,
            application="cart",
            name="pay",
            start_unix_ns=1_700_000_000_000_000_000,
            total_ns=100 * MS,
            compute_ns=20 * MS,
            wait_ns=60 * MS,
            queue_ns=5 * MS,
            link_ns=15 * MS,
        ),
        pb.Span(
            span_id="00f067aa0ba902b8",
            parent_id="00f067aa0ba902b7",
            kind=pb.Span.KIND_ASK,
            application="stock",
            name="take",
            start_unix_ns=1_700_000_000_030_000_000,
            total_ns=60 * MS,
            compute_ns=8 * MS,
            queue_ns=40 * MS,
            link_ns=12 * MS,
            error_code="empty",
            error="nothing \x1b[2J left",
            cold_start=True,
        ),
    ],
    bill=pb.Bill(
        total_ns=100 * MS,
        compute_ns=28 * MS,
        coordination_ns=72 * MS,
        hops=[
            pb.Hop(
                span_id="00f067aa0ba902b7",
                application="cart",
                type="pay",
                compute_ns=20 * MS,
                queue_ns=5 * MS,
                link_ns=15 * MS,
            ),
            pb.Hop(
                span_id="00f067aa0ba902b8",
                application="stock",
                type="take",
                compute_ns=8 * MS,
                queue_ns=40 * MS,
                link_ns=12 * MS,
            ),
        ],
        blame=1,
    ),
)
"""`cart` asks `stock`, which had to start and fails."""


class FakeTelemetry(TelemetryServiceServicer):
    """What the applications of a fake node do.

    Attributes:
        updates: what is told to who watches; then the call ends, with `ends` if that is set.
        stays: whether the call goes on after `updates`, until the client leaves.
        traces: what is kept, of whichever application.
        advice: what is advised; None for an advice about the application that is asked for.
        requests: what it was asked for.
        left: set when a client that watched has gone.
    """

    def __init__(self, enter: Enter) -> None:
        self._enter = enter
        self.updates: list[pb.WatchActivityResponse] = []
        self.stays = False
        self.traces: list[pb.Trace] = []
        self.advice: pb.AdviseResponse | None = None
        self.requests: list[object] = []
        self.left = threading.Event()

    def WatchActivity(
        self, request: pb.WatchActivityRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchActivityResponse]:
        """Tell the updates."""
        self._enter("WatchActivity", context)
        self.requests.append(request)
        # Before the first update: a client that has gone is not seen by what comes after it.
        if not context.add_callback(self.left.set):
            self.left.set()
        yield from self.updates
        if self.stays:
            self.left.wait(30)

    def GetActivity(
        self, request: pb.GetActivityRequest, context: grpc.ServicerContext
    ) -> pb.GetActivityResponse:
        """Tell what one has done."""
        self._enter("GetActivity", context)
        phases = [pb.Phase(name="vm", duration_ns=4 * MS), pb.Phase(name="load", duration_ns=9)]
        return pb.GetActivityResponse(
            application=activity(request.name),
            asks=[
                pb.AskActivity(to="stock", asks=3, answered=2, total_ns=9 * MS, compute_ns=1 * MS)
            ],
            starts=[pb.Start(reason="deploy", version="1", phases=phases)],
        )

    def ListTraces(
        self, request: pb.ListTracesRequest, context: grpc.ServicerContext
    ) -> pb.ListTracesResponse:
        """Tell what is kept."""
        self._enter("ListTraces", context)
        self.requests.append(request)
        return pb.ListTracesResponse(traces=self.traces)

    def Advise(self, request: pb.AdviseRequest, context: grpc.ServicerContext) -> pb.AdviseResponse:
        """Tell one advice."""
        self._enter("Advise", context)
        self.requests.append(request)
        if self.advice is not None:
            return self.advice
        fact = pb.Fact(name="payload", value=80, unit="bytes")
        advice = pb.Advice(rule="batch", application=request.name or "calc", facts=[fact])
        return pb.AdviseResponse(advice=[advice], insufficient=["stock: 3 messages"])
