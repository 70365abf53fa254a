"""The room that the registry takes on the disk: what is charged, what is given back, and when."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.patience import patient
from support.records import damage_root, record_of
from support.small_disk import run_on_small_disk

from plexspaces_node.errors import NotFound, ResourceExhausted
from plexspaces_node.model import MIB
from plexspaces_node.node.registry.keyvalue import row_bytes
from plexspaces_node.node.registry.migrations import MIGRATIONS, migrate
from plexspaces_node.node.registry.registry import Desired, Registry
from plexspaces_node.node.registry.snapshots import SnapshotRecord
from plexspaces_node.node.registry.sqlite_errors import Damaged
from plexspaces_node.node.registry.sqlite_file import Bounds

RECORD = record_of("calculator")
OTHER = record_of("other", id="app-2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


def number(path: Path, sql: str) -> int:
    """Return the one number that a query gives."""
    with closing(sqlite3.connect(path)) as connection:
        [[value]] = connection.execute(sql).fetchall()
    return int(value)


async def none_left(path: Path) -> None:
    """Return when nothing waits to be removed."""
    async with asyncio.timeout(patient(30)):
        while number(path, "SELECT COUNT(*) FROM removed"):
            await asyncio.sleep(0.001)


async def put_many(registry: Registry, count: int, value: bytes = b"", *, name: str = "") -> None:
    """Put keys of four letters, as many at once as may wait."""
    for begin in range(0, count, 1000):
        await asyncio.gather(
            *(
                registry.kv_put(name or RECORD.name, f"{key:04x}", value)
                for key in range(begin, min(begin + 1000, count))
            )
        )


class TestCharge:
    @pytest.mark.parametrize("order", ["up", "random"])
    @pytest.mark.parametrize(
        ("key_bytes", "value_bytes"),
        [(3, 0), (16, 10), (400, 0), (20, 500), (20, 1000), (20, 1900), (20, 2100), (20, 70_000)],
    )
    async def test_charge_when_compared_with_the_file_then_it_is_what_rows_cost(
        self, path: Path, key_bytes: int, value_bytes: int, order: str
    ) -> None:
        """Rows of every length and order take no more than half as much again as is charged."""
        cost = row_bytes(key_bytes, value_bytes)
        keys = [f"{n:x}".zfill(key_bytes) for n in range(min(4096, 4 * MIB // cost))]
        if order == "random":
            random.Random(1).shuffle(keys)
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            empty = number(path, "PRAGMA page_count")
            await asyncio.gather(
                *(registry.kv_put(RECORD.name, key, bytes(value_bytes)) for key in keys)
            )
        took = (number(path, "PRAGMA page_count") - empty) * 4096
        assert took <= 1.5 * len(keys) * cost
        assert number(path, "SELECT keyvalue_bytes FROM applications") == len(keys) * cost

    async def test_charge_when_the_file_is_older_then_reckoned_anew(self, path: Path) -> None:
        """Keys and states of a file without numbers are there, and charged as new ones are."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            migrate(connection, MIGRATIONS[:4])
            for name in ("a", "b"):
                connection.execute(
                    "INSERT INTO applications VALUES (?, ?, '1', 'rust', 'actor', ?,"
                    " 1, 64, '{}', 'running', 1, '', 1, NULL, 5, '[]', 0)",
                    (name, f"app-{name}", "ab" * 32),
                )
            rows = [("a", "kü\0l", 100), ("a", "k2", 3000), ("b", "k", 0)]
            connection.executemany(
                "INSERT INTO keyvalue VALUES (?, ?, ZEROBLOB(?))", [(n, k, s) for n, k, s in rows]
            )
            connection.execute("INSERT INTO snapshots VALUES ('b', 7, 3)")
            connection.execute("INSERT INTO snapshot_parts VALUES ('b', 7, 0, x'616263')")
        async with Registry.open(path) as registry:
            for name, key, size in rows:
                assert await registry.kv_get(name, key) == bytes(size)
            assert await registry.load_snapshot("b") == SnapshotRecord(7, 3)
            assert await registry.read_part("b", 7, 0) == b"abc"
            assert await registry.load_snapshot("a") is None
        charged = "SELECT keyvalue_bytes FROM applications WHERE name = '{}'"
        assert number(path, charged.format("a")) == row_bytes(5, 100) + row_bytes(2, 3000)
        assert number(path, charged.format("b")) == row_bytes(1, 0)
        assert number(path, "PRAGMA auto_vacuum") == 2


class TestRemoved:
    async def test_delete_when_there_is_much_then_it_goes_in_steps_and_all_of_it(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody waits for a million keys; the next of that name has none of them.

        The background waits for an event of its own meanwhile, so that what one act does is seen.
        """
        async with Registry.open(path) as registry:
            for record in (RECORD, OTHER):
                await registry.insert_application(record)
                await put_many(registry, 1200, name=record.name)
            parts = [(begin, b"x") for begin in range(40)]
            await registry.save_snapshot(RECORD.name, SnapshotRecord(1, 40), parts)
            untidy = registry._untidy
            monkeypatch.setattr(registry, "_untidy", asyncio.Event())
            await registry.delete_application(RECORD.id)
            assert number(path, "SELECT COUNT(*) FROM keyvalue") > 1200
            await registry.insert_application(replace(RECORD, id="app-3"))
            assert await registry.kv_get(RECORD.name, "0000") is None
            assert await registry.load_snapshot(RECORD.name) is None
            await registry.kv_put(RECORD.name, "new", b"")
            untidy.set()
            await none_left(path)
            assert await registry.kv_get(RECORD.name, "new") == b""
            assert await registry.kv_get(OTHER.name, "0000") == b""
        assert number(path, "SELECT COUNT(*) FROM keyvalue") == 1201
        assert number(path, "SELECT COUNT(*) FROM snapshot_parts") == 0

    async def test_open_when_a_node_was_killed_amid_it_then_the_rest_goes(self, path: Path) -> None:
        """What is left of a removed application is known from the file alone."""
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            await put_many(registry, 1200)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("INSERT INTO removed SELECT number FROM applications")
            connection.execute("DELETE FROM applications")
        async with Registry.open(path):
            await none_left(path)
        assert number(path, "SELECT COUNT(*) FROM keyvalue") == 0

    async def test_delete_when_the_file_was_large_then_it_becomes_smaller(self, path: Path) -> None:
        """Room goes back to the disk, of an undeploy and of keys that are deleted."""
        async with Registry.open(path) as registry:
            for record in (RECORD, OTHER):
                await registry.insert_application(record)
            await put_many(registry, 20, bytes(MIB))
            for key in range(20):
                await registry.kv_delete(RECORD.name, f"{key:04x}")
            await smaller_than(path, 8 * MIB)
            await put_many(registry, 20, bytes(MIB), name=OTHER.name)
            assert path.stat().st_size > 20 * MIB
            await registry.delete_application(OTHER.id)
            await smaller_than(path, 8 * MIB)


async def smaller_than(path: Path, size: int) -> None:
    """Return when a file is."""
    async with asyncio.timeout(patient(30)):
        while path.stat().st_size > size:
            await asyncio.sleep(0.001)


class TestLimit:
    async def test_put_when_the_node_has_no_more_room_then_refused_and_deletes_work(
        self, path: Path
    ) -> None:
        """The bound of the whole node is named; what was there stays, and can be removed."""
        async with Registry.open(path, bounds=Bounds(file_bytes=8 * MIB)) as registry:
            for record in (RECORD, OTHER):
                await registry.insert_application(record)
            await registry.kv_put(OTHER.name, "mine", b"1")
            for key in range(8):
                await registry.kv_put(RECORD.name, f"{key}", bytes(MIB))
            with pytest.raises(ResourceExhausted, match="all applications") as caught:
                await registry.kv_put(RECORD.name, "9", bytes(MIB))
            assert "registry_bytes" in (caught.value.hint or "")
            assert await registry.kv_get(OTHER.name, "mine") == b"1"
            await registry.kv_delete(OTHER.name, "mine")
            await registry.delete_application(RECORD.id)
            await none_left(path)
            await put_many(registry, 5, bytes(MIB), name=OTHER.name)


class TestReserve:
    async def test_reserve_when_it_cannot_be_made_then_the_registry_works_without(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What is not a lack of room is not told as one."""
        path.with_suffix(".reserve").mkdir()
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            await registry.kv_put(RECORD.name, "key", b"v")
        assert [message.partition(": ")[0] for message in caplog.messages] == [
            "cannot reserve space for a full disk"
        ]


class TestDamage:
    async def test_read_when_a_page_is_damaged_then_the_node_is_told(self, path: Path) -> None:
        """Damage that an operation meets is told to whoever looks after the node too."""
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            await put_many(registry, 2000)
        damage_root(path, "sqlite_autoindex_keyvalue_1")
        told: list[Damaged] = []
        async with Registry.open(path, on_damage=told.append) as registry:
            with pytest.raises(Damaged, match="damaged") as caught:
                await registry.kv_get(RECORD.name, "0000")
            assert [str(damage) for damage in told] == [str(caught.value)]
            assert "plexspaces restore" in (caught.value.hint or "")

    async def test_write_when_anothers_page_is_damaged_then_it_is_done(self, path: Path) -> None:
        """Operations that wait together do not fail together for the damage that one meets."""
        async with Registry.open(path) as registry:
            await registry.insert_application(RECORD)
            await put_many(registry, 2000)
            await registry.insert_application(OTHER)
        damage_root(path, "sqlite_autoindex_snapshot_parts_1")
        told: list[Damaged] = []
        async with Registry.open(path, on_damage=told.append) as registry:
            reads = [registry.read_part(RECORD.name, 1, 0) for _ in range(5)]
            writes = [registry.kv_put(OTHER.name, f"{key}", b"v") for key in range(5)]
            both = [act for pair in zip(reads, writes, strict=True) for act in pair]
            results = await asyncio.gather(*both, return_exceptions=True)
        assert [isinstance(result, Damaged) for result in results] == [True, False] * 5
        assert len(told) == 5

    async def test_read_when_a_part_of_a_state_is_missing_then_the_node_is_told(
        self, path: Path
    ) -> None:
        """Rows that are not there are damage as bytes are that are not."""
        told: list[Damaged] = []
        async with Registry.open(path, on_damage=told.append) as registry:
            await registry.insert_application(RECORD)
            await registry.save_snapshot(RECORD.name, SnapshotRecord(1, 9), [(0, b"abc")])
            with pytest.raises(Damaged):
                await registry.read_part(RECORD.name, 1, 3)
            with pytest.raises(NotFound):
                await registry.set_desired("nobody", Desired.STOPPED)
        assert len(told) == 1


_FULL = """
import asyncio, json, sys
from pathlib import Path
from support.records import record_of
from plexspaces_node.errors import PlexSpacesError
from plexspaces_node.node.registry.registry import Desired, Registry

root = Path(sys.argv[1])
RECORD, OTHER = record_of("calculator"), record_of("other", id="app-2")

async def tried(act):
    try:
        await act
        return "done"
    except PlexSpacesError as error:
        return f"{error.message} | {error.hint}"

async def until_refused(registry):
    for number in range(100):
        said = await tried(registry.kv_put(RECORD.name, str(number), bytes(1_000_000)))
        if said != "done":
            return number, said

def fill():
    try:
        with (root / "fill").open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass

async def main():
    async with Registry.open(root / "registry.db") as registry:
        for record in (RECORD, OTHER):
            await registry.insert_application(record)
        for number in range(500):
            await registry.kv_put(OTHER.name, str(number), b"old")
        put, said = await until_refused(registry)
        fill()
        small = await tried(registry.kv_put(OTHER.name, "key", b"v"))
        fill()
        read = await registry.kv_get(OTHER.name, "0")
        stopped = await tried(registry.set_desired(OTHER.name, Desired.STOPPED))
        fill()
        deleted = await tried(registry.kv_delete(OTHER.name, "1"))
        fill()
        undeployed = await tried(registry.delete_application(RECORD.id))
        while await tried(registry.kv_put(OTHER.name, "key", b"v")) != "done":
            await asyncio.sleep(0.001)
        kept = [await registry.kv_get(OTHER.name, key) for key in ("0", "1", "key")]
        print(json.dumps([put, said, small, read.decode(), stopped, deleted, undeployed,
                          [one and one.decode() for one in kept]]))

asyncio.run(main())
"""


def test_disk_that_is_full_can_be_freed(tmp_path: Path) -> None:
    """Stops, deletes and undeploys work on a disk that has no byte left, and give it back."""
    done = run_on_small_disk(_FULL, tmp_path, "40m")
    put, said, *rest = json.loads(done.stdout or done.stderr)
    full = f"no space left in {tmp_path}/registry.db | df -h {tmp_path}/registry.db"
    assert put > 10
    assert said == full
    assert rest == [full, "old", "done", "done", "done", ["old", None, "v"]]
