"""Tokens, quotas and secrets as the nodes of a cluster share them: their keys, and what is in them.

    token-key            the key of the tokens' hashes, encrypted under the cluster's token
    token.TENANT.NAME    a token, with hashes and never a secret
    quota.TENANT         the quotas of a tenant, by their names
    quota.TENANT.NAME    those of an application
    secret.TENANT.NAME   a secret, encrypted under the cluster's token

Whoever asks for a change writes, at any node, under the condition that nobody else has. What is
read is not believed: a record that cannot be one is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.model import check_name, check_secret_name
from plexspaces_node.node.access.identity import ALL
from plexspaces_node.node.access.tokens import check_pattern
from plexspaces_node.node.cluster.mirror import decoded
from plexspaces_node.node.registry.secrets import SecretRow
from plexspaces_node.node.registry.tokens import TokenRecord
from plexspaces_node.quota import Key, Subject, checked

TOKEN_KEY = "token-key"
"""The key of `TokenKeyRecord`."""

TOKENS, QUOTAS, SECRETS = "token.", "quota.", "secret."
"""What the keys of each kind begin with."""

MOST_BYTES = 256 * 1024
"""The longest of these records: a secret of 64 KiB has 88 as text."""

# Neither can be in a name.
_ALL_TENANTS, _DOT = "=", "="
_MOST_SCOPES = 32

_T = TypeVar("_T")

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=255)]


class TokenKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The key of the tokens' hashes, sealed."""

    sealed: bytes


class Token(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token: the fields of `registry.TokenRecord`. When it was last used, each node knows."""

    id: Text
    scopes: Annotated[tuple[Text, ...], Meta(max_length=_MOST_SCOPES)]
    applications: Text
    created_ns: Count
    expires_ns: Count
    hash: Annotated[bytes, Meta(min_length=32, max_length=32)]
    key_check: Annotated[bytes, Meta(max_length=32)]
    previous_hash: Annotated[bytes, Meta(max_length=32)] = b""
    previous_until_ns: Count = 0

    def __repr__(self) -> str:
        return f"<Token {self.id}>"


class Secret(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A secret.

    Attributes:
        sealed: its value, encrypted for its place and version under the key of `key_id`.
        restart: whether the applications that use it shall be restarted.
        by: the node that was asked, which restarts its own by itself.
    """

    version: Annotated[int, Meta(ge=1, le=2**53)]
    key_id: Text
    sealed: bytes
    created_ns: Count
    changed_ns: Count
    restart: bool = False
    by: Text = ""

    def __repr__(self) -> str:
        return f"<Secret {self.version}>"


def token_key(tenant: str, name: str) -> str:
    """Return the key of a token's `Token`."""
    return f"{TOKENS}{_ALL_TENANTS if tenant == ALL else tenant}.{name}"


def secret_key(tenant: str, name: str) -> str:
    """Return the key of a `Secret`."""
    return f"{SECRETS}{tenant}.{name.replace('.', _DOT)}"


def quota_key(subject: Subject) -> str:
    """Return the key of the quotas of a tenant or an application."""
    return f"{QUOTAS}{subject.tenant}" + (f".{subject.application}" if subject.application else "")


def token_of_key(key: str) -> tuple[str, str]:
    """Return tenant and name of a token; raises `InvalidArgument` for what is no key of one."""
    tenant, name = _two(key, TOKENS)
    check_name(name, what="token name")
    if tenant == _ALL_TENANTS:
        return ALL, name
    check_name(tenant, what="tenant")
    return tenant, name


def secret_of_key(key: str) -> tuple[str, str]:
    """Return tenant and name of a secret; raises `InvalidArgument` for what is no key of one."""
    tenant, name = _two(key, SECRETS)
    name = name.replace(_DOT, ".")
    check_name(tenant, what="tenant")
    check_secret_name(name)
    return tenant, name


def subject_of_key(key: str) -> Subject:
    """Return whose quotas these are; raises `InvalidArgument` for what is no key of some."""
    tenant, _, application = key.removeprefix(QUOTAS).partition(".")
    subject = Subject(tenant, application)
    subject.check()
    if quota_key(subject) != key:
        raise InvalidArgument(f"{key[:200]!r} is no key of quotas")
    return subject


def encode_token(record: TokenRecord) -> bytes:
    """Return the value of a token's record."""
    return msgspec.json.encode(
        Token(
            id=record.id,
            scopes=record.scopes,
            applications=record.applications,
            created_ns=record.created_ns,
            expires_ns=record.expires_ns,
            hash=record.hash,
            key_check=record.key_check,
            previous_hash=record.previous_hash,
            previous_until_ns=record.previous_until_ns,
        )
    )


def read_token(key: str, value: bytes) -> TokenRecord:
    """Return the token in a record; raises `InvalidArgument` for what is none."""
    tenant, name = token_of_key(key)
    told = _read(value, Token)
    check_pattern(told.applications)
    return TokenRecord(
        tenant,
        name,
        told.id,
        told.scopes,
        told.applications,
        told.created_ns,
        told.expires_ns,
        told.hash,
        told.key_check,
        previous_hash=told.previous_hash,
        previous_until_ns=told.previous_until_ns,
    )


def encode_secret(row: SecretRow, *, restart: bool = False, by: str = "") -> bytes:
    """Return the value of a secret's record."""
    return msgspec.json.encode(
        Secret(
            version=row.version,
            key_id=row.key_id,
            sealed=row.sealed,
            created_ns=row.created_ns,
            changed_ns=row.changed_ns,
            restart=restart,
            by=by,
        )
    )


def read_secret(key: str, value: bytes) -> tuple[SecretRow, Secret]:
    """Return the secret in a record, and all of it; raises `InvalidArgument` for what is none."""
    tenant, name = secret_of_key(key)
    told = _read(value, Secret)
    row = SecretRow(
        tenant, name, told.version, told.key_id, told.sealed, told.created_ns, told.changed_ns
    )
    return row, told


def encode_quotas(values: Mapping[Key, int]) -> bytes:
    """Return the value of a record of quotas."""
    return msgspec.json.encode({key.value: value for key, value in sorted(values.items())})


def read_quotas(value: bytes) -> dict[Key, int]:
    """Return the quotas in a record; raises `InvalidArgument` for what is none.

    Those that only a newer version knows are left out.
    """
    told = _read(value, dict[str, int])
    known = frozenset(Key)
    return {Key(each): checked(Key(each), told[each]) for each in told if each in known}


def read_token_key(value: bytes) -> TokenKeyRecord:
    """Return what is in the record of the tokens' key; raises `InvalidArgument`."""
    return _read(value, TokenKeyRecord)


def _read(value: bytes, type_: type[_T]) -> _T:
    if len(value) > MOST_BYTES:
        raise InvalidArgument(f"it has {len(value)} bytes")
    told = decoded(value, type_)
    if told is None:
        raise InvalidArgument("it cannot be read")
    return told


def _two(key: str, prefix: str) -> tuple[str, str]:
    tenant, dot, name = key.removeprefix(prefix).partition(".")
    if not dot or not key.startswith(prefix) or "." in name:
        raise InvalidArgument(f"{key[:200]!r} is not of the form {prefix}TENANT.NAME")
    return tenant, name
