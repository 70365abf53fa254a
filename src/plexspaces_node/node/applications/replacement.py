"""Replaces one version of an application by the next, or restores it if the next one fails."""

from __future__ import annotations

from collections.abc import Callable

from plexspaces_node.errors import ActorError, PlexSpacesError, Unavailable
from plexspaces_node.model import ApplicationState
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.instance import Progress
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.applications.task_scope import TaskScope
from plexspaces_node.node.artifacts.store import Compiled
from plexspaces_node.node.machines.machine import Machine
from plexspaces_node.node.registry.registry import ApplicationRecord
from plexspaces_node.tasks import finished


class Replacement:
    """Runs the next version of an application on trial, then keeps it or rolls back.

    Until it is kept, messages wait, and a later start of the node does not use the next version.
    Used once.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        record: ApplicationRecord,
        node: NodeContext,
        scope: TaskScope,
    ) -> None:
        """Remember the running version; `record` is the next one."""
        self._supervisor = supervisor
        self._next = record
        self._node = node
        self._scope = scope
        self._record = supervisor.record
        self._timings = supervisor.timings
        self._state = supervisor.state
        self._last_error = supervisor.last_error

    def __repr__(self) -> str:
        return f"<Replacement of {self._supervisor!r} by {self._next.version}>"

    async def start(
        self,
        compiled: Compiled,
        take_empty: Callable[[], Machine | None],
        progress: Progress,
    ) -> None:
        """Stop the running version and start the next one from its state, or roll back.

        `take_empty` returns the VM to use, None for a new one. Raises `StopRefused` if the
        state of the running version cannot be saved, and it keeps running; otherwise what
        `Supervisor.stop` and `Supervisor.start` raise.
        """
        supervisor = self._supervisor
        self._node.artifacts.hold(self._next.artifact)
        self._hold_messages(True)
        try:
            progress("stop")
            # Not cancelled: while it stops, an actor hands over its last state.
            if lost := await finished(supervisor.stop(self._node.grace_s)):
                raise Unavailable(f"application {supervisor.name!r} was not replaced: {lost}")
            empty = take_empty()
            supervisor.begin_trial(self._next)
            await supervisor.start(
                compiled=compiled, empty=empty, progress=progress, reason="replace"
            )
        except BaseException as error:
            await finished(self._scope.shielded(self._roll_back()))
            self._add_hint(error)
            raise

    async def keep(self, record: ApplicationRecord) -> None:
        """Make the running version the application's; roll back if the registry refuses."""
        await finished(self._scope.shielded(self._keep(record)))

    async def _keep(self, record: ApplicationRecord) -> None:
        supervisor = self._supervisor
        try:
            await self._node.registry.replace_application(record)
        except PlexSpacesError as error:
            await self._roll_back()
            self._add_hint(error)
            raise
        supervisor.record = record
        supervisor.timings = record.timings or supervisor.timings
        supervisor.end_trial()
        self._hold_messages(False)
        self._node.artifacts.release(self._record.artifact)

    async def _roll_back(self) -> None:
        try:
            await self._restore()
        finally:
            self._hold_messages(False)

    async def _restore(self) -> None:
        supervisor, artifacts = self._supervisor, self._node.artifacts
        if supervisor.state is ApplicationState.RUNNING and not supervisor.saver.on_trial:
            # It could not be stopped, and keeps running.
            artifacts.release(self._next.artifact)
            return
        try:
            # At once: the next version's state is not meant for the previous one.
            await supervisor.abort()
        finally:
            if supervisor.saver.on_trial:
                supervisor.saver.forget()
            supervisor.end_trial()
            supervisor.record, supervisor.timings = self._record, self._timings
            artifacts.release(self._next.artifact)
        if self._state is ApplicationState.FAILED:
            supervisor.move(ApplicationState.FAILED)
            supervisor.last_error = self._last_error
        elif self._state is not ApplicationState.STOPPED and not self._scope.closing:
            supervisor.start_later("roll_back")

    def _hold_messages(self, held: bool) -> None:
        """Let messages wait until one of the versions takes them, or no longer."""
        self._supervisor.replacing = held
        self._supervisor.direct()

    def _add_hint(self, error: BaseException) -> None:
        """Add the fate of the previous version as a hint, unless the error has its own."""
        if isinstance(error, PlexSpacesError | ActorError) and not error.hint:
            name, state = self._supervisor.name, self._supervisor.state
            became = f"the previous version is {state}"
            if state is ApplicationState.STARTING:
                became = "the previous version starts again from its last state"
            error.hint = f"{became}: plexspaces inspect {name}"
