"""Applications that a cluster has placed on this node: run with the cluster's records.

The counterpart of `deploy`, which makes the records. Knows nothing of why they are placed here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from plexspaces_node.errors import PlexSpacesError, no_application
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import ApplicationState
from plexspaces_node.node.applications.actor_host import Router
from plexspaces_node.node.applications.capacity import Capacity
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.describe import describe
from plexspaces_node.node.applications.holdings import release, supervise
from plexspaces_node.node.applications.instance import Progress
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.applications.quota_upkeep import QuotaUpkeep
from plexspaces_node.node.applications.replacement import Replacement
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.applications.task_scope import TaskScope
from plexspaces_node.node.registry.registry import ApplicationRecord

_log = logging.getLogger(__name__)

_AT_REST = (ApplicationState.STOPPED, ApplicationState.FAILED)

Prepare: TypeAlias = Callable[[], Awaitable[object]]
"""Awaited when the registry has an application's row and it does not run: to fetch its state."""


async def _nothing() -> None:
    pass


class Placing:
    """Runs and ends what is placed on this node. Its methods wait for others of the same name."""

    def __init__(  # noqa: PLR0913 - the parts that a start passes through
        self,
        node: NodeContext,
        *,
        roster: Roster,
        router: Router,
        capacity: Capacity,
        quotas: QuotaUpkeep,
        scope: TaskScope,
        locks: NameLocks,
    ) -> None:
        self._node = node
        self._roster = roster
        self._router = router
        self._capacity = capacity
        self._quotas = quotas
        self._scope = scope
        self._locks = locks

    def __repr__(self) -> str:
        return f"<Placing onto {self._roster!r}>"

    async def run(
        self,
        record: ApplicationRecord,
        *,
        prepare: Prepare = _nothing,
        progress: Progress = lambda _phase: None,
        reason: str = "place",
    ) -> ApplicationInfo:
        """Run an application with exactly this record; return it when it can answer messages.

        The artifact must be there. `prepare` is awaited before a start from what is on disk, not if
        a running version is replaced. Whatever has the name with another id is removed first, and
        its state with it. Idempotent. Raises what `Deployer.deploy` raises and what `prepare` does:
        a new application is removed then, a version that was to be replaced runs on, and another
        one is Failed, or waits for the next call if `prepare` failed.
        """
        self._node.driver.capabilities.check(record.vm_config)
        artifact = self._node.artifacts.holding(record.artifact)
        async with self._scope.cancellable(), artifact, self._locks.held(record.name):
            known = self._roster.applications.get(record.name)
            if known is not None and known.record.id != record.id:
                await self._scope.shielded(self._remove(known, save=False, force=True))
                known = None
            with self._capacity.for_application(
                record.name, record.vm_config, artifact=record.artifact
            ):
                if known is None:
                    known = await self._start_new(record, prepare, progress, reason)
                elif known.state in _AT_REST:
                    await self._start_again(known, record, prepare, progress, reason)
                elif known.record.generation != record.generation:
                    await self._replace(known, record, progress)
            return await describe(known)

    async def remove(self, name: str, *, save: bool = True, force: bool = False) -> None:
        """End an application and keep nothing of it on this node; does nothing if there is none.

        With `save` an actor hands over its last state, and it is in the store when this returns.
        Raises `StopRefused` if it cannot, unless `force`: it runs on; `Unavailable` if the store
        did not take the state: the application is stopped, and this can be repeated.
        """

        async def act() -> None:
            async with self._locks.held(name):
                if (known := self._roster.applications.get(name)) is not None:
                    await self._remove(known, save=save, force=force)

        await self._scope.shielded(act())

    async def halt(self, name: str) -> None:
        """End an application at once and drop what is not saved: another node may run it now.

        It waits for `run` then, or for `remove`. Raises `NotFound`, and errors of the driver.
        """

        async def act() -> None:
            async with self._locks.held(name):
                if (known := self._roster.applications.get(name)) is None:
                    raise no_application(name)
                known.expected = True
                # Nothing comes to it while its VM ends.
                known.direct()
                try:
                    await known.abort()
                finally:
                    known.saver.forget()
                    known.direct()

        await self._scope.shielded(act())

    async def _start_new(
        self, record: ApplicationRecord, prepare: Prepare, progress: Progress, reason: str
    ) -> Supervisor:
        # Not an application until it runs: a node that ends before then removes the row.
        supervisor = supervise(replace(record, generation=0), self._node, self._router)
        supervisor.expected = True
        try:
            await self._node.registry.insert_application(supervisor.record)
            await supervisor.journal.clear()
            self._roster.applications[record.name] = supervisor
            self._quotas.bound_logs(record.name)
            await self._start(supervisor, prepare, progress, reason)
            supervisor.record = replace(record, timings=supervisor.timings)
            await self._node.registry.replace_application(supervisor.record)
        except BaseException:
            await self._scope.shielded(self._undo(supervisor))
            raise
        return supervisor

    async def _start_again(
        self,
        known: Supervisor,
        record: ApplicationRecord,
        prepare: Prepare,
        progress: Progress,
        reason: str,
    ) -> None:
        artifacts, before = self._node.artifacts, known.record
        await self._node.registry.replace_application(record)
        artifacts.hold(record.artifact)
        artifacts.release(before.artifact)
        known.record = record
        await self._start(known, prepare, progress, reason)
        if known.timings != record.timings:
            known.record = replace(record, timings=known.timings)
            await self._node.registry.replace_application(known.record)

    async def _start(
        self, supervisor: Supervisor, prepare: Prepare, progress: Progress, reason: str
    ) -> None:
        """Prepare and start; messages wait meanwhile, and also after an error of `prepare`."""
        supervisor.expected = True
        supervisor.direct()
        await prepare()
        # Not told on: messages wait until it has started.
        supervisor.expected = False
        await supervisor.start(progress=progress, reason=reason)

    async def _replace(
        self, known: Supervisor, record: ApplicationRecord, progress: Progress
    ) -> None:
        if known.record.digest == record.digest and known.record.vm_config == record.vm_config:
            same = replace(record, generation=known.record.generation, timings=known.record.timings)
            if same == known.record:
                # Only counted on: it does not run anew for that.
                known.record = replace(record, timings=known.record.timings)
                await self._node.registry.replace_application(known.record)
                return
        compiled = await self._node.artifacts.compile(record.artifact)
        replacement = Replacement(known, record, self._node, self._scope)
        await replacement.start(compiled, lambda: None, progress)
        await replacement.keep(replace(record, timings=known.timings))

    async def _remove(self, known: Supervisor, *, save: bool, force: bool) -> None:
        await known.stop(self._node.grace_s, save=save, force=force)
        await self._node.registry.delete_application(known.record.id)
        del self._roster.applications[known.name]
        await release(known, self._node)
        self._quotas.bound_logs(known.name)

    async def _undo(self, supervisor: Supervisor) -> None:
        """Remove everything of a start that failed; a row that stays is not an application."""
        self._roster.applications.pop(supervisor.name, None)
        delete = partial(self._node.registry.delete_application, supervisor.record.id)
        for step in (supervisor.abort, delete):
            try:
                await step()
            except PlexSpacesError as error:
                _log.warning("removing %s, which did not start: %s", supervisor.name, error)
        await release(supervisor, self._node)
        self._quotas.bound_logs(supervisor.name)
