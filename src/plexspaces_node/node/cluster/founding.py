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
from plexspaces_node.node.cluster.mirror import decoded
from plexspaces_node.node.cluster.records import Application, application_key
from plexspaces_node.node.cluster.shared_secrets import ClusterKey
from plexspaces_node.node.cluster.shared_tokens import SharedTokens
from plexspaces_node.node.nats.bucket import Bucket, Conflict
from plexspaces_node.node.registry.registry import ApplicationRecord, Registry
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


async def check_brings_nothing(registry: Registry, bucket: Bucket | None = None) -> None:
    """Raise `WrongState` if a node that joins a cluster for the first time has what it shares.

    With `bucket` not for what the cluster has already, as from a start that was broken off. Raises
    `Unavailable` then.
    """
    have = {
        "tokens": [token_key(one.tenant, one.name) for one in await registry.tokens.load()],
        "quotas": [quota_key(one) for one in await registry.quotas.load()],
        "secrets": [secret_key(one.tenant, one.name) for one in await registry.secrets.rows()],
    }
    for what, keys in have.items():
        for key in tuple(keys):
            if bucket is not None and await bucket.get(key) is not None:
                have[what].remove(key)
    have["applications"] = [
        one.name
        for one in await registry.list_applications()
        if bucket is None or not await _has(bucket, one)
    ]
    if told := [f"{len(keys)} {what}" for what, keys in have.items() if keys]:
        raise WrongState(
            f"this node has {', '.join(told)} of its own, and cannot join a cluster with them",
            hint="plexspaces start-node with another --data-dir; or found the cluster with this "
            "node, and let the others join",
        )


async def _has(bucket: Bucket, record: ApplicationRecord) -> bool:
    """Return whether a cluster has this very application, and not only one of its name."""
    found = await bucket.get(application_key(record.name))
    known = decoded(found.value, Application) if found is not None else None
    return known is not None and known.id == record.id


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
