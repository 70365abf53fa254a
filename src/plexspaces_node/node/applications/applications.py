"""The use cases of the node: deploy, invoke, list, stop, start, undeploy, and empty machines.

What the gRPC service calls, and what decides. Messages are `messages`' business; the other acts on
a name happen one at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any, TypeVar

from plexspaces_node.errors import (
    ActorError,
    AlreadyExists,
    NotFound,
    PlexSpacesError,
    Unavailable,
    WrongState,
)
from plexspaces_node.info import ApplicationInfo, Listing, VmInfo
from plexspaces_node.link.frames import Body
from plexspaces_node.model import (
    ApplicationState,
    PhaseTimings,
    VmConfig,
    check_name,
)
from plexspaces_node.node.applications.capacity import Bounds, Capacity, Held
from plexspaces_node.node.applications.messages import Messages, Outcome
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.applications.requests import (
    DeployRequest,
    check_artifact,
    completed,
    is_answered,
    next_record,
    record_of,
)
from plexspaces_node.node.applications.supervisor import Progress, Supervisor, Surroundings
from plexspaces_node.node.artifacts.store import Compiled
from plexspaces_node.node.logs import ApplicationLog, remove_all_but
from plexspaces_node.node.machines.agent_client import StopRefused
from plexspaces_node.node.machines.leftovers import deployed_applications, destroy_machines
from plexspaces_node.node.machines.machine import Machine, start_machine
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired
from plexspaces_node.vm.bundle import Bundle, new_vm_id
from plexspaces_node.vm.host.vmm import finished

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Version:
    """What an application was before it was to be replaced."""

    record: ApplicationRecord
    timings: PhaseTimings
    state: ApplicationState
    last_error: str


@dataclass(eq=False)
class Applications:
    """Every application and every empty machine of a node.

    Mutable are only the two dicts below, all changed on the event loop alone.
    """

    around: Surroundings
    logs: Path
    grace_s: float
    _supervisors: dict[str, Supervisor] = field(default_factory=dict)
    _empties: dict[str, tuple[Machine, asyncio.Task[None]]] = field(default_factory=dict)
    _locks: NameLocks = field(default_factory=NameLocks)
    _acts: set[asyncio.Task[Any]] = field(default_factory=set)
    """Deploys and starts under way, which a shutdown cancels."""
    _ending: set[asyncio.Task[Any]] = field(default_factory=set)
    """Stops and undoings under way, which a shutdown awaits."""
    _draining: bool = False

    def __post_init__(self) -> None:
        self._messages = Messages(self.around.limits, self._named)
        self._capacity = Capacity(self._bounds(), self._held)

    # ---- messages ----------------------------------------------------------------------

    def invoke(
        self, name: str, msg_type: str, payload: Body, timeout_ns: int
    ) -> Awaitable[Outcome]:
        """Send a message and wait for the reply; raises what `Messages.invoke` raises."""
        if self._draining:
            raise _shutting_down()
        return self._messages.invoke(name, msg_type, payload, timeout_ns)

    # ---- applications ------------------------------------------------------------------

    async def deploy(self, request: DeployRequest, progress: Progress) -> ApplicationInfo:
        """Deploy an application and return it once a message can be answered.

        On any failure, cancelling included, nothing of it is left but the artifact, and what was
        to be replaced is as it was; so it is, once a node opens the directory again, when this one
        is killed meanwhile. Raises `AlreadyExists`, `InvalidArgument`, `NotFound` for the artifact
        or the empty machine, `ResourceExhausted` when the node is full, `VmStartFailed`,
        `WrongState` for a version that cannot be read, what the registry does, or what the actor's
        `init` did wrong.
        """
        begin = perf_counter_ns()
        spec = request.spec
        self.around.driver.capabilities.check(spec.vm_config)
        artifact = self.around.artifacts.holding(spec.digest)
        async with self._act(), artifact, self._locks.held(spec.name):
            known = self._supervisors.get(spec.name)
            if known is not None and (not request.replace or is_answered(known.record, request)):
                return await self._answer_again(known, request)
            if request.vm_id and request.vm_id not in self._empties:
                raise _no_vm(request.vm_id)
            if known is not None:
                self._readable(spec.name)
            memory_mib = spec.vm_config.memory_mib
            with self._capacity.for_application(spec.name, memory_mib, vm_id=request.vm_id):
                compiled = await self._compile(request, progress)
                if known is not None:
                    await self._replace(known, request, compiled, progress)
                    return await known.info()
                return await self._deploy(request, compiled, progress, begin)

    async def _deploy(
        self, request: DeployRequest, compiled: Compiled, progress: Progress, begin: int
    ) -> ApplicationInfo:
        supervisor, name = self._supervise(record_of(request, compiled)), request.spec.name
        try:
            await self.around.registry.insert_application(supervisor.record)
            await supervisor.journal.clear()
            self._supervisors[name] = supervisor
            empty = await self._take_empty(request.vm_id) if request.vm_id else None
            await supervisor.start(empty=empty, progress=progress)
            duration_ns = perf_counter_ns() - begin
            supervisor.timings = completed(supervisor.timings, compiled, duration_ns)
            supervisor.record = await self.around.registry.set_deployed(name, supervisor.timings)
        except BaseException:
            await self._to_the_end(self._undo(supervisor))
            raise
        return await supervisor.info()

    async def _replace(
        self, known: Supervisor, request: DeployRequest, compiled: Compiled, progress: Progress
    ) -> None:
        """Stop an application and start its next version from what it leaves.

        The next version takes messages, and is what a later start of the node finds, only once it
        has started.
        """
        begin = perf_counter_ns() - compiled.duration_ns
        await self.around.registry.check_request(request.request_id, known.name)
        before = _Version(known.record, known.timings, known.state, known.last_error)
        record = next_record(before.record, request, compiled)
        self.around.artifacts.hold(record.digest)
        known.replacing = True
        try:
            progress("stop")
            # To the end: amid its goodbye an actor hands over its last state.
            if lost := await finished(known.stop(self.grace_s)):
                raise Unavailable(f"application {known.name!r} was not replaced: {lost}")
            empty = await self._take_empty(request.vm_id) if request.vm_id else None
            known.begin_trial(record)
            await known.start(empty=empty, progress=progress)
        except BaseException as error:
            await finished(self._to_the_end(self._put_back(known, before, record)))
            _add_hint(error, known)
            raise
        timings = completed(known.timings, compiled, perf_counter_ns() - begin)
        await finished(
            self._to_the_end(self._keep(known, before, replace(record, timings=timings)))
        )

    async def _keep(self, known: Supervisor, before: _Version, record: ApplicationRecord) -> None:
        """Make what runs the application's version; when the registry refuses, undo it."""
        try:
            await self.around.registry.replace_application(record)
        except PlexSpacesError as error:
            await self._put_back(known, before, record)
            _add_hint(error, known)
            raise
        known.record = record
        known.timings = record.timings or known.timings
        known.end_trial(keep=True)
        self.around.artifacts.release(before.record.digest)

    async def _put_back(
        self, known: Supervisor, before: _Version, failed: ApplicationRecord
    ) -> None:
        """Have the version before where the next one failed."""
        if known.state is ApplicationState.RUNNING and not known.on_trial:
            # It could not be stopped, and runs on.
            known.replacing = False
            self.around.artifacts.release(failed.digest)
            return
        try:
            # Without a goodbye: what the next version would save is not for the one before.
            await known.abort()
        finally:
            known.end_trial(keep=False)
            known.record, known.timings = before.record, before.timings
            self.around.artifacts.release(failed.digest)
        if before.state is ApplicationState.FAILED:
            known.state, known.last_error = before.state, before.last_error
        elif before.state is not ApplicationState.STOPPED and not self._draining:
            known.start_later()

    async def _compile(self, request: DeployRequest, progress: Progress) -> Compiled:
        overhead_mib = self.around.driver.capabilities.overhead_mib
        return await self.around.artifacts.compile(
            request.spec.digest,
            owner=request.owner,
            check=partial(check_artifact, request.spec, overhead_mib),
            on_miss=lambda: progress("compile"),
        )

    async def undeploy(self, name: str) -> None:
        """Remove an application without a trace but its artifact, which nobody may need then.

        Raises `NotFound`, and what the registry does: it is Stopped then, and this can be repeated.
        """

        async def act() -> None:
            async with self._locks.held(name):
                supervisor = self._named(name)
                await supervisor.stop(self.grace_s, save=False)
                try:
                    await self.around.registry.delete_application(supervisor.record.id)
                except PlexSpacesError as error:
                    supervisor.last_error = f"undeploy failed: {error}"
                    raise
                del self._supervisors[name]
                await self._let_go(supervisor)

        await self._to_the_end(act())

    async def stop(self, name: str, *, force: bool = False) -> ApplicationInfo:
        """Stop an application and keep its last snapshot. Idempotent.

        With `force` also where its state cannot be saved: what it changed since its last snapshot
        is lost then, and `last_error` says so. Raises `NotFound`, `WrongState` for one that cannot
        be read, `StopRefused` for one whose state cannot be saved, which runs on.
        """

        async def act() -> ApplicationInfo:
            async with self._locks.held(name):
                supervisor = self._readable(name)
                set_desired = self.around.registry.set_desired
                supervisor.record = await set_desired(name, Desired.STOPPED)
                try:
                    await supervisor.stop(self.grace_s, force=force)
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
                return await supervisor.info()

        return await self._to_the_end(act())

    async def start(self, name: str) -> ApplicationInfo:
        """Start a stopped or failed application from its last snapshot. Idempotent.

        Raises `NotFound`, `ResourceExhausted` when the node is full, and it is as it was; or what
        keeps it from starting, and it is Failed.
        """
        async with self._act(), self._locks.held(name):
            supervisor = self._readable(name)
            if supervisor.state is ApplicationState.STOPPING:
                raise WrongState(
                    f"application {name!r} could not be stopped",
                    hint=f"see why with: plexspaces stop --name {name}",
                )
            if supervisor.state in (ApplicationState.STOPPED, ApplicationState.FAILED):
                memory_mib = supervisor.record.vm_config.memory_mib
                with self._capacity.for_application(name, memory_mib):
                    set_desired = self.around.registry.set_desired
                    supervisor.record = await set_desired(name, Desired.RUNNING)
                    await supervisor.start()
            return await supervisor.info()

    async def list(self) -> Listing:
        """Describe every application and every empty machine, by name."""
        begin = perf_counter_ns()
        supervisors = [self._supervisors[name] for name in sorted(self._supervisors)]
        # One after the other: nothing of it waits, and a task for each takes as long as it does.
        applications = [await supervisor.info() for supervisor in supervisors]
        empties = [await machine.info() for machine in self.empty_machines()]
        return Listing(tuple(applications), tuple(empties), perf_counter_ns() - begin)

    async def inspect(self, name: str) -> ApplicationInfo:
        """Describe one application; raises `NotFound`."""
        return await self._named(name).info()

    def size_of(self, name: str, default: VmConfig) -> VmConfig:
        """Return the size of an application's machine, or the default without one."""
        known = self._supervisors.get(name)
        return default if known is None else known.record.vm_config

    def log_of(self, name: str) -> ApplicationLog:
        """Return an application's log; raises `NotFound`."""
        return self._named(name).journal

    def supervisors(self) -> tuple[Supervisor, ...]:
        """Return every application's supervisor, for metrics; callable from any thread."""
        return tuple(self._supervisors.values())

    # ---- empty machines ----------------------------------------------------------------

    async def start_vm(self, vm_id: str, config: VmConfig) -> tuple[VmInfo, int]:
        """Start an empty machine; return it and how long it took, in nanoseconds.

        Raises `AlreadyExists` for an id in use, `InvalidArgument`, `ResourceExhausted` when the
        node is full, `VmStartFailed`.
        """
        self.around.driver.capabilities.check(config)
        vm_id = vm_id or new_vm_id()
        check_name(vm_id, what="VM id")
        async with self._act():
            with self._capacity.for_empty_vm(vm_id, config.memory_mib):
                bundle = Bundle.create(self.around.vms, vm_id, config)
                machine = await start_machine(self.around.driver, bundle, self.around.agent_limits)
                watch = asyncio.create_task(self._watch_empty(machine), name=f"watch {vm_id}")
                self._empties[vm_id] = (machine, watch)
        return await machine.info(), machine.vm_ns

    async def stop_vm(self, vm_id: str) -> None:
        """Remove an empty machine. Idempotent.

        Raises `WrongState` for a machine with an application, which `stop` is for.
        """
        for supervisor in self._supervisors.values():
            if supervisor.machine is not None and supervisor.machine.id == vm_id:
                raise WrongState(
                    f"VM {vm_id!r} runs application {supervisor.name!r}",
                    hint=f"plexspaces stop --name {supervisor.name}",
                )

        async def act() -> None:
            if vm_id in self._empties:
                machine = await self._take_empty(vm_id)
                await machine.stop(1.0, force=True)

        await self._to_the_end(act())

    def empty_machines(self) -> tuple[Machine, ...]:
        """Return the machines that wait for an application."""
        return tuple(machine for machine, _ in self._empties.values())

    # ---- the life of the node ----------------------------------------------------------

    async def recover(self) -> tuple[str, ...]:
        """Destroy what an earlier node left running, and start what should run.

        Returns the names of those that start, at once: they do so in the background, also where
        they are more than the node would take now. Of a deploy that was not done when that node
        ended nothing stays.
        """
        await destroy_machines(self.around.driver, self.around.vms)
        starting = []
        for record in await deployed_applications(self.around.registry):
            supervisor = self._supervise(record)
            self._supervisors[record.name] = supervisor
            if record.fault:
                _log.warning("application %s: %s", record.name, record.fault)
                supervisor.state, supervisor.last_error = ApplicationState.FAILED, record.fault
            elif record.desired is Desired.RUNNING:
                supervisor.start_later()
                starting.append(record.name)
        if not self.around.registry.is_new:
            await asyncio.to_thread(remove_all_but, self.logs, tuple(self._supervisors))
        elif self.around.artifacts.total_bytes or any(self.logs.iterdir()):
            # Nothing is removed: what belongs to whom may be known again.
            _log.warning(
                "the registry is new, but %s has artifacts or logs of an earlier one: if it was "
                "lost, stop the node and restore a backup (plexspaces restore)",
                self.logs.parent,
            )
        # Not before: only now the artifacts of all applications are held.
        self.around.artifacts.start_pruning(self.around.limits.unused_artifact_bytes)
        return tuple(starting)

    async def drain(self, grace_s: float) -> bool:
        """Take no more work, let messages finish for `grace_s`, stop every machine.

        What should run keeps that wish, and does so when a node opens this directory again.
        Returns whether all was stopped and saved; what was not is logged.
        """

        async def end(supervisor: Supervisor) -> None:
            async with self._locks.held(supervisor.name):
                # The node ends, and its machines with it: what is lost can only be told.
                if lost := await supervisor.stop(grace_s, force=True):
                    raise WrongState(f"application {supervisor.name!r}: {lost}")

        await self._end_acts()
        ends = await asyncio.gather(
            *(end(supervisor) for supervisor in self.supervisors()),
            *(self.stop_vm(vm_id) for vm_id in list(self._empties)),
            return_exceptions=True,
        )
        errors = [error for error in ends if isinstance(error, BaseException)]
        for error in errors:
            # One machine that cannot be ended must not keep the others running.
            _log.error("shutting down: %s", error, exc_info=error)
        await self._close_logs()
        return not errors

    async def abort(self) -> None:
        """End every machine at once; what was not snapshotted is lost."""
        await self._end_acts()
        await asyncio.gather(
            *(supervisor.abort() for supervisor in self._supervisors.values()),
            *(machine.destroy() for machine in self.empty_machines()),
            return_exceptions=True,
        )
        await self._close_logs()

    # ---- within ------------------------------------------------------------------------

    def _bounds(self) -> Bounds:
        limits, can = self.around.limits, self.around.driver.capabilities
        memory_mib = limits.memory_mib or self.around.host_memory_mib * can.memory_promised
        return Bounds(limits.applications, limits.empty_vms, memory_mib)

    def _held(self) -> Held:
        return Held(
            {one.name: one.memory_mib for one in self._supervisors.values()},
            {vm_id: machine.config.memory_mib for vm_id, (machine, _) in self._empties.items()},
        )

    def _named(self, name: str) -> Supervisor:
        supervisor = self._supervisors.get(name)
        if supervisor is None:
            raise NotFound(f"there is no application {name!r}", hint="plexspaces list")
        return supervisor

    def _readable(self, name: str) -> Supervisor:
        supervisor = self._named(name)
        if supervisor.record.fault:
            raise WrongState(
                f"application {name!r}: {supervisor.record.fault}",
                hint="use the version of PlexSpaces that wrote it, or remove it: "
                f"plexspaces undeploy --name {name}",
            )
        return supervisor

    @asynccontextmanager
    async def _act(self) -> AsyncIterator[None]:
        """Do something that a shutdown cancels, undone, before the node ends."""
        if self._draining:
            raise _shutting_down()
        task = asyncio.current_task()
        assert task is not None
        self._acts.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._draining:
                raise
            task.uncancel()
            raise _shutting_down() from None
        finally:
            self._acts.discard(task)

    async def _end_acts(self) -> None:
        self._draining = True
        acts = list(self._acts)
        for task in acts:
            task.cancel()
        await asyncio.gather(*acts, return_exceptions=True)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _to_the_end(self, act: Coroutine[Any, Any, _T]) -> _T:
        """Do what must not be left half done, also when whoever asked for it goes away."""
        task = asyncio.create_task(act)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return await asyncio.shield(task)

    def _supervise(self, record: ApplicationRecord) -> Supervisor:
        """Make the supervisor of an application, which holds its artifact until `_let_go`."""
        self.around.artifacts.hold(record.digest)
        # A name that cannot be read may be anything, but not a way out of the directory.
        file = record.name.replace("/", "_")
        journal = ApplicationLog(self.logs / f"{file}.log", self.around.limits.log_bytes)
        return Supervisor(record, self.around, self._messages, journal)

    async def _undo(self, supervisor: Supervisor) -> None:
        """Leave nothing of a deploy that failed.

        A row that the registry does not remove is no application: the next deploy of that name or
        the next start of the node does it.
        """
        self._supervisors.pop(supervisor.name, None)
        delete = partial(self.around.registry.delete_application, supervisor.record.id)
        for step in (supervisor.abort, delete):
            try:
                await step()
            except PlexSpacesError as error:
                _log.warning("rolling back the deploy of %s: %s", supervisor.name, error)
        await self._let_go(supervisor)

    async def _let_go(self, supervisor: Supervisor) -> None:
        self.around.artifacts.release(supervisor.record.digest)
        supervisor.forget()
        try:
            await supervisor.journal.remove()
        except OSError as error:
            _log.warning("the log of %s stays until the next start: %s", supervisor.name, error)

    async def _answer_again(self, known: Supervisor, request: DeployRequest) -> ApplicationInfo:
        if not is_answered(known.record, request):
            raise AlreadyExists(
                f"application {known.name!r} is already deployed, and {known.state}",
                hint="deploy with --replace, which keeps its state, or under another --name",
            )
        return await known.info()

    async def _take_empty(self, vm_id: str) -> Machine:
        try:
            machine, watch = self._empties.pop(vm_id)
        except KeyError:
            raise _no_vm(vm_id) from None
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        return machine

    async def _watch_empty(self, machine: Machine) -> None:
        ended = await machine.wait()
        _log.warning("empty machine %s ended: %s", machine.id, ended.reason)
        self._empties.pop(machine.id, None)
        await machine.destroy()

    async def _close_logs(self) -> None:
        self._messages.close()
        for supervisor in self._supervisors.values():
            await supervisor.journal.close()


def _shutting_down() -> Unavailable:
    return Unavailable("the node is shutting down", hint="plexspaces start-node --node-id ID")


def _add_hint(error: BaseException, known: Supervisor) -> None:
    """Have the error of a replacing say what became of the version before, if it says nothing."""
    if isinstance(error, PlexSpacesError | ActorError) and not error.hint:
        error.hint = f"{_became(known.state)}: plexspaces inspect {known.name}"


def _became(state: ApplicationState) -> str:
    if state is ApplicationState.STARTING:
        return "the previous version starts again from its last state"
    return f"the previous version is {state}"


def _no_vm(vm_id: str) -> NotFound:
    return NotFound(f"there is no empty VM {vm_id!r}", hint="plexspaces list")
