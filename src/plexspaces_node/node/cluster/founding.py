"""What a node brings into a cluster: one that founds it everything, one that joins it nothing.

Tokens, quotas and secrets of two nodes could contradict each other, so a node that has some of its
own cannot join: nothing of it is dropped without a word.
"""

from __future__ import annotations

from contextlib import suppress

from plexspaces_node.cluster_token import ClusterToken
from plexspaces_node.errors import WrongState
from plexspaces_node.node.access.tokens import Tokens
from plexspaces_node.node.cluster.grant_records import (
    encode_quotas,
    encode_secret,
    encode_token,
    quota_key,
    secret_key,
    token_key,
)
from plexspaces_node.node.cluster.shared_secrets import ClusterKey
from plexspaces_node.node.cluster.shared_tokens import SharedTokens
from plexspaces_node.node.nats.bucket import Bucket, Conflict
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.secrets import SecretRow
from plexspaces_node.node.secrets.cipher import Key, Place, SecretUnusable
from plexspaces_node.node.secrets.key import KeySource


async def publish(
    bucket: Bucket, cluster: ClusterToken, registry: Registry, tokens: Tokens, source: KeySource
) -> None:
    """Write what the node that founds a cluster has, before there is a `meta` record.

    May be called again after an error. `source` has the key of its secrets until now. Raises
    `Unavailable`, and `SecretUnusable` if they cannot be decrypted.
    """
    if tokens.key.exists:
        await SharedTokens(bucket, cluster, tokens).make_key()
    records = {
        token_key(each.tenant, each.name): encode_token(each)
        for each in await registry.tokens.load()
    }
    for subject, values in (await registry.quotas.load()).items():
        records[quota_key(subject)] = encode_quotas(values)
    rows = await registry.secrets.rows()
    former, own = source.read() if rows else None, ClusterKey.of(cluster).key
    for row in rows:
        sealed = _sealed_anew(row, former, own)
        records[secret_key(row.tenant, row.name)] = encode_secret(sealed)
    for key, value in records.items():
        # Of the time before.
        with suppress(Conflict):
            await bucket.create(key, value)


async def check_brings_nothing(registry: Registry) -> None:
    """Raise `WrongState` if a node that joins a cluster for the first time has what it shares."""
    have = []
    for what, rows in (
        ("tokens", await registry.tokens.load()),
        ("quotas", await registry.quotas.load()),
        ("secrets", await registry.secrets.rows()),
        ("applications", await registry.list_applications()),
    ):
        if rows:
            have.append(f"{len(rows)} {what}")
    if have:
        raise WrongState(
            f"this node has {', '.join(have)} of its own, and cannot join a cluster with them",
            hint="plexspaces start-node with another --data-dir; or found the cluster with this "
            "node, and let the others join",
        )


def _sealed_anew(row: SecretRow, former: Key | None, own: Key) -> SecretRow:
    if row.key_id == own.id:
        return row
    if former is None or former.id != row.key_id:
        raise SecretUnusable(
            f"the secret {row.name!r} of tenant {row.tenant!r} cannot be given to the cluster: "
            f"its key {row.key_id} is missing",
            hint=f"bring the key back, or: plexspaces secret delete {row.name}",
        )
    place = Place(row.tenant, row.name, row.version)
    sealed = own.seal(place, former.unseal(place, row.sealed))
    return SecretRow(
        row.tenant, row.name, row.version, own.id, sealed, row.created_ns, row.changed_ns
    )
