"""A state that was handed over is saved, or it is told that it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from plexspaces_node.errors import PlexSpacesError, ResourceExhausted, Unavailable
from plexspaces_node.link.frames import Body, LinkBroken, Snapshot
from plexspaces_node.node.applications import state_saver as saving
from plexspaces_node.node.applications.received_states import StateMemory
from plexspaces_node.node.applications.state_saver import (
    LONGEST_WAIT_S,
    Parts,
    StateSaver,
)
from plexspaces_node.node.registry.snapshots import SnapshotRecord

PART = 8
"""The length of a part, in place of a MiB."""
LIMIT = 20 * PART


class Shelf:
    """A registry of one application that refuses as often as it is told."""

    def __init__(self, *, room_bytes: int = 10 * PART, patience_s: float = 0.01) -> None:
        self.saved: list[bytes] = []
        self.rows: dict[tuple[int, int], Body] = {}
        self.current: SnapshotRecord | None = None
        self.refusals: list[Exception] = []
        self.writes = 0
        self.free = asyncio.Event()
        self.free.set()
        self.may_wake = asyncio.Event()
        self.may_wake.set()
        self.waits: list[float] = []
        self.warnings: list[str] = []
        self.kept: list[tuple[int, int]] = []
        self.room = StateMemory(room_bytes, part_bytes=PART, patience_s=patience_s)
        self.saver = StateSaver("app", self, self.room, self.warnings.append, sleep=self.sleep)
        self.saver.received.begin(LIMIT)
        self._last_id = 0

    # ---- the registry ------------------------------------------------------------------

    async def _write(self, taken_ns: int, parts: Parts) -> None:
        # As a disk does, it lets others go on between two writes.
        await asyncio.sleep(0)
        await self.free.wait()
        if self.refusals:
            raise self.refusals.pop()
        self.writes += 1
        self.rows |= {(taken_ns, begin): body for begin, body in parts}

    async def add_to_snapshot(self, name: str, taken_ns: int, parts: Parts) -> None:
        await self._write(taken_ns, parts)

    async def save_snapshot(self, name: str, record: SnapshotRecord, parts: Parts) -> bool:
        await self._write(record.taken_ns, parts)
        self.current = record
        self.saved.append(self.stored())
        return await self.prune_snapshots(name)

    async def prune_snapshots(self, name: str) -> bool:
        others = [key for key in self.rows if self.current and key[0] != self.current.taken_ns]
        for key in others[:2]:
            del self.rows[key]
        return len(others) <= 2

    async def load_snapshot(self, name: str) -> SnapshotRecord | None:
        return self.current

    async def read_part(self, name: str, taken_ns: int, begin: int) -> Body:
        await asyncio.sleep(0)
        return self.rows[taken_ns, begin]

    def stored(self) -> bytes:
        """Return the state that the registry has."""
        assert self.current is not None
        mine = {key: body for key, body in self.rows.items() if key[0] == self.current.taken_ns}
        return b"".join(mine[key] for key in sorted(mine))

    # ---- the agent ---------------------------------------------------------------------

    async def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        await asyncio.sleep(0)
        await self.may_wake.wait()

    def refuse(self, times: int) -> None:
        full = ResourceExhausted("no space left for registry.db", hint="df -h /data")
        self.refusals = [full] * times

    def taken(self, snapshot_id: int, size: int) -> None:
        self.kept.append((snapshot_id, size))

    def begun(self, body: bytes) -> Callable[[], bool]:
        """Begin to hand a state over; return what sends a part more, and tells whether it did.

        As an agent does: no more than four parts without having heard of the first.
        """
        self._last_id += 1
        id_, sent = self._last_id, 0

        def go_on() -> bool:
            nonlocal sent
            heard = max([size for kept, size in self.kept if kept == id_], default=0)
            if sent - heard >= 4 * PART or (sent == len(body) and body) or sent > len(body):
                return False
            part, begin = body[sent : sent + PART], sent
            sent = sent + len(part) if body else 1
            last = sent >= len(body)
            self.saver.received.take(Snapshot(id=id_, offset=begin, last=last), part, self.taken)
            return True

        return go_on

    def hand_over(self, body: bytes) -> None:
        """Hand over a whole state for which there is room."""
        go_on = self.begun(body)
        while go_on():
            pass
        assert (self._last_id, len(body)) in self.kept

    async def handed_over(self, body: bytes) -> None:
        """Hand over a whole state, waiting for room."""
        go_on = self.begun(body)
        while (self._last_id, len(body)) not in self.kept:
            go_on()
            await asyncio.sleep(0)

    async def latest(self) -> bytes:
        """Return the state that the next machine would begin with."""
        size, parts = await self.saver.latest()
        state = b"".join([part async for part in parts])
        assert len(state) == size
        return state


@pytest.fixture
async def shelf() -> Shelf:
    """A registry that works, with a saver on it."""
    return Shelf()


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _state(size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


REFUSALS = [
    Unavailable("locked"),
    ResourceExhausted("full"),
    OSError("read-only"),
    RuntimeError("can't start new thread"),
    MemoryError(),
]


@pytest.mark.parametrize("size", [3, 3 * PART])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_state_when_it_is_refused_then_it_is_saved_later(
    shelf: Shelf, refusal: Exception, size: int
) -> None:
    """Whatever the host lacks for a while, a state that its agent sends once is not lost."""
    shelf.refusals = [refusal] * 9
    shelf.hand_over(_state(size))
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [_state(size)]
    assert shelf.saver.received.whole is None
    assert shelf.waits[:3] == [0.1, 0.2, 0.4]
    assert max(shelf.waits) == shelf.waits[-1] == LONGEST_WAIT_S
    assert len(shelf.warnings) == 1
    assert shelf.room.held_bytes == 0


async def test_state_when_a_newer_one_comes_after_a_refusal_then_only_that_is_saved(
    shelf: Shelf,
) -> None:
    """A refused state never overwrites one that came after it."""
    shelf.refuse(1)
    shelf.hand_over(b"old")
    while not shelf.waits:
        await asyncio.sleep(0)
    shelf.hand_over(b"new")
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [b"new"]
    assert shelf.room.held_bytes == 0


async def test_state_when_a_newer_one_comes_while_it_is_saved_then_both_are(shelf: Shelf) -> None:
    """The newest known is told all the while, and is the last that is saved."""
    shelf.free.clear()
    shelf.hand_over(b"old")
    await asyncio.sleep(0)
    shelf.hand_over(b"new")
    assert await shelf.latest() == b"new"
    shelf.free.set()
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [b"old", b"new"]
    assert shelf.saver.received.whole is None
    assert await shelf.latest() == b"new"


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 4 * PART, 5 * PART, LIMIT])
async def test_state_when_it_is_of_any_size_then_it_is_found_again(shelf: Shelf, size: int) -> None:
    """Of no part, of one, of a few, and of more than the node has room for."""
    for _ in range(2):
        await shelf.handed_over(_state(size))
        assert shelf.room.held_bytes <= 10 * PART
        assert await shelf.latest() == _state(size)
    await shelf.saver.finish(_now_s() + 60)
    assert (shelf.saved[-1], await shelf.latest()) == (_state(size), _state(size))
    assert shelf.room.held_bytes == 0
    # Of the one before nothing stays, however long it was.
    assert len(shelf.rows) == -(-size // PART)


async def test_state_when_it_is_small_then_one_write_is_all_it_costs(shelf: Shelf) -> None:
    """Most are, and a node has many applications."""
    for number in range(5):
        shelf.hand_over(bytes([number]))
        await shelf.saver.finish(_now_s() + 60)
    assert (shelf.writes, len(shelf.rows)) == (5, 1)


async def test_state_when_it_is_read_while_it_is_saved_then_every_part_is_there(
    shelf: Shelf,
) -> None:
    """A machine that is started at that moment is given parts from here and from there."""
    shelf.free.clear()
    shelf.hand_over(_state(9 * PART))
    size, parts = await shelf.saver.latest()
    read = [await anext(parts)]
    shelf.free.set()
    await shelf.saver.finish(_now_s() + 60)
    read += [part async for part in parts]
    assert (size, b"".join(read)) == (9 * PART, _state(9 * PART))


async def test_parts_when_the_registry_is_slow_then_they_wait_for_room(shelf: Shelf) -> None:
    """What was not taken is not acknowledged, so that an agent sends no more."""
    shelf.free.clear()
    go_on = shelf.begun(_state(LIMIT))
    while go_on():
        await asyncio.sleep(0)
    assert shelf.kept[-1] == (1, 10 * PART)
    assert shelf.room.held_bytes == 10 * PART
    shelf.free.set()
    while (1, LIMIT) not in shelf.kept:
        go_on()
        await asyncio.sleep(0)
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [_state(LIMIT)]


async def test_room_when_one_application_has_it_all_then_the_others_get_it_in_their_turn(
    shelf: Shelf,
) -> None:
    """The room is the whole node's; who has nothing in it gets a part at once all the same."""
    shelf.free.clear()
    one = shelf.begun(_state(LIMIT))
    while one():
        pass
    other = Shelf()
    other.saver = StateSaver("other", other, shelf.room, other.warnings.append)
    other.saver.received.begin(LIMIT)
    two = other.begun(_state(3 * PART))
    while two():
        pass
    assert other.kept == [(1, PART)]
    shelf.free.set()
    while (1, LIMIT) not in shelf.kept or (1, 3 * PART) not in other.kept:
        one()
        await asyncio.sleep(0)
    for each, size in ((shelf, LIMIT), (other, 3 * PART)):
        await each.saver.finish(_now_s() + 60)
        assert each.saved == [_state(size)]
    assert shelf.room.held_bytes == 0


async def test_room_when_the_registry_refuses_then_what_waits_is_saved_once_it_does_not(
    shelf: Shelf,
) -> None:
    """An agent that waits is not forgotten, and it is known why it does."""
    shelf.refuse(10**6)
    go_on = shelf.begun(_state(LIMIT))
    while go_on() or not shelf.waits:
        await asyncio.sleep(0)
    assert "no space left" in str(shelf.saver.error)
    assert shelf.saver.received.whole is None
    shelf.refuse(0)
    while (1, LIMIT) not in shelf.kept:
        go_on()
        await asyncio.sleep(0)
    await shelf.saver.finish(_now_s() + 60)
    assert (shelf.saved, shelf.saver.error) == ([_state(LIMIT)], None)


async def test_machine_when_it_ends_amid_a_snapshot_then_the_one_before_counts(
    shelf: Shelf,
) -> None:
    """Half a state is none; nothing of it stays, neither in memory nor in the registry."""
    shelf.hand_over(_state(3 * PART))
    await shelf.saver.finish(_now_s() + 60)
    go_on = shelf.begun(bytes(LIMIT))
    while shelf.writes < 3:
        go_on()
        await asyncio.sleep(0)
    assert len(shelf.rows) > 3
    shelf.saver.received.begin(LIMIT)
    assert await shelf.latest() == _state(3 * PART)
    await shelf.saver.finish(_now_s() + 60)
    assert (shelf.stored(), len(shelf.rows)) == (_state(3 * PART), 3)
    assert shelf.room.held_bytes == 0
    # The agent of the next one counts anew.
    shelf._last_id, shelf.kept = 0, []
    await shelf.handed_over(b"next")
    await shelf.saver.finish(_now_s() + 60)
    assert (shelf.stored(), len(shelf.rows)) == (b"next", 1)


async def test_agent_when_it_dials_anew_amid_a_snapshot_then_it_may_begin_another(
    shelf: Shelf,
) -> None:
    """What came of the one before is dropped with its first part."""
    shelf.begun(_state(5 * PART))()
    shelf.hand_over(_state(2 * PART))
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [_state(2 * PART)]
    assert shelf.room.held_bytes == 0


WHOLE = bytes(PART)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([(1, PART, False, WHOLE)], "from its middle"),
        ([(0, 0, True, b"")], "from its middle"),
        ([(2, 0, True, b"x"), (1, 0, True, b"x")], "from its middle"),
        ([(1, 0, True, b"x"), (1, 0, True, b"x")], "from its middle"),
        ([(1, 0, False, WHOLE), (1, 2 * PART, False, WHOLE)], "at byte 16, not 8"),
        ([(1, 0, False, WHOLE), (1, 0, False, WHOLE)], "at byte 0, not 8"),
        ([(1, 0, False, WHOLE + b"x")], "of 9 bytes"),
        ([(1, 0, False, b"x")], "of 1 bytes"),
        ([(1, 0, False, b"")], "of 0 bytes"),
        ([(1, n * PART, False, WHOLE) for n in range(21)], "the 160 bytes of its memory"),
    ],
)
async def test_part_when_no_agent_sends_it_then_the_link_is_broken(
    shelf: Shelf, parts: list[tuple[int, int, bool, bytes]], said: str
) -> None:
    """Whoever is in the machine chooses numbers and lengths; none of them costs the node more."""
    *before, last = parts
    for id_, offset, is_last, body in before:
        part = Snapshot(id=id_, offset=offset, last=is_last)
        shelf.saver.received.take(part, body, shelf.taken)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(LinkBroken, match=said):
        shelf.saver.received.take(
            Snapshot(id=last[0], offset=last[1], last=last[2]), last[3], shelf.taken
        )


async def test_part_when_too_many_are_sent_unheard_then_the_link_is_broken(shelf: Shelf) -> None:
    """An agent that does not wait is stopped, and not buffered."""
    shelf.free.clear()
    for number in range(14):
        shelf.saver.received.take(Snapshot(id=1, offset=number * PART), WHOLE, shelf.taken)
    part = Snapshot(id=1, offset=14 * PART)
    with pytest.raises(LinkBroken, match="more than 4 parts"):
        shelf.saver.received.take(part, WHOLE, shelf.taken)
    assert shelf.room.held_bytes == 10 * PART


@pytest.mark.parametrize("size", [3, LIMIT])
async def test_trial_when_it_is_kept_then_its_state_is_saved_and_not_before(
    shelf: Shelf, size: int
) -> None:
    """A version that may be undone leaves the state of the one before, until it is not."""
    await shelf.handed_over(b"before")
    await shelf.saver.finish(_now_s() + 60)
    shelf.saver.on_trial = True
    await shelf.handed_over(_state(size))
    await asyncio.sleep(0)
    assert shelf.saved == [b"before"]
    shelf.saver.on_trial = False
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [b"before", _state(size)]


@pytest.mark.parametrize("size", [3, LIMIT])
async def test_trial_when_it_is_undone_then_nothing_of_its_state_stays(
    shelf: Shelf, size: int
) -> None:
    """The version before starts from its own state, and none of the other is left anywhere."""
    await shelf.handed_over(b"before")
    await shelf.saver.finish(_now_s() + 60)
    shelf.saver.on_trial = True
    await shelf.handed_over(_state(size))
    shelf.saver.forget()
    shelf.saver.on_trial = False
    assert (await shelf.latest(), shelf.room.held_bytes) == (b"before", 0)
    await shelf.saver.finish(_now_s() + 60)
    assert (shelf.stored(), len(shelf.rows)) == (b"before", 1)


@pytest.mark.parametrize("size", [3, 9 * PART])
async def test_finish_when_the_time_is_over_then_it_says_what_is_lost_and_keeps_it(
    shelf: Shelf, size: int
) -> None:
    """The error has the reason and the cure; a second call, with room again, saves the state."""
    shelf.refuse(10**6)
    shelf.hand_over(_state(size))
    with pytest.raises(Unavailable, match=r"'app'.*lost.*no space left") as caught:
        await shelf.saver.finish(_now_s())
    assert caught.value.hint == "df -h /data; then save it with: plexspaces stop --name app"
    assert shelf.saved == []
    assert await shelf.latest() == _state(size)
    assert len(asyncio.all_tasks()) == 1
    shelf.refuse(0)
    await shelf.saver.finish(_now_s())
    assert shelf.saved == [_state(size)]


async def test_finish_when_saving_goes_forward_then_it_has_longer(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large state on a slow disk is not given up for being large."""
    shelf.free.clear()
    shelf.hand_over(_state(10 * PART))
    waits = []

    async def wait(tasks: list[asyncio.Task[None]], *, timeout: float) -> None:
        waits.append(timeout)
        # Until the time is over the disk has taken one write.
        shelf.free.set()
        while shelf.writes < len(waits) and not tasks[0].done():
            await asyncio.sleep(0)
        shelf.free.clear()

    monkeypatch.setattr(saving, "asyncio", SimpleNamespace(**vars(asyncio) | {"wait": wait}))
    await shelf.saver.finish(_now_s())
    assert shelf.saved == [_state(10 * PART)]
    assert (shelf.writes, waits) == (7, [shelf.room.patience_s] * 7)


async def test_finish_when_the_next_attempt_is_far_off_then_it_is_made_now(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop does not sit out the wait after a refusal."""
    shelf.room.patience_s = 20.0
    shelf.refuse(1)
    shelf.may_wake.clear()
    shelf.hand_over(b"one")
    while not shelf.waits:
        await asyncio.sleep(0)
    await shelf.saver.finish(_now_s())
    assert shelf.saved == [b"one"]


async def test_finish_when_the_registry_hangs_then_it_ends_in_time(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer keeps nobody longer than the time given."""
    shelf.free.clear()
    shelf.hand_over(b"one")
    with pytest.raises(Unavailable, match="does not answer"):
        await shelf.saver.finish(_now_s())
    assert len(asyncio.all_tasks()) == 1


async def test_finish_when_there_is_nothing_to_save_then_it_returns_at_once(shelf: Shelf) -> None:
    """An actor that never changed costs no write."""
    await shelf.saver.finish(_now_s())
    await shelf.saver.end()
    assert (shelf.saved, shelf.writes, await shelf.latest()) == ([], 0, b"")


@pytest.mark.parametrize("error", [Unavailable("locked"), OSError("read-only")])
async def test_forget_when_nobody_wants_the_state_then_nothing_goes_on(
    shelf: Shelf, error: PlexSpacesError | OSError
) -> None:
    """What is to be removed is not first saved, and takes no room."""
    shelf.refusals = [error] * 10**6
    shelf.hand_over(_state(9 * PART))
    await asyncio.sleep(0)
    shelf.saver.forget()
    await shelf.saver.finish(_now_s())
    assert (shelf.room.held_bytes, shelf.saver.received.whole is not None) == (0, False)
    assert len(asyncio.all_tasks()) == 1
