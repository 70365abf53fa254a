"""The calls about activity, traces and advice, of `NodeClient`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from plexspaces_node.api.convert_telemetry import record
from plexspaces_node.api.generated import telemetry_pb2 as pb
from plexspaces_node.api.generated.telemetry_pb2_grpc import TelemetryServiceStub
from plexspaces_node.client.connection import NodeConnection
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import check_full_name
from plexspaces_node.telemetry import ActivityReport, ActivityUpdate, AdviceReport, Trace

if TYPE_CHECKING:
    # The stubs' type files have this class, but not the generated code.
    from plexspaces_node.api.generated.telemetry_pb2_grpc import TelemetryServiceAsyncStub

_TIMEOUT_S = 15.0
_MAX_UINT32 = 2**32 - 1
_MS_PER_S = 1000


class TelemetryCalls(NodeConnection):
    """What a client can ask of a node about what applications do."""

    async def watch_activity(
        self, *, tenant: str = "", interval_s: float = 2.0
    ) -> AsyncGenerator[ActivityUpdate, None]:
        """Yield what every application does, then what changed, until the caller stops.

        Without a tenant: of every tenant that the caller may see. Close the iterator
        (`contextlib.aclosing`) to end the call at once. Raises `InvalidArgument` for an interval
        that is not from 0.5 to 60 s, and `Unavailable` when the node ends.
        """
        interval_ms = _checked(round(interval_s * _MS_PER_S), "an interval in ms")
        if not interval_ms:
            # For a node 0 is its default.
            raise InvalidArgument(f"an interval cannot be {interval_s} s")
        request = pb.WatchActivityRequest(tenant=tenant, interval_ms=interval_ms)
        async with aclosing(self._stream(self._telemetry.WatchActivity(request))) as messages:
            async for message in messages:
                yield record(ActivityUpdate, message)

    async def activity(self, name: str) -> ActivityReport:
        """Return what one application has done over the last minutes. Raises `NotFound`."""
        check_full_name(name)
        request = pb.GetActivityRequest(name=name)
        reply = await self._answer(self._telemetry.GetActivity(request, timeout=_TIMEOUT_S))
        return record(ActivityReport, reply)

    async def traces(
        self, name: str, *, slowest: bool = False, trace_id: str = "", limit: int = 0
    ) -> tuple[Trace, ...]:
        """Return the traces of an application that the node keeps, the newest first.

        With `slowest` the slowest of the last hour first; with `trace_id`, in hex, those of that
        trace. A limit of 0 is the node's default, 10. Raises `NotFound`.
        """
        check_full_name(name)
        request = pb.ListTracesRequest(
            name=name, slowest=slowest, trace_id=trace_id, limit=_checked(limit, "a limit")
        )
        reply = await self._answer(self._telemetry.ListTraces(request, timeout=_TIMEOUT_S))
        return tuple(record(Trace, trace) for trace in reply.traces)

    async def advise(self, name: str = "", *, tenant: str = "") -> AdviceReport:
        """Return what to change, of one application or of all that the caller may see.

        Raises `NotFound`.
        """
        if name:
            check_full_name(name)
        request = pb.AdviseRequest(name=name, tenant=tenant)
        reply = await self._answer(self._telemetry.Advise(request, timeout=_TIMEOUT_S))
        return record(AdviceReport, reply)

    @property
    def _telemetry(self) -> TelemetryServiceAsyncStub:
        return TelemetryServiceStub(self._open.channel)


def _checked(number: int, what: str) -> int:
    if not 0 <= number <= _MAX_UINT32:
        raise InvalidArgument(f"{what} cannot be {number}")
    return number
