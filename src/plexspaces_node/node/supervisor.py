"""One application kept as the user wants it: started, started anew when its machine ends, stopped.

The same steps serve the first deploy, a restart after a crash and the recovery of a node: artifact
compiled (or found in the cache), machine started, artifact attached, actor initialised from its
last snapshot. Messages do not pass here; they go to `agent` directly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns, time_ns
from typing import Any, Protocol

from plexspaces_node.config import LimitsSection
from plexspaces_node.errors import (
    ActorError,
    PlexSpacesError,
    Unavailable,
    WrongState,
)
from plexspaces_node.model import (
    APPLICATION_TRANSITIONS,
    MIB,
    ApplicationState,
    PhaseTimings,
)
from plexspaces_node.node.agents import AgentClient
from plexspaces_node.node.artifacts import ArtifactStore
from plexspaces_node.node.logs import ApplicationLog, LogRecord
from plexspaces_node.node.machines import AgentLimits, Machine, start_machine
from plexspaces_node.node.registry import ApplicationRecord, Registry
from plexspaces_node.node.restart import WINDOW_S, wait_before_restart
from plexspaces_node.views import ApplicationInfo, Counters
from plexspaces_node.vm.bundle import Bundle, new_vm_id
from plexspaces_node.vm.driver import Driver
from plexspaces_node.wire import link

_log = logging.getLogger(__name__)

Progress = Callable[[str], None]
"""Called with the name of the phase that begins: vm or load."""

GOODBYE_S = 5.0
"""For the last snapshot and `shutdown` of an actor whose messages are done."""

LOAD_SLACK_S = 1.0
"""How much longer the node waits for a load than its agent, whose word should come first."""


class Router(Protocol):
    """Messages between applications."""

    async def ask(self, sender: str, request: link.Ask) -> bytes:
        """Pass a message on and return the reply; raises what the other one answered."""

    def tell(self, sender: str, request: link.Tell) -> None:
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
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.timings = self.record.timings or PhaseTimings()
        self._ends_s: list[float] = []
        self._keeper: asyncio.Task[None] | None = None
        self._unsaved: bytes | None = None
        self._saver: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self.record.name} {self.state} {self.machine!r}>"

    @property
    def name(self) -> str:
        """The application's name."""
        return self.record.name

    @property
    def agent(self) -> AgentClient:
        """Where messages go; raises `WrongState` or `Unavailable` while they cannot."""
        if self.state is ApplicationState.RUNNING and self.machine is not None:
            return self.machine.agent
        if self.state in (ApplicationState.STARTING, ApplicationState.RESTARTING):
            raise Unavailable(
                f"application {self.name!r} is {self.state}"
                + (f": {self.last_error}" if self.last_error else ""),
                hint=f"try again, or look: plexspaces inspect {self.name}",
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

    async def stop(self, grace_s: float) -> None:
        """Let messages in flight finish for `grace_s`, snapshot, leave no machine. Idempotent."""
        if self.state is ApplicationState.STOPPED:
            return
        if self.state is not ApplicationState.STOPPING:
            # It is already where an earlier stop failed: this one goes on from there.
            self._move(ApplicationState.STOPPING)
        await self._end_keeper()
        machine = self.machine
        if machine is not None:
            try:
                async with asyncio.timeout(grace_s):
                    await machine.agent.idle()
                await machine.stop(GOODBYE_S)
            except TimeoutError:
                # Its actor is busy beyond the grace: a goodbye would only wait in its mailbox.
                await machine.destroy()
            self.machine = None
        await self._saved()
        self._move(ApplicationState.STOPPED)

    async def abort(self) -> None:
        """End the machine at once, without goodbye; what was not snapshotted is lost."""
        await self._end_keeper()
        if self.machine is not None:
            await self.machine.destroy()
            self.machine = None

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
        )

    # ---- starting and keeping ----------------------------------------------------------

    async def _bring_up(self, empty: Machine | None, progress: Progress) -> None:
        record, around = self.record, self.around
        begin = perf_counter_ns()
        compiled = await around.artifacts.compile(record.digest)
        machine = empty
        if machine is None:
            progress("vm")
            bundle = Bundle.create(
                around.vms, new_vm_id(), record.vm_config, application=record.name
            )
            machine = await start_machine(around.driver, bundle, around.agent_limits)
        try:
            progress("load")
            load_begin = perf_counter_ns()
            machine.host.target = self
            frame = await self._load_frame()
            timeout_s = around.limits.deploy_timeout_s
            loaded = await machine.load(compiled.path, frame, timeout_s + LOAD_SLACK_S)
        except BaseException:
            await machine.destroy()
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
        self._move(ApplicationState.RUNNING)

    async def _load_frame(self) -> Callable[[int, str], link.Load]:
        record, limits = self.record, self.around.limits
        snapshot = await self.around.registry.load_snapshot(record.name)
        overhead_mib = self.around.driver.capabilities.overhead_mib

        def frame(request_id: int, path: str) -> link.Load:
            return link.Load(
                id=request_id,
                application=record.name,
                path=path,
                kind=record.kind,
                env=dict(record.env),
                memory_bytes=(record.vm_config.memory_mib - overhead_mib) * MIB,
                state=snapshot.state if snapshot else b"",
                timeout_ns=int(limits.deploy_timeout_s * 1e9),
                mailbox=limits.mailbox,
                snapshot_interval_ns=int(limits.snapshot_interval_s * 1e9),
            )

        return frame

    def _watch(self, keeping: Coroutine[Any, Any, None]) -> None:
        self._keeper = asyncio.create_task(keeping, name=f"keep {self.name}")
        self._keeper.add_done_callback(self._keeper_ended)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if keeper.cancelled() or keeper.exception() is None:
            return
        _log.error("application %s: its keeper failed", self.name, exc_info=keeper.exception())
        self.last_error = f"internal error: {keeper.exception()!r}"
        self.state = ApplicationState.FAILED

    async def _keep(self) -> None:
        while True:
            assert self.machine is not None
            ended = await self.machine.wait()
            self._ended(f"machine {self.machine.id} ended: {ended.reason}")
            await self.machine.destroy()
            self.machine = None
            if not await self._try_again():
                return

    async def _recover(self) -> None:
        try:
            await self._bring_up(None, lambda phase: None)
        except (PlexSpacesError, ActorError, OSError) as error:
            self._ended(str(error))
            if not await self._try_again():
                return
        await self._keep()

    async def _try_again(self) -> bool:
        while True:
            wait_s = wait_before_restart(self._ends_s, asyncio.get_running_loop().time())
            if wait_s is None:
                self.last_error = f"given up after {len(self._ends_s)} ends: {self.last_error}"
                self._move(ApplicationState.FAILED)
                return False
            await asyncio.sleep(wait_s)
            self._move(ApplicationState.STARTING)
            self.restarts += 1
            try:
                await self._bring_up(None, lambda phase: None)
            except (PlexSpacesError, ActorError, OSError) as error:
                self._ended(str(error))
            else:
                return True

    def _ended(self, why: str) -> None:
        self.last_error = why
        now_s = asyncio.get_running_loop().time()
        self._ends_s = [end for end in self._ends_s if now_s - end < WINDOW_S] + [now_s]
        self._move(ApplicationState.RESTARTING)
        self.log(link.Log("node", "error", why, 0))

    def _move(self, state: ApplicationState) -> None:
        if state not in APPLICATION_TRANSITIONS[self.state]:
            raise WrongState(f"application {self.name!r} is {self.state}, it cannot be {state}")
        _log.info("application %s: %s -> %s", self.name, self.state, state)
        self.state = state

    # ---- stopping ----------------------------------------------------------------------

    async def _end_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    async def _save(self) -> None:
        while self._unsaved is not None:
            state, self._unsaved = self._unsaved, None
            try:
                await self.around.registry.save_snapshot(self.name, state, taken_ns=time_ns())
            except PlexSpacesError as error:
                self.log(link.Log("node", "error", f"a snapshot was not saved: {error}", 0))

    async def _saved(self) -> None:
        if self._saver is not None:
            await self._saver

    # ---- what the agent calls: see agents.HostCalls ------------------------------------

    def log(self, frame: link.Log) -> None:
        """Take a line of the actor's log."""
        self.journal.append(
            LogRecord(frame.time_ns or time_ns(), frame.stream, frame.level, frame.message)
        )

    def snapshot(self, state: bytes) -> None:
        """Take a snapshot of the actor; of several that wait to be saved only the last is kept."""
        self._unsaved = state
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._save(), name=f"save {self.name}")

    async def answer(self, request: link.Ask | link.Tell | link.Get | link.Put) -> bytes | None:
        """Do what the actor asks of its node."""
        match request:
            case link.Get():
                return await self.around.registry.kv_get(self.name, request.key)
            case link.Put():
                await self.around.registry.kv_put(self.name, request.key, request.value)
                return None
            case link.Ask():
                return await self.router.ask(self.name, request)
            case link.Tell():
                self.router.tell(self.name, request)
                return None
