"""The streams that are buckets: their configuration, made if they are not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.node.nats import jetstream
from plexspaces_node.node.nats.jetstream import ApiError

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Connection

_KEY = re.compile(r"[-_=/A-Za-z0-9]+(?:\.[-_=/A-Za-z0-9]+)*")
_PREFIX = re.compile(r"(?:[-_=/A-Za-z0-9]+\.)*")

_INFO_S = 1.0


def stream_name(bucket: str) -> str:
    """Return the name of a bucket's stream, as NATS's own tools expect it."""
    return f"KV_{bucket}"


def subject(bucket: str, key: str) -> str:
    """Return the subject of a key."""
    return f"$KV.{bucket}.{key}"


def key_subject(bucket: str, key: str) -> str:
    """Return the subject of a key; raises `InvalidArgument` for what is none."""
    if not _KEY.fullmatch(key):
        raise InvalidArgument(f"{key!r} is no key of a bucket")
    return subject(bucket, key)


def prefix_subject(bucket: str, prefix: str) -> str:
    """Return the subject of all keys below a prefix; raises `InvalidArgument` for what is none."""
    if not _PREFIX.fullmatch(prefix):
        raise InvalidArgument(f"{prefix!r} is no prefix of keys")
    return subject(bucket, f"{prefix}>")


def barrier_subject(bucket: str, name: str) -> str:
    """Return the subject of what a reader writes, to know what it reads is not older."""
    return f"$PLEXSPACES.{bucket}.{name}"


def configuration(bucket: str, *, replicas: int, most_bytes: int = -1) -> dict[str, Any]:
    """Return what a bucket's stream is like; as `nats kv add` makes it, and a few things more."""
    return {
        "name": stream_name(bucket),
        "subjects": [subject(bucket, ">"), barrier_subject(bucket, "*")],
        "retention": "limits",
        "storage": "file",
        # Refused and not removed: a full bucket must not lose what it has.
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_bytes": most_bytes,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msg_size": -1,
        "max_age": 0,
        "num_replicas": replicas,
        "deny_delete": True,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "duplicate_window": 120_000_000_000,
    }


async def ensure(connection: Connection, bucket: str, *, most_bytes: int = -1) -> dict[str, Any]:
    """Return the information of a bucket's stream; make it, with one replica, if it is not there.

    Raises `ApiError`, and `Unavailable` while NATS cannot answer.
    """
    try:
        return await info(connection, bucket)
    except ApiError as error:
        if error.number != jetstream.STREAM_NOT_FOUND:
            raise
    wanted = configuration(bucket, replicas=1, most_bytes=most_bytes)
    method = f"STREAM.CREATE.{stream_name(bucket)}"
    try:
        return await jetstream.call(connection, method, wanted)
    except ApiError as error:
        if error.number != jetstream.NAME_IN_USE:
            raise
    return await info(connection, bucket)


async def info(connection: Connection, bucket: str) -> dict[str, Any]:
    """Return what JetStream says about a bucket's stream. Raises `ApiError`, `Unavailable`."""
    return await jetstream.call(connection, f"STREAM.INFO.{stream_name(bucket)}", timeout_s=_INFO_S)


def wanted_replicas(information: dict[str, Any]) -> int:
    """Return how many copies of a stream there shall be."""
    config = information.get("config")
    return int(config.get("num_replicas") or 0) if isinstance(config, dict) else 0


def leader(information: dict[str, Any]) -> str:
    """Return the name of the server that leads a stream, "" while none does."""
    cluster = information.get("cluster")
    return str(cluster.get("leader") or "") if isinstance(cluster, dict) else ""


def is_whole_follower(information: dict[str, Any], server: str) -> bool:
    """Return whether a server has a whole copy of a stream that another one leads."""
    cluster = information.get("cluster")
    found = cluster.get("replicas") if isinstance(cluster, dict) else None
    return isinstance(found, list) and any(
        isinstance(one, dict)
        and one.get("name") == server
        and bool(one.get("current"))
        and not one.get("offline")
        for one in found
    )


async def hand_over(connection: Connection, bucket: str, server: str) -> None:
    """Have another server lead a bucket's stream. Raises `ApiError` and `Unavailable`."""
    await jetstream.call(
        connection,
        f"STREAM.LEADER.STEPDOWN.{stream_name(bucket)}",
        {"placement": {"preferred": server}},
    )


def whole_replicas(information: dict[str, Any]) -> int:
    """Return how many copies there are that have everything, 0 while nobody leads them."""
    cluster = information.get("cluster")
    if not isinstance(cluster, dict):
        return 1
    if not cluster.get("leader"):
        return 0
    others = cluster.get("replicas") or []
    return 1 + sum(bool(one.get("current")) and not one.get("offline") for one in others)


async def set_replicas(connection: Connection, information: dict[str, Any], wanted: int) -> None:
    """Keep as many copies of a stream as wanted. Raises `ApiError`, `Unavailable`."""
    config = {**information["config"], "num_replicas": wanted}
    await jetstream.call(connection, f"STREAM.UPDATE.{config['name']}", config)
