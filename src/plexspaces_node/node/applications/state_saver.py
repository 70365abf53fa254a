"""The states of an actor on their way to the registry: in parts, tried again until they are there.

An agent hands a state over in parts and sends no more than a few before it hears that the first
was taken. What was taken is the node's to keep: of the newest whole state the node holds what the
registry does not have yet. Knows no machine and no SQL.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from time import time_ns
from typing import Protocol, TypeAlias

from plexspaces_node.errors import PlexSpacesError, Unavailable
from plexspaces_node.link.frames import PART_BYTES, Body, LinkBroken, Snapshot
from plexspaces_node.model import MIB
from plexspaces_node.node.applications.restart import backoff_s
from plexspaces_node.node.registry.snapshots import SnapshotRecord

WAITING_PARTS = 4
"""The most parts that an agent may send without having heard that they were taken."""

HELD_BYTES = 128 * MIB
"""What a node holds in memory of states that its registry does not have, all together."""

SAVE_S = 1.0
"""What saving may stand still for once messages took all of the grace."""

LONGEST_WAIT_S = 5.0
"""Between two attempts to save a state that the registry refused."""

Taken: TypeAlias = Callable[[int, int], None]
"""Told of which snapshot so many bytes were taken; called on the event loop."""


Parts: TypeAlias = list[tuple[int, Body]]
"""Each with the byte at which it begins."""


class StateStore(Protocol):
    """What of the registry saving needs; see `registry.Registry`."""

    async def add_to_snapshot(self, name: str, taken_ns: int, parts: Parts) -> None: ...

    async def save_snapshot(self, name: str, record: SnapshotRecord, parts: Parts) -> bool: ...

    async def prune_snapshots(self, name: str) -> bool: ...

    async def load_snapshot(self, name: str) -> SnapshotRecord | None: ...

    async def read_part(self, name: str, taken_ns: int, begin: int) -> Body: ...


class StateMemory:
    """How much of all states together the node may hold in memory."""

    def __init__(self, limit_bytes: int = HELD_BYTES) -> None:
        self.taken_bytes = 0
        self._limit_bytes = limit_bytes
        self._waiting: dict[StateSaver, None] = {}

    def take(self, size: int) -> bool:
        """Take so many bytes of it, if there are as many."""
        if self.taken_bytes + size > self._limit_bytes:
            return False
        self.taken_bytes += size
        return True

    def force(self, size: int) -> None:
        """Take so many bytes of it, whether there are as many or not."""
        self.taken_bytes += size

    def give_back(self, size: int) -> None:
        """Give so many bytes back; whoever waits is asked again, on the event loop."""
        self.taken_bytes -= size
        if size and self._waiting:
            asyncio.get_running_loop().call_soon(self._ask_again)

    def wait(self, saver: StateSaver) -> None:
        """Ask this one again when there is more."""
        self._waiting[saver] = None

    def leave(self, saver: StateSaver) -> None:
        """Not ask it any more."""
        self._waiting.pop(saver, None)

    def _ask_again(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for saver in waiting:
            saver.admit()


class _State:
    """One snapshot: what of it the node holds, and what the registry has."""

    def __init__(self, snapshot_id: int, taken_ns: int) -> None:
        self.id = snapshot_id
        self.taken_ns = taken_ns
        self.is_begun = False
        """The registry may have parts of it."""
        self.parts: dict[int, Body] = {}
        """Taken, and not in the registry; by the byte at which each begins, in order."""
        self.size_bytes = 0
        """Of what was taken."""
        self.sent_bytes = 0
        """Of what has come; the next part begins here."""
        self.all_sent = False
        self.is_whole = False

    @property
    def held_bytes(self) -> int:
        return sum(map(len, self.parts.values()))


class StateSaver:
    """Saves what an application's actor hands over; of several states only the newest is kept.

    Attributes:
        on_trial: what comes is of a version that may yet be undone: it is taken and not saved.
    """

    def __init__(
        self,
        name: str,
        store: StateStore,
        room: StateMemory,
        warn: Callable[[str], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Save nothing yet; `warn` is told once when the registry refuses."""
        self.on_trial = False
        self._name = name
        self._store = store
        self._room = room
        self._warn = warn
        self._sleep = sleep
        self._limit_bytes = 0
        # Oldest first: at most one that is whole, and one that is not.
        self._states: list[_State] = []
        self._arriving: _State | None = None
        self._last_id = 0
        self._last_taken_ns = 0
        self._waiting: deque[tuple[_State, Snapshot, Body, Taken]] = deque()
        self._is_pruned = True
        self._error: Exception | None = None
        self._saving: asyncio.Task[None] | None = None
        self._progress = 0

    @property
    def unsaved(self) -> bool:
        """Whether there is a whole state that the registry does not have."""
        return any(state.is_whole for state in self._states)

    @property
    def error(self) -> Exception | None:
        """Why the registry does not take what there is to save, if it refused it."""
        return self._error

    # ---- what comes from the agent -----------------------------------------------------

    def begin(self, limit_bytes: int) -> None:
        """Expect the snapshots of a new machine, the longest of which its memory can hold.

        One of which parts are missing is dropped: who would send them is gone.
        """
        self._drop_arriving()
        self._last_id = 0
        self._limit_bytes = limit_bytes

    def take(self, part: Snapshot, body: Body, taken: Taken) -> None:
        """Take a part, now or when there is room for it; does not block.

        `taken` is called then. Raises `LinkBroken` for a part that no agent sends.
        """
        state = self._arriving
        if state is None or part.id != state.id:
            if part.offset or part.id <= self._last_id:
                raise LinkBroken(f"a part of snapshot {part.id} from its middle")
            # An agent that dialled anew begins with its newest.
            self._drop_arriving()
            self._last_id = part.id
            self._last_taken_ns = max(self._last_taken_ns + 1, time_ns())
            state = self._arriving = _State(part.id, self._last_taken_ns)
            self._states.append(state)
        self._check(state, part, len(body))
        state.sent_bytes += len(body)
        state.all_sent = part.last
        self._waiting.append((state, part, body, taken))
        self.admit()

    def admit(self) -> None:
        """Take the parts that wait, as far as there is room."""
        while self._waiting:
            state, part, body, taken = self._waiting[0]
            if not self._room.take(len(body)):
                if any(one.parts for one in self._states):
                    self._room.wait(self)
                    break
                # Each may have one part, or none would come to hear that the registry refuses.
                self._room.force(len(body))
            self._waiting.popleft()
            if body:
                state.parts[part.offset] = body
            state.size_bytes += len(body)
            if part.last:
                self._completed(state)
            taken(part.id, state.size_bytes)
        self.resume()

    def _check(self, state: _State, part: Snapshot, size: int) -> None:
        if state.all_sent or part.offset != state.sent_bytes:
            raise LinkBroken(
                f"a part of snapshot {part.id} at byte {part.offset}, not {state.sent_bytes}"
            )
        if size > PART_BYTES or (size < PART_BYTES and not part.last):
            # Smaller ones would cost the node more than they weigh.
            raise LinkBroken(f"a part of a snapshot of {size} bytes")
        if state.sent_bytes + size > self._limit_bytes:
            raise LinkBroken(f"a snapshot of more than the {self._limit_bytes} bytes of its memory")
        if len(self._waiting) >= WAITING_PARTS:
            raise LinkBroken(f"more than {WAITING_PARTS} parts of a snapshot at once")

    def _completed(self, state: _State) -> None:
        state.is_whole = True
        self._arriving = None
        for older in self._states[:-1]:
            self._drop(older)
        self._states = [state]

    def _drop_arriving(self) -> None:
        state, self._arriving = self._arriving, None
        if state is not None:
            self._waiting.clear()
            self._room.leave(self)
            self._states.remove(state)
            self._drop(state)

    def _drop(self, state: _State) -> None:
        held_bytes = state.held_bytes
        state.parts.clear()
        self._room.give_back(held_bytes)
        self._is_pruned = self._is_pruned and not state.is_begun

    # ---- what goes to the registry -----------------------------------------------------

    def resume(self) -> None:
        """Go on after `end`; nothing when there is nothing to save."""
        if self._job() is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._until_saved(), name=f"save {self._name}")

    async def finish(self, until_s: float) -> None:
        """Return once the newest state is saved; raises `Unavailable` when it is not by `until_s`.

        `until_s` is by the clock of the event loop; saving that goes forward has longer. The state
        is kept then, and nothing goes on in the background: this can be called again.
        """
        self._drop_arriving()
        if self._error is not None:
            # Begin anew: it may be in the middle of a long wait.
            await self.end()
        self.resume()
        loop = asyncio.get_running_loop()
        while (saving := self._saving) is not None and not saving.done():
            progress = self._progress
            await asyncio.wait([saving], timeout=max(SAVE_S, until_s - loop.time()))
            if self._progress == progress:
                break
        await self.end()
        if self.unsaved:
            raise self._not_saved()

    async def end(self) -> None:
        """Save no more; what is not saved is kept. Idempotent."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)

    def forget(self) -> None:
        """Save no more, and keep nothing that is not saved."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.cancel()
        self._drop_arriving()
        states, self._states = self._states, []
        for state in states:
            self._drop(state)

    async def latest(self) -> tuple[int, AsyncIterator[Body]]:
        """Return the length of the newest whole state, 0 for none, and what yields its parts.

        The parts come from memory and from the registry, wherever each is at that moment.
        """
        for state in self._states:
            if state.is_whole:
                return state.size_bytes, self._read(state)
        saved = await self._store.load_snapshot(self._name)
        if saved is None:
            return 0, self._read(_State(0, 0))
        state = _State(0, saved.taken_ns)
        state.size_bytes = saved.size_bytes
        return state.size_bytes, self._read(state)

    async def _read(self, state: _State) -> AsyncIterator[Body]:
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
                self._error = error
                if failures == 1:
                    self._warn(f"a snapshot was not saved and will be retried: {error}")
                await self._sleep(backoff_s(failures, LONGEST_WAIT_S))
            else:
                failures, self._error = 0, None
                self._progress += 1

    def _job(self) -> Callable[[], Awaitable[None]] | None:
        """Return what is to be done next, None for nothing."""
        if self._states:
            state = self._states[0]
            if state.is_whole and len(state.parts) <= WAITING_PARTS:
                return None if self.on_trial else lambda: self._save(state)
            if state.parts and (state.is_whole or state.sent_bytes > PART_BYTES):
                return lambda: self._add(state)
        if not self._is_pruned and not any(state.is_begun for state in self._states):
            return self._prune
        return None

    async def _add(self, state: _State) -> None:
        # One at a time: the writes of everybody wait for it.
        parts = list(state.parts.items())[:1]
        state.is_begun = True
        await self._store.add_to_snapshot(self._name, state.taken_ns, parts)
        self._written(state, parts)

    async def _save(self, state: _State) -> None:
        parts = list(state.parts.items())
        record = SnapshotRecord(state.taken_ns, state.size_bytes)
        self._is_pruned = await self._store.save_snapshot(self._name, record, parts)
        self._written(state, parts)
        # A newer one may have come meanwhile.
        if state in self._states:
            self._states.remove(state)

    async def _prune(self) -> None:
        self._is_pruned = await self._store.prune_snapshots(self._name)

    def _written(self, state: _State, parts: Parts) -> None:
        gone = [state.parts.pop(begin) for begin, _ in parts if begin in state.parts]
        self._room.give_back(sum(map(len, gone)))

    def _not_saved(self) -> Unavailable:
        error = self._error
        cure = error.hint if isinstance(error, PlexSpacesError) and error.hint else "df -h"
        return Unavailable(
            f"application {self._name!r} has ended, but its last state was not saved and is lost "
            f"when the node stops: {error or 'the registry does not answer'}",
            hint=f"{cure}; then save it with: plexspaces stop --name {self._name}",
        )
