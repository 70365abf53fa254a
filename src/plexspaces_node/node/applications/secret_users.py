"""The applications that use a secret, restarted so that they get its new value."""

from __future__ import annotations

import logging

from plexspaces_node.errors import Unavailable
from plexspaces_node.model import ApplicationState, split_name
from plexspaces_node.node.applications.capacity import Capacity
from plexspaces_node.node.applications.instance import FAULTS
from plexspaces_node.node.applications.name_locks import NameLocks
from plexspaces_node.node.applications.roster import Roster
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.applications.task_scope import TaskScope

_log = logging.getLogger(__name__)

_RESTING = (ApplicationState.STOPPED, ApplicationState.STOPPING)


class SecretUsers:
    """Restarts the applications that use a secret."""

    def __init__(
        self,
        roster: Roster,
        *,
        capacity: Capacity,
        scope: TaskScope,
        locks: NameLocks,
        grace_s: float,
    ) -> None:
        self._roster = roster
        self._capacity = capacity
        self._scope = scope
        self._locks = locks
        self._grace_s = grace_s

    def __repr__(self) -> str:
        return f"<SecretUsers in {self._roster!r}>"

    async def restart(self, tenant: str, secret: str) -> dict[str, str]:
        """Restart the applications of a tenant that use a secret, one after the other.

        Messages wait meanwhile. Those that are stopped stay so, and those that are starting get
        the new value or are restarted. Returns for each application why it does not run or what
        was lost, else "". Raises `Unavailable` if the node is shutting down.
        """
        faults: dict[str, str] = {}
        for supervisor in self._roster.supervisors():
            if split_name(supervisor.name)[0] == tenant and _uses(supervisor, secret):
                self._scope.check_open()
                # To its end, as a replacement is: it must not stay stopped.
                fault = await self._scope.shielded(self._restart(supervisor.name, secret))
                if fault is not None:
                    faults[supervisor.name] = fault
        return faults

    async def _restart(self, name: str, secret: str) -> str | None:
        """Restart one application; return its fault, or None if there is nothing to restart."""
        async with self._locks.held(name):
            supervisor = self._roster.applications.get(name)
            if supervisor is None or not _uses(supervisor, secret) or supervisor.state in _RESTING:
                return None
            try:
                with self._capacity.for_application(name, supervisor.record.vm_config):
                    return await self._stop_and_start(supervisor)
            except FAULTS as error:
                _log.warning("application %s was not restarted: %s", name, error)
                return str(error) or repr(error)

    async def _stop_and_start(self, supervisor: Supervisor) -> str:
        supervisor.replacing = True
        supervisor.direct()
        lost = ""
        try:
            try:
                lost = await supervisor.stop(self._grace_s)
            except Unavailable as error:
                if supervisor.state is not ApplicationState.STOPPED:
                    raise
                # Its state is not stored yet, and kept for the start.
                _log.warning("application %s is restarted all the same: %s", supervisor.name, error)
            await supervisor.start(reason="secret")
        finally:
            supervisor.replacing = False
            supervisor.direct()
        return lost


def _uses(supervisor: Supervisor, secret: str) -> bool:
    return secret in supervisor.record.secrets.values()
