"""Uploads: how fast they have to be, and who may go first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.patience import patient

from plexspaces_node.errors import DeadlineExceeded, ResourceExhausted
from plexspaces_node.node.artifacts.upload import LEAST_BYTES_PER_S, IncomingFile, Upload
from plexspaces_node.node.artifacts.upload_slots import SHORT_BYTES, Uploads, UploadTimes

GRACE_S = 10.0

LONG_BYTES = 10 * SHORT_BYTES


class Clock:
    """Time that passes only as a test says."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now_s = 1000.0
        loop.time = lambda: self.now_s  # type: ignore[method-assign]


@pytest.fixture
async def clock() -> Clock:
    return Clock(asyncio.get_running_loop())


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[int], Upload]]:
    """What makes an upload; none leaves its file."""
    files: list[IncomingFile] = []

    def make_one(size: int) -> Upload:
        files.append(IncomingFile(tmp_path))
        return Upload(files[-1], size, limit_bytes=LONG_BYTES, grace_s=GRACE_S)

    yield make_one
    for file in files:
        file.discard()


async def silence() -> AsyncIterator[bytes]:
    """A client that says nothing."""
    await asyncio.Event().wait()
    yield b""


async def take(upload: Upload, clock: Clock, came: list[tuple[float, bytes]]) -> int:
    """Have chunks come, each after its pause; return how many there were."""

    async def parts() -> AsyncIterator[bytes]:
        for pause_s, chunk in came:
            clock.now_s += pause_s
            # One step for the loop to see what time it is, one for what is due.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            yield chunk

    count = 0
    async for part in upload.in_time(parts()):
        await upload.write(part)
        count += 1
    return count


async def test_upload_when_it_keeps_the_least_rate_then_it_may_last(
    make: Callable[[int], Upload], clock: Clock
) -> None:
    """A slow connection is no fault, for as long as it takes."""
    chunk = b"\0asm" + bytes(int(8 * LEAST_BYTES_PER_S) - 4)
    assert await take(make(LONG_BYTES), clock, [(7.0, chunk)] * 10) == 10


async def test_upload_when_it_trickles_then_it_is_ended_after_the_grace(
    make: Callable[[int], Upload], clock: Clock
) -> None:
    """A byte now and then does not keep a place."""
    with pytest.raises(DeadlineExceeded, match="slower than 64 KiB a second: 1 of"):
        await take(make(LONG_BYTES), clock, [(GRACE_S - 1, b"\0"), (2.0, b"a"), (2.0, b"s")])


async def test_upload_when_much_came_at_first_then_no_pause_is_longer_than_the_grace(
    make: Callable[[int], Upload], clock: Clock
) -> None:
    """Speed is not saved up for a silence of minutes."""
    chunk = b"\0asm" + bytes(5 * SHORT_BYTES)
    with pytest.raises(DeadlineExceeded):
        await take(make(LONG_BYTES), clock, [(0.0, chunk), (GRACE_S + 1, b"more")])


async def test_upload_when_the_node_itself_is_slow_then_that_does_not_count(
    make: Callable[[int], Upload], clock: Clock
) -> None:
    """A disk that takes its time does not end the upload."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0)
            yield b"\0"

    count = 0
    async for _ in make(LONG_BYTES).in_time(parts()):
        clock.now_s += 60
        count += 1
    assert count == 5


async def test_place_when_all_are_taken_then_the_slowest_gives_way(
    make: Callable[[int], Upload],
) -> None:
    """Whoever waits gets a place soon, and who loses it hears why."""
    admitted = Uploads(places=2, patience_s=0.0)
    fast, slow, inside = make(LONG_BYTES), make(LONG_BYTES), asyncio.Semaphore(0)

    async def hold(upload: Upload, owner: str, sent: bytes) -> None:
        async with admitted.place(upload, owner):
            await upload.write(sent)
            inside.release()
            async for _ in upload.in_time(silence()):
                pass

    holders = [
        asyncio.create_task(hold(fast, "a", b"\0asm" + bytes(10_000))),
        asyncio.create_task(hold(slow, "b", b"\0")),
    ]
    await inside.acquire()
    await inside.acquire()
    async with asyncio.timeout(patient(10)), admitted.place(make(LONG_BYTES), "c"):
        with pytest.raises(ResourceExhausted, match="others are waiting"):
            await holders[1]
    assert not holders[0].done()
    holders[0].cancel()
    await asyncio.gather(*holders, return_exceptions=True)


async def test_place_when_long_ones_take_all_then_a_short_one_does_not_wait(
    make: Callable[[int], Upload],
) -> None:
    """A small artifact is never behind large ones."""
    admitted = Uploads(places=1, short_places=1)
    async with (
        admitted.place(make(LONG_BYTES), "a"),
        asyncio.timeout(patient(10)),
        admitted.place(make(SHORT_BYTES), "b"),
    ):
        pass


async def test_place_when_one_client_wants_all_then_half_is_left_to_others(
    make: Callable[[int], Upload],
) -> None:
    """Many uploads of one client leave room for the next client's."""
    admitted = Uploads(places=2, patience_s=patient(1000.0))
    async with admitted.place(make(LONG_BYTES), "a"):
        second = asyncio.create_task(admitted.place(make(LONG_BYTES), "a").__aenter__())
        async with asyncio.timeout(patient(10)), admitted.place(make(LONG_BYTES), "b"):
            assert not second.done()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)


async def test_place_when_an_owner_waits_for_its_own_then_no_strangers_upload_is_ended(
    make: Callable[[int], Upload],
) -> None:
    """It has what is its due, and a place is free besides."""
    admitted = Uploads(places=4, patience_s=0.0)
    stranger, inside = make(LONG_BYTES), asyncio.Semaphore(0)

    async def hold(upload: Upload, owner: str) -> None:
        async with admitted.place(upload, owner):
            inside.release()
            async for _ in upload.in_time(silence()):
                pass

    tasks = [asyncio.create_task(hold(stranger, "b"))]
    tasks += [asyncio.create_task(hold(make(LONG_BYTES), "a")) for _ in range(2)]
    for _ in tasks:
        await inside.acquire()
    tasks.append(asyncio.create_task(hold(make(LONG_BYTES), "a")))
    # In each step of the loop it looks, finds nothing to end, and has patience again.
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TestUploadTimes:
    """What an upload took, for the deploy that follows."""

    def test_take_when_it_was_taken_then_it_counts_no_more(self) -> None:
        """Each upload is part of one deploy, and of its own client's."""
        times = UploadTimes(60.0)
        times.add("me", "digest", 5, now_s=0.0)
        assert times.take("other", "digest", now_s=1.0) == 0
        assert times.take("me", "another", now_s=1.0) == 0
        assert times.take("me", "digest", now_s=1.0) == 5
        assert times.take("me", "digest", now_s=1.0) == 0

    def test_take_when_nobody_deploys_in_time_then_it_is_forgotten(self) -> None:
        """What is kept is bounded by time; a second upload of the same counts from its end."""
        times = UploadTimes(60.0)
        times.add("me", "old", 5, now_s=0.0)
        times.add("me", "again", 6, now_s=1.0)
        times.add("me", "again", 7, now_s=30.0)
        assert times.take("me", "old", now_s=60.0) == 0
        assert times.take("me", "again", now_s=61.0) == 7
        assert len(times) == 0
