"""The use cases of the node: deploy, invoke, list, stop, start, undeploy, and empty machines.

What the gRPC service calls, and what decides. `invoke` reads one dict and goes to the agent: no
disk, no lock, no supervisor. The other acts on a name happen one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter_ns, time_ns
from typing import Any, TypeVar
from uuid import uuid4

from plexspaces_node.errors import (
    ActorError,
    ActorFailed,
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from plexspaces_node.model import (
    ApplicationSpec,
    ApplicationState,
    VmConfig,
    check_name,
)
from plexspaces_node.node.agents import believed
from plexspaces_node.node.artifacts import Compiled, check_language
from plexspaces_node.node.logs import ApplicationLog
from plexspaces_node.node.machines import Machine, start_machine
from plexspaces_node.node.registry import ApplicationRecord, Desired
from plexspaces_node.node.supervisor import Progress, Supervisor, Surroundings
from plexspaces_node.views import ApplicationInfo, Listing, MessageTimings, VmInfo
from plexspaces_node.vm.bundle import Bundle, bundles, new_vm_id
from plexspaces_node.wire import link

_log = logging.getLogger(__name__)

_MAX_TYPE_BYTES = 256
_MAX_UPLOAD_NS = 24 * 3600 * 10**9

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message: the reply's payload or the actor's failure, and its times."""

    payload: bytes
    failure: ActorError | None
    timings: MessageTimings


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """A deploy as the service understood it.

    Attributes:
        request_id: "" for none; a second deploy with the same one gets the first one's answer.
        vm_id: of an empty machine to deploy into, "" for a new one.
        upload_ns: what the client says its upload took, part of the timings.
    """

    spec: ApplicationSpec
    request_id: str = ""
    vm_id: str = ""
    upload_ns: int = 0


@dataclass(eq=False)
class _NameLock:
    """One act at a time on a name; kept only while somebody uses it, or names would pile up."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


@dataclass(eq=False)
class Applications:
    """Every application and every empty machine of a node.

    Mutable are only the four dicts below, all changed on the event loop alone.
    """

    around: Surroundings
    logs: Path
    grace_s: float
    _supervisors: dict[str, Supervisor] = field(default_factory=dict)
    _empties: dict[str, tuple[Machine, asyncio.Task[None]]] = field(default_factory=dict)
    _locks: dict[str, _NameLock] = field(default_factory=dict)
    _asks: dict[str, link.Ask] = field(default_factory=dict)
    """Which application waits for which: one entry an actor that is inside `ask`."""
    _told: set[asyncio.Task[None]] = field(default_factory=set)
    _acts: set[asyncio.Task[Any]] = field(default_factory=set)
    """Deploys and starts under way, which a shutdown cancels."""
    _ending: set[asyncio.Task[Any]] = field(default_factory=set)
    """Stops and undoings under way, which a shutdown awaits."""
    _draining: bool = False

    # ---- messages ----------------------------------------------------------------------

    async def invoke(
        self, name: str, msg_type: str, payload: bytes, timeout_ns: int, *, sender: str = ""
    ) -> Outcome:
        """Send a message and wait for the reply.

        Raises `NotFound`, `WrongState`, `Unavailable`, `ResourceExhausted`, `InvalidArgument` for
        a message over a limit, `DeadlineExceeded`. What the actor did wrong is in the outcome.
        """
        begin = perf_counter_ns()
        if self._draining and not sender:
            raise _shutting_down()
        supervisor = self._named(name)
        self._check_message(msg_type, payload, timeout_ns)
        try:
            reply = await supervisor.agent.invoke(
                sender=sender, msg_type=msg_type, payload=payload, timeout_ns=timeout_ns
            )
        except PlexSpacesError:
            supervisor.tally.failures += 1
            raise
        timings = _timings(reply, perf_counter_ns() - begin)
        failure = link.error_of(reply.failure) if reply.failure else None
        supervisor.tally.add(
            total_ns=timings.total_ns, compute_ns=timings.compute_ns, failed=failure is not None
        )
        if isinstance(failure, PlexSpacesError):
            raise failure
        if len(reply.payload) > self.around.limits.message_bytes:
            failure = ActorFailed("the reply is over the limit", code="reply-too-large")
        return Outcome(reply.payload, failure, timings)

    async def ask(self, sender: str, request: link.Ask) -> bytes:
        """Pass an actor's message on and return the reply; see `supervisor.Router`."""
        waits_for = request.to
        while waits_for != sender and waits_for in self._asks:
            waits_for = self._asks[waits_for].to
        if waits_for == sender:
            raise ActorFailed(
                f"{sender!r} asks {request.to!r}, which would wait for {sender!r} itself",
                code="call-cycle",
            )
        self._asks[sender] = request
        try:
            outcome = await self.invoke(
                request.to, request.type, request.payload, request.timeout_ns, sender=sender
            )
        finally:
            # An actor whose ask timed out may have asked again: that entry is not ours to remove.
            if self._asks.get(sender) is request:
                del self._asks[sender]
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.payload

    def tell(self, sender: str, request: link.Tell) -> None:
        """Queue an actor's message with another application; see `supervisor.Router`."""
        target = self._named(request.to)
        timeout_ns = int(self.around.limits.message_timeout_s * 1e9)
        self._check_message(request.type, request.payload, timeout_ns)
        waiting = target.agent.post(
            sender=sender, msg_type=request.type, payload=request.payload, timeout_ns=timeout_ns
        )

        async def finish() -> None:
            begin = perf_counter_ns()
            try:
                reply = await waiting
            except PlexSpacesError as error:
                why: str | None = str(error)
            else:
                why = reply.failure.message if reply.failure else None
                timings = _timings(reply, perf_counter_ns() - begin)
                target.tally.add(
                    total_ns=timings.total_ns,
                    compute_ns=timings.compute_ns,
                    failed=why is not None,
                )
            if why is not None:
                # Nobody waits for it: the log is the only place the failure can be seen.
                target.log(link.Log("node", "warn", f"a message from {sender!r}: {why}", 0))

        task = asyncio.create_task(finish())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    def _check_message(self, msg_type: str, payload: bytes, timeout_ns: int) -> None:
        limit = self.around.limits.message_bytes
        if len(payload) > limit:
            raise InvalidArgument(
                f"a message of {len(payload)} bytes is over the limit of {limit}",
                hint="send it in parts, or raise [limits] message_bytes",
            )
        if len(msg_type.encode()) > _MAX_TYPE_BYTES:
            raise InvalidArgument(f"a message type is at most {_MAX_TYPE_BYTES} bytes")
        if timeout_ns <= 0:
            raise InvalidArgument("the timeout must be more than 0", hint="--timeout 30")

    # ---- applications ------------------------------------------------------------------

    async def deploy(self, request: DeployRequest, progress: Progress) -> ApplicationInfo:
        """Deploy an application and return it once a message can be answered.

        On any failure, cancelling included, nothing of it is left but the artifact. Raises
        `AlreadyExists`, `InvalidArgument`, `NotFound` for the artifact or the empty machine,
        `VmStartFailed`, or what the actor's `init` did wrong.
        """
        begin = perf_counter_ns()
        spec = request.spec
        if request.upload_ns > _MAX_UPLOAD_NS:
            raise InvalidArgument(f"an upload of {request.upload_ns} ns is longer than a day")
        self.around.driver.capabilities.check(spec.vm_config)
        artifact = self.around.artifacts.holding(spec.digest)
        async with self._act(), artifact, self._lock(spec.name):
            known = self._supervisors.get(spec.name)
            if known is not None:
                return await self._answer_again(known, request)
            if len(self._supervisors) >= self.around.limits.applications:
                raise ResourceExhausted(
                    f"the node has {len(self._supervisors)} applications, its limit",
                    hint="plexspaces undeploy --name X, or raise [limits] applications",
                )
            if request.vm_id and request.vm_id not in self._empties:
                raise _no_vm(request.vm_id)
            compiled = await self._compile(spec.digest, progress)
            supervisor = self._supervise(_record(request, compiled))
            try:
                await self.around.registry.insert_application(supervisor.record)
                self._supervisors[spec.name] = supervisor
                empty = await self._take_empty(request.vm_id) if request.vm_id else None
                await supervisor.start(empty=empty, progress=progress)
                supervisor.timings = replace(
                    supervisor.timings,
                    upload_ns=request.upload_ns,
                    compile_ns=compiled.duration_ns,
                    compile_cached=compiled.cached,
                    total_ns=perf_counter_ns() - begin + request.upload_ns,
                )
                await self.around.registry.set_timings(spec.name, supervisor.timings)
            except BaseException:
                await self._to_the_end(self._forget(supervisor))
                raise
            return await supervisor.info()

    async def _compile(self, digest: str, progress: Progress) -> Compiled:
        try:
            return await self.around.artifacts.compile(digest, on_miss=lambda: progress("compile"))
        except InvalidArgument:
            # It can never run here, and bad input changes nothing.
            self.around.artifacts.refuse(digest)
            raise

    async def undeploy(self, name: str) -> None:
        """Remove an application without a trace but its artifact, which nobody may need then.

        Raises `NotFound`.
        """

        async def act() -> None:
            async with self._lock(name):
                supervisor = self._named(name)
                await supervisor.stop(self.grace_s)
                await self._forget(supervisor)

        await self._to_the_end(act())

    async def stop(self, name: str) -> ApplicationInfo:
        """Stop an application and keep its last snapshot. Idempotent; raises `NotFound`."""

        async def act() -> ApplicationInfo:
            async with self._lock(name):
                supervisor = self._named(name)
                supervisor.record = await self.around.registry.set_desired(name, Desired.STOPPED)
                await supervisor.stop(self.grace_s)
                return await supervisor.info()

        return await self._to_the_end(act())

    async def start(self, name: str) -> ApplicationInfo:
        """Start a stopped or failed application from its last snapshot. Idempotent.

        Raises `NotFound`, or what keeps it from starting; it is then Failed.
        """
        async with self._act(), self._lock(name):
            supervisor = self._named(name)
            if supervisor.state in (ApplicationState.STOPPED, ApplicationState.FAILED):
                supervisor.record = await self.around.registry.set_desired(name, Desired.RUNNING)
                await supervisor.start()
            return await supervisor.info()

    async def list(self) -> Listing:
        """Describe every application and every empty machine, by name."""
        begin = perf_counter_ns()
        supervisors = [self._supervisors[name] for name in sorted(self._supervisors)]
        applications = await asyncio.gather(*(s.info() for s in supervisors))
        empties = await asyncio.gather(*(machine.info() for machine in self.empty_machines()))
        return Listing(tuple(applications), tuple(empties), perf_counter_ns() - begin)

    async def inspect(self, name: str) -> ApplicationInfo:
        """Describe one application; raises `NotFound`."""
        return await self._named(name).info()

    def log_of(self, name: str) -> ApplicationLog:
        """Return an application's log; raises `NotFound`."""
        return self._named(name).journal

    def supervisors(self) -> tuple[Supervisor, ...]:
        """Return every application's supervisor, for metrics; callable from any thread."""
        return tuple(self._supervisors.values())

    # ---- empty machines ----------------------------------------------------------------

    async def start_vm(self, vm_id: str, config: VmConfig) -> tuple[VmInfo, int]:
        """Start an empty machine; return it and how long it took, in nanoseconds.

        Raises `AlreadyExists` for an id in use, `InvalidArgument`, `VmStartFailed`.
        """
        self.around.driver.capabilities.check(config)
        vm_id = vm_id or new_vm_id()
        check_name(vm_id, what="VM id")
        async with self._act():
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
                await machine.stop(1.0)

        await self._to_the_end(act())

    def empty_machines(self) -> tuple[Machine, ...]:
        """Return the machines that wait for an application."""
        return tuple(machine for machine, _ in self._empties.values())

    # ---- the life of the node ----------------------------------------------------------

    async def recover(self) -> tuple[str, ...]:
        """Destroy what an earlier node left running, and start what should run.

        Returns the names of the applications found, at once: they start in the background.
        """
        for bundle in list(bundles(self.around.vms)):
            _log.info("destroying %s, left by an earlier run", bundle.vm_id)
            await self.around.driver.destroy(bundle)
        records = await self.around.registry.list_applications()
        for record in records:
            supervisor = self._supervise(record)
            self._supervisors[record.name] = supervisor
            if record.desired is Desired.RUNNING:
                supervisor.start_later()
        # Not before: only now the artifacts of all applications are held.
        self.around.artifacts.start_pruning(self.around.limits.unused_artifact_bytes)
        return tuple(record.name for record in records)

    async def drain(self, grace_s: float) -> None:
        """Take no more work, let messages finish for `grace_s`, stop every machine.

        What should run keeps that wish, and does so when a node opens this directory again.
        """

        async def end(supervisor: Supervisor) -> None:
            async with self._lock(supervisor.name):
                await supervisor.stop(grace_s)

        await self._end_acts()
        ends = await asyncio.gather(
            *(end(supervisor) for supervisor in self.supervisors()),
            *(self.stop_vm(vm_id) for vm_id in list(self._empties)),
            return_exceptions=True,
        )
        for error in ends:
            if isinstance(error, BaseException):
                # One machine that cannot be ended must not keep the others running.
                _log.error("shutting down: %s", error, exc_info=error)
        await self._close_logs()

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

    def _named(self, name: str) -> Supervisor:
        supervisor = self._supervisors.get(name)
        if supervisor is None:
            raise NotFound(f"there is no application {name!r}", hint="plexspaces list")
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

    @asynccontextmanager
    async def _lock(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, _NameLock())
        lock.users += 1
        try:
            async with lock.lock:
                yield
        finally:
            lock.users -= 1
            if not lock.users:
                del self._locks[name]

    def _supervise(self, record: ApplicationRecord) -> Supervisor:
        """Make the supervisor of an application, which holds its artifact until `_forget`."""
        self.around.artifacts.hold(record.digest)
        journal = ApplicationLog(self.logs / f"{record.name}.log", self.around.limits.log_bytes)
        return Supervisor(record, self.around, self, journal)

    async def _forget(self, supervisor: Supervisor) -> None:
        self._supervisors.pop(supervisor.name, None)
        await supervisor.abort()
        with contextlib.suppress(NotFound):
            await self.around.registry.delete_application(supervisor.name)
        # Not before: a row that could not be removed is an application after the next start.
        self.around.artifacts.release(supervisor.record.digest)
        await supervisor.journal.remove()

    async def _answer_again(self, known: Supervisor, request: DeployRequest) -> ApplicationInfo:
        same = (
            request.request_id
            and known.record.request_id == request.request_id
            and known.record.digest == request.spec.digest
        )
        if not same:
            raise AlreadyExists(
                f"application {known.name!r} is deployed already, and {known.state}",
                hint=f"plexspaces undeploy --name {known.name}, or choose another --name",
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
        for task in list(self._told):
            task.cancel()
        for supervisor in self._supervisors.values():
            await supervisor.journal.close()


def _timings(reply: link.Reply, total_ns: int) -> MessageTimings:
    """Return where the time of a message went."""
    claimed = (reply.compute_ns, reply.wait_ns, reply.queue_ns)
    return MessageTimings(total_ns, *(believed(each, total_ns) for each in claimed))


def _shutting_down() -> Unavailable:
    return Unavailable("the node is shutting down", hint="plexspaces start-node --node-id ID")


def _record(request: DeployRequest, compiled: Compiled) -> ApplicationRecord:
    spec = request.spec
    return ApplicationRecord(
        name=spec.name,
        id=f"app-{uuid4().hex[:8]}",
        version=spec.version,
        language=check_language(compiled.report, spec.language),
        kind=compiled.report.kind,
        digest=spec.digest,
        vm_config=spec.vm_config,
        env=spec.env,
        desired=Desired.RUNNING,
        generation=1,
        request_id=request.request_id,
        created_ns=time_ns(),
    )


def _no_vm(vm_id: str) -> NotFound:
    return NotFound(f"there is no empty VM {vm_id!r}", hint="plexspaces list")
