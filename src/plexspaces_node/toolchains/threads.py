"""Runs blocking work in a thread that never outlives its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread and return its result.

    Unlike `asyncio.to_thread`, a cancelled caller waits for the thread, which cannot be stopped:
    it must not write into a directory that the caller then removes.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        # Retrieved, or asyncio would report a failure that nobody handles.
        if not task.cancelled():
            task.exception()
        raise
