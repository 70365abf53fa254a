"""Makes this node run what the cluster has placed on it, and nothing else.

Each application has a keeper, which does one thing at a time and looks again when something has
changed. What another node has to do first is waited for by listening. What fails is told the
others, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from plexspaces_node.errors import NotFound, PlexSpacesError
from plexspaces_node.model import ArtifactKind
from plexspaces_node.node.applications.instance import FAULTS
from plexspaces_node.node.cluster.acting import Acting, Goal, Keeper, NotYet, What
from plexspaces_node.node.cluster.known import Kind, everywhere
from plexspaces_node.node.cluster.lease import Lease
from plexspaces_node.node.cluster.local import Here
from plexspaces_node.node.cluster.parts import Local, Pulls, States, Store
from plexspaces_node.node.cluster.records import (
    Application,
    Placed,
    Status,
    Wanted,
    application_key,
)
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket
from plexspaces_node.tasks import cancel

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 60.0
"""Waits between attempts, which double."""

_log = logging.getLogger(__name__)


class Reconciler:
    """Keeps what runs here as the cluster wants it. Used on one event loop."""

    def __init__(  # noqa: PLR0913 - the parts of a node in a cluster
        self,
        node: str,
        bucket: Bucket,
        view: ClusterView,
        *,
        local: Local,
        store: Store,
        pulls: Pulls,
        states: States,
        lease: Lease,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        """Do nothing yet; see `run`.

        `may_act` returns whether the registry is the one that it was: not one from which everything
        is gone.
        """
        self._node = node
        self._view = view
        self._local = local
        self._may_act = may_act
        self._keepers: dict[str, Keeper] = {}
        self._acting = Acting(
            *(node, bucket, view),
            local=local,
            store=store,
            pulls=pulls,
            states=states,
            lease=lease,
            wake=self._wake,
            goal_of=self._goal,
            keeper_of=self._keepers.get,
        )
        self._statuses = self._acting.statuses
        self._waits: set[str] = set()
        self._halting: set[asyncio.Task[None]] = set()
        lease.when_ended(self._lease_ended)

    def __repr__(self) -> str:
        return f"<Reconciler of {self._node}, {len(self._keepers)} applications>"

    async def run(self) -> None:
        """Keep to it until cancelled; begins when the registry has been read."""
        async with self._following():
            await asyncio.Event().wait()

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[None]:
        await self._view.synced.wait()
        await self._load()
        unfollow = self._view.on_change(self._changed)
        try:
            names = {*self._local.names(), *self._statuses.names()}
            for name in names | self._view.placed_on(self._node):
                self._wake(name)
            yield
        finally:
            unfollow()
            tasks = [one.task for one in self._keepers.values() if one.task is not None]
            await cancel(*tasks, *self._halting)
            await self._statuses.aclose()

    async def _load(self) -> None:
        while True:
            try:
                await self._statuses.load()
            except PlexSpacesError as error:
                _log.info("what this node has told is not known yet: %s", error)
                await asyncio.sleep(FIRST_RETRY_S)
            else:
                return

    # ---- what has changed ----------------------------------------------------------------

    def _changed(self, kind: Kind, whose: str) -> None:
        if kind in (Kind.NODE, Kind.BEAT):
            # A node that is dead is not waited for.
            for name in tuple(self._waits):
                self._wake(name)
            return
        if kind is Kind.LEADER or not self._concerns(whose):
            return
        if kind is Kind.STATUS and (keeper := self._keepers.get(whose)) is not None:
            others = self._statuses_of_others(whose)
            if keeper.others == others:
                # Its own words are no reason to try again.
                return
            keeper.others = others
        self._wake(whose)

    def _statuses_of_others(self, name: str) -> dict[str, Status]:
        statuses = self._view.statuses(name)
        return {node: status for node, status in statuses.items() if node != self._node}

    def _concerns(self, name: str) -> bool:
        if name in self._keepers or self._statuses.of(name) is not None:
            return True
        placed = self._view.placed(name)
        is_placed = placed is not None and self._node in everywhere(placed[0])
        return is_placed or self._local.here(name) is not None

    def _wake(self, name: str) -> None:
        keeper = self._keepers.setdefault(name, Keeper())
        keeper.changed.set()
        if keeper.task is None:
            keeper.task = asyncio.get_running_loop().create_task(
                self._keep(name, keeper), name=f"keep {name} as placed"
            )
        elif keeper.work is not None and keeper.is_starting and self._goal(name) != keeper.goal:
            # Not what is done about an end: a state may be on its way.
            keeper.work.cancel()

    def fenced(self, name: str) -> None:
        """End an actor: another node writes its state now."""
        self._in_background(self._halt([name]))

    def _lease_ended(self) -> None:
        self._in_background(self._halt(list(filter(self._is_actor, self._local.names()))))

    async def lease_lost(self) -> None:
        """Return when no actor is served here that was when the lease was taken: others may be.

        Not before may this node hold the lease again. It takes as long as what is done about an
        actor just now, if it cannot be left.
        """
        while self._halting:
            await asyncio.wait(self._halting)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="halt actors")
        self._halting.add(task)
        task.add_done_callback(self._halting.discard)

    async def _halt(self, actors: Sequence[str]) -> None:
        """End actors at once: others may run them. Each is taken again, or left."""
        ends = await asyncio.gather(*map(self._local.halt, actors), return_exceptions=True)
        for name, end in zip(actors, ends, strict=True):
            if isinstance(end, BaseException) and not isinstance(end, NotFound):
                _log.error("actor %s could not be ended: %s", name, end)
            self._wake(name)

    def _is_actor(self, name: str) -> bool:
        here = self._local.here(name)
        return here is not None and here.kind is ArtifactKind.ACTOR

    def _goal(self, name: str) -> Goal:
        application, placed = self._view.application(name), self._view.placed(name)
        if not self._may_act() or self._view.is_unreadable(application_key(name)):
            return Goal(What.WAIT)
        if application is None:
            return Goal(What.LEAVE)
        here = self._local.here(name)
        if placed is None or placed[0].id != application.id:
            is_other = here is not None and here.id != application.id
            return Goal(What.LEAVE if is_other else What.WAIT, application.id)
        what = self._what(application, placed[0], here)
        return Goal(what, application.id, application.generation)

    def _what(self, application: Application, placed: Placed, here: Here | None) -> What:
        runs = self._node in placed.nodes
        if self._node in placed.leaving and application.kind != ArtifactKind.ACTOR:
            # It serves on until enough others do, and is not started for that.
            runs = runs or (here is not None and here.id == application.id)
        if runs:
            return What.STOP if application.wanted is Wanted.STOPPED else What.RUN
        return What.STAND_BY if self._node in placed.standby else What.LEAVE

    # ---- the keeper of one application -----------------------------------------------------

    async def _keep(self, name: str, keeper: Keeper) -> None:
        retry_s = FIRST_RETRY_S
        try:
            while True:
                keeper.changed.clear()
                keeper.others = self._statuses_of_others(name)
                goal = self._goal(name)
                if goal != keeper.goal:
                    retry_s = FIRST_RETRY_S
                keeper.goal = goal
                keeper.work = asyncio.ensure_future(self._acting.do(name, keeper, goal))
                try:
                    await asyncio.wait({keeper.work})
                    again_s = self._outcome(name, keeper.work, retry_s)
                finally:
                    await cancel(keeper.work)
                    keeper.work = None
                if again_s is None and not keeper.changed.is_set():
                    return
                if again_s:
                    retry_s = min(retry_s * 2, LAST_RETRY_S)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(again_s):
                            await keeper.changed.wait()
        finally:
            keeper.task = None
            if not keeper.holds and keeper.given_up is None and name not in self._waits:
                self._keepers.pop(name, None)

    def _outcome(self, name: str, work: asyncio.Task[None], retry_s: float) -> float | None:
        """Return when to try again: at once as 0, None for when something has changed."""
        self._waits.discard(name)
        if work.cancelled():
            return 0.0
        error = work.exception()
        if error is None:
            return None
        if isinstance(error, NotYet):
            self._waits.add(name)
            return None
        level = logging.INFO if isinstance(error, FAULTS) else logging.ERROR
        _log.log(level, "application %s: %s", name, error or repr(error), exc_info=level > 20)
        return retry_s
