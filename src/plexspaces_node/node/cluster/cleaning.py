"""Removes what nobody needs any more: deploys whose node ended, and what nodes said of the past."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping

import msgspec

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.model import ApplicationState
from plexspaces_node.node.cluster.known import Kind, everywhere
from plexspaces_node.node.cluster.records import (
    GONE,
    Application,
    Status,
    application_key,
    status_key,
)
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry

_log = logging.getLogger(__name__)

_TOGETHER_S = 0.2
"""What changes within this time is looked at together: nobody waits for it."""

_RETRY_S = 1.0
_TURN = 200


class Cleaning:
    """Keeps the registry free of leftovers; only the leader does."""

    def __init__(self, bucket: Bucket, view: ClusterView) -> None:
        """Nothing is kept between two runs."""
        self._bucket = bucket
        self._view = view
        self._changed = asyncio.Event()
        self._names: dict[str, None] = {}
        self._deploying: dict[str, str] = {}
        self._incarnations: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Cleaning {len(self._names)} names>"

    async def run(self) -> None:
        """Remove what is left over, until cancelled."""
        self._names.clear()
        self._deploying.clear()
        self._incarnations.clear()
        leave = self._view.on_change(self._note)
        try:
            for name in (*self._view.applications, *self._view.names_with_status()):
                self._note(Kind.APPLICATION, name)
            for node in self._view.nodes:
                self._note(Kind.BEAT, node)
            while True:
                await self._changed.wait()
                await asyncio.sleep(_TOGETHER_S)
                self._changed.clear()
                await self._clean()
        finally:
            leave()

    def _note(self, kind: Kind, subject: str) -> None:
        if kind is Kind.APPLICATION:
            found = self._view.application(subject)
            if found is not None and found.deploying:
                self._deploying[subject] = found.deploying
            else:
                self._deploying.pop(subject, None)
        if kind in (Kind.APPLICATION, Kind.PLACED, Kind.STATUS):
            self._names[subject] = None
            self._changed.set()
        elif kind in (Kind.NODE, Kind.BEAT):
            self._note_node(subject)

    def _note_node(self, node: str) -> None:
        """Look again at what depends on a node that has ended, or begun anew."""
        if not self._view.is_alive(node):
            if node in self._incarnations:
                del self._incarnations[node]
            if node not in self._view.nodes:
                self._names.update(dict.fromkeys(self._view.names_with_status(node)))
            self._names.update({name: None for name, by in self._deploying.items() if by == node})
            self._changed.set()
            return
        beat = self._view.beat(node)
        assert beat is not None
        former = self._incarnations.get(node)
        self._incarnations[node] = beat[0].incarnation
        if former not in (None, beat[0].incarnation):
            for name, by in self._deploying.items():
                if by == node and self._view.application_revision(name) < beat[1]:
                    self._names[name] = None
                    # As if by a node that is no more.
                    self._deploying[name] = ""
            self._changed.set()

    async def _clean(self) -> None:
        names, self._names = self._names, {}
        for count, name in enumerate(names):
            try:
                await self._clean_one(name)
            except Conflict:
                # Somebody has changed it since; that is told in a moment, and looked at then.
                pass
            except PlexSpacesError as error:
                _log.debug("cleaning up after %s: %s", name, error)
                await asyncio.sleep(_RETRY_S)
                self._names[name] = None
                self._changed.set()
            if count % _TURN == 0:
                await asyncio.sleep(0)

    async def _clean_one(self, name: str) -> None:
        node = self._deploying.get(name)
        if node is not None and not self._view.is_alive(node):
            await undo_deploy(self._bucket, self._view, name)
        for by, revision in list(self._left_over(name)):
            key = status_key(by, name)
            self._view.wrote(Entry(key, None, await self._bucket.delete(key, revision=revision)))

    def _left_over(self, name: str) -> Iterator[tuple[str, int]]:
        """Yield whose statuses of an application say nothing that counts, with their revision."""
        view = self._view
        is_gone = view.application(name) is None and not view.is_unreadable(application_key(name))
        found = view.placed(name)
        there = everywhere(found[0]) if found is not None else ()
        statuses = view.statuses(name)
        for node, status in statuses.items():
            if node not in view.nodes:
                is_left = True
            elif is_gone:
                is_left = status.state == GONE or not view.is_alive(node)
            else:
                # The next owner waits for it until it serves.
                is_left = node not in there and status.state == GONE and _is_served(statuses)
            if is_left:
                yield node, view.status_revision(node, name)


async def undo_deploy(bucket: Bucket, view: ClusterView, name: str) -> None:
    """Put back what was there before a deploy that will not be finished: an application or nothing.

    Does nothing if there is none. Raises `Conflict` if the record has changed, and `Unavailable`.
    """
    found = view.application(name)
    if found is None or not found.deploying:
        return
    key, revision = application_key(name), view.application_revision(name)
    value: bytes | None = None
    if found.before:
        value = msgspec.json.encode(_former(found))
        written = await bucket.update(key, value, revision)
    else:
        written = await bucket.delete(key, revision=revision)
    _log.warning("the deploy of %s is undone: node %s ended in it", name, found.deploying)
    view.wrote(Entry(key, value, written))


async def undo_own_deploys(bucket: Bucket, view: ClusterView, node: str, revision: int) -> None:
    """Undo the deploys of this node's former starts, which nobody waits for.

    `revision` is that of the first beat since this start. Raises `Unavailable`.
    """
    names = [name for name, one in view.applications.items() if one.deploying == node]
    for name in names:
        if view.application_revision(name) < revision:
            try:
                await undo_deploy(bucket, view, name)
            except Conflict:
                # Somebody else, the leader, was faster.
                continue


def _former(found: Application) -> Application:
    """Return what ran before; what is there now if that cannot be read."""
    try:
        former = msgspec.json.decode(found.before, type=Application)
    except msgspec.MsgspecError:
        former = found
    return msgspec.structs.replace(
        former, name=found.name, generation=found.generation + 1, deploying="", before=b""
    )


def _is_served(statuses: Mapping[str, Status]) -> bool:
    return any(status.state == ApplicationState.RUNNING for status in statuses.values())
