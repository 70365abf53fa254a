"""What an earlier run of a node left behind: its machines, and deploys that were not done.

This file owns what becomes of them when a node starts. None of it may keep the node from starting
but a process that does not end. It knows nothing of applications that run.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.registry.registry import ApplicationRecord, Registry
from plexspaces_node.vm.bundle import bundles
from plexspaces_node.vm.driver import Driver
from plexspaces_node.vm.host import procfs
from plexspaces_node.vm.host.process import kill_all
from plexspaces_node.vm.host.vmm import marks_of, running_from_any

_log = logging.getLogger(__name__)


async def end_machines(root: Path) -> None:
    """End what runs from the bundles below `root`, whichever driver started it; they stay.

    Needs no driver that works here. Raises `Unavailable` for a process that cannot be ended.
    """
    look = partial(running_from_any, tuple(bundles(root)))
    while found := await asyncio.to_thread(look):
        _log.info("ending %d processes of machines left by an earlier run", len(found))
        await kill_all(found)


async def destroy_machines(driver: Driver, root: Path) -> None:
    """Destroy the machine of every bundle below `root`.

    A directory that cannot be removed stays, with a warning.
    Raises what the driver does for a process that cannot be ended.
    """
    left = tuple(bundles(root))
    # One look for all: a machine each would be a look at all processes for each.
    ended = not await asyncio.to_thread(running_from_any, left)
    for bundle in left:
        _log.info("destroying %s, left by an earlier run", bundle.vm_id)
        try:
            await driver.destroy(bundle, ended=ended)
        except PlexSpacesError as error:
            if await asyncio.to_thread(procfs.with_arguments, *marks_of(bundle)):
                raise
            # The next machine has a directory of its own: this one is in nobody's way.
            _log.warning("%s, left by an earlier run, cannot be removed: %s", bundle.path, error)


async def deployed_applications(registry: Registry) -> list[ApplicationRecord]:
    """Return the applications whose deploy was done, by name, and remove the others.

    Nobody was told of those: their client got an error, or the node ended before it answered.
    """
    deployed = []
    for record in await registry.list_applications():
        if record.generation:
            deployed.append(record)
            continue
        _log.info("removing application %s, whose deploy was not completed", record.name)
        try:
            await registry.delete_application(record.id)
        except PlexSpacesError as error:
            # Nobody sees it, and the next deploy of that name takes its place.
            _log.warning("its row stays until the next start: %s", error)
    return deployed
