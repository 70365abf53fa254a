"""Writes where applications run, whenever something changes that `placement` decides by."""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

import msgspec

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.cluster.known import Kind
from plexspaces_node.node.cluster.placement import Placement
from plexspaces_node.node.cluster.records import Placed, application_key, placed_key
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket, Entry

_log = logging.getLogger(__name__)

_TOGETHER_S = 0.02
"""What changes within this time is decided together."""

_SLICE = 200
"""So many applications are looked at before others get a turn on the event loop; about 10 ms."""

_AT_ONCE = 32
"""How many records are written at a time."""

_RETRY_S = 0.5
"""How long after a write that failed it is decided anew."""


class Placing:
    """Keeps `placed` records as they should be; only the leader does."""

    def __init__(self, bucket: Bucket, view: ClusterView) -> None:
        """Nothing is kept between two runs."""
        self._bucket = bucket
        self._view = view
        self._placement = Placement()
        self._changed = asyncio.Event()
        self._notes: dict[tuple[Kind, str], None] = {}
        self._alive: dict[str, bool] = {}

    def __repr__(self) -> str:
        return f"<Placing {self._placement}>"

    async def run(self) -> None:
        """Decide and write, until cancelled."""
        self._placement = Placement()
        self._notes.clear()
        self._alive.clear()
        leave = self._view.on_change(self._note)
        try:
            self._note_everything()
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._decide()
                # The first change is decided at once: a deploy waits for that.
                await asyncio.sleep(_TOGETHER_S)
        finally:
            leave()

    def _note_everything(self) -> None:
        for node in self._view.nodes:
            self._note(Kind.NODE, node)
        for name in self._view.applications:
            self._note(Kind.APPLICATION, name)
            if self._view.statuses(name):
                self._note(Kind.STATUS, name)
        for name, _, _ in self._view.all_placed():
            self._note(Kind.PLACED, name)

    def _note(self, kind: Kind, subject: str) -> None:
        if kind is Kind.BEAT:
            if self._alive.get(subject) == self._view.is_alive(subject):
                return
            kind = Kind.NODE
        if kind is not Kind.LEADER:
            self._notes[kind, subject] = None
            self._changed.set()

    async def _decide(self) -> None:
        while True:
            await self._take_notes()
            # Nothing is awaited from here until the revisions are taken: what is written goes by
            # what was decided by.
            changes = self._placement.changes(_SLICE)
            writes = [
                (name, placed, found[1] if (found := self._view.placed(name)) is not None else 0)
                for name, placed in changes.items()
                if not self._view.is_unreadable(application_key(name))
            ]
            failed = await self._write_all(writes)
            if failed:
                await asyncio.sleep(_RETRY_S)
                for name in failed:
                    self._note(Kind.PLACED, name)
            if self._placement.is_at_rest and not self._notes:
                return
            await asyncio.sleep(0)

    async def _take_notes(self) -> None:
        """Tell the placement what has changed."""
        while self._notes:
            for kind, subject in list(islice(self._notes, _SLICE)):
                del self._notes[kind, subject]
                self._take(kind, subject)
            if self._notes:
                await asyncio.sleep(0)

    def _take(self, kind: Kind, subject: str) -> None:
        view = self._view
        if kind is Kind.NODE:
            self._alive[subject] = view.is_alive(subject)
            self._placement.set_node(subject, view.nodes.get(subject), alive=self._alive[subject])
        elif kind is Kind.APPLICATION:
            self._placement.set_application(subject, view.application(subject))
        elif kind is Kind.PLACED:
            found = view.placed(subject)
            self._placement.set_placed(subject, found[0] if found is not None else None)
        elif kind is Kind.STATUS:
            self._placement.set_statuses(subject, view.statuses(subject))

    async def _write_all(self, writes: list[tuple[str, Placed | None, int]]) -> list[str]:
        """Write records, some at a time; return the names of those that may not be written."""
        turn = asyncio.Semaphore(_AT_ONCE)
        failed: list[str] = []

        async def write(name: str, placed: Placed | None, revision: int) -> None:
            async with turn:
                try:
                    await self._write(name, placed, revision)
                except PlexSpacesError as error:
                    _log.debug("placing %s: %s", name, error)
                    failed.append(name)

        await asyncio.gather(*(write(*one) for one in writes))
        return failed

    async def _write(self, name: str, placed: Placed | None, revision: int) -> None:
        key = placed_key(name)
        value = msgspec.json.encode(placed) if placed is not None else None
        if value is None:
            written = await self._bucket.delete(key, revision=revision)
        elif revision:
            written = await self._bucket.update(key, value, revision)
        else:
            written = await self._bucket.create(key, value)
        self._view.wrote(Entry(key, value, written))
