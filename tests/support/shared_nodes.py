"""Nodes of a cluster, as far as they share tokens, quotas and secrets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.buckets import View

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.applications.quota_upkeep import QuotaUpkeep
from plexspaces_node.node.applications.quotas import Quotas
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.cluster.grants import Grants
from plexspaces_node.node.nats.bucket import Synced
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.secrets.key import KeyFile
from plexspaces_node.node.secrets.secrets import Secrets
from plexspaces_node.tasks import cancel

CLUSTER = ClusterToken(b"c" * 32)
NODE_S = 20
"""How long something may take that takes no time."""


class Sharing:
    """A node that shares with others.

    Attributes:
        restarted: the secrets of which it has restarted the users.
        synced: it has heard of everything.
    """

    def __init__(self, directory: Path, registry: Registry, tokens: Tokens) -> None:
        self.registry = registry
        self.tokens = tokens
        self.quotas = Quotas()
        node: Any = SimpleNamespace(quotas=self.quotas, registry=registry)
        self.upkeep = QuotaUpkeep(node, Roster())
        self.secrets = Secrets(registry.secrets, KeyFile(directory / "key", directory / "data"))
        self.restarted: list[tuple[str, str]] = []
        self.synced = asyncio.Event()
        self.grants: Grants | None = None
        self.users: dict[str, tuple[str, ...]] = {}

    async def restart(self, tenant: str, name: str) -> None:
        self.restarted.append((tenant, name))

    def share(self, node: str, view: View, cluster: ClusterToken = CLUSTER) -> Grants:
        self.grants = Grants(
            view,
            cluster,
            node,
            registry=self.registry,
            tokens=self.tokens,
            secrets=self.secrets,
            quotas=self.upkeep,
            restart=self.restart,
            users=lambda _: self.users,
        )
        return self.grants

    async def follow(self, view: View) -> None:
        assert self.grants is not None
        async for change in view.watch(""):
            self.grants.note(change)
            if isinstance(change, Synced) and not self.synced.is_set():
                await self.grants.end_untold()
                self.synced.set()


@asynccontextmanager
async def alone(directory: Path) -> AsyncIterator[Sharing]:
    """A node by itself."""
    directory.mkdir(exist_ok=True)
    async with (
        Registry.open(directory / "registry.db") as registry,
        Tokens.open(registry.tokens, directory / "tokens.key") as tokens,
    ):
        yield Sharing(directory, registry, tokens)


@asynccontextmanager
async def sharing(
    directory: Path, view: View, cluster: ClusterToken = CLUSTER
) -> AsyncIterator[Sharing]:
    """A node of a cluster, that has heard of everything unless it is cut off."""
    async with alone(directory) as node:
        grants = node.share(directory.name, view, cluster)
        tasks = [asyncio.create_task(grants.run()), asyncio.create_task(node.follow(view))]
        try:
            if not view.is_cut:
                await node.synced.wait()
            yield node
        finally:
            await cancel(*tasks)


async def until(what: Any, wanted: Any = True) -> None:
    """Wait until a function, which may be asynchronous, returns a value."""
    async with asyncio.timeout(NODE_S):
        while True:
            found = what()
            if asyncio.iscoroutine(found):
                found = await found
            if found == wanted:
                return
            await asyncio.sleep(0.001)
