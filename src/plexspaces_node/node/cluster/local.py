"""What a node runs, as `reconcile` uses it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from plexspaces_node.info import ApplicationInfo
from plexspaces_node.model import ApplicationState, ArtifactKind, PhaseTimings
from plexspaces_node.node.applications.operations import Applications
from plexspaces_node.node.artifacts.store import Compiled
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired


@dataclass(frozen=True, slots=True)
class Here:
    """An application on this node, as it is now.

    Attributes:
        is_stopped: whether it stays stopped when the node starts again.
        error: why it does not run, "" if it does.
        vm_id: of its VM, "" for none.
    """

    id: str
    generation: int
    kind: ArtifactKind
    state: ApplicationState
    is_stopped: bool = False
    error: str = ""
    vm_id: str = ""
    timings: PhaseTimings = field(default_factory=PhaseTimings)


class LocalApplications:
    """The applications of this node; see `reconcile.Local`."""

    def __init__(self, applications: Applications) -> None:
        self._applications = applications
        self._roster = applications.roster.applications
        self.run = applications.placing.run
        self.remove = applications.placing.remove
        self.halt = applications.placing.halt

    def __repr__(self) -> str:
        return f"<LocalApplications {len(self._roster)}>"

    def names(self) -> Collection[str]:
        """Return the applications that are here, also those that are stopped.

        Not those whose record cannot be read: the cluster never had them, and nothing of them is
        removed unasked.
        """
        return tuple(name for name, one in self._roster.items() if not one.record.fault)

    def record(self, name: str) -> ApplicationRecord | None:
        """Return the record of an application that is here."""
        found = self._roster.get(name)
        return found.record if found is not None else None

    def here(self, name: str) -> Here | None:
        """Return how an application is here."""
        if (found := self._roster.get(name)) is None:
            return None
        record, machine = found.record, found.machine
        return Here(
            id=record.id,
            generation=record.generation,
            kind=record.kind,
            state=found.state,
            is_stopped=record.desired is Desired.STOPPED,
            error=found.last_error,
            vm_id=machine.id if machine is not None else "",
            timings=found.timings,
        )

    def watch(self, name: str, moved: Callable[[], None]) -> None:
        """Call something after each change of an application's state, while it is here."""
        if (found := self._roster.get(name)) is not None:
            found.on_move = moved

    def note_compiled(self, name: str, compiled: Compiled) -> None:
        """Count the compilation before a start to the times of the start."""
        if (found := self._roster.get(name)) is not None:
            took_ns = compiled.duration_ns
            found.timings = replace(
                found.timings,
                compile_ns=took_ns,
                compile_cached=compiled.cached,
                total_ns=found.timings.total_ns + took_ns,
            )

    async def stop(self, name: str, *, force: bool) -> ApplicationInfo:
        """Stop an application and keep it here; see `Applications.stop`."""
        return await self._applications.stop(name, force=force)
