"""The gRPC service of secrets: decode, call, encode. No reply has a value."""

from __future__ import annotations

from plexspaces_node.api import convert
from plexspaces_node.api.generated import secret_pb2 as pb
from plexspaces_node.api.generated import secret_pb2_grpc as pb_grpc
from plexspaces_node.model import DEFAULT_TENANT
from plexspaces_node.node.access.gate import Call
from plexspaces_node.node.access.identity import ALL
from plexspaces_node.node.applications.secret_users import SecretUsers
from plexspaces_node.node.secrets.secrets import Secrets


class SecretService(pb_grpc.SecretServiceServicer):
    """`plexspaces.node.v1.SecretService`; errors are mapped by a `Boundary`."""

    def __init__(self, secrets: Secrets, users: SecretUsers) -> None:
        self._secrets = secrets
        self._users = users

    async def SetSecret(self, request: pb.SetSecretRequest, call: Call) -> pb.SetSecretResponse:  # type: ignore[override]
        tenant = _one_tenant(call)
        version = await self._secrets.set(
            tenant, request.name, request.value, restart=request.restart
        )
        restarted = await self._users.restart(tenant, request.name) if request.restart else {}
        return pb.SetSecretResponse(
            version=version,
            restarted=[
                pb.Restarted(application=name, fault=fault) for name, fault in restarted.items()
            ],
        )

    async def ListSecrets(  # type: ignore[override]
        self, request: pb.ListSecretsRequest, call: Call
    ) -> pb.ListSecretsResponse:
        found = await self._secrets.list(None if call.tenant == ALL else call.tenant)
        return pb.ListSecretsResponse(secrets=[convert.secret_to_proto(one) for one in found])

    async def DeleteSecret(  # type: ignore[override]
        self, request: pb.DeleteSecretRequest, call: Call
    ) -> pb.DeleteSecretResponse:
        tenant = _one_tenant(call)
        used_by = await self._secrets.delete(tenant, request.name, force=request.force)
        return pb.DeleteSecretResponse(used_by=used_by)


def _one_tenant(call: Call) -> str:
    """Return the tenant that a change is about, also for the audit log."""
    if call.tenant == ALL:
        call.tenant = DEFAULT_TENANT
    return call.tenant
