"""What an earlier run of a node left behind: its VMs, and unfinished deploys.

This module cleans them up when a node starts. Only a process that does not end can prevent the node
from starting. It knows nothing of running applications.
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

    Needs no working driver. Raises `Unavailable` for a process that cannot be ended.
    """
    find = partial(running_from_any, tuple(bundles(root)))
    while found := await asyncio.to_thread(find):
        _log.info("ending %d processes of VMs left by an earlier run", len(found))
        await kill_all(found)


async def destroy_machines(driver: Driver, root: Path) -> None:
    """Destroy the VM of every bundle below `root`.

    Raises the driver's errors for a process that cannot be ended.
    """
    left = tuple(bundles(root))
    # One scan for all: one per VM would scan all processes each time.
    ended = not await asyncio.to_thread(running_from_any, left)
    for bundle in left:
        _log.info("destroying %s, left by an earlier run", bundle.vm_id)
        try:
            await driver.destroy(bundle, ended=ended)
        except PlexSpacesError as error:
            if await asyncio.to_thread(procfs.with_arguments, *marks_of(bundle)):
                raise
            # The next VM has its own directory, so this one does no harm.
            _log.warning("%s, left by an earlier run, cannot be removed: %s", bundle.path, error)


async def deployed_applications(registry: Registry) -> list[ApplicationRecord]:
    """Return the applications whose deploy was done, by name, and remove the others.

    Their clients got an error, or the node ended before it answered.
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
            # Nobody sees it, and the next deploy of that name replaces it.
            _log.warning("its row stays until the next start: %s", error)
    return deployed
