"""Connections to a bucket in memory that are slow, late, or of a process that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

from support.buckets import MemoryBucket, View

from plexspaces_node.node.nats.bucket import Change, Fence


class FaultyView(View):
    """A `View` whose answers take time, and whose writes may be done after nobody waits for them.

    Attributes:
        goes_on: cleared while the process stands still: it sends nothing and hears nothing.
        slow_s: how long a request and its answer take at most, each.
    """

    def __init__(self, bucket: MemoryBucket, random: Random) -> None:
        super().__init__(bucket)
        self._random = random
        self._on_the_way: set[asyncio.Task[int]] = set()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.slow_s = 0.01

    async def watch(self, prefix: str) -> AsyncIterator[Change]:
        async for change in super().watch(prefix):
            if self._random.random() < 0.1:
                await self._pass_time()
            await self.goes_on.wait()
            yield change

    async def _write(self, key: str, value: bytes | None, fence: Fence | None = None) -> int:
        await self.goes_on.wait()
        # On its way: it arrives, whether or not somebody still waits for the answer.
        task = asyncio.create_task(super()._write(key, value, fence))
        self._on_the_way.add(task)
        task.add_done_callback(self._arrived)
        try:
            return await asyncio.shield(task)
        finally:
            await self._pass_time()
            await self.goes_on.wait()

    def _arrived(self, task: asyncio.Task[int]) -> None:
        self._on_the_way.discard(task)
        if not task.cancelled():
            task.exception()

    async def _answer(self) -> None:
        await self.goes_on.wait()
        await self._pass_time()
        await super()._answer()

    async def _pass_time(self) -> None:
        await asyncio.sleep(self._random.random() * self.slow_s)
