"""The services of secrets and of the audit log, in memory, for a fake node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import grpc

from plexspaces_node.api import convert
from plexspaces_node.api.generated import audit_pb2, secret_pb2
from plexspaces_node.api.generated.audit_pb2_grpc import AuditServiceServicer
from plexspaces_node.api.generated.secret_pb2_grpc import SecretServiceServicer
from plexspaces_node.info import AuditEntry, SecretInfo

Enter = Callable[[str, grpc.ServicerContext], None]


class FakeSecrets(SecretServiceServicer):
    """Secrets that nothing uses, or what `used_by` says.

    Attributes:
        values: each secret's values, by tenant and name.
        restarted: what a restart results in.
    """

    def __init__(self, enter: Enter) -> None:
        self._enter = enter
        self.values: dict[tuple[str, str], list[bytes]] = {}
        self.used_by: tuple[str, ...] = ()
        self.restarted: dict[str, str] = {}

    def SetSecret(
        self, request: secret_pb2.SetSecretRequest, context: grpc.ServicerContext
    ) -> secret_pb2.SetSecretResponse:
        """Keep the value."""
        self._enter("SetSecret", context)
        values = self.values.setdefault((request.tenant or "default", request.name), [])
        values.append(request.value)
        restarted = self.restarted if request.restart else {}
        return secret_pb2.SetSecretResponse(
            version=len(values),
            restarted=[
                secret_pb2.Restarted(application=name, fault=fault)
                for name, fault in restarted.items()
            ],
        )

    def ListSecrets(
        self, request: secret_pb2.ListSecretsRequest, context: grpc.ServicerContext
    ) -> secret_pb2.ListSecretsResponse:
        """Describe those of the tenant."""
        self._enter("ListSecrets", context)
        found = [
            SecretInfo(tenant, name, len(values), 1, 1_700_000_000_000_000_000, self.used_by)
            for (tenant, name), values in self.values.items()
            if request.tenant in ("", tenant)
        ]
        return secret_pb2.ListSecretsResponse(secrets=map(convert.secret_to_proto, found))

    def DeleteSecret(
        self, request: secret_pb2.DeleteSecretRequest, context: grpc.ServicerContext
    ) -> secret_pb2.DeleteSecretResponse:
        """Forget the values."""
        self._enter("DeleteSecret" + (" by force" if request.force else ""), context)
        del self.values[request.tenant or "default", request.name]
        return secret_pb2.DeleteSecretResponse(used_by=self.used_by)


class FakeAudit(AuditServiceServicer):
    """An audit log of these lines.

    Attributes:
        requests: what it was asked for.
    """

    def __init__(self, entries: Sequence[AuditEntry]) -> None:
        self._entries = entries
        self.requests: list[audit_pb2.ReadAuditRequest] = []

    def ReadAudit(
        self, request: audit_pb2.ReadAuditRequest, context: grpc.ServicerContext
    ) -> Iterator[audit_pb2.ReadAuditResponse]:
        """Tell the last lines."""
        self.requests.append(request)
        yield from map(convert.audit_entry_to_proto, self._entries[-request.tail :])
