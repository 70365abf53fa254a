"""What an application holds from its deploy to its removal: its artifact and its log."""

from __future__ import annotations

import logging

from plexspaces_node.model import file_name
from plexspaces_node.node.applications.actor_host import Router
from plexspaces_node.node.applications.context import NodeContext
from plexspaces_node.node.applications.supervisor import Supervisor
from plexspaces_node.node.logs import ApplicationLog
from plexspaces_node.node.registry.registry import ApplicationRecord

_log = logging.getLogger(__name__)


def supervise(record: ApplicationRecord, node: NodeContext, router: Router) -> Supervisor:
    """Return a supervisor for an application, which holds its artifact until `release`."""
    node.artifacts.hold(record.artifact)
    journal = ApplicationLog(node.logs / f"{file_name(record.name)}.log", node.limits.log_bytes)
    return Supervisor(record, node, router, journal)


async def release(supervisor: Supervisor, node: NodeContext) -> None:
    """Release an application's artifact, remove its log, and drop unsaved states."""
    node.artifacts.release(supervisor.record.artifact)
    node.quotas.forget(supervisor.name)
    supervisor.saver.forget()
    try:
        await supervisor.journal.remove()
    except OSError as error:
        _log.warning("the log of %s stays until the next start: %s", supervisor.name, error)
