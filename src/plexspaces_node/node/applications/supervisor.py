"""One application kept as the user wants it: started, started anew when its machine ends, stopped.

The same steps serve the first deploy, a restart after a crash and the recovery of a node: artifact
compiled (or found in the cache), machine started, artifact attached, actor initialised from its
last snapshot. Messages do not pass here; they go to `agent` directly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter_ns, time_ns
from typing import Any, Protocol

from plexspaces_node.errors import (
    ActorError,
    PlexSpacesError,
    Unavailable,
    WrongState,
)
from plexspaces_node.info import ApplicationInfo, Counters
from plexspaces_node.link import frames as link
from plexspaces_node.model import (
    APPLICATION_TRANSITIONS,
    MIB,
    ApplicationState,
    ArtifactKind,
    PhaseTimings,
)
from plexspaces_node.node.applications.restart import WINDOW_S, wait_before_restart
from plexspaces_node.node.applications.state_saver import Room, StateSaver
from plexspaces_node.node.artifacts.store import ArtifactStore
from plexspaces_node.node.logs import ApplicationLog, LogRecord
from plexspaces_node.node.machines.agent_client import AgentClient, Kept, StopRefused, believed
from plexspaces_node.node.machines.machine import AgentLimits, Machine, start_machine
from plexspaces_node.node.registry.registry import ApplicationRecord, Registry
from plexspaces_node.settings import LimitsSection
from plexspaces_node.vm.bundle import Bundle, new_vm_id
from plexspaces_node.vm.driver import Driver
from plexspaces_node.vm.host import procfs

_log = logging.getLogger(__name__)

Progress = Callable[[str], None]
"""Called with the name of the phase that begins: stop, vm or load."""

FAULTS = (PlexSpacesError, ActorError, OSError, RuntimeError, MemoryError)
"""What can go wrong without a defect of the node; a thread that cannot start is a RuntimeError."""

GOODBYE_S = 5.0
"""For each step of an agent's goodbye, its actor's messages and last snapshot being done."""

LOAD_SLACK_S = 1.0
"""How much longer the node waits for a load than its agent, whose word should come first."""

KINDS = {
    ArtifactKind.ACTOR: link.Load.KIND_ACTOR,
    ArtifactKind.COMMAND: link.Load.KIND_COMMAND,
    ArtifactKind.COMMAND_COMPONENT: link.Load.KIND_COMMAND_COMPONENT,
}


class Router(Protocol):
    """Messages between applications."""

    async def ask(self, sender: str, request: link.Ask, payload: link.Body) -> link.Body:
        """Pass a message on and return the reply; raises what the other one answered."""

    def tell(self, sender: str, request: link.Tell, payload: link.Body) -> None:
        """Queue a message with another application; raises when that cannot be done."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the node every supervisor works with."""

    driver: Driver
    vms: Path
    registry: Registry
    artifacts: ArtifactStore
    limits: LimitsSection
    agent_limits: AgentLimits
    states: Room = field(default_factory=Room)
    host_memory_mib: int = field(default_factory=procfs.granted_memory_mib)


@dataclass(slots=True)
class Tally:
    """Counts and times of an application's messages since the node started."""

    messages: int = 0
    failures: int = 0
    compute_ns: int = 0
    coordinate_ns: int = 0

    def add(self, *, total_ns: int, compute_ns: int, failed: bool) -> None:
        """Count one message that was answered."""
        self.messages += 1
        self.failures += failed
        self.compute_ns += compute_ns
        self.coordinate_ns += total_ns - compute_ns


@dataclass(eq=False)
class Supervisor:
    """One application. Its public methods are called under the caller's lock for the name."""

    record: ApplicationRecord
    around: Surroundings
    router: Router
    journal: ApplicationLog
    state: ApplicationState = ApplicationState.STOPPED
    machine: Machine | None = None
    restarts: int = 0
    last_error: str = ""
    replacing: bool = False
    """It is stopped for its next version only, which takes no messages yet."""
    tally: Tally = field(default_factory=Tally)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        self.timings = self.record.timings or PhaseTimings()
        self._ends_s: list[float] = []
        self._refusals = 0
        # Whether the last start came as far as the application's own code.
        self._loading = False
        self._keeper: asyncio.Task[None] | None = None
        around = self.around
        self._saver = StateSaver(
            self.name, around.registry, around.states, self._warn, sleep=self.sleep
        )
        # Of machines that may not be wholly gone.
        self._left: set[Bundle] = set()

    def __repr__(self) -> str:
        return f"<Supervisor {self.record.name} {self.state} {self.machine!r}>"

    @property
    def name(self) -> str:
        """The application's name."""
        return self.record.name

    @property
    def on_trial(self) -> bool:
        """What runs is its next version, which may yet be undone: its state is not saved yet."""
        return self._saver.on_trial

    @property
    def memory_mib(self) -> int:
        """The size of the machine that it has or is to have, 0 where it is to have none."""
        idle = self.state in (ApplicationState.STOPPED, ApplicationState.FAILED)
        return 0 if idle else self.record.vm_config.memory_mib

    @property
    def agent(self) -> AgentClient:
        """Where messages go; raises `WrongState` or `Unavailable` while they cannot."""
        if self.replacing:
            raise Unavailable(f"application {self.name!r} is being replaced", hint="try again")
        if self.state is ApplicationState.RUNNING and self.machine is not None:
            return self.machine.agent
        if self.state in (ApplicationState.STARTING, ApplicationState.RESTARTING):
            raise Unavailable(
                f"application {self.name!r} is {self.state}"
                + (f": {self.last_error}" if self.last_error else ""),
                hint=f"try again, or see: plexspaces inspect {self.name}",
            )
        raise WrongState(
            f"application {self.name!r} is {self.state}",
            hint=f"plexspaces start --name {self.name}",
        )

    async def start(
        self, *, empty: Machine | None = None, progress: Progress | None = None
    ) -> None:
        """Start the application and return when it can answer a message.

        Takes over `empty` when given. Raises what kept it from starting, with its machine gone;
        the state is then Failed.
        """
        self._move(ApplicationState.STARTING)
        self._ends_s.clear()
        self._refusals = 0
        try:
            await self._bring_up(empty, progress or (lambda phase: None))
        except BaseException as error:
            self.last_error = str(error)
            self._move(ApplicationState.FAILED)
            raise
        self._watch(self._keep())

    def start_later(self) -> None:
        """Start the application in the background, trying again by the restart policy."""
        self._move(ApplicationState.STARTING)
        self._watch(self._recover())

    async def stop(self, grace_s: float, *, save: bool = True, force: bool = False) -> str:
        """Let messages in flight finish for `grace_s`, snapshot, leave no machine. Idempotent.

        Raises `StopRefused` when the actor's state cannot be handed over: it runs on, unless
        `force` says that it is to end all the same; returns what was lost then, else "". Raises
        `Unavailable` when the registry did not take the last state within the grace. The
        application is stopped all the same; its state is kept for the next start, and the next
        stop tries again to save it. Without `save` nobody wants the state any more.
        """
        until_s = asyncio.get_running_loop().time() + grace_s
        runs_on, lost = False, ""
        try:
            lost = await self._end(grace_s, force=force or not save, save=save)
        except StopRefused:
            runs_on = True
            raise
        finally:
            if not runs_on:
                await (self._saver.finish(until_s) if save else self._saver.end())
        return lost

    async def _end(self, grace_s: float, *, force: bool, save: bool) -> str:
        lost = ""
        if self.state is ApplicationState.STOPPED:
            return lost
        if self.state is not ApplicationState.STOPPING:
            # It is already where an earlier stop failed: this one goes on from there.
            self._move(ApplicationState.STOPPING)
        await self._end_keeper()
        machine = self.machine
        if machine is not None:
            try:
                async with asyncio.timeout(grace_s):
                    await machine.agent.idle()
            except TimeoutError:
                # A goodbye would only wait in the mailbox.
                why = f"a message was still running after the grace period of {grace_s:g} s"
                if not force and self._has_state:
                    raise self._runs_on(StopRefused(why, hint="wait until it is done")) from None
                await machine.destroy()
                lost = self._lost(why)
            else:
                lost = await self._say_goodbye(machine, force=force, save=save)
            self.machine = None
        if (resists := await self._clear()) is not None:
            raise resists
        self._move(ApplicationState.STOPPED)
        self.last_error = lost
        return lost

    async def _say_goodbye(self, machine: Machine, *, force: bool, save: bool) -> str:
        """End a machine in good order; return what is lost, for which it was forced to end."""
        try:
            why = await machine.stop(GOODBYE_S, force=force, save=save)
        except StopRefused as error:
            raise self._runs_on(error) from error
        return self._lost(why) if why else ""

    @property
    def _has_state(self) -> bool:
        return self.record.kind is ArtifactKind.ACTOR

    def _lost(self, why: str) -> str:
        """Tell that an actor's last changes are lost; return the words."""
        if not self._has_state:
            return ""
        lost = f"{why}: changes since the last snapshot are lost"
        self._warn(lost)
        return lost

    def _runs_on(self, error: StopRefused) -> StopRefused:
        """Take up again what is not stopped; return the error that says so."""
        self._move(ApplicationState.RUNNING)
        self._watch(self._keep())
        refusal, why, cure = self._saver.error, error.message, error.hint
        if refusal is not None:
            why = f"{why} ({refusal})"
            cure = refusal.hint if isinstance(refusal, PlexSpacesError) else "df -h"
        force = f"discard the changes since then: plexspaces stop {self.name} --force"
        return StopRefused(
            f"application {self.name!r} keeps running because its state cannot be saved: {why}",
            hint=f"{cure}; or {force}" if cure else force,
        )

    async def abort(self) -> None:
        """End the machine at once, without goodbye, and save no more; it is Stopped then."""
        await self._end_keeper()
        await self._clear()
        # Not before: until its machine is gone an actor may hand over a state.
        await self._saver.end()
        if self.state not in (ApplicationState.STOPPED, ApplicationState.STOPPING):
            self._move(ApplicationState.STOPPING)
        if self.state is ApplicationState.STOPPING:
            self._move(ApplicationState.STOPPED)

    def begin_trial(self, record: ApplicationRecord) -> None:
        """Have the next start be that of another version, whose state is not saved until kept."""
        self.record, self._saver.on_trial = record, True

    def end_trial(self, *, keep: bool) -> None:
        """Go on with what runs as the application itself, or, once it is gone, without it."""
        if self.on_trial and not keep:
            self._saver.forget()
        self.replacing = self._saver.on_trial = False
        self._saver.resume()

    def forget(self) -> None:
        """Keep nothing of a state that is not saved: the application is no more."""
        self._saver.forget()

    async def info(self) -> ApplicationInfo:
        """Describe the application as it is now."""
        record, tally, machine = self.record, self.tally, self.machine
        return ApplicationInfo(
            id=record.id,
            name=record.name,
            version=record.version,
            state=self.state,
            language=record.language,
            kind=record.kind,
            digest=record.digest,
            vm_config=record.vm_config,
            vm=await machine.info() if machine else None,
            timings=self.timings,
            created_unix_ns=record.created_ns,
            restarts=self.restarts,
            last_error=self.last_error,
            counters=Counters(
                messages=tally.messages,
                failures=tally.failures,
                compute_ns=tally.compute_ns,
                coordinate_ns=tally.coordinate_ns,
                in_flight=machine.agent.in_flight if machine else 0,
            ),
            args=record.args,
            concurrency=record.at_once,
        )

    # ---- starting and keeping ----------------------------------------------------------

    async def _bring_up(self, empty: Machine | None, progress: Progress) -> None:
        record, around = self.record, self.around
        begin = perf_counter_ns()
        self._loading = False
        machine = empty
        try:
            compiled = await around.artifacts.compile(record.digest)
            if machine is None:
                progress("vm")
                machine = await self._new_machine()
            progress("load")
            load_begin = perf_counter_ns()
            self._saver.begin(self._memory_bytes())
            state_bytes, state = await self._saver.latest()
            timeout_s = around.limits.deploy_timeout_s + LOAD_SLACK_S
            frame = partial(self._load_frame, state_bytes)
            loaded = await machine.load(self, compiled.path, frame, state, timeout_s)
        except BaseException:
            if machine is not None:
                await self._discard(machine)
            raise
        # What is not the actor's init is loading: attaching the artifact, both ways of the link.
        load_ns = perf_counter_ns() - load_begin - loaded.init_ns
        self.timings = PhaseTimings(
            compile_ns=compiled.duration_ns,
            compile_cached=compiled.cached,
            vm_ns=0 if empty else machine.vm_ns,
            load_ns=load_ns,
            init_ns=loaded.init_ns,
            total_ns=perf_counter_ns() - begin,
        )
        self.machine = machine
        self.last_error = ""
        self._refusals = 0
        self._move(ApplicationState.RUNNING)
        self._saver.resume()

    async def _new_machine(self) -> Machine:
        record, around = self.record, self.around
        await self._clear()
        bundle = Bundle.create(around.vms, new_vm_id(), record.vm_config, application=record.name)
        self._left.add(bundle)
        machine = await start_machine(around.driver, bundle, around.agent_limits)
        self._left.discard(bundle)
        return machine

    def _memory_bytes(self) -> int:
        overhead_mib = self.around.driver.capabilities.overhead_mib
        return (self.record.vm_config.memory_mib - overhead_mib) * MIB

    def _load_frame(self, state_bytes: int, path: str) -> link.Load:
        record, limits = self.record, self.around.limits
        self._loading = True
        return link.Load(
            application=record.name,
            path=path,
            kind=KINDS[record.kind],
            env=record.env,
            args=record.args,
            memory_bytes=self._memory_bytes(),
            state_bytes=state_bytes,
            timeout_ns=int(limits.deploy_timeout_s * 1e9),
            mailbox=limits.mailbox,
            snapshot_interval_ns=int(limits.snapshot_interval_s * 1e9),
            concurrency=record.at_once,
            vcpus=record.vm_config.vcpus,
        )

    def _watch(self, keeping: Coroutine[Any, Any, None]) -> None:
        self._keeper = asyncio.create_task(keeping, name=f"keep {self.name}")
        self._keeper.add_done_callback(self._keeper_ended)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if keeper.cancelled() or keeper.exception() is None:
            return
        _log.error("application %s: its supervisor failed", self.name, exc_info=keeper.exception())
        self.last_error = f"internal error: {keeper.exception()!r}"
        self.state = ApplicationState.FAILED

    async def _keep(self) -> None:
        while True:
            assert self.machine is not None
            ended = await self.machine.wait()
            # Of an agent that has left, the start that follows counts for itself.
            why = f"machine {self.machine.id} ended: {ended.reason}"
            self._ended(why, by_host=self.machine.agent.left)
            await self._discard(self.machine)
            if not await self._try_again():
                return

    async def _recover(self) -> None:
        if await self._is_up() or await self._try_again():
            await self._keep()

    async def _try_again(self) -> bool:
        while True:
            now_s = asyncio.get_running_loop().time()
            wait_s = wait_before_restart(self._ends_s, now_s, refusals=self._refusals)
            if wait_s is None:
                self.last_error = f"gave up after {len(self._ends_s)} failures: {self.last_error}"
                self._move(ApplicationState.FAILED)
                return False
            await self.sleep(wait_s)
            self._move(ApplicationState.STARTING)
            self.restarts += 1
            if await self._is_up():
                return True

    async def _is_up(self) -> bool:
        """Bring the application up and tell whether it is; a failure counts with whoever failed."""
        try:
            await self._bring_up(None, lambda phase: None)
        except FAULTS as error:
            lasting = isinstance(error, PlexSpacesError) and not error.retryable
            self._ended(str(error) or repr(error), by_host=not self._loading and not lasting)
            return False
        return True

    def _ended(self, why: str, *, by_host: bool = False) -> None:
        self.last_error = why
        if by_host:
            self._refusals += 1
        else:
            self._refusals = 0
            now_s = asyncio.get_running_loop().time()
            self._ends_s = [end for end in self._ends_s if now_s - end < WINDOW_S] + [now_s]
        self._move(ApplicationState.RESTARTING)
        self.log([LogRecord(time_ns(), "node", "error", why)])

    def _move(self, state: ApplicationState) -> None:
        if state not in APPLICATION_TRANSITIONS[self.state]:
            raise WrongState(f"application {self.name!r} is {self.state}, it cannot become {state}")
        _log.info("application %s: %s -> %s", self.name, self.state, state)
        self.state = state

    # ---- stopping ----------------------------------------------------------------------

    async def _end_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    async def _discard(self, machine: Machine) -> None:
        """Leave nothing of a machine; what cannot be removed now is left to `_clear`."""
        self.machine = None
        self._saver.begin(0)
        self._left.add(machine.bundle)
        try:
            await machine.destroy()
        except FAULTS as error:
            self._warn(f"machine {machine.id} could not be removed: {error!r}")
        else:
            self._left.discard(machine.bundle)

    async def _clear(self) -> Exception | None:
        """Leave nothing of any machine, however it came to be; return what keeps one from going."""
        resists = None
        if self.machine is not None:
            await self._discard(self.machine)
        for bundle in tuple(self._left):
            try:
                await self.around.driver.destroy(bundle)
            except FAULTS as error:
                self._warn(f"machine {bundle.vm_id} could not be removed: {error!r}")
                resists = error
            else:
                self._left.discard(bundle)
        return resists

    def _warn(self, message: str) -> None:
        _log.warning("application %s: %s", self.name, message)
        self.log([LogRecord(time_ns(), "node", "warn", message)])

    # ---- what the agent calls: see agents.HostCalls ------------------------------------

    def log(self, lines: Sequence[LogRecord]) -> None:
        """Take lines of the actor's log."""
        for line in lines:
            self.journal.append(line)

    def snapshot_part(self, part: link.Snapshot, body: link.Body, kept: Kept) -> None:
        """Take a part of a state; of several that wait to be saved only the newest is kept."""
        self._saver.take(part, body, kept)

    def unclaimed(self, reply: link.Reply | None, total_ns: int) -> None:
        """Count what an actor did for nobody who waits: a sender that left, or told it only."""
        if reply is None:
            self.tally.failures += 1
        else:
            compute_ns = believed(reply.compute_ns, total_ns)
            failed = reply.HasField("failure")
            self.tally.add(total_ns=total_ns, compute_ns=compute_ns, failed=failed)

    async def answer(self, call: link.HostCall, body: link.Body) -> link.Body | None:
        """Do what the actor asks of its node."""
        if isinstance(call, link.Get):
            return await self.around.registry.kv_get(self.name, call.key)
        if isinstance(call, link.Put):
            await self.around.registry.kv_put(self.name, call.key, body)
        elif isinstance(call, link.Delete):
            await self.around.registry.kv_delete(self.name, call.key)
        elif isinstance(call, link.Ask):
            return await self.router.ask(self.name, call, body)
        else:
            self.router.tell(self.name, call, body)
        return None
