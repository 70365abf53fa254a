"""The states that an actor hands over, in memory until the registry has them.

An agent sends a state in parts, and only a few before the first one is acknowledged. Of several
states only the newest complete one is kept. All applications of a node share a `StateMemory`, which
limits what they hold. Knows no VMs and no SQL.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import time_ns
from typing import TypeAlias

from plexspaces_node.link.frames import PART_BYTES, Body, LinkBroken, Snapshot
from plexspaces_node.model import MIB

WAITING_PARTS = 4
"""How many parts an agent may send without an acknowledgement."""

HELD_BYTES = 128 * MIB
"""The limit of states in a node's memory that its registry does not have, all together."""

SAVE_S = 1.0
"""How long saving may make no progress after messages used up the grace time."""

Taken: TypeAlias = Callable[[int, int], None]
"""Called on the event loop with a snapshot's ID and how many of its bytes were received."""


class StateMemory:
    """How much of all states together a node can hold in memory.

    Attributes:
        part_bytes: the length of every part of a state but its last.
        patience_s: how long saving may make no progress after a stop's time is over.
        held_bytes: how much is held now.
    """

    def __init__(
        self,
        limit_bytes: int = HELD_BYTES,
        *,
        part_bytes: int = PART_BYTES,
        patience_s: float = SAVE_S,
    ) -> None:
        self.part_bytes = part_bytes
        self.patience_s = patience_s
        self.held_bytes = 0
        self._limit_bytes = limit_bytes
        self._waiting: dict[ReceivedStates, None] = {}

    def __repr__(self) -> str:
        return f"<StateMemory {self.held_bytes} of {self._limit_bytes} bytes>"

    def take(self, size: int) -> bool:
        """Take this many bytes, if they are free."""
        if self.held_bytes + size > self._limit_bytes:
            return False
        self.held_bytes += size
        return True

    def force(self, size: int) -> None:
        """Take this many bytes, even over the limit."""
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Give this many bytes back; whoever waits is asked again on the event loop."""
        self.held_bytes -= size
        if size and self._waiting:
            asyncio.get_running_loop().call_soon(self._ask_again)

    def wait(self, states: ReceivedStates) -> None:
        """Let these states accept what waits when memory is free."""
        self._waiting[states] = None

    def leave(self, states: ReceivedStates) -> None:
        """Undo `wait`."""
        self._waiting.pop(states, None)

    def _ask_again(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for states in waiting:
            states.admit()


class State:
    """One snapshot: how much of it was received, and what the node holds of it.

    Attributes:
        parts: received and not in the registry, by the byte at which each begins, in order.
        size_bytes: how much was accepted.
        sent_bytes: how much was sent; the next part begins here.
        all_sent: whether the last part was sent.
        is_whole: whether all of it was accepted.
        is_begun: whether the registry may have parts of it.
    """

    def __init__(self, snapshot_id: int, taken_ns: int, size_bytes: int = 0) -> None:
        self.id = snapshot_id
        self.taken_ns = taken_ns
        self.parts: dict[int, Body] = {}
        self.size_bytes = size_bytes
        self.sent_bytes = 0
        self.all_sent = False
        self.is_whole = False
        self.is_begun = False

    def __repr__(self) -> str:
        return f"<State {self.id} {self.size_bytes} bytes, {len(self.parts)} parts held>"


class ReceivedStates:
    """The states of one application that its registry does not have.

    Attributes:
        states: oldest first; at most one that is complete, and one that is still incomplete.
        is_pruned: whether the registry has no part of a state that was dropped.
    """

    def __init__(self, memory: StateMemory, on_change: Callable[[], None]) -> None:
        """`on_change` is called when there may be something to save."""
        self.states: list[State] = []
        self.is_pruned = True
        self._memory = memory
        self._on_change = on_change
        self._limit_bytes = 0
        self._arriving: State | None = None
        self._last_id = 0
        self._last_taken_ns = 0
        self._waiting: deque[tuple[State, Snapshot, Body, Taken]] = deque()

    def __repr__(self) -> str:
        return f"<ReceivedStates {self.states}>"

    @property
    def whole(self) -> State | None:
        """The newest complete state, or None."""
        return next((state for state in self.states if state.is_whole), None)

    def begin(self, limit_bytes: int) -> None:
        """Expect the snapshots of a new VM, at most `limit_bytes` long.

        An incomplete state is dropped, because its sender is gone.
        """
        self.drop_arriving()
        self._last_id = 0
        self._limit_bytes = limit_bytes

    def take(self, part: Snapshot, body: Body, taken: Taken) -> None:
        """Accept a part, now or when memory is free; does not block.

        `taken` is called then. Raises `LinkBroken` for a part that no correct agent sends.
        """
        state = self._arriving
        if state is None or part.id != state.id:
            if part.offset or part.id <= self._last_id:
                raise LinkBroken(f"a part of snapshot {part.id} from its middle")
            # After a reconnect an agent starts with its newest state.
            self.drop_arriving()
            self._last_id = part.id
            self._last_taken_ns = max(self._last_taken_ns + 1, time_ns())
            state = self._arriving = State(part.id, self._last_taken_ns)
            self.states.append(state)
        self._check(state, part, len(body))
        state.sent_bytes += len(body)
        state.all_sent = part.last
        self._waiting.append((state, part, body, taken))
        self.admit()

    def admit(self) -> None:
        """Accept the waiting parts, as far as memory is free."""
        while self._waiting:
            state, part, body, taken = self._waiting[0]
            if not self._memory.take(len(body)):
                if any(one.parts for one in self.states):
                    self._memory.wait(self)
                    break
                # Each can hold one part, or nobody would notice that the registry refuses.
                self._memory.force(len(body))
            self._waiting.popleft()
            if body:
                state.parts[part.offset] = body
            state.size_bytes += len(body)
            if part.last:
                self._completed(state)
            taken(part.id, state.size_bytes)
        self._on_change()

    def written(self, state: State, begins: list[int]) -> None:
        """Drop the parts that begin there, because the registry has them now."""
        gone = [state.parts.pop(begin) for begin in begins if begin in state.parts]
        self._memory.give_back(sum(map(len, gone)))

    def saved(self, state: State) -> None:
        """Forget a state that the registry has completely."""
        # A newer one may have arrived meanwhile.
        if state in self.states:
            self.states.remove(state)

    def drop_arriving(self) -> None:
        """Drop the state whose parts were not all accepted."""
        state, self._arriving = self._arriving, None
        if state is not None:
            self._waiting.clear()
            self._memory.leave(self)
            self.states.remove(state)
            self._drop(state)

    def drop_all(self) -> None:
        """Drop every state."""
        self.drop_arriving()
        states, self.states = self.states, []
        for state in states:
            self._drop(state)

    def _check(self, state: State, part: Snapshot, size: int) -> None:
        most = self._memory.part_bytes
        if state.all_sent or part.offset != state.sent_bytes:
            raise LinkBroken(
                f"a part of snapshot {part.id} at byte {part.offset}, not {state.sent_bytes}"
            )
        if size > most or (size < most and not part.last):
            # Smaller ones would cost the node more than their size.
            raise LinkBroken(f"a part of a snapshot of {size} bytes")
        if state.sent_bytes + size > self._limit_bytes:
            raise LinkBroken(f"a snapshot of more than the {self._limit_bytes} bytes of its memory")
        if len(self._waiting) >= WAITING_PARTS:
            raise LinkBroken(f"more than {WAITING_PARTS} parts of a snapshot at once")

    def _completed(self, state: State) -> None:
        state.is_whole = True
        self._arriving = None
        for older in self.states[:-1]:
            self._drop(older)
        self.states = [state]

    def _drop(self, state: State) -> None:
        held_bytes = sum(map(len, state.parts.values()))
        state.parts.clear()
        self._memory.give_back(held_bytes)
        self.is_pruned = self.is_pruned and not state.is_begun
