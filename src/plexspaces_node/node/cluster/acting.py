"""What a node does about one application that is placed on it, and what it tells of that.

An actor is run by one node at a time:

1. Its new owner waits until each other node has said `Gone`, or is dead or has left.
2. It says that it is starting, and takes the fence: whoever had it cannot write any more.
3. It looks again, past this node's memory: a node that said it was starting before the fence was
   taken is seen now, and is waited for; one that says so later finds the fence taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import NamedTuple

import msgspec

from plexspaces_node.errors import ActorError, PlexSpacesError, Unavailable
from plexspaces_node.model import ApplicationState, ArtifactKind, beside
from plexspaces_node.node.applications.instance import FAULTS
from plexspaces_node.node.cluster.desired import encode, failed, record_of
from plexspaces_node.node.cluster.lease import Lease
from plexspaces_node.node.cluster.local import Here
from plexspaces_node.node.cluster.parts import Local, Pulls, States, Store
from plexspaces_node.node.cluster.records import (
    GONE,
    READY,
    Application,
    Status,
    Wanted,
    status_key,
)
from plexspaces_node.node.cluster.statuses import Statuses
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.nats.bucket import Bucket

AT_REST = (ApplicationState.STOPPED, ApplicationState.FAILED)


class What(Enum):
    """What this node does about an application."""

    WAIT = auto()
    """Nothing for now: it is not known where it shall run."""
    RUN = auto()
    STOP = auto()
    """It is here, and does not run."""
    STAND_BY = auto()
    """Keep its artifact, compiled."""
    LEAVE = auto()
    """Keep nothing of it."""


class Goal(NamedTuple):
    """What shall become of an application here, and by which version of its record."""

    what: What
    id: str = ""
    generation: int = 0


class NotYet(Exception):
    """Another node has to do something first."""


class Keeper:
    """The work on one application.

    Attributes:
        changed: something may have to be done.
        goal: what is being done, or was done last.
        work: what is being done now.
        given_up: a goal that has failed for good.
        holds: the artifact that it keeps as standby, "" for none.
        others: what other nodes have said, when this was looked at last.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.goal = Goal(What.WAIT)
        self.work: asyncio.Task[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.given_up: Goal | None = None
        self.holds = ""
        self.others: dict[str, Status] = {}

    @property
    def is_starting(self) -> bool:
        """Whether what is being done may be left when it is not wanted any more."""
        return self.goal.what in (What.RUN, What.STAND_BY)


class Acting:
    """Does what is to be done about applications. Used on one event loop.

    Attributes:
        statuses: what is told.
    """

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
        wake: Callable[[str], None],
        goal_of: Callable[[str], Goal],
        keeper_of: Callable[[str], Keeper | None],
    ) -> None:
        """`wake` has an application looked at again."""
        self.statuses = Statuses(node, bucket, view)
        self._node = node
        self._bucket = bucket
        self._view = view
        self._local = local
        self._store = store
        self._pulls = pulls
        self._states = states
        self._lease = lease
        self._wake = wake
        self._goal_of = goal_of
        self._keeper_of = keeper_of

    def __repr__(self) -> str:
        return f"<Acting of {self._node}>"

    async def do(self, name: str, keeper: Keeper, goal: Goal) -> None:
        application, placed = self._view.application(name), self._view.placed(name)
        if goal.what is not What.STAND_BY:
            self._release(keeper)
        if goal.what is What.LEAVE:
            keeper.given_up = None
            await self._leave(name, application)
        if application is None or placed is None or goal.what in (What.LEAVE, What.WAIT):
            return
        if goal == keeper.given_up:
            return
        keeper.given_up = None
        try:
            if goal.what is What.RUN:
                await self._run(name, application, placed[1])
            elif goal.what is What.STOP:
                await self._stop(name, application, placed[1])
            else:
                await self._stand_by(name, keeper, application, placed[1])
        except FAULTS as error:
            if await self._tell_failure(name, application, placed[1], error):
                keeper.given_up = goal
                return
            raise

    def _release(self, keeper: Keeper) -> None:
        if keeper.holds:
            self._store.release(keeper.holds)
            keeper.holds = ""

    async def _run(self, name: str, application: Application, epoch: int) -> None:
        here = self._local.here(name)
        is_same = here is not None and here.id == application.id
        runs = here is not None and is_same and here.state not in AT_REST
        if here is not None and runs and here.generation == application.generation:
            # It starts again by itself.
            self._tell(name)
            return
        if runs:
            self._check_turn(name, application)
        elif application.kind == ArtifactKind.ACTOR:
            self._check_may_start(name, application)
        starting = Status(
            id=application.id,
            generation=application.generation,
            epoch=epoch,
            state=ApplicationState.STARTING,
        )
        # Before the fence is taken: see above.
        await self.statuses.write(name, starting)
        record = record_of(application)
        async with self._store.holding(record.artifact):
            await self._bring(application)
            told = partial(self._tell_phase, name, starting)
            compiled = await self._store.compile(record.artifact, on_miss=partial(told, "compile"))
            await self._local.run(
                record,
                prepare=partial(self._take, name, application, epoch),
                progress=told,
                reason="deploy" if application.deploying else "place",
            )
        self._local.note_compiled(name, compiled)
        self._local.watch(name, partial(self._tell, name))
        self._tell(name)

    def _check_turn(self, name: str, application: Application) -> None:
        """Wait until it is this node's turn to replace: never do all replicas at the same time."""
        placed = self._view.placed(name)
        statuses = self._view.statuses(name)
        for node in placed[0].nodes if placed is not None else ():
            if node == self._node:
                return
            status = statuses.get(node)
            if not self._view.is_alive(node) or status is None or status.id != application.id:
                continue
            is_done = status.generation == application.generation and (
                status.state == ApplicationState.RUNNING
                or (status.state == ApplicationState.FAILED and not application.deploying)
            )
            if not is_done:
                raise NotYet

    def _check_may_start(self, name: str, application: Application) -> None:
        """Wait for the lease, and for every other node that may have the actor."""
        if not self._lease.is_held():
            self._lease.when_held(partial(self._wake, name))
            raise NotYet
        for node, status in self._view.statuses(name).items():
            if self._may_serve(node, status, application):
                raise NotYet

    def _may_serve(self, node: str, status: Status, application: Application) -> bool:
        if node == self._node or not self._view.is_alive(node):
            return False
        return status.id == application.id and status.state not in (READY, GONE)

    async def _take(self, name: str, application: Application, epoch: int) -> None:
        """Take over an actor's state: what is there now nobody else writes."""
        if application.kind != ArtifactKind.ACTOR:
            return
        # Nobody could send it a message yet.
        is_first = bool(application.deploying) and not application.before
        await self._states.take(name, application.id, epoch, is_first=is_first)
        others = [
            node for node in self._view.nodes if node != self._node and self._view.is_alive(node)
        ]
        keys = [status_key(node, name) for node in others]
        found = await asyncio.gather(*map(self._bucket.get, keys))
        for node, entry in zip(others, found, strict=True):
            if entry is None or entry.value is None:
                continue
            status = msgspec.json.decode(entry.value, type=Status)
            if self._may_serve(node, status, application):
                raise Unavailable(
                    f"node {node!r} still has {name!r}", hint="wait: plexspaces nodes"
                )

    async def _bring(self, application: Application) -> None:
        """Have the artifact here: from who has it."""
        artifact = beside(application.name, application.digest)
        if await self._store.has(artifact):
            return
        statuses = self._view.statuses(application.name)
        having = [node for node, status in statuses.items() if status.id == application.id]
        last: PlexSpacesError | None = None
        for node in dict.fromkeys((application.source, *having)):
            if node == self._node or not self._view.is_alive(node):
                continue
            try:
                await self._pulls.fetch(node, artifact)
            except PlexSpacesError as error:
                last = error
            else:
                return
        raise last or Unavailable(
            f"no node that is up has the artifact of {application.name!r}",
            hint="deploy the file again with --replace; see: plexspaces nodes",
        )

    async def _stop(self, name: str, application: Application, epoch: int) -> None:
        here = self._local.here(name)
        if here is not None and here.id != application.id:
            await self._local.remove(name, save=False, force=True)
            here = None
        if here is not None and (here.state not in AT_REST or not here.is_stopped):
            await self._local.stop(name, force=application.force)
            here = self._local.here(name)
        stopped = Status(
            id=application.id,
            generation=application.generation,
            epoch=epoch,
            state=ApplicationState.STOPPED,
            error=here.error if here is not None else "",
        )
        await self.statuses.write(name, stopped)

    async def _stand_by(
        self, name: str, keeper: Keeper, application: Application, epoch: int
    ) -> None:
        if (here := self._local.here(name)) is not None:
            is_same = here.id == application.id
            await self._local.remove(name, save=is_same, force=not is_same)
            await self._left(name, here, is_undeployed=not is_same)
            await self.statuses.write(name, self._gone(application, epoch))
        artifact = beside(name, application.digest)
        async with self._store.holding(artifact):
            await self._bring(application)
            if keeper.holds != artifact:
                self._release(keeper)
                self._store.hold(artifact)
                keeper.holds = artifact
            await self._store.compile(artifact)
        await self.statuses.write(
            name, msgspec.structs.replace(self._gone(application, epoch), state=READY)
        )

    async def _leave(self, name: str, application: Application | None) -> None:
        here, told = self._local.here(name), self.statuses.of(name)
        placed = self._view.placed(name)
        epoch = placed[1] if placed is not None else 0
        is_same = application is not None and here is not None and here.id == application.id
        if here is not None:
            try:
                await self._local.remove(name, save=is_same, force=not is_same)
            except FAULTS as error:
                if application is not None:
                    state = str(here.state)
                    self.statuses.report(name, failed(application, epoch, error, state=state))
                raise
            await self._left(name, here, is_undeployed=not is_same)
        if application is None or not (is_same or (told and told.id == application.id)):
            await self.statuses.write(name, None)
        elif self._is_served(name, application):
            # Nobody waits for this node any more.
            await self.statuses.write(name, None)
        else:
            await self.statuses.write(name, self._gone(application, epoch))

    async def _left(self, name: str, here: Here, *, is_undeployed: bool) -> None:
        """Give up the state of an actor that was here until now."""
        if here.kind is ArtifactKind.ACTOR:
            await self._states.leave(name)
            if is_undeployed:
                await self._states.forget(name, here.id)

    def _is_served(self, name: str, application: Application) -> bool:
        """Return whether every node that shall run it does, or has stopped it."""
        placed, statuses = self._view.placed(name), self._view.statuses(name)
        done = (ApplicationState.RUNNING, ApplicationState.STOPPED)
        return placed is not None and all(
            (status := statuses.get(node)) is not None
            and status.id == application.id
            and status.state in done
            for node in placed[0].nodes
        )

    def _tell(self, name: str) -> None:
        """Tell how an application is here, unless what is being done about it tells it."""
        application, placed = self._view.application(name), self._view.placed(name)
        here, keeper = self._local.here(name), self._keeper_of(name)
        if application is None or placed is None or here is None or here.id != application.id:
            return
        works = keeper is not None and keeper.work is not None
        is_own = works and keeper is not None and asyncio.current_task() is keeper.work
        if (works and not is_own) or here.generation != application.generation:
            return
        if keeper is not None and keeper.given_up is not None:
            return
        status = Status(
            id=here.id,
            generation=here.generation,
            epoch=placed[1],
            state=here.state,
            error=here.error,
            vm_id=here.vm_id,
            timings=encode(here.timings),
        )
        self.statuses.report(name, status)

    def _tell_phase(self, name: str, starting: Status, phase: str) -> None:
        self.statuses.report(name, msgspec.structs.replace(starting, phase=phase))

    async def _tell_failure(
        self, name: str, application: Application, epoch: int, error: BaseException
    ) -> bool:
        """Tell that something has failed; return whether it is not tried again by itself."""
        here = self._local.here(name)
        state: str = ApplicationState.FAILED
        if application.wanted is Wanted.STOPPED:
            state = here.state if here is not None else ApplicationState.STOPPED
        elif self._goal_of(name).what is What.STAND_BY:
            state = GONE
        is_final = bool(application.deploying) or application.wanted is Wanted.STOPPED
        if isinstance(error, PlexSpacesError):
            is_final = is_final or not error.retryable
        else:
            is_final = is_final or isinstance(error, ActorError)
        status = failed(application, epoch, error, state=state)
        if not is_final:
            self.statuses.report(name, status)
            return False
        await self.statuses.write(name, status)
        return True

    def _gone(self, application: Application, epoch: int) -> Status:
        return Status(id=application.id, generation=application.generation, epoch=epoch, state=GONE)
