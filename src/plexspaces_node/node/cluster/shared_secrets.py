"""The secrets of a cluster: set at any node, and used on all of them.

They are encrypted under a key that follows from the cluster's token, for tenant, name and version.
A node that hears of a new version restarts what it runs that uses it, if the user wants that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import InvalidArgument, Unavailable
from plexspaces_node.info import SecretInfo
from plexspaces_node.node.cluster.grant_records import (
    encode_secret,
    read_secret,
    secret_key,
    secret_of_key,
)
from plexspaces_node.node.cluster.shared import AGAIN_S, Shared
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry
from plexspaces_node.node.registry.secrets import (
    MOST_SECRETS,
    Seal,
    SealedSecret,
    SecretRow,
    SecretRows,
    no_secret,
    secret_used,
    too_many_secrets,
)
from plexspaces_node.node.secrets.cipher import Key

_TRIES = 10

Restart = Callable[[str, str], Awaitable[object]]
"""Restarts what runs here and uses a secret of a tenant."""

Users = Callable[[str], Mapping[str, tuple[str, ...]]]
"""Returns the applications of the whole cluster that use a tenant's secrets, by secret."""


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """The key of the secrets, which follows from the cluster's token; a `KeySource`."""

    key: Key

    @classmethod
    def of(cls, cluster: ClusterToken) -> ClusterKey:
        """Return that of a cluster."""
        return cls(Key(cluster.derive("secrets")))

    @property
    def place(self) -> str:
        return "the token of the cluster"

    def read(self) -> Key | None:
        return self.key

    def make(self) -> Key:
        return self.key


class SharedSecrets:
    """Writes the secrets of a node into the cluster's bucket; a `SecretStore`.

    Attributes:
        shared: what puts them into force here.
    """

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        bucket: Bucket,
        rows: SecretRows,
        *,
        node: str,
        restart: Restart,
        users: Users = lambda _: {},
        again_s: float = AGAIN_S,
    ) -> None:
        self.shared = Shared(bucket, "secrets", self._apply, again_s=again_s)
        self._rows = rows
        self._node = node
        self._restart = restart
        self._users = users
        self._restarting: set[asyncio.Task[object]] = set()

    def __repr__(self) -> str:
        return f"<SharedSecrets {self.shared!r}>"

    async def put(
        self, tenant: str, name: str, now_ns: int, seal: Seal, *, restart: bool = False
    ) -> int:
        """Store the next version, and return its number; raises `Unavailable`.

        `restart` restarts its users on other nodes, when they hear of it.
        """
        key = secret_key(tenant, name)
        for _ in range(_TRIES):
            found = await self.shared.get(key)
            if found is None:
                await self._check_room(tenant)
            before = _read(key, found)
            version = 1 if before is None else before.version + 1
            created_ns = now_ns if before is None else before.created_ns
            row = SecretRow(tenant, name, version, *seal(version), created_ns, now_ns)
            value = encode_secret(row, restart=restart, by=self._node)
            try:
                if found is None:
                    await self.shared.create(key, value)
                else:
                    await self.shared.update(key, value, found.revision)
            except Conflict:
                continue
            return version
        raise Unavailable(
            f"the secret {name!r} is being set at other nodes",
            hint=f"plexspaces secret list --tenant {tenant}, and again",
        )

    async def get(self, tenant: str, names: Iterable[str]) -> dict[str, SealedSecret]:
        """Return those of a tenant's secrets that exist, by name, as far as this node knows."""
        return await self._rows.get(tenant, names)

    async def list(self, tenant: str | None) -> list[SecretInfo]:
        """Return the secrets of a tenant by name, or of all, with their users on all nodes."""
        return [
            replace(one, used_by=self._used_by(one.tenant, one.name, one.used_by))
            for one in await self._rows.list(tenant)
        ]

    async def delete(self, tenant: str, name: str, *, force: bool) -> tuple[str, ...]:
        """Remove a secret from every node, and return the applications that use it.

        Raises `NotFound`, `Unavailable`, and `WrongState` if an application uses it, unless
        `force`.
        """
        here = {one.name: one.used_by for one in await self._rows.list(tenant)}
        users = self._used_by(tenant, name, here.get(name, ()))
        if users and not force:
            raise secret_used(name, users)
        key = secret_key(tenant, name)
        if await self.shared.get(key) is None:
            raise no_secret(tenant, name)
        await self.shared.delete(key)
        return users

    async def key_ids(self) -> frozenset[str]:
        """Return the ids of the keys with which the secrets are sealed."""
        return await self._rows.key_ids()

    async def end_untold(self) -> None:
        """Remove the secrets that the cluster does not have; once everything was told."""
        rows = await self._rows.rows()
        self.shared.end_untold(secret_key(one.tenant, one.name) for one in rows)

    async def aclose(self) -> None:
        """Wait until nothing is being restarted any more."""
        await asyncio.gather(*self._restarting, return_exceptions=True)

    def _used_by(self, tenant: str, name: str, here: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted({*here, *self._users(tenant).get(name, ())}))

    async def _check_room(self, tenant: str) -> None:
        count = len(await self._rows.list(tenant))
        if count >= MOST_SECRETS:
            raise too_many_secrets(tenant, count)

    async def _apply(self, entry: Entry) -> None:
        tenant, name = secret_of_key(entry.key)
        if entry.value is None:
            await self._rows.drop(tenant, name)
            return
        row, told = read_secret(entry.key, entry.value)
        before = (await self._rows.get(tenant, [name])).get(name)
        if before is not None and (before.version, before.sealed) == (row.version, row.sealed):
            return
        await self._rows.keep(row)
        if told.restart and told.by != self._node and before is not None:
            # Not here: an application that ends slowly would hold up what comes behind.
            restarting = asyncio.ensure_future(self._restart(tenant, name))
            self._restarting.add(restarting)
            restarting.add_done_callback(self._restarted)

    def _restarted(self, task: asyncio.Task[object]) -> None:
        self._restarting.discard(task)
        if not task.cancelled():
            # What could not be restarted, `SecretUsers` has said.
            task.exception()


def _read(key: str, found: Entry | None) -> SecretRow | None:
    """Return the secret in a record; None for one that is replaced because it is none."""
    if found is None or found.value is None:
        return None
    try:
        return read_secret(key, found.value)[0]
    except InvalidArgument:
        return None
