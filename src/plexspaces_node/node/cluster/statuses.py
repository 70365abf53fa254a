"""What this node tells the others about applications that are placed on it."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.cluster.desired import encode
from plexspaces_node.node.cluster.records import Status, status_key
from plexspaces_node.node.cluster.view import ClusterView, parse_key
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry
from plexspaces_node.tasks import cancel

AGAIN_S = 1.0
"""After a write that failed."""

_log = logging.getLogger(__name__)


class Statuses:
    """The statuses of one node, which alone writes them. Used on one event loop."""

    def __init__(self, node: str, bucket: Bucket, view: ClusterView) -> None:
        """Know nothing yet; see `load`."""
        self._node = node
        self._bucket = bucket
        self._view = view
        self._written: dict[str, tuple[Status, int]] = {}
        self._reported: dict[str, Status] = {}
        self._reporting: dict[str, asyncio.Task[None]] = {}
        self._locks = NameLocks()

    def __repr__(self) -> str:
        return f"<Statuses of {self._node}: {len(self._written)}>"

    async def load(self) -> None:
        """Read what this node has told before it ended; raises `Unavailable`."""
        for entry in await self._bucket.entries(f"status.{self._node}."):
            if (status := _decoded(entry)) is not None:
                self._written[_name_of(entry.key)] = status, entry.revision

    def names(self) -> frozenset[str]:
        """Return the applications about which something is told."""
        return frozenset(self._written)

    def of(self, name: str) -> Status | None:
        """Return what is told about an application."""
        found = self._written.get(name)
        return found[0] if found is not None else None

    async def write(self, name: str, status: Status | None) -> None:
        """Tell something, or nothing any more; returns when it is told. Raises `Unavailable`.

        Whatever was reported before is not told any more.
        """
        self._reported.pop(name, None)
        async with self._locks.held(name):
            await self._write(name, status)

    def report(self, name: str, status: Status) -> None:
        """Tell something soon, and again until it is told or something newer is."""
        self._reported[name] = status
        if name not in self._reporting:
            task = asyncio.get_running_loop().create_task(self._report(name))
            self._reporting[name] = task
            task.add_done_callback(lambda _: self._reporting.pop(name, None))

    async def aclose(self) -> None:
        """Tell nothing any more."""
        await cancel(*self._reporting.values())

    async def _report(self, name: str) -> None:
        while (status := self._reported.get(name)) is not None:
            async with self._locks.held(name):
                if self._reported.get(name) is not status:
                    continue
                try:
                    await self._write(name, status)
                except PlexSpacesError as error:
                    _log.info("what %s does is not told yet: %s", name, error)
                else:
                    if self._reported.get(name) is status:
                        del self._reported[name]
                    continue
            await asyncio.sleep(AGAIN_S)

    async def _write(self, name: str, status: Status | None) -> None:
        known, revision = self._written.get(name, (None, 0))
        if known == status:
            return
        key = status_key(self._node, name)
        while True:
            try:
                if status is None:
                    written = await self._bucket.delete(key, revision=revision)
                elif revision:
                    written = await self._bucket.update(key, encode(status), revision)
                else:
                    written = await self._bucket.create(key, encode(status))
            except Conflict:
                # A write before whose answer was lost.
                found = await self._bucket.get(key)
                revision = found.revision if found is not None else 0
                if found is None and status is None:
                    self._written.pop(name, None)
                    return
                continue
            break
        if status is None:
            self._written.pop(name, None)
        else:
            self._written[name] = status, written
        self._view.wrote(Entry(key, None if status is None else encode(status), written))


def _decoded(entry: Entry) -> Status | None:
    try:
        return msgspec.json.decode(entry.value or b"", type=Status)
    except msgspec.MsgspecError:
        return None


def _name_of(key: str) -> str:
    parsed = parse_key(key)
    return parsed[1].partition("/")[2] if parsed is not None else ""
