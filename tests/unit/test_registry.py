"""The registry: what it keeps, what it refuses, and what its file survives."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import signal
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.records import stored

from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    WrongState,
)
from plexspaces_node.model import ArtifactKind, Language, PhaseTimings, VmConfig
from plexspaces_node.node.registry.migrations import MIGRATIONS, migrate
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired, Registry
from plexspaces_node.node.registry.snapshots import SnapshotRecord
from plexspaces_node.node.registry.sqlite_file import Bounds

RECORD = ApplicationRecord(
    name="calculator",
    id="app-1",
    version="1.2.3",
    language=Language.PYTHON,
    kind=ArtifactKind.ACTOR,
    digest="ab" * 32,
    vm_config=VmConfig(vcpus=2, memory_mib=512),
    env={"TOKEN": "s3cret", "NAÏVE": "ü"},
    desired=Desired.RUNNING,
    generation=1,
    request_id="request-1",
    created_ns=1_700_000_000_000_000_000,
    timings=None,
    args=("--größe", "", "zwei Worte"),
    concurrency=3,
    allow_hosts=("api.example.com:443", "[::1]:80"),
)
OTHER = replace(RECORD, name="other", id="app-2", request_id="")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
async def registry(path: Path) -> AsyncIterator[Registry]:
    async with Registry.open(path, keyvalue_limit_bytes=1000) as opened:
        yield opened


async def save(registry: Registry, name: str, state: bytes, *, taken_ns: int) -> bool:
    """Save a state of one part, or of none."""
    parts = [(0, state)] if state else []
    return await registry.save_snapshot(name, SnapshotRecord(taken_ns, len(state)), parts)


async def load(registry: Registry, name: str) -> bytes:
    """Return the state saved last, put together from its parts."""
    record = await registry.load_snapshot(name)
    assert record is not None
    state = b""
    while len(state) < record.size_bytes:
        state += await registry.read_part(name, record.taken_ns, len(state))
    return state


def rows(path: Path) -> dict[str, int]:
    """Count the rows of every table."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {
            name: connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
            for (name,) in names
        }


class TestApplications:
    async def test_insert_when_reopened_then_every_field_is_as_it_was(self, path: Path) -> None:
        """An application comes back from the file exactly as it was inserted."""
        record = replace(RECORD, timings=PhaseTimings(upload_ns=1, compile_cached=True, total_ns=9))
        async with Registry.open(path) as registry:
            await registry.insert_application(record)
        async with Registry.open(path) as registry:
            assert await stored(registry, "calculator") == record

    async def test_insert_when_the_name_is_taken_then_says_how_to_free_it(
        self, registry: Registry
    ) -> None:
        """A taken name is refused with the command that frees it, and the first one stays."""
        await registry.insert_application(RECORD)
        with pytest.raises(AlreadyExists) as caught:
            await registry.insert_application(replace(OTHER, name="calculator"))
        assert "--replace" in (caught.value.hint or "")
        assert await registry.list_applications() == [RECORD]

    async def test_insert_when_the_request_id_is_taken_then_names_its_application(
        self, registry: Registry
    ) -> None:
        """One request id makes one application only."""
        await registry.insert_application(RECORD)
        with pytest.raises(AlreadyExists, match="calculator"):
            await registry.insert_application(replace(OTHER, request_id="request-1"))

    async def test_insert_when_many_race_for_a_name_then_one_wins(self, registry: Registry) -> None:
        """Of concurrent inserts of one name exactly one succeeds, the rest are told."""
        racers = [replace(RECORD, id=f"app-{n}", request_id=f"request-{n}") for n in range(20)]
        results = await asyncio.gather(
            *(registry.insert_application(racer) for racer in racers), return_exceptions=True
        )
        assert results.count(None) == 1
        assert sum(isinstance(result, AlreadyExists) for result in results) == 19

    async def test_list_when_several_then_sorted_by_name(self, registry: Registry) -> None:
        """Listing is ordered by name, not by insertion."""
        await registry.insert_application(OTHER)
        await registry.insert_application(RECORD)
        assert [a.name for a in await registry.list_applications()] == ["calculator", "other"]

    async def test_insert_when_another_tenant_has_the_request_id_then_it_is_free(
        self, registry: Registry
    ) -> None:
        """Nobody can find out about another tenant's; within one it is unique as ever."""
        await registry.insert_application(RECORD)
        shop = replace(OTHER, name="shop/other", request_id="request-1")
        await registry.check_request("request-1", "shop/other")
        await registry.insert_application(shop)
        for taken in ("shop/third", "third"):
            with pytest.raises(AlreadyExists, match="request-1"):
                await registry.check_request("request-1", taken)
            with pytest.raises(AlreadyExists, match="request-1"):
                await registry.insert_application(replace(shop, name=taken, id="app-3"))
        await registry.check_request("request-1", "rival/third")
        await registry.check_request("request-1", "shop/other")

    async def test_insert_when_without_request_id_then_many_may_be(
        self, registry: Registry
    ) -> None:
        """No request id is not one that can be taken."""
        await registry.insert_application(OTHER)
        await registry.insert_application(replace(OTHER, name="third", id="app-3"))
        assert [a.request_id for a in await registry.list_applications()] == ["", ""]

    async def test_replace_when_there_is_one_then_state_and_keys_stay(
        self, registry: Registry
    ) -> None:
        """The row is another, what hangs on its name is not."""
        await registry.insert_application(RECORD)
        await save(registry, "calculator", b"state", taken_ns=1)
        await registry.kv_put("calculator", "key", b"value")
        next_ = replace(RECORD, version="2.0.0", digest="cd" * 32, request_id="request-2")
        await registry.replace_application(next_)
        assert await registry.list_applications() == [next_]
        assert await load(registry, "calculator") == b"state"
        assert await registry.kv_get("calculator", "key") == b"value"

    async def test_replace_when_its_request_is_anothers_or_the_name_unknown_then_no_change(
        self, registry: Registry
    ) -> None:
        """An error leaves what there was."""
        await registry.insert_application(RECORD)
        with pytest.raises(NotFound):
            await registry.replace_application(OTHER)
        await registry.insert_application(OTHER)
        with pytest.raises(AlreadyExists, match="'request-1' has deployed application 'calc"):
            await registry.replace_application(replace(OTHER, request_id="request-1"))
        assert await registry.list_applications() == [RECORD, OTHER]

    async def test_set_desired_when_repeated_then_generation_is_raised_once(
        self, registry: Registry
    ) -> None:
        """Only a change of what is desired raises the generation."""
        await registry.insert_application(RECORD)
        stopped = await registry.set_desired("calculator", Desired.STOPPED)
        assert stopped == replace(RECORD, desired=Desired.STOPPED, generation=2)
        assert await registry.set_desired("calculator", Desired.STOPPED) == stopped
        assert await stored(registry, "calculator") == stopped

    async def test_updates_when_unknown_then_not_found(self, registry: Registry) -> None:
        """Nothing can be set for an application that is not there."""
        with pytest.raises(NotFound):
            await registry.set_desired("nobody", Desired.STOPPED)
        with pytest.raises(NotFound):
            await registry.set_deployed("nobody", PhaseTimings())

    async def test_set_deployed_when_set_then_the_timings_are_kept_and_it_is_done(
        self, registry: Registry
    ) -> None:
        """The end of a deploy is kept with the application, and how long it took."""
        await registry.insert_application(replace(RECORD, generation=0))
        timings = PhaseTimings(compile_ns=5, vm_ns=6)
        done = replace(RECORD, generation=1, timings=timings)
        assert await registry.set_deployed("calculator", timings) == done
        assert await registry.list_applications() == [done]

    async def test_insert_when_a_deploy_of_that_name_was_not_done_then_it_makes_room(
        self, registry: Registry
    ) -> None:
        """What a failed deploy left takes neither the name nor the request id, and no key stays."""
        await registry.insert_application(replace(RECORD, generation=0))
        await registry.kv_put("calculator", "key", b"value")
        again = replace(RECORD, id="app-3")
        await registry.insert_application(again)
        assert await registry.list_applications() == [again]
        assert await registry.kv_get("calculator", "key") is None

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ("language = 'zig'", "zig"),
            ("kind = 'service'", "service"),
            ("env = '{'", "truncated"),
            ("args = '{}'", "array"),
            ("timings = '[]'", "array"),
            ("memory_mib = 0", "memory must be at least 1 MiB"),
            ("name = '../calculator'", "not valid"),
        ],
    )
    async def test_list_when_a_row_cannot_be_read_then_it_says_why_and_the_others_are_there(
        self, path: Path, change: str, why: str
    ) -> None:
        """One bad row is an application with a fault, which can be removed; nothing is changed."""
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            await registry.insert_application(OTHER)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(f"UPDATE applications SET {change} WHERE id = 'app-1'")
        async with Registry.open(path) as registry:
            bad, other = await registry.list_applications()
            assert (bad.id, bad.generation, bad.desired) == ("app-1", 1, Desired.STOPPED)
            assert why in bad.fault
            assert other == OTHER
            await registry.delete_application("app-1")
            assert await registry.list_applications() == [OTHER]

    async def test_open_when_there_was_no_file_or_an_empty_one_then_it_is_new(
        self, path: Path
    ) -> None:
        """Whoever opens a registry can tell one that was lost from one without applications."""
        path.touch()
        for new in (True, False):
            async with Registry.open(path) as registry:
                assert registry.is_new is new
        path.unlink()
        async with Registry.open(path) as registry:
            assert registry.is_new

    async def test_delete_when_it_had_state_then_no_row_is_left(self, path: Path) -> None:
        """Deleting takes all state along, leaves others alone, and may be repeated."""
        async with Registry.open(path) as registry:
            for record in (RECORD, OTHER):
                await registry.insert_application(record)
                await save(registry, record.name, b"state", taken_ns=1)
                await registry.kv_put(record.name, "key", b"value")
            await registry.delete_application("calculator")  # a name, which is no id
            assert len(await registry.list_applications()) == 2
            await registry.delete_application("app-1")
            await registry.delete_application("app-1")
            assert await registry.load_snapshot("calculator") is None
            assert await registry.kv_get("calculator", "key") is None
            assert await registry.kv_get("other", "key") == b"value"
        counts = rows(path)
        assert counts.pop("migrations") == len(MIGRATIONS)
        assert counts.pop("removed") == 0
        for table in ("quotas", "secrets", "secret_salt", "tokens"):
            assert counts.pop(table) == 0
        for table in ("cluster_records", "cluster_mirror", "state_copies"):
            assert counts.pop(table) == 0
        assert set(counts.values()) == {1}

    async def test_repr_when_env_holds_a_secret_then_it_is_not_shown(self) -> None:
        """A record in a log line does not give the environment away, nor the arguments."""
        assert "s3cret" not in repr(RECORD)
        assert "zwei" not in repr(RECORD)


class TestState:
    async def test_snapshot_when_saved_twice_then_the_last_is_loaded(
        self, registry: Registry
    ) -> None:
        """A snapshot replaces the one before."""
        await registry.insert_application(RECORD)
        assert await registry.load_snapshot("calculator") is None
        await save(registry, "calculator", b"one", taken_ns=1)
        await save(registry, "calculator", b"\0two", taken_ns=2)
        assert await registry.load_snapshot("calculator") == SnapshotRecord(2, 4)
        assert await load(registry, "calculator") == b"\0two"

    async def test_snapshot_when_it_comes_in_parts_then_it_is_the_state_with_the_last(
        self, registry: Registry
    ) -> None:
        """Until then the one before is loaded; a part that is written twice is there once."""
        await registry.insert_application(RECORD)
        await save(registry, "calculator", b"before", taken_ns=1)
        await registry.add_to_snapshot("calculator", 2, [(0, b"abc"), (3, b"def")])
        await registry.add_to_snapshot("calculator", 2, [(3, b"def")])
        assert await load(registry, "calculator") == b"before"
        await registry.save_snapshot("calculator", SnapshotRecord(2, 7), [(3, b"def"), (6, b"g")])
        assert await load(registry, "calculator") == b"abcdefg"
        await save(registry, "calculator", b"", taken_ns=3)
        assert await load(registry, "calculator") == b""

    async def test_snapshot_when_the_one_before_was_large_then_it_goes_in_steps(
        self, registry: Registry, path: Path
    ) -> None:
        """No write of anybody waits until hundreds of megabytes are removed."""
        await registry.insert_application(RECORD)
        parts = [(begin, b"x") for begin in range(40)]
        assert await registry.save_snapshot("calculator", SnapshotRecord(1, 40), parts)
        assert not await save(registry, "calculator", b"small", taken_ns=2)
        assert rows(path)["snapshot_parts"] == 1 + 40 - 16
        assert not await registry.prune_snapshots("calculator")
        assert await registry.prune_snapshots("calculator")
        assert rows(path)["snapshot_parts"] == 1
        assert await load(registry, "calculator") == b"small"

    async def test_snapshot_when_a_part_is_missing_then_it_is_said_where(
        self, registry: Registry
    ) -> None:
        """A damaged file is no reason to start an actor from half a state."""
        await registry.insert_application(RECORD)
        parts = [(0, b"abc"), (6, b"ghi")]
        await registry.save_snapshot("calculator", SnapshotRecord(1, 9), parts)
        with pytest.raises(WrongState, match="'calculator' has no part at byte 3"):
            await load(registry, "calculator")

    async def test_snapshot_when_the_application_is_gone_then_not_found(
        self, registry: Registry, path: Path
    ) -> None:
        """A late snapshot of an undeployed application leaves no row."""
        with pytest.raises(NotFound):
            await save(registry, "gone", b"state", taken_ns=1)
        with pytest.raises(NotFound):
            await save(registry, "gone", b"", taken_ns=1)
        with pytest.raises(NotFound):
            await registry.add_to_snapshot("gone", 1, [(0, b"state")])
        assert (rows(path)["snapshots"], rows(path)["snapshot_parts"]) == (0, 0)

    async def test_kv_when_put_replaced_and_deleted_then_get_tells(
        self, registry: Registry
    ) -> None:
        """Put sets, put again replaces, put of None deletes, silently also when absent."""
        await registry.insert_application(RECORD)
        assert await registry.kv_get("calculator", "k") is None
        await registry.kv_put("calculator", "k", b"1")
        await registry.kv_put("calculator", "k", b"")
        assert await registry.kv_get("calculator", "k") == b""
        await registry.kv_delete("calculator", "k")
        await registry.kv_delete("calculator", "k")
        assert await registry.kv_get("calculator", "k") is None

    async def test_kv_when_two_applications_use_a_key_then_they_do_not_meet(
        self, registry: Registry
    ) -> None:
        """Every application has its own keys."""
        for record in (RECORD, OTHER):
            await registry.insert_application(record)
            await registry.kv_put(record.name, "k", record.name.encode())
        assert await registry.kv_get("calculator", "k") == b"calculator"
        assert await registry.kv_get("other", "k") == b"other"

    async def test_kv_when_the_total_is_reached_then_refused_until_something_is_deleted(
        self, registry: Registry
    ) -> None:
        """Keys and values count together; a refused put changes nothing, deleting makes room."""
        await registry.insert_application(RECORD)
        await registry.kv_put("calculator", "aaaa", b"x" * 460)
        await registry.kv_put("calculator", "bbbb", b"x" * 460)
        with pytest.raises(ResourceExhausted, match=r"1001 bytes, its limit is 1000") as caught:
            await registry.kv_put("calculator", "bbbb", b"y" * 461)
        assert "keyvalue_bytes" in (caught.value.hint or "")
        assert await registry.kv_get("calculator", "bbbb") == b"x" * 460
        await registry.kv_delete("calculator", "aaaa")
        await registry.kv_put("calculator", "bbbb", b"y" * 960)

    async def test_kv_when_the_limit_was_lowered_then_shrinking_is_allowed(
        self, path: Path
    ) -> None:
        """A store over a lowered limit can be emptied step by step."""
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            await registry.kv_put("calculator", "k", b"x" * 100)
        async with Registry.open(path, keyvalue_limit_bytes=10) as registry:
            await registry.kv_put("calculator", "k", b"x" * 50)
            with pytest.raises(ResourceExhausted):
                await registry.kv_put("calculator", "k", b"x" * 51)

    @pytest.mark.parametrize("key", ["", "k" * 513, "ü" * 257])
    async def test_kv_when_the_key_is_empty_or_too_long_then_refused(
        self, registry: Registry, key: str
    ) -> None:
        """Keys have 1 to 512 bytes, counted as UTF-8."""
        with pytest.raises(InvalidArgument, match=f"{len(key.encode())} bytes"):
            await registry.kv_put("calculator", key, b"")
        with pytest.raises(InvalidArgument):
            await registry.kv_get("calculator", key)

    async def test_kv_when_the_application_is_unknown_then_not_found(
        self, registry: Registry
    ) -> None:
        """Nothing is kept for an application that is not there."""
        with pytest.raises(NotFound):
            await registry.kv_put("nobody", "k", b"v")

    async def test_kv_when_keys_hold_odd_characters_then_they_stay_apart(
        self, registry: Registry
    ) -> None:
        """NUL bytes, case and normal forms make different keys, and sizes are counted right."""
        await registry.insert_application(RECORD)
        keys = ["a", "A", "a\0b", "a\0c", "\u00e9", "e\u0301"]
        for key in keys:
            await registry.kv_put("calculator", key, key.encode())
        for key in keys:
            assert await registry.kv_get("calculator", key) == key.encode()
            await registry.kv_delete("calculator", key)
        await registry.kv_put("calculator", "k", b"x" * 966)


class TestThread:
    async def test_calls_when_many_wait_then_each_gets_its_own_answer(
        self, registry: Registry
    ) -> None:
        """Operations of one batch fail and succeed each for itself, in the order of the calls."""
        registry._keyvalue_limit = 10**6
        await registry.insert_application(RECORD)
        calls = [
            registry.kv_put("nobody" if n % 3 == 0 else "calculator", f"{n:03}", b"")
            for n in range(300)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(r, NotFound) for r in results] == [n % 3 == 0 for n in range(300)]
        last = [registry.kv_put("calculator", "000", b"%d" % n) for n in range(50)]
        *_, value = await asyncio.gather(*last, registry.kv_get("calculator", "000"))
        assert value == b"49"

    async def test_calls_when_more_wait_than_allowed_then_refused_but_not_the_users(
        self, path: Path
    ) -> None:
        """A flood of actors' writes is refused past the bound; a user's request still passes."""
        async with Registry.open(path, bounds=Bounds(waiting_writes=0)) as registry:
            await registry.insert_application(RECORD)
            with pytest.raises(ResourceExhausted, match="waiting for the disk"):
                await registry.kv_put("calculator", "k", b"")
            await registry.set_desired("calculator", Desired.STOPPED)

    async def test_call_when_an_argument_is_no_sql_value_then_only_that_call_fails(
        self, registry: Registry
    ) -> None:
        """A time beyond 64 bits fails its own call and leaves the thread at work."""
        await registry.insert_application(RECORD)
        bad = save(registry, "calculator", b"", taken_ns=2**70)
        good = save(registry, "calculator", b"good", taken_ns=1)
        first, second = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(first, OverflowError)
        assert second is True
        assert await load(registry, "calculator") == b"good"

    async def test_call_when_cancelled_then_the_registry_goes_on(self, registry: Registry) -> None:
        """A caller that goes away does not disturb the others."""
        await registry.insert_application(RECORD)
        leaving = asyncio.ensure_future(registry.kv_put("calculator", "k", b"v"))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert len(await registry.list_applications()) == 1

    async def test_call_when_closed_then_unavailable(self, path: Path) -> None:
        """A closed registry says so; what was asked for before closing was written."""
        async with Registry.open(path) as registry:
            inserting = asyncio.ensure_future(registry.insert_application(RECORD))
            await asyncio.sleep(0)
        await inserting
        with pytest.raises(Unavailable, match="closed"):
            await registry.list_applications()
        assert rows(path)["applications"] == 1


class TestFile:
    async def test_open_when_new_then_only_the_owner_can_read_it(self, path: Path) -> None:
        """The file and its companions hold secrets of environments: mode 0600."""
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            files = list(path.parent.iterdir())
            assert len(files) == 4
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert sorted(path.parent.iterdir()) == [path, path.with_suffix(".reserve")]

    async def test_open_when_the_directory_is_missing_then_invalid_with_a_hint(
        self, tmp_path: Path
    ) -> None:
        """A path that cannot be made is the user's to correct."""
        with pytest.raises(InvalidArgument) as caught:
            async with Registry.open(tmp_path / "missing" / "registry.db"):
                pass
        assert "--data-dir" in (caught.value.hint or "")

    async def test_open_when_the_file_is_no_database_then_says_how_to_go_on(
        self, path: Path
    ) -> None:
        """A file of other contents is refused, left as it is, and the hint helps."""
        path.write_bytes(b"this is not a database\n" * 100)
        with pytest.raises(WrongState, match="damaged") as caught:
            async with Registry.open(path):
                pass
        assert f"mv {path.parent} " in (caught.value.hint or "")
        assert path.read_bytes().startswith(b"this is not")

    async def test_open_when_pages_are_overwritten_then_says_damaged(self, path: Path) -> None:
        """Damage inside the table of applications is found at start, not at the first request."""
        async with Registry.open(path) as registry:
            for n in range(200):
                record = replace(RECORD, name=f"a{n}", id=f"app-{n}", request_id="")
                await registry.insert_application(record)
        data = bytearray(path.read_bytes())
        data[8192:-4096] = b"\xa5" * (len(data) - 12288)
        path.write_bytes(data)
        with pytest.raises(WrongState, match="damaged"):
            async with Registry.open(path):
                pass

    async def test_open_when_another_program_holds_the_file_then_unavailable(
        self, path: Path
    ) -> None:
        """A lock that is not given back within the timeout is named, not waited for for ever."""
        async with Registry.open(path, bounds=Bounds(busy_s=0.01)) as registry:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(Unavailable, match="another program"):
                    await registry.insert_application(RECORD)
            await registry.insert_application(RECORD)

    async def test_kill_when_writes_were_acknowledged_then_they_are_there(self, path: Path) -> None:
        """A node killed without warning loses no acknowledged deploy, snapshot or key-value."""
        script = f"""
import asyncio, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from test_registry import RECORD, Registry, SnapshotRecord, save

async def main():
    async with Registry.open(Path({str(path)!r})) as registry:
        await registry.insert_application(RECORD)
        await save(registry, "calculator", b"state", taken_ns=1)
        await registry.add_to_snapshot("calculator", 2, [(0, b"later")])
        await registry.kv_put("calculator", "k", b"v")
        print("acknowledged", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
        node = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script), stdout=asyncio.subprocess.PIPE
        )
        assert node.stdout is not None
        assert await node.stdout.readline() == b"acknowledged\n"
        node.kill()
        await node.communicate()
        assert node.returncode == -signal.SIGKILL
        async with Registry.open(path) as registry:
            assert await registry.list_applications() == [RECORD]
            assert await registry.kv_get("calculator", "k") == b"v"
            assert await load(registry, "calculator") == b"state"
            # What came of the state after it is no state, and goes with the next one.
            await save(registry, "calculator", b"next", taken_ns=3)
        assert rows(path)["snapshot_parts"] == 1


class TestMigrations:
    def test_released_steps_when_compared_then_unchanged(self) -> None:
        """Steps that files in the field were made by are never edited, only followed."""
        released = {
            1: "eb93bef71db3b4ed",
            2: "8036c5dfc8acfa4a",
            3: "33ca925da4c63cde",
            4: "69db40511b9bffd8",
            5: "f69987b9de212100",
            6: "6493222b6e9d44d0",
        }
        for number, digest in released.items():
            source = inspect.getsource(MIGRATIONS[number - 1])
            assert hashlib.sha256(source.encode()).hexdigest()[:16] == digest

    @pytest.mark.parametrize("steps", range(len(MIGRATIONS)))
    async def test_open_when_the_file_is_of_an_older_schema_then_it_is_brought_up(
        self, path: Path, steps: int
    ) -> None:
        """A file of every older schema opens and works."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            assert migrate(connection, MIGRATIONS[:steps]) == steps
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            await registry.kv_put("calculator", "k", b"v")
        assert rows(path)["migrations"] == len(MIGRATIONS)

    @pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 2**21])
    async def test_open_when_a_state_was_one_value_then_it_is_loaded_in_parts(
        self, path: Path, size: int
    ) -> None:
        """What an application saved before states had parts is what it starts from."""
        state = bytes(range(251)) * (size // 251 + 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            migrate(connection, MIGRATIONS[:2])
            connection.execute(
                "INSERT INTO applications VALUES ('calculator', 'app-1', '1', 'rust', 'actor', ?,"
                " 1, 64, '{}', 'running', 1, '', 1, NULL, 0)",
                ("ab" * 32,),
            )
            old = ("calculator", state[:size], 77)
            connection.execute("INSERT INTO snapshots VALUES (?, ?, ?)", old)
        async with Registry.open(path) as registry:
            record = await stored(registry, "calculator")
            assert (record.args, record.concurrency, record.fault) == ((), 0, "")
            assert await registry.load_snapshot("calculator") == SnapshotRecord(77, size)
            assert await load(registry, "calculator") == state[:size]
            for begin in range(0, size, 2**20):
                part = await registry.read_part("calculator", 77, begin)
                assert len(part) == min(2**20, size - begin)
            await save(registry, "calculator", b"new", taken_ns=78)
        assert rows(path)["snapshot_parts"] == 1

    async def test_open_when_a_step_is_appended_then_old_rows_are_kept(self, path: Path) -> None:
        """A new schema takes over what the old one held."""

        def rename(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE applications SET version = '2'")

        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
        async with Registry.open(path, migrations=[*MIGRATIONS, rename]) as registry:
            assert await stored(registry, "calculator") == replace(RECORD, version="2")

    async def test_open_when_the_file_is_newer_then_refused_and_untouched(self, path: Path) -> None:
        """A file of a newer version is refused with both schema numbers."""
        newer = [*MIGRATIONS, lambda connection: connection.execute("CREATE TABLE future (x)")]
        async with Registry.open(path, migrations=newer):
            pass
        before = path.read_bytes()
        with pytest.raises(WrongState, match=f"schema {len(newer)}") as caught:
            async with Registry.open(path):
                pass
        assert "upgrade" in (caught.value.hint or "")
        assert path.read_bytes() == before

    async def test_open_when_a_step_fails_then_nothing_of_it_stays(self, path: Path) -> None:
        """A step that fails half way leaves the file at the step before, and it still opens."""

        def half(connection: sqlite3.Connection) -> None:
            connection.execute("CREATE TABLE half (x)")
            raise WrongState("the rest of the step does not work")

        with pytest.raises(WrongState, match="the rest"):
            async with Registry.open(path, migrations=[*MIGRATIONS, half]):
                pass
        assert "half" not in rows(path)
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
