"""The requests that a node is handling, and how a shutdown ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from plexspaces_node.errors import Unavailable
from plexspaces_node.tasks import cancel

_T = TypeVar("_T")


class TaskScope:
    """Tracks the tasks of requests: a shutdown cancels some and waits for the others.

    Attributes:
        closing: whether the node is shutting down.
    """

    def __init__(self) -> None:
        self.closing = False
        self._cancellable: set[asyncio.Task[Any]] = set()
        self._shielded: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<TaskScope {len(self._cancellable)} cancellable, {len(self._shielded)} shielded>"

    def check_open(self) -> None:
        """Raise `Unavailable` if the node is shutting down."""
        if self.closing:
            raise shutting_down()

    @asynccontextmanager
    async def cancellable(self) -> AsyncIterator[None]:
        """Track the current task so that a shutdown can cancel it and wait for its rollback.

        Raises `Unavailable` if the node is shutting down or begins to.
        """
        self.check_open()
        task = asyncio.current_task()
        assert task is not None
        self._cancellable.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self.closing:
                raise
            task.uncancel()
            raise shutting_down() from None
        finally:
            self._cancellable.discard(task)

    async def shielded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Complete `work` even if the caller is cancelled; a shutdown waits for it."""
        task = asyncio.create_task(work)
        self._shielded.add(task)
        task.add_done_callback(self._shielded.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Accept no more work, cancel what can be cancelled, wait for the rest."""
        self.closing = True
        await cancel(*self._cancellable)
        await asyncio.gather(*self._shielded, return_exceptions=True)


def shutting_down() -> Unavailable:
    """Return the error for whatever a node that is shutting down does not do any more."""
    return Unavailable("the node is shutting down", hint="plexspaces start-node --node-id ID")
