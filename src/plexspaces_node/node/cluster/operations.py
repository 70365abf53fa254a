"""The operations on a cluster's applications: deploy, stop, start, undeploy, list.

The counterpart of `applications.operations` and `deploy`, whose methods these have. Each writes
what a user asks for into the registry, and waits for what the nodes say. It may be called at any
node; what it cannot finish is undone.
"""

from __future__ import annotations

import asyncio

import msgspec

from plexspaces_node.errors import PlexSpacesError, Unavailable, no_application
from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import ApplicationState, ArtifactKind
from plexspaces_node.node.applications.instance import Progress
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.applications.requests import DeployRequest
from plexspaces_node.node.applications.task_scope import TaskScope
from plexspaces_node.node.cluster.deploys import ClusterDeployer, being_deployed
from plexspaces_node.node.cluster.desires import ELECTION_S, Desires
from plexspaces_node.node.cluster.look import Look, Parts
from plexspaces_node.node.cluster.outcomes import Outcomes
from plexspaces_node.node.cluster.records import Application, Wanted
from plexspaces_node.node.cluster.tenants import check_quotas
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.cluster.waiting import until
from plexspaces_node.node.nats.bucket import Bucket


class ClusterOperations:
    """The operations on all applications of a cluster. Used on one event loop."""

    def __init__(self, parts: Parts, bucket: Bucket, view: ClusterView) -> None:
        self._parts = parts
        self._node = parts.node
        self._view = view
        self._look = Look(parts, view)
        self.list, self.inspect = self._look.list, self._look.inspect
        self.vm_size = self._look.vm_size
        self._desires = Desires(bucket, view)
        self._locks = NameLocks()
        self._is_open = asyncio.Event()
        self._scope = TaskScope()
        self._outcomes = Outcomes(view)
        self._deployer = ClusterDeployer(
            *(parts, view, self._desires, self._look, self._outcomes, self._scope, self._locks)
        )

    def __repr__(self) -> str:
        return f"<ClusterOperations at {self._node}>"

    async def recover(self) -> None:
        """Undo the deploys that were not done when this node ended: no client waits for them."""
        for application in tuple(self._view.applications.values()):
            if application.deploying == self._node:
                await self._deployer.undo(application)
        self._is_open.set()

    async def deploy(self, request: DeployRequest, progress: Progress) -> ApplicationInfo:
        """Deploy an application; see `ClusterDeployer.deploy`."""
        await self._opened()
        return await self._deployer.deploy(request, progress)

    async def _opened(self) -> None:
        """Wait until `recover` has run; raises `Unavailable`."""
        try:
            async with asyncio.timeout(ELECTION_S):
                await self._is_open.wait()
        except TimeoutError:
            raise Unavailable(
                "this node has not found its cluster yet", hint="plexspaces nodes"
            ) from None

    async def aclose(self) -> None:
        """Undo the deploys that are not done, and do nothing any more."""
        await self._scope.close()
        await self._deployer.aclose()

    async def undeploy(self, name: str) -> None:
        """Remove an application completely, from every node; raises `NotFound`, `Unavailable`.

        A node that is away removes it when it is back.
        """
        await self._opened()

        async def act() -> None:
            async with self._locks.held(name):
                known = self._known(name)

                def change(current: Application | None) -> Application | None:
                    return None if current is not None and current.id == known.id else current

                await self._desires.change(name, change)
                await self._outcomes.cleared(known)
                if known.kind == ArtifactKind.ACTOR:
                    # Its owner has done so, unless it is away.
                    await self._parts.states.forget(name, known.id)

        await self._scope.shielded(act())

    async def stop(self, name: str, *, force: bool = False) -> ApplicationInfo:
        """Stop an application on every node; see `Applications.stop`. Idempotent."""
        await self._opened()

        async def act() -> ApplicationInfo:
            async with self._locks.held(name):
                application = await self._want(
                    self._known(name), Wanted.STOPPED, force=force, again=force
                )
                try:
                    await until(self._view, name, lambda: self._outcomes.stopped(application))
                except PlexSpacesError:
                    await self._want(application, Wanted.RUNNING)
                    raise
                return await self._look.describe(application)

        return await self._scope.shielded(act())

    async def start(self, name: str) -> ApplicationInfo:
        """Start an application that is stopped or has failed; see `Applications.start`."""
        await self._opened()
        async with self._scope.cancellable(), self._locks.held(name):
            known = self._known(name)
            wanted = msgspec.structs.replace(known, wanted=Wanted.RUNNING)
            check_quotas(self._view.applications, wanted, self._parts.quotas.limit)
            statuses = self._view.statuses(name).values()
            has_failed = any(status.state == ApplicationState.FAILED for status in statuses)
            application = await self._want(known, Wanted.RUNNING, again=has_failed)
            await self._outcomes.started(application, lambda _phase: None)
            return await self._look.describe(application)

    async def _want(
        self, known: Application, wanted: Wanted, *, force: bool = False, again: bool = False
    ) -> Application:
        """Want an application to run or not; with `again`, also if that is wanted already."""
        done: list[Application] = []

        def change(current: Application | None) -> Application | None:
            if current is None or current.id != known.id:
                raise no_application(known.name)
            if current.deploying:
                raise being_deployed(current)
            if current in done or (current.wanted is wanted and not again):
                return current
            done.append(
                msgspec.structs.replace(
                    current, wanted=wanted, generation=current.generation + 1, force=force
                )
            )
            return done[-1]

        changed = await self._desires.change(known.name, change)
        assert changed is not None
        return changed

    def _known(self, name: str) -> Application:
        """Return an application; raises `NotFound`, `Unavailable` while it is replaced."""
        known = self._view.application(name)
        if known is None or (known.deploying and not known.before):
            raise no_application(name)
        if known.deploying:
            raise being_deployed(known)
        return known
