"""Keeps one application in its desired state: starts it, restarts it when its VM ends, stops it.

The first deploy, a restart after a crash and the recovery of a node take the same steps: the
artifact is compiled (or found in the cache), a VM started, the artifact attached, the actor
initialised from its last snapshot. Messages do not pass through here; they go to `intake`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import time_ns

from plexspaces_node.errors import PlexSpacesError, Unavailable, WrongState
from plexspaces_node.model import (
    APPLICATION_TRANSITIONS,
    ApplicationState,
    ArtifactKind,
    PhaseTimings,
)
from plexspaces_node.node.applications.actor_host import ActorHost, Router
from plexspaces_node.node.applications.clustered import ActorLease, cut_off
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.instance import FAULTS, Instance, Progress
from plexspaces_node.node.applications.intake import HOLD_S, Intake
from plexspaces_node.node.applications.restart import Failures
from plexspaces_node.node.applications.state_saver import StateSaver
from plexspaces_node.node.artifacts.store import Compiled
from plexspaces_node.node.logs import ApplicationLog
from plexspaces_node.node.machines.agent_client import AgentClient, StopRefused
from plexspaces_node.node.machines.machine import Machine
from plexspaces_node.node.registry.registry import ApplicationRecord
from plexspaces_node.node.secrets.cipher import SecretUnusable
from plexspaces_node.node.telemetry.activity import Activity, Start
from plexspaces_node.tasks import Background

_ON_THE_WAY = (ApplicationState.STARTING, ApplicationState.RESTARTING)
RESTART = "restart"
"""The reason of a start that follows one that has ended or failed."""

_log = logging.getLogger(__name__)


class Supervisor:
    """One application. Its public methods are called under the lock of its name.

    Attributes:
        name: the application's name.
        record: what is deployed; another version's during `begin_trial`.
        journal: the application's log.
        host: what its actor can ask of the node.
        intake: where its messages come in; kept open, held or closed as the application is.
        saver: saves the states that it hands over.
        activity: what its messages took, and what else it does.
        gate: the quotas that its messages pass.
        timings: of the last deploy or start.
        state: changed only along `model.APPLICATION_TRANSITIONS`.
        last_error: why it is not running, or what was lost, in one line.
        restarts: how often it was restarted by itself.
        replacing: it is stopped only for its next version; messages wait. Call `direct` after a
            change.
        expected: it is not started only because its cluster has not said so yet; messages wait.
            Call `direct` after a change.
        on_move: called after each change of `state`.
        lease: what it needs to serve messages; None for a node alone, and for what has no state.
    """

    def __init__(
        self,
        record: ApplicationRecord,
        node: NodeContext,
        router: Router,
        journal: ApplicationLog,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set up without starting. An application whose record cannot be read is Failed."""
        self.name = record.name
        self.record = record
        self.journal = journal
        self.activity = Activity(record.name, node.telemetry)
        self.gate = node.quotas.gate(record.name)
        self.timings = record.timings or PhaseTimings()
        self.state = ApplicationState.FAILED if record.fault else ApplicationState.STOPPED
        self.last_error = record.fault
        self.restarts = 0
        self.replacing = self.expected = False
        self.lease: ActorLease | None = None
        self.on_move: Callable[[], None] = lambda: None
        self._lease = ActorLease(node.clustered.lease) if node.clustered is not None else None
        self.intake = Intake(partial(_refusal, self), node.agent_limits_of(record.name))
        warn = partial(_warn, record.name, journal)
        self.saver = StateSaver(record.name, node.store, node.states, warn, sleep=sleep)
        self.host = ActorHost(
            record.name,
            store=node.store,
            router=router,
            journal=journal,
            states=self.saver.received,
            activity=self.activity,
            link_changed=self.direct,
            http=node.outgoing,
            quotas=node.quotas,
        )
        self._instance = Instance(node, self.host, self.saver, warn)
        self._failures = Failures()
        self._keeper = Background(f"keep {record.name}", self._keeper_failed)
        self._sleep = sleep
        # Why the next start is tried, if the one before has ended or failed.
        self._restart_reason = ""

    def __repr__(self) -> str:
        return f"<Supervisor {self.record.name} {self.state} {self.machine!r}>"

    @property
    def machine(self) -> Machine | None:
        """The VM that it runs in, or None."""
        return self._instance.machine

    async def start(
        self,
        *,
        compiled: Compiled | None = None,
        empty: Machine | None = None,
        progress: Progress = lambda _phase: None,
        reason: str = "start",
    ) -> None:
        """Start the application and return when it can answer messages.

        Compiles its artifact unless `compiled` is given, and uses the VM `empty` if given. `reason`
        is what its activity says of it. On failure the VM is removed, the state is Failed, and the
        cause is raised.
        """
        self.move(ApplicationState.STARTING)
        self._failures.clear()
        try:
            await self._bring_up(reason, compiled, empty, progress)
        except BaseException as error:
            self.last_error = str(error)
            self.move(ApplicationState.FAILED)
            raise
        self._keeper.run(self._keep())

    def start_later(self, reason: str = "recover") -> None:
        """Start the application in the background, retrying according to the restart policy."""
        self.move(ApplicationState.STARTING)
        self._keeper.run(self._start_and_keep(reason))

    async def stop(self, grace_s: float, *, save: bool = True, force: bool = False) -> str:
        """Let messages finish for `grace_s`, take a snapshot, remove the VM. Idempotent.

        Raises `StopRefused` if the actor's state cannot be handed over: it keeps running, unless
        `force`; then returns what was lost, else "". Raises `Unavailable` if the registry did not
        store the last state within the grace time. The application is stopped anyway; its state is
        kept for the next start, and the next stop tries to save it again. Without `save` the state
        is not needed any more.
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
                await (self.saver.finish(until_s) if save else self.saver.end())
        return lost

    async def abort(self) -> None:
        """End the VM at once and stop saving; it is Stopped then."""
        await self._keeper.end()
        await self._instance.destroy()
        # Not before: until its VM is gone, an actor may hand over a state.
        await self.saver.end()
        if self.state not in (ApplicationState.STOPPED, ApplicationState.STOPPING):
            self.move(ApplicationState.STOPPING)
        if self.state is ApplicationState.STOPPING:
            self.move(ApplicationState.STOPPED)

    def begin_trial(self, record: ApplicationRecord) -> None:
        """Let the next start use another version, whose state is not saved until it is kept."""
        self.record, self.saver.on_trial = record, True

    def end_trial(self) -> None:
        """Save the state of the running version from now on."""
        self.saver.on_trial = False
        self.saver.resume()

    def move(self, state: ApplicationState) -> None:
        """Change the state; raises `WrongState` for a transition that the table does not have."""
        if state not in APPLICATION_TRANSITIONS[self.state]:
            raise WrongState(f"application {self.name!r} is {self.state}, it cannot become {state}")
        _log.info("application %s: %s -> %s", self.name, self.state, state)
        self.state = state
        self.direct()
        self.on_move()

    def direct(self) -> None:
        """Pass messages on, let them wait or refuse them, as the application is now."""
        machine, state = self.machine, self.state
        self.lease = self._lease if self.record.kind is ArtifactKind.ACTOR else None
        if self.replacing or self.expected or state in _ON_THE_WAY:
            self.intake.hold()
        elif state is ApplicationState.RUNNING and machine is not None:
            may_serve = self.lease is None or self.lease.is_held_or(self.direct)
            if may_serve and machine.agent.takes_messages:
                self.intake.open(machine.agent)
            else:
                self.intake.hold()
        else:
            self.intake.refuse()

    # ---- starting and keeping ----------------------------------------------------------

    async def _bring_up(
        self, reason: str, compiled: Compiled | None, empty: Machine | None, progress: Progress
    ) -> None:
        record, cause = self.record, self.last_error if reason == RESTART else ""
        begun = Start(time_ns(), reason, cause, "", record.version, PhaseTimings())
        try:
            self.timings = await self._instance.start(
                record, compiled=compiled, empty=empty, progress=progress
            )
        except BaseException as error:
            is_cancelled = isinstance(error, asyncio.CancelledError)
            why = "it was cancelled" if is_cancelled else str(error) or repr(error)
            self.activity.started(begun._replace(error=why))
            raise
        self.activity.started(begun._replace(timings=self.timings))
        self.activity.is_component = record.kind is ArtifactKind.HTTP_COMPONENT
        self.last_error = ""
        self._failures.recovered()
        self.move(ApplicationState.RUNNING)
        self.saver.resume()

    async def _keep(self) -> None:
        while True:
            assert self.machine is not None
            ended = await self.machine.wait()
            # If the agent has left, the start that follows counts its own failures.
            why = f"VM {self.machine.id} ended: {ended.reason}"
            agent = self.machine.agent
            self._restart_reason = _reason_of(agent)
            self._ended(why, by_host=False, left=agent.left)
            await self._instance.discard()
            if not await self._try_again():
                return

    async def _start_and_keep(self, reason: str) -> None:
        if await self._is_up(reason) or await self._try_again():
            await self._keep()

    async def _try_again(self) -> bool:
        while True:
            wait_s = self._failures.wait_s(asyncio.get_running_loop().time())
            if wait_s is None:
                if count := len(self._failures):
                    self.last_error = f"gave up after {count} failures: {self.last_error}"
                self.move(ApplicationState.FAILED)
                return False
            if wait_s > HOLD_S:
                # No message can wait for that long.
                self.intake.refuse()
            await self._sleep(wait_s)
            self.move(ApplicationState.STARTING)
            self.restarts += 1
            self.activity.restarts[self._restart_reason] += 1
            if await self._is_up(RESTART):
                return True

    async def _is_up(self, reason: str) -> bool:
        """Start the application and return whether it runs; a failure counts against its cause."""
        try:
            await self._bring_up(reason, None, None, lambda _phase: None)
        except FAULTS as error:
            self._restart_reason = "start_failed"
            lasting = isinstance(error, PlexSpacesError) and not error.retryable
            by_host = not self._instance.reached_load and not lasting
            final = isinstance(error, SecretUnusable)
            self._ended(str(error) or repr(error), by_host=by_host or final, final=final)
            return False
        return True

    def _ended(self, why: str, *, by_host: bool, final: bool = False, left: bool = False) -> None:
        self.last_error = why
        now_s = asyncio.get_running_loop().time()
        if left:
            self._failures.leave(now_s)
        else:
            self._failures.add(now_s, by_host=by_host, final=final)
        self.move(ApplicationState.RESTARTING)
        self.journal.note("error", why)

    def _keeper_failed(self, error: BaseException) -> None:
        _log.error("application %s: its supervisor failed", self.name, exc_info=error)
        self.last_error = f"internal error: {error!r}"
        if self.state is not ApplicationState.FAILED:
            self.move(ApplicationState.FAILED)

    # ---- stopping ----------------------------------------------------------------------

    async def _end(self, grace_s: float, *, force: bool, save: bool) -> str:
        if self.state is ApplicationState.STOPPED:
            return ""
        if self.state is not ApplicationState.STOPPING:
            # After an earlier stop failed, it is already Stopping, and this one continues.
            self.move(ApplicationState.STOPPING)
        await self._keeper.end()
        has_state = self.record.kind is ArtifactKind.ACTOR
        try:
            why = await self._instance.stop(grace_s, force=force or not has_state, save=save)
        except StopRefused as error:
            raise self._runs_on(error) from error
        lost = ""
        if why and has_state:
            lost = f"{why}: changes since the last snapshot are lost"
            _warn(self.name, self.journal, lost)
        if (resists := await self._instance.destroy()) is not None:
            raise resists
        self.move(ApplicationState.STOPPED)
        self.last_error = lost
        return lost

    def _runs_on(self, error: StopRefused) -> StopRefused:
        """Go back to Running; return the error that says so."""
        self.move(ApplicationState.RUNNING)
        self._keeper.run(self._keep())
        refusal, why, cure = self.saver.error, error.message, error.hint
        if refusal is not None:
            why = f"{why} ({refusal})"
            cure = refusal.hint if isinstance(refusal, PlexSpacesError) else "df -h"
        force = f"discard the changes since then: plexspaces stop {self.name} --force"
        return StopRefused(
            f"application {self.name!r} keeps running because its state cannot be saved: {why}",
            hint=f"{cure}; or {force}" if cure else force,
        )


def _refusal(supervisor: Supervisor) -> PlexSpacesError:
    """Return the error for a message that an application cannot take now."""
    name, state, why = supervisor.name, supervisor.state, supervisor.last_error
    if supervisor.replacing:
        return Unavailable(f"application {name!r} is being replaced", hint="try again")
    if supervisor.expected:
        return Unavailable(
            f"application {name!r} does not run here just now: its cluster places it",
            hint="try again, or see: plexspaces nodes",
        )
    if supervisor.lease is not None and state is ApplicationState.STOPPING:
        return Unavailable(
            f"application {name!r} goes to another node, or is stopped", hint="try again"
        )
    if state in _ON_THE_WAY:
        return Unavailable(
            f"application {name!r} is {state}" + (f": {why}" if why else ""),
            hint=f"try again, or see: plexspaces inspect {name}",
        )
    if state is ApplicationState.RUNNING:
        if supervisor.lease is not None and not supervisor.lease.is_held():
            return cut_off(name)
        return Unavailable(f"application {name!r} has no link to its agent", hint="try again")
    return WrongState(f"application {name!r} is {state}", hint=f"plexspaces start --name {name}")


def _reason_of(agent: AgentClient) -> str:
    """Return why the VM of this agent ended, in one of few words."""
    if agent.left:
        return "actor_left"
    return "unresponsive" if agent.deaf.is_set() else "vm_ended"


def _warn(name: str, journal: ApplicationLog, message: str) -> None:
    _log.warning("application %s: %s", name, message)
    journal.note("warn", message)
