"""A cluster of one server: how it begins, and how its server starts again while it is alone.

A server in a cluster never elects itself: it waits for another, and the group that leads JetStream
begins with two. So a founder starts a second one for some seconds, its companion, on this host and
without a future: once there is a leader it is taken out of the group, and ends. A server that
starts again alone needs one too, until it has heard of it; that one keeps nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from plexspaces_node.errors import Internal, Unavailable
from plexspaces_node.node.nats import jetstream, streams
from plexspaces_node.node.nats.jetstream import ApiError
from plexspaces_node.node.nats.server import Server, free_port
from plexspaces_node.tasks import cancel

if TYPE_CHECKING:
    from plexspaces_node.node.nats.connection import Connection, Session

_log = logging.getLogger(__name__)

FOUND_S = 25.0
"""How long a cluster may take to be founded; usually 2 to 8 s."""

ATTEMPTS = 3
"""How often it is tried: of some forty one was stuck with a leader that had been taken out."""

REMOVE_S = 15.0

_PAUSE_S = 0.1
_ASK_S = 1.0
_ANSWERS_S = 0.3
_NOT_A_MEMBER = 10044


async def found(
    server: Server, system: Connection, connection: Connection, buckets: tuple[str, ...]
) -> None:
    """Make a lone server a cluster of its own, with these buckets.

    `system` is a connection as its administrator. Raises `Unavailable` if it takes too long; it can
    be tried again then, with nothing of what there was.
    """
    try:
        async with asyncio.timeout(FOUND_S):
            async with companion(server, stores=True) as name:
                await take_out(system, name, leaving=server.files.name)
                # Not before the founder itself knows: it could not lead alone. And nothing is made
                # before the companion has ended, on which it could be.
                await _leads_alone(system, server.files.name)
            for bucket in buckets:
                await made(connection, bucket)
    except TimeoutError:
        raise Unavailable(
            f"the cluster could not be founded within {FOUND_S:g} s",
            hint=f"cat {server.files.log}",
        ) from None


@asynccontextmanager
async def companion(server: Server, *, stores: bool) -> AsyncIterator[str]:
    """Run a second server beside a lone one, and tell its name; it leaves nothing."""
    files = server.files
    directory = files.directory / "companion"
    own = replace(
        files,
        directory=directory,
        name=f"{files.name}.companion",
        host="127.0.0.1",
        route_port=free_port(),
        stores=stores,
    )
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    try:
        async with Server.opened(own, [files.route]):
            yield own.name
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def keep_company(server: Server, connection: Connection) -> None:
    """Help a server that starts again alone, each time, until JetStream answers. Never ends."""
    while True:
        session = await connection.session()
        if not server.routes:
            try:
                await jetstream.level(connection, timeout_s=_ANSWERS_S)
            except Unavailable:
                await _accompany(server, connection, session)
        await session.lost.wait()


async def _accompany(server: Server, connection: Connection, session: Session) -> None:
    answers = asyncio.create_task(jetstream.wait_until_answers(connection))
    is_lost = asyncio.create_task(session.lost.wait())
    try:
        async with companion(server, stores=False):
            await asyncio.wait((answers, is_lost), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(answers, is_lost)


async def take_out(system: Connection, name: str, *, leaving: str) -> None:
    """Take a server out of the group that leads JetStream, so that only another one is left in it.

    Waits for as long as that is not possible: while there is no leader, or the server is not known
    yet. Never ends for a server that never comes: bound it.
    """
    while True:
        await system.session()
        try:
            await jetstream.call(system, "SERVER.REMOVE", {"peer": name}, timeout_s=_ASK_S)
        except (ApiError, Unavailable) as error:
            # A leader that has removed itself may not have said so.
            is_gone = isinstance(error, ApiError) and error.number == _NOT_A_MEMBER
            if is_gone and await _is_leading_alone(system, leaving):
                return
            _log.debug("the server %s cannot be removed yet: %s", name, error)
            await asyncio.sleep(_PAUSE_S)
        else:
            return


async def _leads_alone(system: Connection, name: str) -> None:
    """Wait until a server knows that it leads JetStream, and nobody else is there to do so."""
    while True:
        if await _is_leading_alone(system, name):
            return
        await asyncio.sleep(_PAUSE_S)


async def _is_leading_alone(system: Connection, name: str) -> bool:
    request = jetstream.encode({"server_name": name, "exact_match": True})
    try:
        answer = await system.request("$SYS.REQ.SERVER.PING.JSZ", request, timeout_s=_ASK_S)
        data = jetstream.decode(answer).get("data")
    except (Unavailable, Internal):
        return False
    group = data.get("meta_cluster") if isinstance(data, dict) else None
    if not isinstance(group, dict) or group.get("replicas"):
        return False
    return group.get("leader") == name and group.get("cluster_size") == 1


async def forget(system: Connection, name: str) -> None:
    """Take a server that is gone out of the cluster; does nothing if it is not in it.

    Raises `Unavailable`.
    """
    fault: Exception | None = None
    try:
        async with asyncio.timeout(REMOVE_S):
            while True:
                await system.session()
                try:
                    await jetstream.call(system, "SERVER.REMOVE", {"peer": name}, timeout_s=_ASK_S)
                except ApiError as error:
                    if error.number == _NOT_A_MEMBER:
                        return
                    fault = error
                except Unavailable as error:
                    fault = error
                else:
                    return
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise Unavailable(
            f"the server {name} cannot be taken out of the cluster now: {fault}",
            hint="plexspaces nodes",
        ) from fault


async def made(connection: Connection, bucket: str, *, most_bytes: int = -1) -> int:
    """Wait until there is a bucket, and return how many copies there are; make it if need be."""
    while True:
        await connection.session()
        try:
            return streams.whole_replicas(
                await streams.ensure(connection, bucket, most_bytes=most_bytes)
            )
        except (ApiError, Unavailable) as error:
            _log.debug("the bucket %s cannot be made yet: %s", bucket, error)
            await asyncio.sleep(_PAUSE_S)
