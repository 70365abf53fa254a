"""What has become of what was asked for, by what the nodes say: waited for by listening."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from plexspaces_node.errors import (
    PlexSpacesError,
    ResourceExhausted,
    WrongState,
)
from plexspaces_node.model import ApplicationState
from plexspaces_node.node.applications.instance import Progress
from plexspaces_node.node.cluster import desired
from plexspaces_node.node.cluster.records import READY, Application, Placed, Status, Wanted
from plexspaces_node.node.cluster.view import ClusterView
from plexspaces_node.node.cluster.waiting import until

COPY_S = 30.0
"""How long a deploy waits for a second copy of its artifact."""

CLEAR_S = 20.0
"""How long an operation waits for what it has removed to be gone from nodes that are up."""

_log = logging.getLogger(__name__)


class Outcomes:
    """Waits for what nodes do about applications. Used on one event loop."""

    def __init__(self, view: ClusterView) -> None:
        self._view = view

    def __repr__(self) -> str:
        return f"<Outcomes by {self._view!r}>"

    async def started(self, application: Application, progress: Progress) -> Status:
        """Wait until enough nodes run it; raises what a node says of a failure."""
        told = ""

        def look() -> Status | None:
            nonlocal told
            placed = self.current(application)
            if placed is None:
                return None
            running, phase = [], ""
            for node in filter(self._view.is_alive, placed.nodes):
                status = self._view.statuses(application.name).get(node)
                if status is None or not _is_about(status, application):
                    continue
                if status.state == ApplicationState.FAILED and status.error:
                    raise desired.error_of(status)
                if status.state == ApplicationState.RUNNING:
                    running.append(status)
                phase = phase or status.phase
            if phase and phase != told:
                told = phase
                progress(phase)
            return self._enough(application, placed, running)

        progress("place")
        return await until(self._view, application.name, look)

    def _enough(
        self, application: Application, placed: Placed, running: list[Status]
    ) -> Status | None:
        """Return one of those that run, if all do that can; raises if they are not enough."""
        missing = application.replicas - len(placed.nodes)
        if missing > 0 and placed.why and not application.before:
            raise ResourceExhausted(
                f"application {application.name!r} cannot be placed: {placed.why}",
                hint="start a node that fits, or ask for less: plexspaces nodes",
            )
        wanted = len(placed.nodes) if placed.why else application.replicas
        return running[0] if running and len(running) >= wanted else None

    async def copied(self, application: Application, progress: Progress) -> None:
        """Wait until a second node has the artifact, if one shall have it."""

        def look() -> bool | None:
            placed = self.current(application)
            if placed is None or len(placed.nodes) > 1:
                return True
            return not placed.standby or self._is_ready(application, placed) or None

        if look():
            return
        progress("copy")
        try:
            async with asyncio.timeout(COPY_S):
                await until(self._view, application.name, look)
        except TimeoutError:
            _log.warning(
                "application %s is deployed, but no second node has its artifact after %g s",
                *(application.name, COPY_S),
            )

    def _is_ready(self, application: Application, placed: Placed) -> bool:
        statuses = self._view.statuses(application.name)
        return any(
            (status := statuses.get(node)) is not None
            and status.id == application.id
            and status.generation == application.generation
            and status.state == READY
            for node in filter(self._view.is_alive, placed.standby)
        )

    def current(self, application: Application) -> Placed | None:
        """Return where it is placed; raises `WrongState` if it is not what is wanted any more."""
        current = self._view.application(application.name)
        if current is None or current.id != application.id:
            raise WrongState(
                f"application {application.name!r} was undeployed meanwhile", hint="deploy it again"
            )
        if current.generation != application.generation:
            raise WrongState(
                f"application {application.name!r} was changed meanwhile",
                hint=f"plexspaces inspect {application.name}",
            )
        placed = self._view.placed(application.name)
        return placed[0] if placed is not None and placed[0].id == application.id else None

    async def cleared(self, application: Application) -> None:
        """Wait until nodes that are up have ended this version, and run the one before again."""

        def look() -> bool | None:
            current = self._view.application(application.name)
            goes_on = current is not None and current.id == application.id
            wants_to_run = current is not None and current.wanted is Wanted.RUNNING
            for node, status in self._view.statuses(application.name).items():
                if status.id != application.id or not self._view.is_alive(node):
                    continue
                if not goes_on or status.generation == application.generation:
                    return None
                if wants_to_run and status.state == ApplicationState.STARTING:
                    return None
            return True

        with suppress(TimeoutError):
            async with asyncio.timeout(CLEAR_S):
                await until(self._view, application.name, look)

    def stopped(self, application: Application) -> bool | None:
        """Return whether every node that is up has stopped it; raises what prevents one."""
        placed = self.current(application)
        if placed is None:
            return None
        for node in filter(self._view.is_alive, (*placed.nodes, *placed.leaving)):
            status = self._view.statuses(application.name).get(node)
            if status is None or not _is_about(status, application):
                return None
            if status.state != ApplicationState.STOPPED:
                if status.error:
                    error = desired.error_of(status)
                    assert isinstance(error, PlexSpacesError)
                    raise error
                return None
        return True


def _is_about(status: Status, application: Application) -> bool:
    return status.id == application.id and status.generation == application.generation
