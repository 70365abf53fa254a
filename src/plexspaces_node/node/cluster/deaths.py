"""Which nodes are dead: those whose beat has not changed for longer than it lets them serve.

While the bucket elects a leader, nobody can beat. Nobody is declared dead for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.cluster.known import Kind
from plexspaces_node.node.cluster.lease import DRIFT_S, LEASE_S, boot_time_s
from plexspaces_node.node.cluster.records import beat_key
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket, Conflict, Entry

_log = logging.getLogger(__name__)

_TICK_S = 0.25
"""How often beats are looked at."""

QUIET_S = 2.5
"""If no node at all was heard for so long, it was the bucket that did not answer."""

RESUMED_S = 0.9
"""How long nodes have to beat again when it does: each tries again after 0.7 s at the latest."""


class Deaths:
    """Declares nodes dead. Listens from the start, so that a new leader knows who is silent."""

    def __init__(
        self, bucket: Bucket, view: ClusterView, clock: Callable[[], float] = boot_time_s
    ) -> None:
        """To be made before the view runs."""
        self._bucket = bucket
        self._view = view
        self._clock = clock
        self._heard_s: dict[str, float] = {}
        # When any node was heard last, and when the bucket answered again after an outage.
        self._last_s = self._resumed_s = clock()
        view.on_change(self._changed)

    def __repr__(self) -> str:
        return f"<Deaths of {len(self._heard_s)} nodes>"

    async def run(self) -> None:
        """Declare nodes dead that are silent, until cancelled; only the leader does."""
        while True:
            now_s = self._clock()
            has_answered = now_s - self._last_s < QUIET_S
            may_declare = has_answered and now_s - self._resumed_s >= RESUMED_S
            silent = [
                node
                for node, heard_s in self._heard_s.items()
                if may_declare and now_s - heard_s >= LEASE_S + DRIFT_S and self._is_silent(node)
            ]
            await asyncio.gather(*(self._declare(node) for node in silent))
            await asyncio.sleep(_TICK_S)

    def _changed(self, kind: Kind, subject: str) -> None:
        if kind is not Kind.BEAT:
            return
        if self._view.beat(subject) is None:
            self._heard_s.pop(subject, None)
            return
        now_s = self._clock()
        if now_s - self._last_s >= QUIET_S:
            self._resumed_s = now_s
        self._last_s = self._heard_s[subject] = now_s

    def _is_silent(self, node: str) -> bool:
        found = self._view.beat(node)
        return found is not None and not found[0].dead and not found[0].left

    async def _declare(self, node: str) -> None:
        """Declare a node dead by its last beat that was heard, unless there is a later one."""
        found = self._view.beat(node)
        assert found is not None
        beat, revision = found
        value = msgspec.json.encode(msgspec.structs.replace(beat, dead=True))
        try:
            written = await self._bucket.update(beat_key(node), value, revision)
        except Conflict:
            # It lives: its beats come late here. It is told in a moment.
            self._heard_s[node] = self._clock()
        except PlexSpacesError as error:
            _log.debug("declaring node %s dead: %s", node, error)
        else:
            _log.warning("node %s is dead: it was not heard for %.1f s", node, LEASE_S + DRIFT_S)
            self._view.wrote(Entry(beat_key(node), value, written))
