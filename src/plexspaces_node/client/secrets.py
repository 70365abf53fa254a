"""The calls about secrets and the audit log, of `NodeClient`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from plexspaces_node.api import convert
from plexspaces_node.api.generated import audit_pb2, secret_pb2
from plexspaces_node.api.generated.audit_pb2_grpc import AuditServiceStub
from plexspaces_node.api.generated.secret_pb2_grpc import SecretServiceStub
from plexspaces_node.client.connection import NodeConnection
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.info import AuditEntry, SecretInfo, SetSecret
from plexspaces_node.model import check_name, check_secret_name

if TYPE_CHECKING:
    # The stubs' type files have this class, but not the generated code.
    from plexspaces_node.api.generated.secret_pb2_grpc import SecretServiceAsyncStub

_READ_TIMEOUT_S = 15.0
_RESTART_TIMEOUT_S = 600.0
"""For a call that restarts applications, one after the other."""


class SecretCalls(NodeConnection):
    """The calls about secrets. In each, the tenant "" is the caller's own.

    For who has to do with all tenants, "" is `default`, and in a list all of them.
    """

    async def set_secret(
        self, name: str, value: bytes, *, tenant: str = "", restart: bool = False
    ) -> SetSecret:
        """Store a secret or its next version, of at most 64 KiB of UTF-8 without zero bytes.

        Applications get a changed value at their next start; with `restart` the running and failed
        ones that use it are restarted, and the result says how that went. Raises `WrongState` if
        the node's key is missing.
        """
        check_secret_name(name)
        _check_tenant(tenant)
        request = secret_pb2.SetSecretRequest(
            tenant=tenant, name=name, value=value, restart=restart
        )
        timeout_s = _RESTART_TIMEOUT_S if restart else _READ_TIMEOUT_S
        reply = await self._answer(self._secrets.SetSecret(request, timeout=timeout_s))
        return SetSecret(reply.version, {one.application: one.fault for one in reply.restarted})

    async def list_secrets(self, *, tenant: str = "") -> tuple[SecretInfo, ...]:
        """Return the secrets by tenant and name. No call returns a value."""
        _check_tenant(tenant)
        request = secret_pb2.ListSecretsRequest(tenant=tenant)
        reply = await self._answer(self._secrets.ListSecrets(request, timeout=_READ_TIMEOUT_S))
        return tuple(map(convert.secret_from_proto, reply.secrets))

    async def delete_secret(
        self, name: str, *, tenant: str = "", force: bool = False
    ) -> tuple[str, ...]:
        """Delete a secret and return the full names of the applications that use it.

        Raises `NotFound`, and `WrongState` if there are some, unless `force`: they do not start
        again without it.
        """
        check_secret_name(name)
        _check_tenant(tenant)
        request = secret_pb2.DeleteSecretRequest(tenant=tenant, name=name, force=force)
        reply = await self._answer(self._secrets.DeleteSecret(request, timeout=_READ_TIMEOUT_S))
        return tuple(reply.used_by)

    async def read_audit(
        self, *, tenant: str = "", follow: bool = False, tail: int = 0
    ) -> AsyncGenerator[AuditEntry, None]:
        """Yield the lines of the audit log, oldest first, at most `tail` of the past; 0 means all.

        With `follow` it continues until the node or the caller stops; close the iterator
        (`contextlib.aclosing`) to end the call at once.
        """
        _check_tenant(tenant)
        if tail < 0:
            raise InvalidArgument(f"tail must be 0 or more, not {tail}")
        stub = AuditServiceStub(self._open.channel)
        request = audit_pb2.ReadAuditRequest(tenant=tenant, follow=follow, tail=tail)
        call = stub.ReadAudit(request, timeout=None if follow else _RESTART_TIMEOUT_S)
        async with aclosing(self._stream(call)) as messages:
            async for message in messages:
                yield convert.audit_entry_from_proto(message)

    @property
    def _secrets(self) -> SecretServiceAsyncStub:
        return SecretServiceStub(self._open.channel)


def _check_tenant(tenant: str) -> None:
    if tenant:
        check_name(tenant, what="tenant")
