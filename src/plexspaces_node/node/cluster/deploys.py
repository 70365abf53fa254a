"""Deploys into a cluster: of a new application, or of the next version of one."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns

import msgspec

from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    PlexSpacesError,
    Unavailable,
    WrongState,
    name_taken,
)
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import ArtifactKind, split_name
from plexspaces_node.node.applications.instance import Progress
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.applications.requests import (
    DeployRequest,
    check_artifact,
    next_record,
    record_of,
)
from plexspaces_node.node.applications.task_scope import TaskScope
from plexspaces_node.node.artifacts.store import Compiled, Inspected
from plexspaces_node.node.cluster import desired
from plexspaces_node.node.cluster.desires import Desires
from plexspaces_node.node.cluster.look import Look, Parts
from plexspaces_node.node.cluster.outcomes import CLEAR_S, Outcomes
from plexspaces_node.node.cluster.records import Application, Wanted
from plexspaces_node.node.cluster.tenants import check_quotas
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.tasks import cancel

AGAIN_S = 1.0
"""After a write that failed."""

_log = logging.getLogger(__name__)


class ClusterDeployer:
    """Deploys applications into the cluster. Used on one event loop."""

    def __init__(  # noqa: PLR0913 - each by its name
        self,
        parts: Parts,
        view: ClusterView,
        desires: Desires,
        look: Look,
        outcomes: Outcomes,
        scope: TaskScope,
        locks: NameLocks,
    ) -> None:
        self._parts = parts
        self._node = parts.node
        self._view = view
        self._desires = desires
        self._look = look
        self._outcomes = outcomes
        self._scope = scope
        self._locks = locks
        self._undoing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ClusterDeployer at {self._node}>"

    async def aclose(self) -> None:
        """Undo what could not be undone yet, if that is possible soon."""
        if self._undoing:
            await asyncio.wait(self._undoing, timeout=CLEAR_S)
        await cancel(*self._undoing)

    async def deploy(self, request: DeployRequest, progress: Progress) -> ApplicationInfo:
        """Deploy an application and return it when it can answer messages on all its nodes.

        It is acknowledged when a second node, if there is one, has its artifact. On any failure,
        also cancellation, everything but the artifact is removed, and the version that was to be
        replaced is put back. Raises what `Deployer.deploy` raises, and `ResourceExhausted` if there
        are not enough nodes for it.
        """
        begin = perf_counter_ns()
        spec = request.spec
        if request.vm_id:
            raise WrongState(
                "in a cluster an application cannot be deployed into an empty VM: the cluster "
                "chooses its node",
                hint="deploy it without a VM",
            )
        self._parts.capabilities.check(spec.vm_config)
        artifact = self._parts.store.holding(spec.artifact)
        async with self._scope.cancellable(), artifact, self._locks.held(spec.name):
            known = self._view.application(spec.name) or await self._desires.get(spec.name)
            if known is not None and (answered := await self._answered(known, request)):
                return answered
            self._check_request(request)
            inspected = await self._parts.store.inspect(spec.artifact, owner=request.owner)
            application = await self._asked(request, known, inspected)
            check_quotas(self._view.applications, application, self._parts.quotas.limit)
            try:
                await self._ask(application, known)
                status = await self._outcomes.started(application, progress)
                await self._outcomes.copied(application, progress)
                await self._done(application)
            except BaseException:
                await self._scope.shielded(self.undo(application))
                raise
        timings = replace(
            desired.timings_of(status),
            upload_ns=inspected.upload_ns,
            total_ns=perf_counter_ns() - begin + inspected.upload_ns,
        )
        return replace(await self._look.describe(application), timings=timings)

    async def _answered(self, known: Application, request: DeployRequest) -> ApplicationInfo | None:
        """Return the answer that was given to this request before; None for another request.

        Raises for one that the application stands in the way of.
        """
        is_same = request.request_id and known.request_id == request.request_id
        if is_same and known.digest == request.spec.digest and not known.deploying:
            return await self._look.describe(known)
        if known.deploying:
            raise being_deployed(known)
        if not request.replace:
            raise name_taken(known.name, self._look.state_of(known))
        return None

    def _check_request(self, request: DeployRequest) -> None:
        tenant = split_name(request.spec.name)[0]
        for name, other in self._view.applications.items():
            if not request.request_id or other.request_id != request.request_id:
                continue
            if name != request.spec.name and split_name(name)[0] == tenant:
                raise AlreadyExists(
                    f"request id {request.request_id!r} has deployed application {name!r}",
                    hint="choose a new request id for every deploy",
                )

    async def _asked(
        self, request: DeployRequest, known: Application | None, inspected: Inspected
    ) -> Application:
        """Return the record of a deploy; raises `InvalidArgument`, and what secrets do."""
        spec, parts = request.spec, self._parts
        check_artifact(spec, parts.capabilities.overhead_mib, inspected.report)
        as_compiled = Compiled(Path(), inspected.report, cached=True, duration_ns=0)
        if known is None:
            record, before = record_of(request, as_compiled), b""
            replicas, on, level = spec.replicas or 1, spec.on, spec.level
        else:
            record = next_record(desired.record_of(known), request, as_compiled)
            before = desired.encode(known)
            replicas = spec.replicas or known.replicas
            on, level = spec.on or dict(known.on), spec.level or known.level
        if record.kind is ArtifactKind.ACTOR and replicas > 1:
            raise InvalidArgument(
                f"{spec.name!r} is an actor, of which there is one, not {replicas}",
                hint="omit replicas; for several actors deploy several applications",
            )
        await parts.secrets.check(record.name, record.secrets)
        return desired.application_of(
            record,
            self._node,
            generation=known.generation + 1 if known is not None else 1,
            request_id=request.request_id,
            wanted=Wanted.RUNNING,
            replicas=replicas,
            on=on,
            level=level,
            deploying=self._node,
            before=before,
        )

    async def _ask(self, application: Application, known: Application | None) -> None:
        """Write what is asked for; raises `AlreadyExists` if somebody else was first."""
        if known is None:
            taken = await self._desires.create(application)
            if taken is not None:
                raise being_deployed(taken) if taken.deploying else name_taken(taken.name)
            return

        def change(current: Application | None) -> Application | None:
            if current == application:
                # An answer was lost.
                return current
            if current is None or (current.id, current.generation) != (known.id, known.generation):
                raise Unavailable(
                    f"application {application.name!r} was changed meanwhile", hint="try again"
                )
            return application

        await self._desires.change(application.name, change)

    async def _done(self, application: Application) -> None:
        def change(current: Application | None) -> Application | None:
            is_same = current is not None and current.id == application.id
            if current is None or not is_same or current.generation != application.generation:
                raise WrongState(
                    f"application {application.name!r} was changed meanwhile", hint="deploy again"
                )
            if not current.deploying:
                return current
            return msgspec.structs.replace(current, deploying="", before=b"")

        while True:
            try:
                await self._desires.change(application.name, change)
            except Unavailable as error:
                # It runs: whether it stays is decided by who answers first, the registry or the
                # client that gives up.
                _log.info("the deploy of %s is not done yet: %s", application.name, error)
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def undo(self, application: Application) -> None:
        """Put back what there was, and wait until nodes that are up have done so.

        Without the registry it is done later, or by the next start of this node.
        """
        try:
            await self._put_back(application)
        except Unavailable as error:
            _log.warning("undoing the deploy of %s: %s", application.name, error)
            task = asyncio.get_running_loop().create_task(self._undo_later(application))
            self._undoing.add(task)
            task.add_done_callback(self._undoing.discard)
            return
        await self._outcomes.cleared(application)

    async def _undo_later(self, application: Application) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            with suppress(Unavailable):
                return await self._put_back(application)

    async def _put_back(self, application: Application) -> None:
        def change(current: Application | None) -> Application | None:
            if current is None or current.id != application.id:
                return current
            if current.generation != application.generation or current.deploying != self._node:
                return current
            return desired.undone(current)

        await self._desires.change(application.name, change)


def being_deployed(application: Application) -> PlexSpacesError:
    """Return the error for whoever wants something else of it meanwhile."""
    name, node = application.name, application.deploying
    if application.before:
        return Unavailable(f"application {name!r} is being replaced", hint="try again")
    return AlreadyExists(
        f"application {name!r} is being deployed at node {node!r}",
        hint="wait until it is, or deploy under another --name",
    )
