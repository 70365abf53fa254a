"""Deploys: a new application, or the next version of an existing one."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from time import perf_counter_ns

from plexspaces_node.errors import PlexSpacesError, name_taken
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.node.applications.actor_host import Router
from plexspaces_node.node.applications.capacity import Capacity
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.describe import describe
from plexspaces_node.node.applications.empty_vms import EmptyVms
from plexspaces_node.node.applications.holdings import release, supervise
from plexspaces_node.node.applications.instance import Progress
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.applications.quota_upkeep import QuotaUpkeep
from plexspaces_node.node.applications.replacement import Replacement
from plexspaces_node.node.applications.requests import (
    DeployRequest,
    check_alone,
    check_artifact,
    completed,
    is_answered,
    next_record,
    record_of,
)
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.applications.task_scope import TaskScope
from plexspaces_node.node.artifacts.store import Compiled
from plexspaces_node.node.machines.machine import Machine

_log = logging.getLogger(__name__)


class Deployer:
    """Deploys applications onto one node."""

    def __init__(  # noqa: PLR0913 - the parts that a deploy passes through
        self,
        node: NodeContext,
        *,
        roster: Roster,
        router: Router,
        capacity: Capacity,
        empty_vms: EmptyVms,
        quotas: QuotaUpkeep,
        scope: TaskScope,
        locks: NameLocks,
    ) -> None:
        self._node = node
        self._roster = roster
        self._router = router
        self._capacity = capacity
        self._empty_vms = empty_vms
        self._quotas = quotas
        self._scope = scope
        self._locks = locks

    def __repr__(self) -> str:
        return f"<Deployer onto {self._roster!r}>"

    async def deploy(self, request: DeployRequest, progress: Progress) -> ApplicationInfo:
        """Deploy an application and return it when it can answer messages.

        On any failure, including cancellation, everything but the artifact is removed, and the
        version that was to be replaced is restored. If this node is killed meanwhile, the next one
        to open the directory does it. Raises `AlreadyExists`, `InvalidArgument`, `NotFound` for the
        artifact, the empty VM or a secret, `ResourceExhausted` if the node is full,
        `VmStartFailed`, `WrongState` for a version or a secret that cannot be read, errors of the
        registry, and errors of the actor's `init`.
        """
        begin = perf_counter_ns()
        spec = request.spec
        check_alone(spec)
        self._node.driver.capabilities.check(spec.vm_config)
        artifact = self._node.artifacts.holding(spec.artifact)
        async with self._scope.cancellable(), artifact, self._locks.held(spec.name):
            known = self._roster.applications.get(spec.name)
            if known is not None:
                if is_answered(known.record, request):
                    return await describe(known)
                if not request.replace:
                    raise name_taken(known.name, known.state)
                self._roster.readable(spec.name)
            if request.vm_id:
                self._empty_vms.check(request.vm_id)
            await self._node.secrets.check(spec.name, spec.secrets)
            with self._capacity.for_application(
                spec.name, spec.vm_config, vm_id=request.vm_id, artifact=spec.artifact
            ) as others:
                await self._quotas.check_artifacts(spec.name, spec.artifact, others)
                compiled = await self._compile(request, progress)
                if known is not None:
                    await self._replace(known, request, compiled, progress)
                else:
                    known = await self._start_new(request, compiled, progress, begin)
            return await describe(known)

    async def _start_new(
        self, request: DeployRequest, compiled: Compiled, progress: Progress, begin: int
    ) -> Supervisor:
        registry = self._node.registry
        supervisor = supervise(record_of(request, compiled), self._node, self._router)
        name = supervisor.name
        try:
            await registry.insert_application(supervisor.record)
            await supervisor.journal.clear()
            self._roster.applications[name] = supervisor
            self._quotas.bound_logs(name)
            empty = self._take_empty(request)
            await supervisor.start(
                compiled=compiled, empty=empty, progress=progress, reason="deploy"
            )
            duration_ns = perf_counter_ns() - begin
            supervisor.timings = completed(supervisor.timings, compiled, duration_ns)
            supervisor.activity.complete_start(supervisor.timings)
            supervisor.record = await registry.set_deployed(name, supervisor.timings)
        except BaseException:
            await self._scope.shielded(self._undo(supervisor))
            raise
        return supervisor

    async def _replace(
        self, known: Supervisor, request: DeployRequest, compiled: Compiled, progress: Progress
    ) -> None:
        begin = perf_counter_ns() - compiled.duration_ns
        await self._node.registry.check_request(request.request_id, known.name)
        record = next_record(known.record, request, compiled)
        # Those that it keeps, before the running version is stopped.
        await self._node.secrets.check(record.name, record.secrets)
        replacement = Replacement(known, record, self._node, self._scope)
        await replacement.start(compiled, partial(self._take_empty, request), progress)
        timings = completed(known.timings, compiled, perf_counter_ns() - begin)
        known.activity.complete_start(timings)
        await replacement.keep(replace(record, timings=timings))

    async def _compile(self, request: DeployRequest, progress: Progress) -> Compiled:
        overhead_mib = self._node.driver.capabilities.overhead_mib
        return await self._node.artifacts.compile(
            request.spec.artifact,
            owner=request.owner,
            check=partial(check_artifact, request.spec, overhead_mib),
            on_miss=lambda: progress("compile"),
        )

    def _take_empty(self, request: DeployRequest) -> Machine | None:
        return self._empty_vms.take(request.vm_id) if request.vm_id else None

    async def _undo(self, supervisor: Supervisor) -> None:
        """Remove everything of a failed deploy.

        A row that the registry cannot remove is not an application: the next deploy of that name or
        the next start of the node removes it.
        """
        self._roster.applications.pop(supervisor.name, None)
        delete = partial(self._node.registry.delete_application, supervisor.record.id)
        for step in (supervisor.abort, delete):
            try:
                await step()
            except PlexSpacesError as error:
                _log.warning("rolling back the deploy of %s: %s", supervisor.name, error)
        await release(supervisor, self._node)
        self._quotas.bound_logs(supervisor.name)
