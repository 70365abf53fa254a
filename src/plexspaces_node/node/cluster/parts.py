"""What `reconcile` and `operations` need of a node and of its ways to the others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from plexspaces_node.info import ApplicationInfo, Listing
from plexspaces_node.node.applications.placing import Prepare
from plexspaces_node.node.applications.roster import Viewer
from plexspaces_node.node.artifacts.store import Compiled, Inspected
from plexspaces_node.node.cluster.local import Here
from plexspaces_node.node.registry.registry import ApplicationRecord


class Local(Protocol):
    """What this node runs; see `local.LocalApplications`."""

    def names(self) -> Collection[str]:
        """Return the applications that are here, also those that are stopped."""

    def here(self, name: str) -> Here | None:
        """Return how an application is here."""

    def watch(self, name: str, moved: Callable[[], None]) -> None:
        """Call something after each change of an application's state, while it is here."""

    async def run(
        self,
        record: ApplicationRecord,
        *,
        prepare: Prepare,
        progress: Callable[[str], None],
        reason: str,
    ) -> object:
        """Run an application with this record; see `Placing.run`."""

    def note_compiled(self, name: str, compiled: Compiled) -> None:
        """Count the compilation before a start to the times of the start."""

    async def stop(self, name: str, *, force: bool) -> object:
        """Stop an application and keep it here; see `Applications.stop`."""

    async def remove(self, name: str, *, save: bool, force: bool) -> None:
        """End an application and keep nothing of it; see `Placing.remove`."""

    async def halt(self, name: str) -> None:
        """End an application at once, and keep nothing that is not saved; see `Placing.halt`."""


class Store(Protocol):
    """The artifacts of this node; see `ArtifactStore`."""

    async def has(self, name: str) -> bool:
        """Return whether an artifact is here."""

    async def compile(self, name: str, *, on_miss: Callable[[], None] | None = None) -> Compiled:
        """Compile an artifact, if it is not yet; see `ArtifactStore.compile`."""

    async def inspect(self, name: str, *, owner: str = "") -> Inspected:
        """Return what an artifact is; see `ArtifactStore.inspect`."""

    def holding(self, name: str) -> AbstractAsyncContextManager[None]:
        """Keep an artifact from being removed in the body."""

    def hold(self, name: str) -> None:
        """Keep an artifact until `release`."""

    def release(self, name: str) -> None:
        """Keep an artifact no more."""


class Pulls(Protocol):
    """Gets artifacts from other nodes; see `ArtifactPulls`."""

    async def fetch(self, node: str, name: str) -> None:
        """Get an artifact; returns at once if it is here."""


class States(Protocol):
    """The states of actors in the cluster's bucket."""

    async def take(self, name: str, id_: str, epoch: int, *, is_first: bool = False) -> object:
        """Become the one that writes an actor's state, and fetch it: keys, and the last snapshot.

        `is_first` says that there is nothing to fetch, for it has never run.
        Raises `WrongState` if a newer placement has it, and `Unavailable`.
        """

    async def leave(self, name: str) -> None:
        """Write an actor's state no more: another node may do so now. Idempotent."""

    async def forget(self, name: str, id_: str) -> None:
        """Remove the state of an actor that was undeployed; raises `Unavailable`."""


class Peers(Protocol):
    """Asks other nodes about what they run. Raises `Unavailable`."""

    async def inspect(self, node: str, name: str) -> ApplicationInfo:
        """Describe an application as it is on a node; raises `NotFound`."""

    async def list(self, node: str, viewer: Viewer | None, tenant: str) -> Listing:
        """Return what a viewer may see of what a node runs."""
