"""Removes unused artifacts in the background when newer ones need the space.

Decides when; the inventory (`eviction`) decides which one is next, and the files remove it. Before
`Pruner.start` sets a limit, only refused artifacts are removed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from plexspaces_node.node.artifacts.eviction import Inventory, Item
from plexspaces_node.node.artifacts.files import ArtifactFiles
from plexspaces_node.node.disk import DiskFull
from plexspaces_node.tasks import cancel, finished

_log = logging.getLogger(__name__)

PROMISE_S = 60.0
"""How long somebody who was told that an artifact exists has to deploy it."""


class Pruner:
    """The removals of a store, each by the item's key in the inventory."""

    def __init__(self, files: ArtifactFiles, inventory: Inventory, promise_s: float) -> None:
        self._files = files
        self._inventory = inventory
        self._promise_s = promise_s
        self._removals: dict[str, asyncio.Task[bool]] = {}
        self._task: asyncio.Task[None] | None = None
        # What the task has to do: check the limit, store times of use, remove everything unused.
        self._due = asyncio.Event()
        self._used: dict[str, int] = {}
        self._disk_full = False

    def __repr__(self) -> str:
        return f"<Pruner {len(self._removals)} being removed>"

    def start(self, limit_bytes: int) -> None:
        """Keep unused items within a limit from now on, in the background; call once."""
        self._task = asyncio.create_task(self._prune(limit_bytes), name="prune artifacts")
        self._task.add_done_callback(_ended)

    async def close(self) -> None:
        """Finish the removals in progress and start no others."""
        if self._task is not None:
            await cancel(self._task)
        await asyncio.gather(*self._removals.values())
        await asyncio.to_thread(self._files.write_down, self._used)

    def promise(self, name: str) -> None:
        """Keep an artifact for `promise_s`, for somebody who was told that it exists."""
        self._inventory.promise(self._files.native.key(name), time.monotonic() + self._promise_s)
        self.used(name)

    def used(self, name: str) -> None:
        """Record that an artifact was used now."""
        self._used[name] = time.time_ns()
        self._due.set()

    @contextmanager
    def noticing_full_disk(self) -> Iterator[None]:
        """If the disk turns out to be full in the body, remove everything that nobody holds."""
        try:
            yield
        except DiskFull:
            self._disk_full = True
            self._due.set()
            raise

    def is_removing(self, key: str) -> bool:
        """Return whether an item is being removed, and so does not exist for anybody."""
        return key in self._removals

    async def wait_for_removal(self, key: str) -> None:
        """Return when no removal of an item is in progress."""
        while (removal := self._removals.get(key)) is not None:
            await asyncio.wait({removal})

    def remove(self, key: str) -> asyncio.Task[bool]:
        """Start to remove an idle item; the task returns whether it is gone."""
        # From here on it does not exist for anybody; whoever needs it waits until it is gone.
        removal = asyncio.create_task(self._remove(key, self._inventory.take(key)))
        self._removals[key] = removal
        return removal

    async def _prune(self, limit_bytes: int) -> None:
        while True:
            self._due.clear()
            used, self._used = self._used, {}
            await finished(asyncio.to_thread(self._files.write_down, used))
            # Artifacts kept for later are worth nothing if there is no space for this one.
            target_bytes = 0 if self._disk_full else limit_bytes
            self._disk_full = False
            while (key := self._inventory.surplus(target_bytes, time.monotonic())) is not None:
                if not await asyncio.shield(self.remove(key)):
                    break
            with suppress(TimeoutError):
                # Then only promises keep it over the limit, and they end.
                over = self._inventory.idle_bytes > limit_bytes
                async with asyncio.timeout(self._promise_s if over else None):
                    await self._due.wait()

    async def _remove(self, key: str, item: Item) -> bool:
        try:
            await asyncio.to_thread(self._files.remove, key, item.name)
        except OSError as error:
            _log.warning("artifact %s cannot be removed: %s", item.name or key, error)
            # As the one used last, so that it does not prevent others from being removed.
            self._inventory.put(
                key, item.name, wasm_bytes=item.wasm_bytes, native_bytes=item.native_bytes
            )
            return False
        else:
            _log.info("removed artifact %s, %d bytes", item.name or key, item.size_bytes)
            return True
        finally:
            del self._removals[key]


def _ended(pruner: asyncio.Task[None]) -> None:
    if not pruner.cancelled():
        _log.error("unused artifacts are no longer removed", exc_info=pruner.exception())
