"""The tokens of a node that does not run, in its data directory: how its owner gets a first one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from plexspaces_node.errors import WrongState, quoted
from plexspaces_node.info import NewSecret, TokenInfo
from plexspaces_node.node.access.identity import ALL, LOCAL
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.registry.registry import Registry


class StoppedNode:
    """The tokens of a node that does not run; with the same calls as `NodeClient`."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    @classmethod
    @asynccontextmanager
    async def open(cls, data_dir: Path, node_id: str) -> AsyncIterator[StoppedNode]:
        """Hold the data directory meanwhile, and make it if there is none.

        It stays once there is a token. Raises what `DataDirectory.open` and `Registry.open` do, and
        `WrongState` while a backup is being restored into it, and for a node of a cluster.
        """
        with DataDirectory.open(data_dir, node_id) as data:
            if data.unfinished.exists():
                raise WrongState(
                    f"a backup was not completely restored into {data.path}",
                    hint=f"plexspaces restore BACKUP --data-dir {quoted(data.path)}",
                )
            async with (
                Registry.open(data.registry) as registry,
                Tokens.open(registry.tokens, data.token_key) as tokens,
            ):
                if not await registry.cluster.is_empty():
                    raise WrongState(
                        f"{data.path} is of a node of a cluster, which shares its tokens",
                        hint="start the node, and do it then",
                    )
                yield cls(tokens)
                if tokens.exist():
                    data.keep()

    async def create_token(
        self,
        name: str,
        *,
        scopes: Iterable[str],
        tenant: str = "",
        applications: str = ALL,
        lifetime_s: int = 0,
    ) -> NewSecret:
        return await self._tokens.create(
            LOCAL,
            name,
            scopes=scopes,
            tenant=tenant,
            applications=applications,
            lifetime_s=lifetime_s,
        )

    async def list_tokens(self, *, tenant: str = "") -> tuple[TokenInfo, ...]:
        return tuple(self._tokens.list(tenant or ALL))

    async def revoke_token(self, name: str, *, tenant: str = "") -> None:
        await self._tokens.revoke(name, tenant=tenant)

    async def rotate_token(
        self, name: str, *, tenant: str = "", grace_s: int = 0, lifetime_s: int = 0
    ) -> NewSecret:
        return await self._tokens.rotate(
            name, tenant=tenant, grace_s=grace_s, lifetime_s=lifetime_s
        )
