"""The newest state of an actor on its way to the registry, tried again until it is there.

An agent sends a state once: from then on the node has the only copy. Knows no machine and no SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.node.restart import backoff_s

SAVE_S = 1.0
"""What the last state gets at least to be saved in, if messages took all of the grace."""

LONGEST_WAIT_S = 5.0
"""Between two attempts to save a state that the registry refused."""


class StateSaver:
    """Saves what an application's actor hands over; of several states only the newest is kept.

    Attributes:
        newest: the state that the registry does not have yet, None when it has the newest.
    """

    def __init__(
        self,
        name: str,
        save: Callable[[bytes], Awaitable[None]],
        warn: Callable[[str], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Save nothing yet; `save` raises when the registry refuses, and `warn` is told so once."""
        self.newest: bytes | None = None
        self._name = name
        self._save = save
        self._warn = warn
        self._sleep = sleep
        self._error: Exception | None = None
        self._saving: asyncio.Task[None] | None = None

    def take(self, state: bytes) -> None:
        """Save a state in the background; does not block."""
        self.newest = state
        self.resume()

    def resume(self) -> None:
        """Go on after `end`; nothing when there is nothing to save."""
        if self.newest is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._until_saved(), name=f"save {self._name}")

    async def finish(self, until_s: float) -> None:
        """Return once the newest state is saved; raises `Unavailable` when it is not by `until_s`.

        `until_s` is by the clock of the event loop. The state is kept then, and nothing goes on in
        the background: this can be called again.
        """
        if self._error is not None:
            # Begin anew: it may be in the middle of a long wait.
            await self.end()
        self.resume()
        if self._saving is None:
            return
        left_s = until_s - asyncio.get_running_loop().time()
        await asyncio.wait([self._saving], timeout=max(SAVE_S, left_s))
        await self.end()
        if self.newest is not None:
            raise self._not_saved()

    async def end(self) -> None:
        """Save no more; what is not saved stays `newest`. Idempotent."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)

    async def _until_saved(self) -> None:
        failures = 0
        while (state := self.newest) is not None:
            try:
                await self._save(state)
            except (PlexSpacesError, OSError, RuntimeError, MemoryError) as error:
                failures += 1
                self._error = error
                if failures == 1:
                    self._warn(f"a snapshot is not saved, and is tried again: {error}")
                await self._sleep(backoff_s(failures, LONGEST_WAIT_S))
            else:
                failures, self._error = 0, None
                # A newer one may have come meanwhile.
                if self.newest is state:
                    self.newest = None

    def _not_saved(self) -> Unavailable:
        error = self._error
        cure = error.hint if isinstance(error, PlexSpacesError) and error.hint else "df -h"
        return Unavailable(
            f"application {self._name!r} has ended, but its last state is not saved, and is lost "
            f"when the node ends: {error or 'the registry does not answer'}",
            hint=f"{cure}; then save it with: plexspaces stop --name {self._name}",
        )
