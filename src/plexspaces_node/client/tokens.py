"""The calls about tokens, of `NodeClient`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from plexspaces_node.api import convert_tokens as convert
from plexspaces_node.api.generated import token_pb2 as pb
from plexspaces_node.api.generated.token_pb2_grpc import TokenServiceStub
from plexspaces_node.client.connection import NodeConnection
from plexspaces_node.errors import InvalidArgument
from plexspaces_node.info import NewSecret, TokenInfo, WhoAmI
from plexspaces_node.model import check_name

if TYPE_CHECKING:
    # The stubs' type files have this class, but not the generated code.
    from plexspaces_node.api.generated.token_pb2_grpc import TokenServiceAsyncStub

_TIMEOUT_S = 15.0


class TokenCalls(NodeConnection):
    """The calls about tokens. In each, the tenant "" is the caller's own."""

    async def whoami(self, *, timeout_s: float = _TIMEOUT_S) -> WhoAmI:
        """Return who the node says that calls, and what they may do."""
        reply = await self._answer(self._tokens.WhoAmI(pb.WhoAmIRequest(), timeout=timeout_s))
        return convert.whoami_from_proto(reply)

    async def create_token(
        self,
        name: str,
        *,
        scopes: Iterable[str],
        tenant: str = "",
        applications: str = "*",
        lifetime_s: int = 0,
    ) -> NewSecret:
        """Create a token and return it with its secret, which the node tells this once.

        A caller for all tenants who names none creates it for `default`, or with the scope `admin`
        for all. `applications` is a pattern for names within the tenant. A lifetime of 0 is for
        ever. Raises `PermissionDenied` for more than the caller may do, `AlreadyExists` for a name
        that the tenant has.
        """
        check_name(name, what="token name")
        request = pb.CreateTokenRequest(
            name=name,
            tenant=tenant,
            scopes=scopes,
            applications=applications,
            lifetime_s=_checked(lifetime_s),
        )
        reply = await self._answer(self._tokens.CreateToken(request, timeout=_TIMEOUT_S))
        return NewSecret(convert.token_from_proto(reply.token), reply.secret)

    async def list_tokens(self, *, tenant: str = "") -> tuple[TokenInfo, ...]:
        """Return the tokens of a tenant, by name; no call returns a secret again."""
        request = pb.ListTokensRequest(tenant=tenant)
        reply = await self._answer(self._tokens.ListTokens(request, timeout=_TIMEOUT_S))
        return tuple(map(convert.token_from_proto, reply.tokens))

    async def revoke_token(self, name: str, *, tenant: str = "") -> None:
        """Revoke a token: nothing is let in by it any more, and what streams by it ends.

        A caller for all tenants need not name the one that has it. Raises `NotFound`.
        """
        check_name(name, what="token name")
        request = pb.RevokeTokenRequest(name=name, tenant=tenant)
        await self._answer(self._tokens.RevokeToken(request, timeout=_TIMEOUT_S))

    async def rotate_token(
        self, name: str, *, tenant: str = "", grace_s: int = 0, lifetime_s: int = 0
    ) -> NewSecret:
        """Give a token a new secret; the one before works for `grace_s` seconds more.

        `lifetime_s` sets anew when it expires, 0 leaves that. Raises `NotFound`, and `WrongState`
        for one that has expired.
        """
        check_name(name, what="token name")
        request = pb.RotateTokenRequest(
            name=name, tenant=tenant, grace_s=_checked(grace_s), lifetime_s=_checked(lifetime_s)
        )
        reply = await self._answer(self._tokens.RotateToken(request, timeout=_TIMEOUT_S))
        return NewSecret(convert.token_from_proto(reply.token), reply.secret)

    @property
    def _tokens(self) -> TokenServiceAsyncStub:
        return TokenServiceStub(self._open.channel)


def _checked(seconds: int) -> int:
    if not 0 <= seconds < 1 << 63:
        raise InvalidArgument(f"{seconds} seconds is not a duration", hint="use 0 or more")
    return seconds
