"""The gRPC service of the audit log: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from plexspaces_node.api import convert
from plexspaces_node.api.generated import audit_pb2 as pb
from plexspaces_node.api.generated import audit_pb2_grpc as pb_grpc
from plexspaces_node.node.access.audit import AuditLog
from plexspaces_node.node.access.gate import Call
from plexspaces_node.node.access.identity import ALL


class AuditService(pb_grpc.AuditServiceServicer):
    """`plexspaces.node.v1.AuditService`; errors are mapped by a `Boundary`."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def ReadAudit(  # type: ignore[override]
        self, request: pb.ReadAuditRequest, call: Call
    ) -> AsyncIterator[pb.ReadAuditResponse]:
        tenant = None if call.tenant == ALL else call.tenant
        reading = self._log.read(tail=request.tail, follow=request.follow, tenant=tenant)
        async with aclosing(reading) as entries:
            async for entry in entries:
                yield convert.audit_entry_to_proto(entry)
