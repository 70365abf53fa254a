"""Small helpers for asyncio: tasks to their end or in the background, and waiting for callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

_T = TypeVar("_T")

Leave: TypeAlias = Callable[[], None]
"""Says that a callback shall not be called any more. Idempotent; does nothing after the call."""


async def called_back(begin: Callable[[Callable[[_T | Exception], None]], Leave]) -> _T:
    """Begin something that calls back once, and wait for that; raises the error it calls back with.

    Also raises what `begin` raises. A caller that is cancelled leaves.
    """
    called: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def done(result: _T | Exception) -> None:
        # One whose wait was cancelled has not left yet.
        if called.done():
            return
        if isinstance(result, Exception):
            called.set_exception(result)
        else:
            called.set_result(result)

    leave = begin(done)
    try:
        return await called
    except asyncio.CancelledError:
        leave()
        raise


async def finished(work: Coroutine[Any, Any, _T]) -> _T:
    """Await `work` to its end, also when the caller is cancelled; for example a thread."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended; what they raise is dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Background:
    """At most one task in the background, replaced or ended by its owner."""

    def __init__(self, name: str, on_failure: Callable[[BaseException], None]) -> None:
        """`on_failure` is called on the event loop with what the task raised."""
        self._name = name
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Background {self._name} {self._task}>"

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Start `work`; an earlier task must have ended."""
        self._task = asyncio.create_task(work, name=self._name)
        self._task.add_done_callback(self._done)

    async def end(self) -> None:
        """Cancel the task and wait for its end. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            await cancel(task)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)
