"""The operations on a node's applications: invoke, list, stop, start, undeploy; its start and end.

The gRPC service calls them. Deploys are in `deploy`, empty VMs in `empty_vms`, messages in
`messages`. Operations on one name run one at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter_ns

from plexspaces_node.errors import PlexSpacesError, WrongState
from plexspaces_node.info import ApplicationInfo, Listing
from plexspaces_node.link import frames as link
from plexspaces_node.link.frames import Body
from plexspaces_node.model import ApplicationState, ArtifactKind
from plexspaces_node.node.access.identity import Identity
from plexspaces_node.node.applications.capacity import Bounds, Capacity
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.deploy import Deployer
from plexspaces_node.node.applications.describe import describe
from plexspaces_node.node.applications.elsewhere import Message
from plexspaces_node.node.applications.empty_vms import EmptyVms
from plexspaces_node.node.applications.holdings import release, supervise
from plexspaces_node.node.applications.messages import Messages, Sent
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.applications.outcome import Cause, Done, Outcome
from plexspaces_node.node.applications.placing import Placing
from plexspaces_node.node.applications.quota_upkeep import QuotaUpkeep
from plexspaces_node.node.applications.roster import Roster, Viewer
from plexspaces_node.node.applications.secret_users import SecretUsers
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.applications.task_scope import TaskScope
from plexspaces_node.node.applications.vms import Vms
from plexspaces_node.node.logs import ApplicationLog, remove_all_but
from plexspaces_node.node.machines.agent_client import StopRefused
from plexspaces_node.node.machines.exchanges import Exchange
from plexspaces_node.node.machines.leftovers import deployed_applications, destroy_machines
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired
from plexspaces_node.tasks import Leave

_log = logging.getLogger(__name__)


class Applications:
    """The applications of one node, and every operation on them.

    Attributes:
        bounds: how much may run here.
        roster: which applications and empty VMs there are.
        messages: passes messages on; the others here only check whether the node takes some.
        vms: the VMs, as users see them.
        empty_vms: VMs without an application.
        deployer: deploys applications.
        placing: runs those that a cluster has placed here.
        secret_users: restarts those that use a secret.
        quotas: what tenants and applications may use, and what they use.
    """

    def __init__(self, node: NodeContext) -> None:
        limits, can = node.limits, node.driver.capabilities
        memory_mib = limits.memory_mib or node.host_memory_mib * can.memory_promised
        self.bounds = bounds = Bounds(limits.applications, limits.empty_vms, memory_mib)
        self._node = node
        self.roster = Roster()
        self.messages = Messages(limits, self.roster)
        self._capacity = Capacity(bounds, self.roster.held, node.quotas.limit)
        self.quotas = QuotaUpkeep(node, self.roster)
        self._scope = TaskScope()
        self._locks = NameLocks()
        self.vms = Vms(self.roster, node)
        self.empty_vms = EmptyVms(node, self.roster, self._capacity, self._scope)
        self.deployer = Deployer(
            node,
            roster=self.roster,
            router=self.messages,
            capacity=self._capacity,
            empty_vms=self.empty_vms,
            quotas=self.quotas,
            scope=self._scope,
            locks=self._locks,
        )
        self.deploy, self.vm_size = self.deployer.deploy, self.roster.vm_size
        self.placing = Placing(
            node,
            roster=self.roster,
            router=self.messages,
            capacity=self._capacity,
            quotas=self.quotas,
            scope=self._scope,
            locks=self._locks,
        )
        self.secret_users = SecretUsers(
            self.roster,
            capacity=self._capacity,
            scope=self._scope,
            locks=self._locks,
            grace_s=node.grace_s,
        )

    def __repr__(self) -> str:
        return f"<Applications {self.roster!r}>"

    def invoke(  # noqa: PLR0913 - a message, and who sends it
        self,
        name: str,
        msg_type: str,
        payload: Body,
        timeout_ns: int,
        cause: Cause = None,
        *,
        caller: Identity | None = None,
    ) -> Awaitable[Outcome]:
        """Send a message and wait for the reply; raises what `Messages.invoke` raises."""
        self._scope.check_open()
        return self.messages.invoke(name, msg_type, payload, timeout_ns, cause=cause, caller=caller)

    def post(  # noqa: PLR0913 - a message, and who waits for it
        self,
        name: str,
        msg_type: str,
        payload: Body,
        timeout_ns: int,
        done: Done,
        cause: Cause = None,
        *,
        caller: Identity | None = None,
    ) -> Leave:
        """Send a message and call `done` with the outcome: see `Messages.post`."""
        self._scope.check_open()
        return self.messages.post(
            name, msg_type, payload, timeout_ns, done, cause=cause, caller=caller
        )

    def receive(self, message: Message, done: Done) -> Leave:
        """Send a message that another node passes on: see `Messages.receive`."""
        self._scope.check_open()
        return self.messages.receive(message, done)

    def is_public(self, name: str) -> bool:
        """Return whether everybody may send messages to an application; False for none."""
        supervisor = self.roster.applications.get(name)
        if supervisor is None:
            elsewhere = self.messages.elsewhere
            return elsewhere is not None and elsewhere.is_public(name)
        return supervisor.record.public

    def is_component(self, name: str) -> bool:
        """Return whether an application handles HTTP requests itself."""
        supervisor = self.roster.applications.get(name)
        if supervisor is None:
            elsewhere = self.messages.elsewhere
            return elsewhere is not None and elsewhere.is_component(name)
        return supervisor.record.kind is ArtifactKind.HTTP_COMPONENT

    def request(  # noqa: PLR0913 - a request, and who waits for it
        self,
        name: str,
        head: link.RequestHead,
        body: Body,
        timeout_ns: int,
        sent: Sent,
        cause: Cause = None,
    ) -> Leave:
        """Send an HTTP request to a component: see `Messages.request`."""
        self._scope.check_open()
        return self.messages.request(name, head, body, timeout_ns, sent, cause=cause)

    async def exchange(
        self, name: str, head: link.RequestHead, body: Body, timeout_ns: int, cause: Cause = None
    ) -> Exchange:
        """Send an HTTP request to a component; raises what `Messages.exchange` raises."""
        self._scope.check_open()
        return await self.messages.exchange(name, head, body, timeout_ns, cause=cause)

    async def undeploy(self, name: str) -> None:
        """Remove an application completely, except for its artifact.

        Raises `NotFound`, and errors of the registry: then it is Stopped, and this can be repeated.
        """

        async def act() -> None:
            async with self._locks.held(name):
                supervisor = self.roster.named(name)
                await supervisor.stop(self._node.grace_s, save=False)
                try:
                    await self._node.registry.delete_application(supervisor.record.id)
                except PlexSpacesError as error:
                    supervisor.last_error = f"undeploy failed: {error}"
                    raise
                del self.roster.applications[name]
                await release(supervisor, self._node)
                self.quotas.bound_logs(name)

        await self._scope.shielded(act())

    async def stop(self, name: str, *, force: bool = False) -> ApplicationInfo:
        """Stop an application and keep its last snapshot. Idempotent.

        With `force` it stops even if its state cannot be saved: changes since its last snapshot are
        lost, and `last_error` says so. Raises `NotFound`, `WrongState` for one that cannot be read,
        `StopRefused` for one whose state cannot be saved, which keeps running.
        """

        async def act() -> ApplicationInfo:
            async with self._locks.held(name):
                supervisor = self.roster.readable(name)
                set_desired = self._node.registry.set_desired
                supervisor.record = await set_desired(name, Desired.STOPPED)
                try:
                    await supervisor.stop(self._node.grace_s, force=force)
                except StopRefused:
                    try:
                        supervisor.record = await set_desired(name, Desired.RUNNING)
                    except PlexSpacesError as error:
                        _log.warning(
                            "application %s keeps running, but will not after the next "
                            "start of the node: %s",
                            name,
                            error,
                        )
                    raise
                return await describe(supervisor)

        return await self._scope.shielded(act())

    async def start(self, name: str) -> ApplicationInfo:
        """Start a stopped or failed application from its last snapshot. Idempotent.

        Raises `NotFound`; `ResourceExhausted` if the node is full, and it is unchanged; or what
        prevents it from starting, and it is Failed.
        """
        async with self._scope.cancellable(), self._locks.held(name):
            supervisor = self.roster.readable(name)
            if supervisor.state is ApplicationState.STOPPING:
                raise WrongState(
                    f"application {name!r} could not be stopped",
                    hint=f"see why with: plexspaces stop --name {name}",
                )
            if supervisor.state in (ApplicationState.STOPPED, ApplicationState.FAILED):
                with self._capacity.for_application(name, supervisor.record.vm_config):
                    set_desired = self._node.registry.set_desired
                    supervisor.record = await set_desired(name, Desired.RUNNING)
                    await supervisor.start()
            return await describe(supervisor)

    async def list(self, viewer: Viewer | None = None, tenant: str = "") -> Listing:
        """Describe every application and every empty VM, by name; or what a viewer may see.

        With a tenant only its applications.
        """
        visible = self.roster.visible(viewer, tenant)
        sees_all = not tenant and (viewer is None or viewer.is_of_all())
        machines = tuple(self.roster.empty_vms.values()) if sees_all else ()
        # Not from before, or it would tell how many others there are.
        begin = perf_counter_ns()
        supervisors = sorted(visible, key=lambda one: one.name)
        # Sequentially: none of it waits, and a task for each would take just as long.
        applications = [await describe(supervisor) for supervisor in supervisors]
        empties = [await machine.info() for machine in machines]
        return Listing(tuple(applications), tuple(empties), perf_counter_ns() - begin)

    async def inspect(self, name: str) -> ApplicationInfo:
        """Describe one application; raises `NotFound`."""
        return await describe(self.roster.named(name))

    def log_of(self, name: str) -> ApplicationLog:
        """Return an application's log; raises `NotFound`."""
        return self.roster.named(name).journal

    # ---- the life of the node ----------------------------------------------------------

    async def recover(
        self, waits: Callable[[ApplicationRecord], bool] = lambda _record: False
    ) -> tuple[str, ...]:
        """Destroy what an earlier node left running, and start what should run.

        But not what `waits` for its cluster: `placing` starts that, and its messages wait.

        Returns the names of the applications that start. They start in the background, even if the
        node would now refuse as many. Nothing is left of deploys that were not done when the
        earlier node ended.
        """
        await destroy_machines(self._node.driver, self._node.vms)
        starting = []
        for record in await deployed_applications(self._node.registry):
            supervisor = supervise(record, self._node, self.messages)
            self.roster.applications[record.name] = supervisor
            if record.fault:
                _log.warning("application %s: %s", record.name, record.fault)
            elif waits(record):
                supervisor.expected = True
                supervisor.direct()
            elif record.desired is Desired.RUNNING:
                supervisor.start_later()
                starting.append(record.name)
        for name in self.roster.applications:
            self.quotas.bound_logs(name)
        if not self._node.registry.is_new:
            await asyncio.to_thread(
                remove_all_but, self._node.logs, tuple(self.roster.applications)
            )
        elif self._node.artifacts.total_bytes or any(self._node.logs.iterdir()):
            # Nothing is removed, because it may be known again later what belongs to whom.
            _log.warning(
                "the registry is new, but %s has artifacts or logs of an earlier one: if it was "
                "lost, stop the node and restore a backup (plexspaces restore)",
                self._node.logs.parent,
            )
        # Not before: only now the artifacts of all applications are held.
        self._node.artifacts.start_pruning(self._node.limits.unused_artifact_bytes)
        return tuple(starting)

    async def drain(self, grace_s: float) -> bool:
        """Accept no more work, let messages finish for `grace_s`, stop every VM.

        Applications that should run start again when a node opens this directory. Returns whether
        everything was stopped and saved; the rest is logged.
        """

        async def end(supervisor: Supervisor) -> None:
            async with self._locks.held(supervisor.name):
                # The node ends, and its VMs with it: a loss can only be reported.
                if lost := await supervisor.stop(grace_s, force=True):
                    raise WrongState(f"application {supervisor.name!r}: {lost}")

        await self._close_scope()
        ends = await asyncio.gather(
            *(end(supervisor) for supervisor in self.roster.supervisors()),
            *(self.empty_vms.stop(vm_id) for vm_id in tuple(self.roster.empty_vms)),
            return_exceptions=True,
        )
        errors = [error for error in ends if isinstance(error, BaseException)]
        for error in errors:
            # One VM that cannot be ended must not keep the others running.
            _log.error("shutting down: %s", error, exc_info=error)
        await self._close_logs()
        return not errors

    async def abort(self) -> None:
        """End every VM at once; what was not saved is lost."""
        await self._close_scope()
        await asyncio.gather(
            *(supervisor.abort() for supervisor in self.roster.supervisors()),
            *(machine.destroy() for machine in tuple(self.roster.empty_vms.values())),
            return_exceptions=True,
        )
        await self._close_logs()

    async def _close_scope(self) -> None:
        for supervisor in self.roster.supervisors():
            supervisor.intake.close()
        await self._scope.close()

    async def _close_logs(self) -> None:
        self.messages.close()
        for supervisor in self.roster.supervisors():
            await supervisor.journal.close()
