"""The applications that use a secret, restarted for its new value."""

from __future__ import annotations

from typing import Any

from support.records import record_of

from plexspaces_node.errors import PlexSpacesError, Unavailable, WrongState
from plexspaces_node.model import ApplicationState
from plexspaces_node.node.applications.capacity import Bounds, Capacity, Held
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.secret_users import SecretUsers
from plexspaces_node.node.applications.task_scope import TaskScope


class Running:
    """In place of a supervisor: an application that uses the secret `db`."""

    def __init__(self, error: PlexSpacesError | None, *, stops: bool) -> None:
        self.name = "shop/cart"
        self.record = record_of(self.name, secrets={"DB": "db"})
        self.state = ApplicationState.RUNNING
        self.replacing = False
        self.starts = 0
        self._error, self._stops = error, stops

    def direct(self) -> None:
        """Messages wait while it is replaced."""

    async def stop(self, grace_s: float) -> str:
        if self._stops:
            self.state = ApplicationState.STOPPED
        if self._error is not None:
            raise self._error
        return ""

    async def start(self, *, reason: str) -> None:
        assert reason == "secret"
        self.starts += 1
        self.state = ApplicationState.RUNNING


async def restarted(one: Running) -> dict[str, str]:
    roster: Any = Roster()
    roster.applications[one.name] = one
    capacity = Capacity(Bounds(9, 9, 9999), lambda: Held({one.name: 256}, {}))
    users = SecretUsers(
        roster, capacity=capacity, scope=TaskScope(), locks=NameLocks(), grace_s=1.0
    )
    found = await users.restart("shop", "db")
    assert not one.replacing
    return found


async def test_restart_when_all_is_well_then_it_runs_again() -> None:
    """Once, and without a fault."""
    one = Running(None, stops=True)
    assert await restarted(one) == {"shop/cart": ""}
    assert (one.state, one.starts) == (ApplicationState.RUNNING, 1)


async def test_restart_when_its_state_is_not_stored_in_time_then_it_runs_again() -> None:
    """It is stopped by then, and must not stay so; what was not stored is kept for the start."""
    one = Running(Unavailable("the disk is slow"), stops=True)
    assert await restarted(one) == {"shop/cart": ""}
    assert (one.state, one.starts) == (ApplicationState.RUNNING, 1)


async def test_restart_when_it_cannot_be_stopped_then_it_keeps_running_and_it_is_said() -> None:
    """With the former value."""
    one = Running(WrongState("its state cannot be saved"), stops=False)
    assert await restarted(one) == {"shop/cart": "its state cannot be saved"}
    assert (one.state, one.starts) == (ApplicationState.RUNNING, 0)
