"""The application log: bounded on disk and in memory, whole for those who follow."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from plexspaces_node.errors import InvalidArgument, ResourceExhausted
from plexspaces_node.info import LogLine
from plexspaces_node.node import logs
from plexspaces_node.node.logs import MIN_LIMIT_BYTES, ApplicationLog, remove_all_but

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LIMIT = 1024 * 1024
TRACE = "0af7651916cd43dd8448eb211c80319c"


def record(message: str, *, level: str = "info", trace_id: str = "") -> LogLine:
    return LogLine(1_700_000_000_000_000_000, "log", level, message, trace_id)


def messages(records: list[LogLine]) -> list[str]:
    return [one.message for one in records]


async def take(lines: AsyncIterator[LogLine], count: int) -> list[str]:
    return [(await anext(lines)).message for _ in range(count)]


async def written(log: ApplicationLog) -> None:
    """Wait until what was appended is on disk."""
    while log._writing is not None:
        await asyncio.shield(log._writing)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calculator.log"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[ApplicationLog]:
    async with ApplicationLog(path, LIMIT) as opened:
        yield opened


class TestRead:
    async def test_read_when_nothing_was_written_then_empty_and_no_file(
        self, log: ApplicationLog, path: Path
    ) -> None:
        """A silent application costs no file."""
        assert await log.read() == []
        assert not path.exists()

    async def test_read_when_lines_are_still_on_their_way_then_they_are_there(
        self, log: ApplicationLog
    ) -> None:
        """What was appended is read, whether it has reached the disk or not."""
        log.append(record("one", level="warn"))
        log.append(record("zwei\nthree \0 ü", level="error"))
        expected = [record("one", level="warn"), record("zwei\nthree \0 ü", level="error")]
        assert await log.read() == expected
        await written(log)
        assert await log.read() == expected

    async def test_read_when_tail_is_given_then_only_the_last_lines(
        self, log: ApplicationLog
    ) -> None:
        """Tail counts from the end, over disk and memory alike; 0 means everything."""
        for n in range(5):
            log.append(record(str(n)))
        await written(log)
        log.append(record("5"))
        assert messages(await log.read(2)) == ["4", "5"]
        assert messages(await log.read(1)) == ["5"]
        assert len(await log.read(100)) == 6
        assert len(await log.read()) == 6

    async def test_read_when_for_a_trace_then_only_its_lines(self, log: ApplicationLog) -> None:
        """Over disk and memory alike; the tail is counted among them, and words are no traces."""
        for n in range(3):
            log.append(record(str(n), trace_id=TRACE))
            log.append(record(f"of another, about {TRACE}", trace_id="a" * 32))
            log.append(record(f"of none, about {TRACE}"))
        await written(log)
        log.append(record("3", trace_id=TRACE))
        log.append(record(f'"trace_id":"{TRACE}"'))
        found = await log.read(trace_id=TRACE)
        assert found == [record(str(n), trace_id=TRACE) for n in range(4)]
        assert messages(await log.read(2, trace_id=TRACE)) == ["2", "3"]
        assert await log.read(trace_id="b" * 32) == []

    async def test_read_when_lines_are_of_a_node_without_traces_then_they_have_none(
        self, path: Path
    ) -> None:
        """Lines of before are read; one without a trace is written as they are."""
        line = b'{"time_unix_ns":1700000000000000000,"stream":"log","level":"info","message":"m"}\n'
        path.write_bytes(line)
        async with ApplicationLog(path, LIMIT) as log:
            log.append(record("m"))
            await written(log)
            assert await log.read() == [record("m"), record("m")]
        assert path.read_bytes() == line * 2

    async def test_read_when_opened_again_then_the_past_is_there(self, path: Path) -> None:
        """Closing writes everything, and the next one goes on after it."""
        async with ApplicationLog(path, LIMIT) as log:
            log.append(record("before"))
        async with ApplicationLog(path, LIMIT) as log:
            log.append(record("after"))
            assert messages(await log.read()) == ["before", "after"]

    async def test_read_when_the_last_line_is_torn_then_only_it_is_missing(
        self, path: Path
    ) -> None:
        """A line cut by a crash costs itself, not the next one."""
        async with ApplicationLog(path, LIMIT) as log:
            log.append(record("whole"))
            log.append(record("torn ü"))
        os.truncate(path, path.stat().st_size - 4)
        async with ApplicationLog(path, LIMIT) as log:
            log.append(record("after"))
            assert messages(await log.read()) == ["whole", "after"]

    async def test_read_when_the_file_holds_rubbish_then_it_is_skipped(self, path: Path) -> None:
        """Lines that are no records do not keep the others from being read."""
        path.write_bytes(b"\xff\xfe\n{}\n[1]\n\n" + b'{"a":"\xc3"}\n')
        async with ApplicationLog(path, LIMIT) as log:
            log.append(record("good"))
            await written(log)
            assert messages(await log.read()) == ["good"]


class TestBounds:
    @pytest.mark.parametrize("limit", [MIN_LIMIT_BYTES, 100_000, LIMIT])
    async def test_append_when_flooded_then_disk_stays_under_the_limit_and_the_newest_is_kept(
        self, path: Path, limit: int
    ) -> None:
        """However much and whatever is logged, both files together stay under the limit."""
        async with ApplicationLog(path, limit) as log:
            for n in range(60):
                log.append(record("\x01" * 3000 * (n % 9) + f"#{n}"))
                log.append(record(f"#{n}"))
                await written(log)
                assert sum(file.stat().st_size for file in path.parent.iterdir()) <= limit
            kept = messages(await log.read())
            assert kept[-1] == "#59"
            assert {file.name for file in path.parent.iterdir()} <= {path.name, f"{path.name}.1"}

    async def test_append_when_the_disk_is_slow_then_memory_is_bounded_and_drops_are_told(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the disk stands still, lines past the bound are dropped and counted in one line."""
        gate = threading.Event()

        class SlowDisk(FileIO):
            def write(self, data: ReadableBuffer, /) -> int:
                gate.wait(10)
                return super().write(data)

        monkeypatch.setattr(logs, "FileIO", SlowDisk)
        async with ApplicationLog(path, LIMIT, pending_bytes=10_000) as log:
            log.append(record("first"))
            await asyncio.sleep(0)
            for n in range(1000):
                log.append(record(f"{n:03}"))
            gate.set()
            await written(log)
            log.append(record("last"))
            seen = messages(await log.read())
        kept = len(seen) - 3
        assert 50 < kept < 200
        assert seen[:2] == ["first", "000"]
        assert seen[-3:] == [f"{kept - 1:03}", f"{1000 - kept} lines dropped", "last"]

    async def test_append_when_a_message_is_long_then_cut_and_marked(
        self, log: ApplicationLog
    ) -> None:
        """A long message is cut at a character, says how much is missing, and hurts no other."""
        log.append(record("ü" * 8192))
        log.append(record("x" + "ü" * 8192))
        log.append(LogLine(2**70, "s" * 1000, "l" * 1000, "\ud800", "t" * 1000))
        whole, cut, odd = await log.read()
        assert whole.message == "ü" * 8192
        assert cut.message == "x" + "ü" * 8191 + " [cut: 1 bytes more]"
        assert (odd.time_unix_ns, odd.message, odd.trace_id) == (2**63 - 1, "?", "")
        assert odd.stream.startswith("s" * 16 + " [cut")

    async def test_append_when_the_disk_fails_then_no_error_and_the_loss_is_told_later(
        self, path: Path
    ) -> None:
        """A log that cannot be written counts what it lost and says so once it can."""
        async with ApplicationLog(path.parent / "missing" / "a.log", LIMIT) as log:
            for n in range(3):
                log.append(record(str(n)))
                await written(log)
            (path.parent / "missing").mkdir()
            log.append(record("3"))
            await written(log)
            log.append(record("4"))
            assert messages(await log.read()) == ["4 lines dropped", "4"]

    async def test_append_when_a_write_ends_half_way_then_no_part_of_it_stays(
        self, log: ApplicationLog, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that fills up in the middle of a write leaves whole lines only."""
        log.append(record("before"))
        await written(log)
        size = path.stat().st_size

        class FullDisk(FileIO):
            def write(self, data: object, /) -> int:
                if self.seek(0, os.SEEK_END) > size:
                    raise OSError(28, "No space left on device")
                return super().write(bytes(data)[:10])  # type: ignore[call-overload]

        with monkeypatch.context() as patch:
            patch.setattr(logs, "FileIO", FullDisk)
            log.append(record("lost"))
            await written(log)
        assert path.stat().st_size == size
        log.append(record("dropped too: the loss was not told yet"))
        await written(log)
        assert messages(await log.read()) == ["before", "2 lines dropped"]

    def test_log_when_the_limit_is_too_small_then_refused(self, path: Path) -> None:
        """A bound that could not hold a line is an error at once."""
        with pytest.raises(InvalidArgument, match="4095"):
            ApplicationLog(path, MIN_LIMIT_BYTES - 1)


class TestFollow:
    async def test_follow_when_lines_keep_coming_then_no_gap_and_no_repetition(
        self, log: ApplicationLog
    ) -> None:
        """Followers that begin at any moment see past and new lines, each exactly once."""

        async def read_to_end() -> list[str]:
            async with aclosing(log.follow()) as lines:
                return [line.message async for line in lines]

        async with asyncio.TaskGroup() as group:
            followers = []
            for n in range(2000):
                log.append(record(str(n)))
                if n % 200 == 0:
                    followers.append(group.create_task(read_to_end()))
                if n % 7 == 0:
                    await asyncio.sleep(0)
            await written(log)
            await log.close()
        expected = [str(n) for n in range(2000)]
        assert [follower.result() for follower in followers] == [expected] * len(followers)

    async def test_follow_when_tail_is_given_then_begins_there(self, log: ApplicationLog) -> None:
        """Tail bounds the past; what comes live is not counted."""
        for n in range(5):
            log.append(record(str(n)))
        async with aclosing(log.follow(tail=2)) as lines:
            assert await take(lines, 2) == ["3", "4"]
            log.append(record("5"))
            assert await take(lines, 1) == ["5"]

    async def test_follow_when_for_a_trace_then_only_its_lines(self, path: Path) -> None:
        """The past and what comes; others cannot crowd them out of a slow follower's memory."""
        async with (
            ApplicationLog(path, LIMIT, pending_bytes=1000) as log,
            aclosing(log.follow(trace_id=TRACE)) as lines,
        ):
            log.append(record("one", trace_id=TRACE))
            log.append(record("other"))
            assert await take(lines, 1) == ["one"]
            for n in range(20):
                log.append(record(str(n)))
                await written(log)
            log.append(record("two", trace_id=TRACE))
            assert await take(lines, 1) == ["two"]

    async def test_follow_when_the_consumer_is_slow_then_told_and_the_log_is_not_held_up(
        self, path: Path
    ) -> None:
        """A follower that does not read loses lines and is told; the file has them all."""
        async with (
            ApplicationLog(path, LIMIT, pending_bytes=1000) as log,
            aclosing(log.follow()) as lines,
        ):
            log.append(record("begin"))
            assert await take(lines, 1) == ["begin"]
            for n in range(20):
                log.append(record(f"{n:02}"))
                await written(log)
            kept = 1000 // len(b'{"time_unix_ns":1700000000000000000,"stream":"log",') // 2
            seen = await take(lines, kept)
            while "dropped" not in seen[-1]:
                seen += await take(lines, 1)
            count = len(seen) - 1
            assert seen == [f"{n:02}" for n in range(count)] + [f"{20 - count} lines dropped"]
            log.append(record("again"))
            assert await take(lines, 1) == ["again"]
        assert len(await log.read()) == 22

    async def test_follow_when_the_log_is_closed_then_ends_after_the_last_line(
        self, log: ApplicationLog
    ) -> None:
        """Closing ends a follower that waits, after giving it what it has not had."""
        async with aclosing(log.follow()) as lines:
            log.append(record("one"))
            assert await take(lines, 1) == ["one"]
            waiting = asyncio.ensure_future(take(lines, 1))
            await asyncio.sleep(0)
            log.append(record("two"))
            await log.close()
            assert await waiting == ["two"]
            with pytest.raises(StopAsyncIteration):
                await anext(lines)
        assert messages([line async for line in log.follow()]) == ["one", "two"]

    async def test_follow_when_left_or_cancelled_then_nothing_is_kept_for_it(
        self, log: ApplicationLog
    ) -> None:
        """A follower that goes away in any way frees its place."""
        log.append(record("one"))
        for _ in range(logs.MAX_FOLLOWERS + 1):
            async with aclosing(log.follow()) as lines:
                await take(lines, 1)
        assert "0 followers" in repr(log)
        async with aclosing(log.follow()) as lines:
            await take(lines, 1)
            waiting = asyncio.ensure_future(take(lines, 1))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert "0 followers" in repr(log)

    async def test_follow_when_too_many_follow_then_refused(self, log: ApplicationLog) -> None:
        """The number of followers is bounded, because each costs memory."""
        log.append(record("one"))
        followers = [log.follow() for _ in range(logs.MAX_FOLLOWERS)]
        for follower in followers:
            await anext(follower)
        with pytest.raises(ResourceExhausted, match=r"followers of this log \(16\)"):
            await anext(log.follow())
        for follower in followers:
            await follower.aclose()


class TestEnd:
    async def test_remove_when_followed_and_rotated_then_no_file_is_left(
        self, log: ApplicationLog, path: Path
    ) -> None:
        """Removing ends followers and leaves nothing, and may be repeated."""
        async with aclosing(log.follow()) as lines:
            for n in range(80):
                log.append(record("x" * 16_000))
                if n % 20 == 0:
                    await written(log)
            await written(log)
            assert len(list(path.parent.iterdir())) == 2
            await anext(lines)
            await log.remove()
            assert [line async for line in lines]
        assert list(path.parent.iterdir()) == []
        await log.remove()

    async def test_append_when_closed_then_ignored(self, log: ApplicationLog) -> None:
        """A late line of a machine that is going away is no error and leaves no file."""
        await log.remove()
        log.append(record("late"))
        await asyncio.sleep(0)
        assert await log.read() == []

    def test_remove_all_but_when_some_are_named_then_only_those_stay(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Logs of applications that are not there go, both halves; other files are not touched."""
        stay = ["one.log", "one.log.1", "shop~one.log", "notes.txt", "two.log.gz"]
        for name in (*stay, "two.log", "two.log.1", "on.log", "rival~one.log"):
            (tmp_path / name).touch()
        (tmp_path / "stuck.log").mkdir()
        remove_all_but(tmp_path, ("one", "shop/one"))
        assert {path.name for path in tmp_path.iterdir()} == {*stay, "stuck.log"}
        assert "stuck.log, which belongs to no application" in caplog.text


async def test_bound_when_lowered_then_the_files_come_below_it_and_no_line_hangs(
    log: ApplicationLog, path: Path
) -> None:
    """What was there goes with the lines that follow; a line that is too long now is dropped."""
    log.append(record("x" * 12_000))
    await written(log)
    log.append(record("y" * 12_000))
    log.bound(MIN_LIMIT_BYTES)
    for number in range(200):
        log.append(record(f"line {number}"))
    await written(log)
    assert log.size_bytes == sum(one.stat().st_size for one in path.parent.iterdir())
    assert log.size_bytes <= MIN_LIMIT_BYTES
    assert messages(await log.read())[-1] == "line 199"
    log.bound(LIMIT)
    log.append(record("z" * 12_000))
    await written(log)
    assert len((await log.read())[-1].message) == 12_000
