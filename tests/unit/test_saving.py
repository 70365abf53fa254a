"""A state that was handed over is saved, or it is told that it is not."""

from __future__ import annotations

import asyncio

import pytest

from plexspaces_node.errors import ResourceExhausted, Unavailable
from plexspaces_node.node import saving
from plexspaces_node.node.saving import LONGEST_WAIT_S, StateSaver


class Shelf:
    """A registry of one state that refuses as often as it is told."""

    def __init__(self) -> None:
        self.saved: list[bytes] = []
        self.refusals: list[Exception] = []
        self.free = asyncio.Event()
        self.free.set()
        self.may_wake = asyncio.Event()
        self.may_wake.set()
        self.waits: list[float] = []
        self.warnings: list[str] = []
        self.saver = StateSaver("app", self.save, self.warnings.append, sleep=self.sleep)

    async def save(self, state: bytes) -> None:
        await self.free.wait()
        if self.refusals:
            raise self.refusals.pop()
        self.saved.append(state)

    async def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        await asyncio.sleep(0)
        await self.may_wake.wait()

    def refuse(self, times: int) -> None:
        full = ResourceExhausted("no space left for registry.db", hint="df -h /data")
        self.refusals = [full] * times


@pytest.fixture
async def shelf() -> Shelf:
    """A registry that works, with a saver on it."""
    return Shelf()


def _now_s() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(
    "refusal",
    [
        Unavailable("locked"),
        ResourceExhausted("full"),
        OSError("read-only"),
        RuntimeError("can't start new thread"),
        MemoryError(),
    ],
)
async def test_state_when_it_is_refused_then_it_is_saved_later(
    shelf: Shelf, refusal: Exception
) -> None:
    """Whatever the host lacks for a while, a state that its agent sends once is not lost."""
    shelf.refusals = [refusal] * 9
    shelf.saver.take(b"one")
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [b"one"]
    assert shelf.saver.newest is None
    assert shelf.waits[:3] == [0.1, 0.2, 0.4]
    assert max(shelf.waits) == shelf.waits[-1] == LONGEST_WAIT_S
    assert len(shelf.warnings) == 1


async def test_state_when_a_newer_one_comes_after_a_refusal_then_only_that_is_saved(
    shelf: Shelf,
) -> None:
    """A refused state never overwrites one that came after it."""
    shelf.refuse(1)
    shelf.saver.take(b"old")
    while not shelf.waits:
        await asyncio.sleep(0)
    shelf.saver.take(b"new")
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [b"new"]


async def test_state_when_a_newer_one_comes_while_it_is_saved_then_both_are(shelf: Shelf) -> None:
    """The newest known is told all the while, and is the last that is saved."""
    shelf.free.clear()
    shelf.saver.take(b"old")
    await asyncio.sleep(0)
    shelf.saver.take(b"new")
    assert shelf.saver.newest == b"new"
    shelf.free.set()
    await shelf.saver.finish(_now_s() + 60)
    assert shelf.saved == [b"old", b"new"]
    assert shelf.saver.newest is None


async def test_finish_when_the_time_is_over_then_it_says_what_is_lost_and_keeps_it(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the reason and the cure; a second call, with room again, saves the state."""
    monkeypatch.setattr(saving, "SAVE_S", 0.01)
    shelf.refuse(10**6)
    shelf.saver.take(b"one")
    with pytest.raises(Unavailable, match=r"'app'.*lost.*no space left") as caught:
        await shelf.saver.finish(_now_s())
    assert caught.value.hint == "df -h /data; then save it with: plexspaces stop --name app"
    assert shelf.saved == []
    assert shelf.saver.newest == b"one"
    assert len(asyncio.all_tasks()) == 1
    shelf.refuse(0)
    await shelf.saver.finish(_now_s())
    assert shelf.saved == [b"one"]


async def test_finish_when_the_next_attempt_is_far_off_then_it_is_made_now(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop does not sit out the wait after a refusal."""
    monkeypatch.setattr(saving, "SAVE_S", 20.0)
    shelf.refuse(1)
    shelf.may_wake.clear()
    shelf.saver.take(b"one")
    while not shelf.waits:
        await asyncio.sleep(0)
    await shelf.saver.finish(_now_s())
    assert shelf.saved == [b"one"]


async def test_finish_when_the_registry_hangs_then_it_ends_in_time(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer keeps nobody longer than the time given."""
    monkeypatch.setattr(saving, "SAVE_S", 0.01)
    shelf.free.clear()
    shelf.saver.take(b"one")
    with pytest.raises(Unavailable, match="does not answer"):
        await shelf.saver.finish(_now_s())
    assert len(asyncio.all_tasks()) == 1


async def test_finish_when_there_is_nothing_to_save_then_it_returns_at_once(shelf: Shelf) -> None:
    """An actor that never changed costs no write."""
    await shelf.saver.finish(_now_s())
    await shelf.saver.end()
    assert shelf.saved == []
