"""The tokens of a node: who may call it, and with which secret.

They are kept in memory and in the registry. Of a secret there is only a keyed hash: whoever reads
the registry, or a backup, learns no secret, and cannot even test a guess without the key, which is
in a file of its own. It is looked up by this hash, so that time tells nothing about others.

A node that has ever had a token is never open again: the key's file says so, and if that is lost
the rows do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import time_ns
from typing import Protocol

from plexspaces_node.errors import (
    InvalidArgument,
    PermissionDenied,
    PlexSpacesError,
    ResourceExhausted,
    WrongState,
)
from plexspaces_node.info import NewSecret, TokenInfo
from plexspaces_node.model import DEFAULT_TENANT, check_name
from plexspaces_node.node.access.identity import ALL, Identity, Scope
from plexspaces_node.node.access.known_tokens import KnownTokens
from plexspaces_node.node.access.policy import may_grant
from plexspaces_node.node.access.token_key import TokenKey
from plexspaces_node.node.registry.tokens import TokenRecord, TokenRows
from plexspaces_node.tasks import finished
from plexspaces_node.token_text import ID_LENGTH, new_secret

_log = logging.getLogger(__name__)

WRITE_USED_S = 60.0
"""Between two writes of when tokens were last used."""

MOST_OF_A_TENANT = 1000
"""How many tokens a tenant may have."""

MOST_LIFETIME_S = 100 * 366 * 24 * 3600
"""The longest life of a token that expires, and the longest grace."""

_PATTERN_LENGTH = 255
_PATTERN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-*?[]!")
_NAMED_IN_A_LINE = 10
_S_NS = 1_000_000_000


class TokenStore(Protocol):
    """Where tokens are written, and from where they come into force. Each call to its end."""

    async def make_key(self) -> None:
        """Make the key of the hashes, if there is none."""

    async def insert(self, record: TokenRecord) -> None:
        """Add a token; raises `AlreadyExists` if its tenant has one of its name."""

    async def replace(self, before: TokenRecord, record: TokenRecord) -> None:
        """Write a token with its new secret, as it was before that."""

    async def delete(self, record: TokenRecord) -> None:
        """End a token, and what streams by it."""


class _OwnTokens:
    """Of a node by itself: a `TokenStore`."""

    def __init__(self, rows: TokenRows, key: TokenKey, known: KnownTokens) -> None:
        self._rows = rows
        self._key = key
        self._known = known

    async def make_key(self) -> None:
        await asyncio.to_thread(self._key.make)

    async def insert(self, record: TokenRecord) -> None:
        await self._rows.insert(record)
        self._known.add(record)

    async def replace(self, before: TokenRecord, record: TokenRecord) -> None:
        await self._rows.replace(record)
        self._known.renew(record)

    async def delete(self, record: TokenRecord) -> None:
        # At once, also if the registry fails.
        self._known.end(record)
        await self._rows.delete(record.tenant, record.name)
        self._known.forget(record)


class Tokens:
    """The tokens of a node. Used on one event loop.

    Attributes:
        known: those that its gate asks.
    """

    def __init__(
        self, rows: TokenRows, key: TokenKey, *, clock: Callable[[], int] = time_ns
    ) -> None:
        """Know no token yet; see `open`."""
        self.known = KnownTokens(key, clock=clock)
        self._rows = rows
        self._key = key
        self._clock = clock
        self._changing = asyncio.Lock()
        self._store: TokenStore = _OwnTokens(rows, key, self.known)

    def __repr__(self) -> str:
        return f"<Tokens {self.known!r}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls, rows: TokenRows, key_file: Path, *, clock: Callable[[], int] = time_ns
    ) -> AsyncIterator[Tokens]:
        """Read the tokens; at the end it is written when they were last used.

        Raises what `TokenRows.load` and `TokenKey` raise: then no node starts.
        """
        tokens = cls(rows, await asyncio.to_thread(TokenKey, key_file), clock=clock)
        await tokens._load()
        writing = asyncio.create_task(tokens._write_used(), name="write when tokens were used")
        try:
            yield tokens
        finally:
            writing.cancel()
            await asyncio.wait({writing})
            with suppress(PlexSpacesError):
                await tokens._write_used_once()

    def share(self, store: TokenStore) -> None:
        """Write them there from now on: the node is one of a cluster. See `take` and `drop`."""
        self._store = store

    @property
    def key(self) -> TokenKey:
        """The key of their hashes."""
        return self._key

    async def take(self, record: TokenRecord) -> None:
        """Put a token into force as it is in the cluster. At once, then it is written."""
        self.known.put(record)
        await self._rows.keep(record)

    async def drop(self, tenant: str, name: str) -> None:
        """End a token that the cluster has no more, and what streams by it, if it is there."""
        self.known.drop(tenant, name)
        await self._rows.delete(tenant, name)

    def exist(self) -> bool:
        """Return whether the node has ever had a token, so that callers say who they are."""
        return self.known.exist()

    def list(self, tenant: str = ALL) -> list[TokenInfo]:
        """Return the tokens of a tenant, `ALL` for every tenant's, by tenant and name."""
        return [self._told(each) for each in self.known.records() if tenant in (ALL, each.tenant)]

    async def create(  # noqa: PLR0913 - what a token allows, each by its name
        self,
        by: Identity,
        name: str,
        *,
        scopes: Iterable[str],
        tenant: str = "",
        applications: str = ALL,
        lifetime_s: int = 0,
    ) -> NewSecret:
        """Create a token for somebody who may, and return it with its secret; once.

        A tenant that is not said is `default`, or all for an admin. The token survives a power
        loss. From the first one on everybody needs one. Raises `InvalidArgument`,
        `PermissionDenied` for a token that may do more than whoever creates it, `AlreadyExists` for
        a name that the tenant has, `ResourceExhausted` if it has too many.
        """
        check_name(name, what="token name")
        if tenant not in ("", ALL):
            check_name(tenant, what="tenant")
        check_pattern(applications)
        _check_time(lifetime_s)
        granted = scopes_of(scopes)
        tenant = tenant or (ALL if Scope.ADMIN in granted else DEFAULT_TENANT)
        if not may_grant(by, granted, tenant, applications):
            raise PermissionDenied(
                f"{by.kind} {by.name!r} cannot create a token that may do more than it may itself",
                hint="plexspaces whoami",
            )
        async with self._changing:
            if sum(each.tenant == tenant for each in self.known.records()) >= MOST_OF_A_TENANT:
                raise ResourceExhausted(
                    f"tenant {tenant!r} has {MOST_OF_A_TENANT} tokens, which is the limit",
                    hint="plexspaces token list, and revoke those that nobody uses",
                )
            is_first = not self.exist()
            await self._store.make_key()
            secret, now_ns = new_secret(), self._clock()
            record = TokenRecord(
                tenant,
                name,
                secret[:ID_LENGTH],
                tuple(sorted(granted)),
                applications,
                created_ns=now_ns,
                expires_ns=now_ns + lifetime_s * _S_NS if lifetime_s else 0,
                hash=self._key.hash(secret.encode()),
                key_check=self._key.check,
            )
            await finished(self._store.insert(record))
        if is_first:
            # What the node has announced at its start is no longer true.
            _log.info(
                "there is a first token: from now on callers need one, except the node's user and "
                "root by its unix sockets"
            )
        return NewSecret(self._told(record), secret)

    async def revoke(self, name: str, *, tenant: str = "") -> None:
        """Remove a token and end what streams by it; from now on it is not valid.

        `tenant` is as in `KnownTokens.find`.

        Raises as `KnownTokens.find` does. If the registry fails it is not valid until the node
        ends: revoke it again.
        """
        async with self._changing:
            record = self.known.find(tenant, name)
            await finished(self._store.delete(record))

    async def rotate(
        self, name: str, *, tenant: str = "", grace_s: int = 0, lifetime_s: int = 0
    ) -> NewSecret:
        """Give a token a new secret and return both; the one before works for `grace_s` seconds.

        `lifetime_s` sets anew when it expires, 0 leaves that; `tenant` is as in `KnownTokens.find`.
        Raises as that does, and `WrongState` for one that has expired.
        """
        _check_time(max(grace_s, lifetime_s))
        async with self._changing:
            before, now_ns = self.known.find(tenant, name), self._clock()
            expires_ns = now_ns + lifetime_s * _S_NS if lifetime_s else before.expires_ns
            if expires_ns and expires_ns <= now_ns:
                raise WrongState(
                    f"the token {name!r} has expired",
                    hint=f"plexspaces token rotate {name} --expires 90d",
                )
            secret = new_secret()
            record = replace(
                before,
                id=secret[:ID_LENGTH],
                expires_ns=expires_ns,
                hash=self._key.hash(secret.encode()),
                key_check=self._key.check,
                previous_hash=before.hash if grace_s else b"",
                previous_until_ns=now_ns + grace_s * _S_NS if grace_s else 0,
            )
            await finished(self._store.replace(before, record))
        return NewSecret(self._told(record), secret)

    def _told(self, record: TokenRecord) -> TokenInfo:
        state = "valid" if record.key_check == self._key.check else "without-secret"
        if record.expires_ns and self._clock() >= record.expires_ns:
            state = "expired"
        return TokenInfo(
            name=record.name,
            tenant=record.tenant,
            scopes=record.scopes,
            applications=record.applications,
            id=record.id,
            created_unix_ns=record.created_ns,
            expires_unix_ns=record.expires_ns,
            last_used_unix_ns=record.used_ns,
            state=state,
        )

    async def _load(self) -> None:
        records = await self._rows.load()
        if records:
            # Otherwise whoever removes the key's file would open the node.
            await asyncio.to_thread(self._key.make)
        for record in records:
            self.known.add(record)
        lost = [each.name for each in records if each.key_check != self._key.check]
        if lost:
            _log.warning(
                "%d tokens have no secret here, as after restoring a backup (%s): give them new "
                "ones with plexspaces token rotate NAME",
                *(len(lost), ", ".join(lost[:_NAMED_IN_A_LINE])),
            )

    async def _write_used(self) -> None:
        while True:
            await asyncio.sleep(WRITE_USED_S)
            try:
                await self._write_used_once()
            except PlexSpacesError as error:
                _log.warning("when tokens were used is not written for now: %s", error)

    async def _write_used_once(self) -> None:
        if used := self.known.take_used():
            await self._rows.write_used(used)


def scopes_of(texts: Iterable[str]) -> frozenset[Scope]:
    """Return scopes by their names; raises `InvalidArgument` for none, and for one that is none."""
    known = {each.value: each for each in Scope}
    given = tuple(texts)
    hint = f"choose from {', '.join(Scope)}"
    for text in given:
        if text not in known:
            raise InvalidArgument(f"there is no scope {text[:32]!r}", hint=hint)
    if not given:
        raise InvalidArgument("a token without a scope allows nothing", hint=hint)
    return frozenset(known[text] for text in given)


def check_pattern(applications: str) -> None:
    """Raise `InvalidArgument` for what is no pattern of applications' names."""
    if not 0 < len(applications) <= _PATTERN_LENGTH or set(applications) - _PATTERN:
        raise InvalidArgument(
            f"{applications[:64]!r} is no pattern of applications' names",
            hint="for example --application 'cart-*', without the tenant",
        )


def _check_time(seconds: int) -> None:
    if seconds > MOST_LIFETIME_S:
        raise InvalidArgument(
            f"{seconds} seconds is too long for a token", hint="omit it for one that never expires"
        )
