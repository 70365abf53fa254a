"""Tokens and identities between records and proto."""

from __future__ import annotations

from plexspaces_node.api.generated import token_pb2 as pb
from plexspaces_node.info import TokenInfo, WhoAmI


def token_to_proto(token: TokenInfo) -> pb.Token:
    """Convert a token."""
    return pb.Token(
        name=token.name,
        tenant=token.tenant,
        scopes=token.scopes,
        applications=token.applications,
        id=token.id,
        created_unix_ns=token.created_unix_ns,
        expires_unix_ns=token.expires_unix_ns,
        last_used_unix_ns=token.last_used_unix_ns,
        state=token.state,
    )


def token_from_proto(token: pb.Token) -> TokenInfo:
    """Convert a token back."""
    return TokenInfo(
        name=token.name,
        tenant=token.tenant,
        scopes=tuple(token.scopes),
        applications=token.applications,
        id=token.id,
        created_unix_ns=token.created_unix_ns,
        expires_unix_ns=token.expires_unix_ns,
        last_used_unix_ns=token.last_used_unix_ns,
        state=token.state,
    )


def whoami_from_proto(reply: pb.WhoAmIResponse) -> WhoAmI:
    """Convert what a node says about who calls."""
    return WhoAmI(
        kind=reply.kind,
        name=reply.name,
        tenant=reply.tenant,
        scopes=tuple(reply.scopes),
        applications=reply.applications,
        expires_unix_ns=reply.expires_unix_ns,
    )
