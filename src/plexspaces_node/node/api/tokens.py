"""The gRPC service of tokens: decode, call `Tokens`, encode."""

from __future__ import annotations

from plexspaces_node.api.convert_tokens import token_to_proto
from plexspaces_node.api.generated import token_pb2 as pb
from plexspaces_node.node.access.gate import Call
from plexspaces_node.node.access.identity import ALL, Kind
from plexspaces_node.node.access.tokens import Tokens


class TokenService:
    """`plexspaces.node.v1.TokenService`; errors are mapped by a `Boundary`."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def CreateToken(
        self, request: pb.CreateTokenRequest, call: Call
    ) -> pb.CreateTokenResponse:
        # Somebody of all tenants who names none gets the default.
        tenant = "" if call.tenant == ALL and not request.tenant else call.tenant
        created = await self._tokens.create(
            call.identity,
            request.name,
            scopes=request.scopes,
            tenant=tenant,
            applications=request.applications or ALL,
            lifetime_s=request.lifetime_s,
        )
        return pb.CreateTokenResponse(token=token_to_proto(created.token), secret=created.secret)

    async def ListTokens(self, request: pb.ListTokensRequest, call: Call) -> pb.ListTokensResponse:
        found = self._tokens.list(call.tenant)
        return pb.ListTokensResponse(tokens=[token_to_proto(each) for each in found])

    async def RevokeToken(
        self, request: pb.RevokeTokenRequest, call: Call
    ) -> pb.RevokeTokenResponse:
        await self._tokens.revoke(request.name, tenant=_searched(request.tenant, call))
        return pb.RevokeTokenResponse()

    async def RotateToken(
        self, request: pb.RotateTokenRequest, call: Call
    ) -> pb.RotateTokenResponse:
        renewed = await self._tokens.rotate(
            request.name,
            tenant=_searched(request.tenant, call),
            grace_s=request.grace_s,
            lifetime_s=request.lifetime_s,
        )
        return pb.RotateTokenResponse(token=token_to_proto(renewed.token), secret=renewed.secret)

    async def WhoAmI(self, request: pb.WhoAmIRequest, call: Call) -> pb.WhoAmIResponse:
        identity, expires_ns = call.identity, 0
        if identity.kind in (Kind.TOKEN, Kind.CERTIFICATE):
            expires_ns = self._tokens.known.find(identity.tenant, identity.name).expires_ns
        return pb.WhoAmIResponse(
            kind=identity.kind,
            name=identity.name,
            tenant=identity.tenant,
            scopes=sorted(identity.scopes),
            applications=identity.applications,
            expires_unix_ns=expires_ns,
        )


def _searched(asked: str, call: Call) -> str:
    """Return where a token of a name is looked for, "" for everywhere."""
    return "" if call.tenant == ALL and not asked else call.tenant
