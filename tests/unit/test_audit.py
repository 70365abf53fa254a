"""The audit log: bounded on disk, in memory and against those who are refused."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from plexspaces_node.errors import ResourceExhausted
from plexspaces_node.info import AuditEntry
from plexspaces_node.model import MIB
from plexspaces_node.node.access.audit import (
    MAX_READERS,
    MOST_HELD,
    MOST_REFUSALS,
    AuditLog,
    Event,
)
from plexspaces_node.node.access.audit_file import FILES, AuditFile


def event(
    verb: str = "ApplicationService/Deploy",
    *,
    object: str = "shop/cart",
    tenant: str = "shop",
    refused: bool = False,
    result: str = "ok",
) -> Event:
    return Event(
        "token",
        "ci",
        "127.0.0.1",
        tenant,
        verb,
        object,
        result=result,
        refused=refused,
        duration_ns=5,
        time_unix_ns=1_700_000_000_123_456_000,
    )


def refusal(verb: str = "ApplicationService/Deploy") -> Event:
    return event(verb, refused=True, result="permission_denied")


async def read(log: AuditLog, *, tail: int = 0, tenant: str | None = None) -> list[AuditEntry]:
    return [entry async for entry in log.read(tail=tail, tenant=tenant)]


async def objects(log: AuditLog, *, tail: int = 0, tenant: str | None = None) -> list[str]:
    return [entry.object for entry in await read(log, tail=tail, tenant=tenant)]


async def written(log: AuditLog) -> None:
    """Wait until what was noted is on disk, or lost."""
    while log._writing is not None:
        await asyncio.shield(log._writing)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[AuditLog]:
    async with AuditLog(tmp_path) as opened:
        yield opened


class TestNote:
    async def test_note_when_done_then_one_json_line_says_who_what_and_when(
        self, tmp_path: Path
    ) -> None:
        """The file can be read with the usual programs, and by its owner alone."""
        async with AuditLog(tmp_path) as log:
            log.note(event())
        file = tmp_path / "audit.jsonl"
        assert json.loads(file.read_bytes()) == {
            "time": "2023-11-14T22:13:20.123456Z",
            "kind": "token",
            "who": "ci",
            "address": "127.0.0.1",
            "tenant": "shop",
            "verb": "ApplicationService/Deploy",
            "object": "shop/cart",
            "result": "ok",
            "duration_ns": 5,
        }
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    async def test_note_when_refusals_are_equal_then_one_line_counts_them(
        self, tmp_path: Path
    ) -> None:
        """Who is refused a thousand times costs one line; what is done is never merged."""
        async with AuditLog(tmp_path) as log:
            for number in range(1000):
                log.note(refusal())
                log.note(refusal("ApplicationService/List"))
                if number < 2:
                    log.note(event())
        lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_bytes().splitlines()]
        found = [(line["verb"][19:], line["result"], line.get("count")) for line in lines]
        assert found == [
            ("Deploy", "ok", None),
            ("Deploy", "ok", None),
            ("Deploy", "permission_denied", 1000),
            ("List", "permission_denied", 1000),
        ]

    async def test_note_when_the_time_to_merge_is_over_then_refusals_are_seen(
        self, tmp_path: Path
    ) -> None:
        """Nobody has to wait for the node's end to see them, and those that follow count anew."""
        log = AuditLog(tmp_path, merge_s=0.001)
        async with log, aclosing(log.read(follow=True)) as lines:
            seen = []
            for _ in range(2):
                log.note(refusal())
                log.note(refusal())
                seen.append(await anext(lines))
        assert [entry.count for entry in seen] == [2, 2]

    async def test_note_when_refusals_are_all_different_then_their_lines_are_bounded(
        self, tmp_path: Path
    ) -> None:
        """Inventing verbs, names or addresses does not fill the log either."""
        async with AuditLog(tmp_path) as log:
            for number in range(10 * MOST_REFUSALS):
                log.note(refusal(f"Verb/{number}"))
        lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_bytes().splitlines()]
        assert len(lines) == MOST_REFUSALS + 1
        assert (lines[-1]["who"], lines[-1]["tenant"]) == ("others", "")
        assert lines[-1]["count"] == 9 * MOST_REFUSALS

    async def test_note_when_a_name_is_long_or_broken_then_it_is_cut(self, log: AuditLog) -> None:
        """A name that a stranger chose costs at most a few hundred bytes, and never an error."""
        log.note(event(object="x" * 10_000))
        log.note(event(object="\ud800\n"))
        assert await objects(log) == ["x" * 256, "?\n"]

    async def test_note_when_closed_then_ignored(self, log: AuditLog) -> None:
        """What ends late does not fail for it."""
        await log.close()
        log.note(event())
        assert await read(log) == []


class TestDisk:
    async def test_note_when_the_disk_takes_nothing_then_said_once_and_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The node goes on; the first line after it says how many are missing."""
        place = tmp_path / "audit"
        async with AuditLog(place) as log:
            with caplog.at_level(logging.ERROR):
                for _ in range(3):
                    log.note(event())
                    await written(log)
            assert len(caplog.records) == 1
            assert str(place) in caplog.text
            assert log.dropped == 3
            place.mkdir()
            log.note(event(object="after"))
            log.note(event(object="later"))
            await written(log)
            assert [(one.object, one.lost) for one in await read(log)] == [
                ("after", 3),
                ("later", 0),
            ]

    async def test_read_when_much_was_written_then_the_newest_is_kept_within_the_limit(
        self, tmp_path: Path
    ) -> None:
        """Files are rotated; together they are never larger than they may be."""
        limit = 64 * 1024
        async with AuditLog(tmp_path, limit) as log:
            for number in range(2000):
                log.note(event(object=str(number)))
                if number % 10 == 0:
                    await written(log)
            await written(log)
            sizes = [path.stat().st_size for path in tmp_path.iterdir()]
            assert len(sizes) == FILES
            assert limit // 2 < sum(sizes) <= limit
            kept = await objects(log)
        assert kept == [str(number) for number in range(2000 - len(kept), 2000)]

    async def test_note_when_many_come_at_once_then_within_the_limit_too(
        self, tmp_path: Path
    ) -> None:
        """What waits can be longer than a file may be."""
        limit = 64 * 1024
        async with AuditLog(tmp_path, limit) as log:
            for _ in range(3):
                for number in range(1000):
                    log.note(event(object=str(number)))
                await written(log)
                sizes = [path.stat().st_size for path in tmp_path.iterdir()]
                assert sum(sizes) <= limit
            kept = await objects(log)
        assert len(kept) > 100
        assert kept == [str(number) for number in range(1000 - len(kept), 1000)]

    def test_append_when_the_last_line_was_cut_short_then_the_next_begins_anew(
        self, tmp_path: Path
    ) -> None:
        """A crash in the middle of a line costs that line alone."""
        (tmp_path / "audit.jsonl").write_bytes(b'{"time":"2023')
        AuditFile(tmp_path, MIB).append([b"whole\n"])
        assert (tmp_path / "audit.jsonl").read_bytes() == b'{"time":"2023\nwhole\n'

    def test_append_when_the_file_is_a_link_then_refused(self, tmp_path: Path) -> None:
        """Lines do not go where somebody else has pointed."""
        (tmp_path / "audit.jsonl").symlink_to(tmp_path / "other")
        with pytest.raises(OSError, match="symbolic links"):
            AuditFile(tmp_path, MIB).append([b"x\n"])


class TestRead:
    async def test_read_when_lines_are_on_their_way_then_each_is_there_once(
        self, log: AuditLog
    ) -> None:
        """On disk or in memory makes no difference, nor does another run of the node."""
        log.note(event(object="1"))
        assert await objects(log) == ["1"]
        await written(log)
        log.note(event(object="2"))
        assert await objects(log) == ["1", "2"]
        assert await objects(log, tail=1) == ["2"]
        assert await objects(log, tail=5) == ["1", "2"]

    async def test_read_when_for_a_tenant_then_only_its_lines(self, log: AuditLog) -> None:
        """Also where the last lines are asked for, and others have come since."""
        for number in range(5):
            log.note(event(object=f"shop/{number}"))
            log.note(event(object=f"bank/{number}", tenant="bank"))
            log.note(event(object=f"node/{number}", tenant=""))
        await written(log)
        assert await objects(log, tenant="bank") == [f"bank/{number}" for number in range(5)]
        assert await objects(log, tail=2, tenant="shop") == ["shop/3", "shop/4"]
        assert await objects(log, tenant="default") == []

    async def test_read_when_lines_are_longer_than_what_is_read_at_once_then_whole(
        self, tmp_path: Path
    ) -> None:
        """Lines that lie across two pieces of a file, read from either end."""
        async with AuditLog(tmp_path) as log:
            for number in range(3000):
                log.note(event(object=f"{number}{'x' * 200}"))
            await written(log)
            names = await objects(log)
            assert len(names) == 3000
            assert await objects(log, tail=2999) == names[1:]

    async def test_read_when_a_line_is_damaged_then_the_others_are_read(
        self, log: AuditLog, tmp_path: Path
    ) -> None:
        """A disk's fault or an editor's does not hide the rest."""
        log.note(event(object="1"))
        await written(log)
        with (tmp_path / "audit.jsonl").open("ab") as file:
            file.write(b'no json\n{"time":1}\n\n')
        log.note(event(object="2"))
        assert await objects(log, tail=2) == await objects(log) == ["1", "2"]

    async def test_follow_when_lines_come_then_past_and_new_without_gap(
        self, log: AuditLog
    ) -> None:
        """The past first, what is noted meanwhile next, the end with the log's."""
        log.note(event(object="1"))
        log.note(event(object="b", tenant="bank"))
        found = []
        async with aclosing(log.read(follow=True, tenant="shop")) as lines:
            found.append((await anext(lines)).object)
            log.note(event(object="2"))
            log.note(event(object="b", tenant="bank"))
            await written(log)
            log.note(event(object="3"))
            found += [(await anext(lines)).object, (await anext(lines)).object]
            await log.close()
            found += [entry.object async for entry in lines]
        assert found == ["1", "2", "3"]

    async def test_read_when_the_tail_is_long_then_the_same_lines(self, log: AuditLog) -> None:
        """Counted first, and not kept in memory; those of others do not count."""
        for number in range(MOST_HELD + 500):
            log.note(event(object=str(number)))
            log.note(event(tenant="rival"))
            if number % 1000 == 0:
                await written(log)
        newest = [str(number) for number in range(MOST_HELD + 500)]
        for _ in range(2):
            for tail in (MOST_HELD - 1, MOST_HELD + 1, MOST_HELD + 499, 4 * MOST_HELD):
                assert await objects(log, tail=tail, tenant="shop") == newest[-tail:]
            await written(log)

    async def test_read_when_one_tenant_reads_much_then_others_can_too(self, log: AuditLog) -> None:
        """A tenant's admin cannot keep the node's from reading."""
        log.note(event())
        async with AsyncExitStack() as stack:
            for _ in range(MAX_READERS // 2):
                lines = await stack.enter_async_context(aclosing(log.read(tenant="shop")))
                await anext(lines)
            with pytest.raises(ResourceExhausted, match="half of them of one tenant"):
                await read(log, tenant="shop")
            assert len(await read(log)) == 1
        assert len(await read(log, tenant="shop")) == 1

    async def test_follow_when_there_are_too_many_then_refused(self, log: AuditLog) -> None:
        """A follower holds memory; those who leave make room."""
        log.note(event())
        followers = [log.read(follow=True) for _ in range(MAX_READERS)]
        for one in followers:
            await anext(one)
        with pytest.raises(ResourceExhausted):
            await anext(log.read(follow=True))
        for one in followers:
            await one.aclose()
        async with aclosing(log.read(follow=True)) as lines:
            assert (await anext(lines)).who == "ci"
