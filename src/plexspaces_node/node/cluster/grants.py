"""The tokens, quotas and secrets of a node that is one of a cluster, put together.

Used so: `Grants` is made when the node's own are open, before its ports are; `follow` is told to
the view, before that is loaded; `run` runs while the node does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.applications.quota_upkeep import QuotaUpkeep
from plexspaces_node.node.cluster.grant_records import QUOTAS, SECRETS, TOKEN_KEY, TOKENS
from plexspaces_node.node.cluster.shared_quotas import SharedQuotas
from plexspaces_node.node.cluster.shared_secrets import ClusterKey, Restart, SharedSecrets, Users
from plexspaces_node.node.cluster.shared_tokens import SharedTokens
from plexspaces_node.node.nats.bucket import Bucket, Change, Entry, Synced
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.secrets.secrets import Secrets


class Follows(Protocol):
    """What tells the records of the cluster: a `ClusterView`."""

    def follow(self, prefix: str, call: Callable[[Entry], None]) -> None:
        """Call something with each record below a prefix."""


def _nobody(_tenant: str) -> Mapping[str, tuple[str, ...]]:
    return {}


class Grants:
    """What users are granted in a cluster. Used on one event loop."""

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        bucket: Bucket,
        cluster: ClusterToken,
        node: str,
        *,
        registry: Registry,
        tokens: Tokens,
        secrets: Secrets,
        quotas: QuotaUpkeep,
        restart: Restart,
        users: Users = _nobody,
    ) -> None:
        """From now on the node's own services write into the bucket.

        `restart` restarts what runs here and uses a secret: `SecretUsers.restart`. `users` tells
        who uses a tenant's secrets anywhere.
        """
        self._registry = registry
        self._tokens = SharedTokens(bucket, cluster, tokens)
        self._quotas = SharedQuotas(bucket, registry.quotas, quotas)
        self._secrets = SharedSecrets(
            bucket, registry.secrets, node=node, restart=restart, users=users
        )
        tokens.share(self._tokens)
        quotas.share(self._quotas)
        secrets.share(self._secrets, ClusterKey.of(cluster))

    def __repr__(self) -> str:
        return f"<Grants {self._tokens!r} {self._quotas!r} {self._secrets!r}>"

    def follow(self, view: Follows) -> None:
        """Put into force what a view tells."""
        view.follow(TOKEN_KEY, self.note)
        for prefix in (TOKENS, QUOTAS, SECRETS):
            view.follow(prefix, self.note)

    def note(self, change: Change) -> None:
        """Take what a watch tells, other records too; returns at once. `SYNCED` is not needed."""
        if isinstance(change, Synced):
            return
        if change.key == TOKEN_KEY or change.key.startswith(TOKENS):
            self._tokens.shared.note(change)
        elif change.key.startswith(QUOTAS):
            self._quotas.shared.note(change)
        elif change.key.startswith(SECRETS):
            self._secrets.shared.note(change)

    async def end_untold(self) -> None:
        """End what the cluster does not have, once everything was told: the view is synced."""
        self._tokens.end_untold()
        self._quotas.end_untold(await self._registry.quotas.load())
        await self._secrets.end_untold()

    async def run(self) -> None:
        """Put into force what was told; it never ends."""
        async with asyncio.TaskGroup() as group:
            for each in (self._tokens, self._quotas, self._secrets):
                group.create_task(each.shared.run(), name=f"put into force {each!r}")
