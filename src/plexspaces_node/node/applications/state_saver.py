"""Saves an actor's states in the registry, and retries until they are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeAlias

from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.link.frames import Body
from plexspaces_node.node.applications.received_states import (
    WAITING_PARTS,
    ReceivedStates,
    State,
    StateMemory,
)
from plexspaces_node.node.applications.restart import backoff_s
from plexspaces_node.node.registry.snapshots import SnapshotRecord
from plexspaces_node.tasks import cancel

LONGEST_WAIT_S = 5.0
"""The time between two attempts to save a state that the registry refused."""

Parts: TypeAlias = list[tuple[int, Body]]
"""Parts with the byte at which each begins."""


class StateStore(Protocol):
    """The part of the registry that saving uses; see `registry.Registry`."""

    async def add_to_snapshot(self, name: str, taken_ns: int, parts: Parts) -> None: ...

    async def save_snapshot(self, name: str, record: SnapshotRecord, parts: Parts) -> bool: ...

    async def prune_snapshots(self, name: str) -> bool: ...

    async def load_snapshot(self, name: str) -> SnapshotRecord | None: ...

    async def read_part(self, name: str, taken_ns: int, begin: int) -> Body: ...


class StateSaver:
    """Saves the states of one application in the background.

    Attributes:
        received: what its actor has handed over and the registry does not have.
        on_trial: the version may be rolled back, so its states are received and not saved.
        error: why the registry refuses what there is to save, or None.
    """

    def __init__(
        self,
        name: str,
        store: StateStore,
        memory: StateMemory,
        warn: Callable[[str], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set up without saving; `warn` is called once when the registry refuses."""
        self.received = ReceivedStates(memory, self.resume)
        self.on_trial = False
        self.error: Exception | None = None
        self._name = name
        self._store = store
        self._memory = memory
        self._warn = warn
        self._sleep = sleep
        self._saving: asyncio.Task[None] | None = None
        self._progress = 0

    def __repr__(self) -> str:
        return f"<StateSaver {self._name} {self.received!r}>"

    def resume(self) -> None:
        """Save in the background what there is to save; also after `end`."""
        if self._job() is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._until_saved(), name=f"save {self._name}")

    async def finish(self, until_s: float) -> None:
        """Return when the newest state is saved; raises `Unavailable` if it is not by `until_s`.

        `until_s` is on the clock of the event loop; saving that makes progress gets longer. After
        an error the state is kept, and nothing runs in the background: this can be called again.
        """
        self.received.drop_arriving()
        if self.error is not None:
            # Start again: it may be in the middle of a long wait.
            await self.end()
        self.resume()
        loop = asyncio.get_running_loop()
        while (saving := self._saving) is not None and not saving.done():
            progress = self._progress
            timeout_s = max(self._memory.patience_s, until_s - loop.time())
            await asyncio.wait([saving], timeout=timeout_s)
            if self._progress == progress:
                break
        await self.end()
        if self.received.whole is not None:
            raise self._not_saved()

    async def end(self) -> None:
        """Stop saving and keep what is not saved. Idempotent."""
        saving, self._saving = self._saving, None
        if saving is not None:
            await cancel(saving)

    def forget(self) -> None:
        """Stop saving and drop what is not saved."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.cancel()
        self.received.drop_all()

    async def latest(self) -> tuple[int, AsyncIterator[Body]]:
        """Return the length of the newest complete state (0 for none) and an iterator of its parts.

        The parts come from memory or from the registry, wherever each is at that moment.
        """
        if (state := self.received.whole) is None:
            saved = await self._store.load_snapshot(self._name)
            state = State(0, saved.taken_ns, saved.size_bytes) if saved else State(0, 0)
        return state.size_bytes, self._read(state)

    async def _read(self, state: State) -> AsyncIterator[Body]:
        begin = 0
        while begin < state.size_bytes:
            part = state.parts.get(begin)
            if part is None:
                part = await self._store.read_part(self._name, state.taken_ns, begin)
            yield part
            begin += len(part)

    async def _until_saved(self) -> None:
        failures = 0
        while (job := self._job()) is not None:
            try:
                await job()
            except (PlexSpacesError, OSError, RuntimeError, MemoryError) as error:
                failures += 1
                self.error = error
                if failures == 1:
                    self._warn(f"a snapshot was not saved and will be retried: {error}")
                await self._sleep(backoff_s(failures, LONGEST_WAIT_S))
            else:
                failures, self.error = 0, None
                self._progress += 1

    def _job(self) -> Callable[[], Awaitable[None]] | None:
        """Return what to do next, or None."""
        received = self.received
        if received.states:
            state = received.states[0]
            if state.is_whole and len(state.parts) <= WAITING_PARTS:
                return None if self.on_trial else lambda: self._save(state)
            if state.parts and (state.is_whole or state.sent_bytes > self._memory.part_bytes):
                return lambda: self._add(state)
        if not received.is_pruned and not any(state.is_begun for state in received.states):
            return self._prune
        return None

    async def _add(self, state: State) -> None:
        # One at a time, because everybody's writes wait for it.
        begin, part = next(iter(state.parts.items()))
        state.is_begun = True
        await self._store.add_to_snapshot(self._name, state.taken_ns, [(begin, part)])
        self.received.written(state, [begin])

    async def _save(self, state: State) -> None:
        parts = list(state.parts.items())
        record = SnapshotRecord(state.taken_ns, state.size_bytes)
        self.received.is_pruned = await self._store.save_snapshot(self._name, record, parts)
        self.received.written(state, [begin for begin, _ in parts])
        self.received.saved(state)

    async def _prune(self) -> None:
        self.received.is_pruned = await self._store.prune_snapshots(self._name)

    def _not_saved(self) -> Unavailable:
        error = self.error
        cure = error.hint if isinstance(error, PlexSpacesError) and error.hint else "df -h"
        return Unavailable(
            f"application {self._name!r} has ended, but its last state was not saved and is lost "
            f"when the node stops: {error or 'the registry does not answer'}",
            hint=f"{cure}; then save it with: plexspaces stop --name {self._name}",
        )
