"""The tokens of a cluster: made or revoked at any node, in force at all of them.

Their hashes are made with one key. The first token makes it, and it is passed on encrypted under
the cluster's token: whoever reads the bucket can test no guess. A node that hears of the key asks
its callers who they are from then on.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import msgspec

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import InvalidArgument, WrongState
from plexspaces_node.node.access.token_key import KEY_BYTES
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.cluster.grant_records import (
    TOKEN_KEY,
    TokenKeyRecord,
    encode_token,
    read_token,
    read_token_key,
    token_key,
    token_of_key,
)
from plexspaces_node.node.cluster.shared import AGAIN_S, Shared
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry
from plexspaces_node.node.registry.tokens import TokenRecord, token_taken
from plexspaces_node.node.secrets.cipher import Key, Place, SecretUnusable

_PLACE = Place("", TOKEN_KEY, 1)


class SharedTokens:
    """Writes the tokens of a node into the cluster's bucket; a `TokenStore`.

    Attributes:
        shared: what puts them into force here.
    """

    def __init__(
        self, bucket: Bucket, cluster: ClusterToken, tokens: Tokens, *, again_s: float = AGAIN_S
    ) -> None:
        self.shared = Shared(bucket, "tokens", self._apply, again_s=again_s)
        self._seal = Key(cluster.derive("key of token hashes"))
        self._tokens = tokens

    def __repr__(self) -> str:
        return f"<SharedTokens {self._tokens!r}>"

    async def make_key(self) -> None:
        """Agree with the other nodes on the key.

        Raises `Unavailable`, and `WrongState` if what the cluster has cannot be one.
        """
        found = await self.shared.get(TOKEN_KEY)
        if found is None:
            # One that this node has from before is as good as another.
            key = self._tokens.key.read() or os.urandom(KEY_BYTES)
            record = TokenKeyRecord(sealed=self._seal.seal(_PLACE, key))
            try:
                await self.shared.create(TOKEN_KEY, msgspec.json.encode(record))
            except Conflict:
                found = await self.shared.get(TOKEN_KEY)
        if found is None or found.value is None:
            return
        try:
            await self._adopt(found.value)
        except InvalidArgument as error:
            # One that this node has is what there was before somebody spoilt it.
            if not self._tokens.key.exists:
                raise WrongState(
                    f"the cluster's record {TOKEN_KEY!r} is spoilt: {error}",
                    hint="plexspaces nodes",
                ) from error

    async def insert(self, record: TokenRecord) -> None:
        """Add a token; raises `AlreadyExists` and `Unavailable`."""
        try:
            await self.shared.create(token_key(record.tenant, record.name), encode_token(record))
        except Conflict as error:
            raise token_taken(record) from error

    async def replace(self, before: TokenRecord, record: TokenRecord) -> None:
        """Write a token with its new secret; raises `WrongState` if somebody changed it."""
        key = token_key(record.tenant, record.name)
        found = await self.shared.get(key)
        # By what it says: a newer version may have written more.
        if found and found.value and read_token(key, found.value) == replace(before, used_ns=0):
            try:
                await self.shared.update(key, encode_token(record), found.revision)
            except Conflict:
                pass
            else:
                return
        raise WrongState(
            f"the token {record.name!r} was changed at another node at the same time",
            hint="plexspaces token list, and again",
        )

    async def delete(self, record: TokenRecord) -> None:
        """End a token on every node; raises `Unavailable`."""
        await self.shared.delete(token_key(record.tenant, record.name))

    def end_untold(self) -> None:
        """End the tokens that the cluster does not have; once everything was told."""
        known = self._tokens.known.records()
        self.shared.end_untold(token_key(each.tenant, each.name) for each in known)

    async def _apply(self, entry: Entry) -> None:
        if entry.key == TOKEN_KEY:
            # Without it nobody could prove anything: what was made with it stays in force.
            if entry.value is not None:
                await self._adopt(entry.value)
        elif entry.value is None:
            await self._tokens.drop(*token_of_key(entry.key))
        else:
            record = read_token(entry.key, entry.value)
            if not self._tokens.key.exists:
                raise InvalidArgument("there is no key of the tokens' hashes yet")
            await self._tokens.take(record)

    async def _adopt(self, value: bytes) -> None:
        record = read_token_key(value)
        try:
            key = self._seal.unseal(_PLACE, record.sealed)
        except SecretUnusable:
            raise InvalidArgument("it is not encrypted under the cluster's token") from None
        await asyncio.to_thread(self._tokens.key.adopt, key)
