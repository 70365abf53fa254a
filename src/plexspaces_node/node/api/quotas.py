"""The gRPC service of quotas: decode, call `QuotaUpkeep`, encode."""

from __future__ import annotations

import asyncio

from plexspaces_node.api.generated import quota_pb2 as pb
from plexspaces_node.api.generated import quota_pb2_grpc as pb_grpc
from plexspaces_node.api.quota import use_to_proto, values_from_proto
from plexspaces_node.model import DEFAULT_TENANT
from plexspaces_node.node.access.gate import Call
from plexspaces_node.node.access.identity import ALL
from plexspaces_node.node.applications.quota_upkeep import QuotaUpkeep
from plexspaces_node.quota import Subject


class QuotaService(pb_grpc.QuotaServiceServicer):
    """`plexspaces.node.v1.QuotaService`; errors are mapped by a `Boundary`."""

    def __init__(self, upkeep: QuotaUpkeep) -> None:
        self._upkeep = upkeep

    async def SetQuota(  # type: ignore[override]
        self, request: pb.SetQuotaRequest, call: Call
    ) -> pb.SetQuotaResponse:
        subject = Subject(request.tenant or DEFAULT_TENANT, request.application)
        await self._upkeep.set(subject, values_from_proto(request.values))
        return pb.SetQuotaResponse(subject=use_to_proto(await self._upkeep.use(subject)))

    async def GetQuota(  # type: ignore[override]
        self, request: pb.GetQuotaRequest, call: Call
    ) -> pb.GetQuotaResponse:
        tenant = "" if call.tenant == ALL else call.tenant
        if request.application:
            subjects = [Subject(tenant or DEFAULT_TENANT, request.application)]
        else:
            subjects = self._upkeep.subjects(tenant)
        # Together, because processor time is measured for a moment.
        uses = await asyncio.gather(*(self._upkeep.use(subject) for subject in subjects))
        return pb.GetQuotaResponse(subjects=map(use_to_proto, uses))
