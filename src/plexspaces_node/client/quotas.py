"""The calls about quotas, which `NodeClient` has too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from plexspaces_node.api.generated import quota_pb2 as pb
from plexspaces_node.api.generated.quota_pb2_grpc import QuotaServiceStub
from plexspaces_node.api.quota import use_from_proto
from plexspaces_node.client.connection import NodeConnection
from plexspaces_node.model import DEFAULT_TENANT
from plexspaces_node.quota import SubjectUse

if TYPE_CHECKING:
    # The stubs' type files have this class, but not the generated code.
    from plexspaces_node.api.generated.quota_pb2_grpc import QuotaServiceAsyncStub

TIMEOUT_S = 15.0


class QuotaCalls(NodeConnection):
    """What a client can ask of a node about quotas."""

    async def set_quota(
        self, values: Mapping[str, int], *, tenant: str = DEFAULT_TENANT, application: str = ""
    ) -> SubjectUse:
        """Set quotas of a tenant, or of one application of it, by key; 0 removes one.

        Returns all of its quotas. Raises `InvalidArgument`, and `PermissionDenied` unless the
        caller is an admin of all tenants.
        """
        request = pb.SetQuotaRequest(tenant=tenant, application=application, values=values)
        reply = await self._answer(self._quota_stub.SetQuota(request, timeout=TIMEOUT_S))
        return use_from_proto(reply.subject)

    async def quotas(self, *, tenant: str = "", application: str = "") -> tuple[SubjectUse, ...]:
        """Return the quotas of a tenant and of its applications, or of one application.

        Without a tenant: of every tenant that the caller may see.
        """
        request = pb.GetQuotaRequest(tenant=tenant, application=application)
        reply = await self._answer(self._quota_stub.GetQuota(request, timeout=TIMEOUT_S))
        return tuple(use_from_proto(subject) for subject in reply.subjects)

    @property
    def _quota_stub(self) -> QuotaServiceAsyncStub:
        return QuotaServiceStub(self._open.channel)
