"""Backups: what is in them, what is refused, and what a restore leaves."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sqlite3
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.records import record_of, stored

from plexspaces_node.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PlexSpacesError,
    WrongState,
)
from plexspaces_node.node import datadir
from plexspaces_node.node.backup import registry_copy, write
from plexspaces_node.node.backup.read import restore, verify, verify_data
from plexspaces_node.node.backup.write import back_up
from plexspaces_node.node.datadir import DataDirectory
from plexspaces_node.node.registry.migrations import MIGRATIONS, migrate
from plexspaces_node.node.registry.registry import Registry
from plexspaces_node.node.registry.snapshots import SnapshotRecord

ARTIFACT = b"\0asm" + bytes(range(256)) * 300
DIGEST = hashlib.sha256(ARTIFACT).hexdigest()
RECORD = record_of("one", digest=DIGEST, env={"TOKEN": "s3cret"})


async def fill(data_dir: Path, *, artifact: bytes | None = ARTIFACT) -> None:
    """Make a data directory of one application with a state, keys, a log and its artifact."""
    with DataDirectory.open(data_dir, "node-a") as directory:
        directory.keep()
        directory.swap_level("qemu")
        async with Registry.open(directory.registry) as registry:
            await registry.insert_application(RECORD)
            await registry.insert_application(record_of("undone", id="app-2", generation=0))
            await registry.save_snapshot("one", SnapshotRecord(1, 6), [(0, b"abc"), (3, b"def")])
            await registry.kv_put("one", "key", b"value")
        if artifact is not None:
            (directory.artifacts / f"{DIGEST}.wasm").write_bytes(artifact)
        (directory.logs / "one.log").write_text("a line\n")
        (directory.logs / "one.log.1").write_text("an older line\n")
        (directory.cache / "native.cwasm").write_text("code")


@pytest.fixture
async def data_dir(tmp_path: Path) -> Path:
    await fill(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file of a data directory, but those that a node makes anew."""
    passing = ("node.lock", "registry.reserve", "registry.db-wal", "registry.db-shm")
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in passing
    }


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextmanager
def killed_at(place: object, name: str) -> Iterator[None]:
    """Have the process of the body end as it calls this: nothing of it cleans up."""

    def kill(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(place, name, kill)
        for cleaning in ("_empty", "_remove_empty"):
            patched.setattr(datadir, cleaning, lambda _: None)
        with pytest.raises(Killed):
            yield


class TestWhole:
    async def test_restore_when_empty_then_everything_is_there_but_native_code(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """Applications, states, keys, logs, artifacts and the level; nobody else can read them."""
        written = back_up(data_dir, file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert (written.applications, written.missing) == (("one",), ())
        assert written.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert written.size_bytes == file.stat().st_size
        assert verify(file) == written
        target = tmp_path / "far" / "away"
        assert restore(file, target) == written
        before, after = contents(data_dir), contents(target)
        del before["cache/native.cwasm"], before["registry.db"], after["registry.db"]
        assert after == before
        assert after["isolation"] == b"qemu\n"
        for path in (target, *target.rglob("*")):
            assert path.name in ("isolation", "node-id") or not path.stat().st_mode & 0o077
        async with Registry.open(target / "registry.db") as registry:
            assert await stored(registry, "one") == RECORD
            assert await registry.kv_get("one", "key") == b"value"
            assert await registry.load_snapshot("one") == SnapshotRecord(1, 6)
            assert await registry.read_part("one", 1, 3) == b"def"

    async def test_restore_when_another_node_is_named_then_it_is_that_ones(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """A backup is not bound to the node it is of; without a name it is."""
        back_up(data_dir, file)
        restore(file, tmp_path / "b", "node-b")
        with DataDirectory.open(tmp_path / "b", "node-b"):
            pass
        restore(file, tmp_path / "a")
        with (
            pytest.raises(InvalidArgument, match="node-a"),
            DataDirectory.open(tmp_path / "a", "b"),
        ):
            pass

    async def test_backup_when_an_artifact_is_not_there_then_its_application_is_named(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """Whoever restores it knows what to send again."""
        assert back_up(data_dir, file, artifacts=False).missing == ("one",)
        assert not verify(file).manifest.artifacts
        assert restore(file, tmp_path / "b").missing == ("one",)
        (data_dir / "artifacts" / f"{DIGEST}.wasm").unlink()
        assert back_up(data_dir, tmp_path / "second.tar").missing == ("one",)

    async def test_backup_when_the_node_writes_meanwhile_then_what_was_acknowledged_is_in_it(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """A copy is of one moment: every key put before it, and of a later one nothing in part."""
        put: list[int] = []
        async with Registry.open(data_dir / "registry.db") as registry:
            stop = asyncio.Event()

            async def write() -> None:
                while not stop.is_set():
                    await registry.kv_put("one", f"{len(put)}", b"%d" % len(put))
                    put.append(len(put))

            writing = asyncio.create_task(write())
            while len(put) < 50:
                await asyncio.sleep(0)
            before = len(put)
            await asyncio.to_thread(back_up, data_dir, file)
            while len(put) < before + 50:
                await asyncio.sleep(0)
            stop.set()
            await writing
        restore(file, tmp_path / "b")
        async with Registry.open(tmp_path / "b" / "registry.db") as registry:
            for number in range(before):
                assert await registry.kv_get("one", f"{number}") == b"%d" % number

    async def test_backup_when_the_node_was_killed_then_its_log_of_writes_counts(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """What a node wrote last lies beside the registry; nothing of the directory is changed."""
        registry = data_dir / "registry.db"
        with closing(sqlite3.connect(registry, isolation_level=None)) as node:
            node.execute("PRAGMA wal_autocheckpoint = 0")
            node.execute("UPDATE keyvalue SET value = x'6e6577'")
            killed = tmp_path / "killed"
            killed.mkdir()
            for name in ("registry.db", "registry.db-wal"):
                (killed / name).write_bytes((data_dir / name).read_bytes())
        before = contents(killed)
        back_up(killed, file, artifacts=False)
        assert contents(killed) == before
        restore(file, tmp_path / "b", "node-b")
        async with Registry.open(tmp_path / "b" / "registry.db") as opened:
            assert await opened.kv_get("one", "key") == b"new"

    @pytest.mark.parametrize("steps", [1, 2, 4])
    async def test_restore_when_it_is_of_an_older_version_then_the_node_brings_it_up(
        self, file: Path, tmp_path: Path, steps: int
    ) -> None:
        """A backup of every older schema can be restored."""
        old = tmp_path / "old"
        old.mkdir(mode=0o700)
        (old / "node-id").write_text("node-a\n")
        with closing(sqlite3.connect(old / "registry.db", isolation_level=None)) as connection:
            migrate(connection, MIGRATIONS[:steps])
            connection.execute(
                "INSERT INTO applications (name, id, version, language, kind, digest, vcpus,"
                " memory_mib, env, desired, generation, request_id, created_ns) VALUES ('one',"
                " 'app-1', '1', 'rust', 'actor', ?, 1, 64, '{}', 'running', 1, '', 1)",
                (DIGEST,),
            )
        assert back_up(old, file).manifest.schema == steps
        restore(file, tmp_path / "b")
        async with Registry.open(tmp_path / "b" / "registry.db") as registry:
            assert (await stored(registry, "one")).digest == DIGEST


class TestRefused:
    async def test_backup_when_the_file_exists_or_there_is_no_data_then_nothing_is_written(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """A backup replaces no other one, and an empty directory is none."""
        file.write_text("precious")
        with pytest.raises(AlreadyExists, match=r"backup\.tar already exists"):
            back_up(data_dir, file)
        assert file.read_text() == "precious"
        with pytest.raises(NotFound, match="no node data"):
            back_up(tmp_path, tmp_path / "other.tar")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "data"]

    async def test_backup_when_it_fails_then_nothing_is_left(
        self, data_dir: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No part of a backup, no copy of the registry."""

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tarfile.TarFile, "addfile", fail)
        with pytest.raises(PlexSpacesError, match="no space left"):
            back_up(data_dir, file)
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    @pytest.mark.parametrize("error", [FileNotFoundError, BlockingIOError])
    async def test_backup_when_a_file_goes_amid_it_then_it_fails_once_and_nothing_is_left(
        self,
        data_dir: Path,
        file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: type[OSError],
    ) -> None:
        """What fails in the middle is not taken for a directory that another backup removed."""
        tried: list[object] = []

        def fail(*arguments: object) -> None:
            tried.append(arguments)
            raise error(2, "gone")

        monkeypatch.setattr(tarfile.TarFile, "addfile", fail)
        with pytest.raises(InvalidArgument, match="cannot be written: gone"):
            back_up(data_dir, file)
        assert len(tried) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    async def test_backup_when_one_was_killed_then_what_it_left_goes(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """What a backup that runs has there stays, one of a backup that was killed does not."""
        left = tmp_path / ".plexspaces-backup-left"
        left.mkdir()
        (left / "registry.db").write_text("rows")
        os.mkfifo(tmp_path / ".plexspaces-backup-pipe")
        with write._scratch(tmp_path) as place:
            assert not left.exists()
            back_up(data_dir, file)
            assert place.exists()
        names = [".plexspaces-backup-pipe", "backup.tar", "data"]
        assert sorted(path.name for path in tmp_path.iterdir()) == names

    async def test_backup_when_another_takes_its_directory_for_one_left_then_it_makes_another(
        self, data_dir: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between making it and holding it nobody holds it: then it may be gone."""
        made: list[str] = []
        make = tempfile.mkdtemp

        def make_and_lose(**given: Any) -> str:
            made.append(make(**given))
            if len(made) == 1:
                os.rmdir(made[0])
            return made[-1]

        monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
        back_up(data_dir, file)
        monkeypatch.undo()
        assert len(made) == 2
        assert verify(file).applications == ("one",)

    async def test_backup_when_two_write_the_same_file_then_one_is_told(
        self, data_dir: Path, file: Path
    ) -> None:
        """What was written in the meantime is not replaced, nor what a link leads to."""
        link = os.link

        def lose_and_link(part: Path, name: Path) -> None:
            file.write_text("theirs")
            link(part, name)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(os, "link", lose_and_link)
            with pytest.raises(AlreadyExists):
                back_up(data_dir, file)
        assert file.read_text() == "theirs"
        file.unlink()
        file.symlink_to("nowhere")
        with pytest.raises(AlreadyExists):
            back_up(data_dir, file)

    @pytest.mark.parametrize("place", ["none/backup.tar", "data/registry.db/backup.tar"])
    async def test_backup_when_the_place_cannot_be_written_then_it_says_so(
        self, data_dir: Path, tmp_path: Path, place: str
    ) -> None:
        """A directory that is not there is no disk that failed."""
        with pytest.raises(InvalidArgument, match="cannot be written"):
            back_up(data_dir, tmp_path / place)

    async def test_backup_when_an_artifact_is_damaged_then_it_is_left_out_and_named(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """What is written can be restored."""
        (data_dir / "artifacts" / f"{DIGEST}.wasm").write_bytes(ARTIFACT[:-1] + b"?")
        assert back_up(data_dir, file).missing == ("one",)
        assert restore(file, tmp_path / "b").missing == ("one",)

    async def test_backup_when_a_restore_is_not_finished_then_refused(
        self, data_dir: Path, file: Path
    ) -> None:
        """Half of a backup is not made one, nor called whole."""
        (data_dir / "restoring").touch()
        with pytest.raises(WrongState, match="not completely restored"):
            back_up(data_dir, file)
        with pytest.raises(WrongState, match="not completely restored"):
            verify_data(data_dir)

    async def test_backup_when_the_registry_is_damaged_then_it_says_so(
        self, data_dir: Path, file: Path
    ) -> None:
        """What cannot be read is no backup."""
        (data_dir / "registry.db").write_bytes(b"this is no database" * 1000)
        with pytest.raises(WrongState, match="cannot be read: file is not a database") as caught:
            back_up(data_dir, file)
        assert (caught.value.hint or "").startswith(f"stop the node, mv {data_dir} ")
        with pytest.raises(WrongState, match="cannot be read"):
            verify_data(data_dir)

    async def test_verify_when_any_byte_differs_then_refused(
        self, data_dir: Path, file: Path
    ) -> None:
        """Of each kilobyte a byte is changed, in its turn: only one of no meaning passes."""
        back_up(data_dir, file)
        whole = bytearray(file.read_bytes())
        passed = set()
        for place in range(0, len(whole), 997):
            whole[place] ^= 0x20
            file.write_bytes(whole)
            with suppress(WrongState):
                verify(file)
                passed.add(whole[place] ^ 0x20)
            whole[place] ^= 0x20
        assert passed <= {0}
        file.write_bytes(whole)
        verify(file)

    async def test_verify_when_it_is_cut_off_then_refused(self, data_dir: Path, file: Path) -> None:
        """A backup that is not whole is none, wherever it ends."""
        back_up(data_dir, file)
        whole = file.read_bytes()
        end = whole.rindex(f"{DIGEST}.wasm\n".encode())
        for size in (0, 1, 511, 512, 5000, len(whole) // 2, end - 2000, end):
            file.write_bytes(whole[:size])
            with pytest.raises(WrongState, match=r"backup\.tar cannot be used"):
                verify(file)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda entries: entries.pop("registry.db"), "no registry"),
            (lambda entries: entries.update({"../../etc/passwd": b"x"}), "passwd"),
            (lambda entries: entries.update({"/etc/passwd": b"x"}), "passwd"),
            (
                lambda entries: entries.update({"logs/../../x.log": b"x"}),
                "does not belong in a backup",
            ),
            (lambda entries: entries.update({f"artifacts/{'0' * 64}.wasm": b"x"}), "digest"),
            (lambda entries: entries.update({"registry.db": b"no database" * 999}), "not a data"),
            (lambda entries: entries.update({"manifest.json": b"{}"}), "cannot be read"),
            (
                lambda entries: entries.update(
                    {"manifest.json": entries["manifest.json"].replace(b'at": 2', b'at": 3')}
                ),
                "format 3, written by version",
            ),
        ],
    )
    async def test_verify_when_somebody_made_it_then_nothing_else_is_taken(
        self,
        data_dir: Path,
        file: Path,
        tmp_path: Path,
        change: Callable[[dict[str, bytes]], object],
        why: str,
    ) -> None:
        """A file with right digests of wrong things is refused, and a restore leaves nothing."""
        back_up(data_dir, file)
        entries = unpacked(file)
        change(entries)
        pack(file, entries)
        with pytest.raises(WrongState, match=why):
            verify(file)
        with pytest.raises(WrongState, match=why):
            restore(file, tmp_path / "b")
        assert not (tmp_path / "b").exists()

    async def test_restore_when_it_is_of_an_earlier_format_then_all_is_there(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """As it was before tenants had directories."""
        back_up(data_dir, file)
        entries = unpacked(file)
        manifest = entries["manifest.json"]
        entries["manifest.json"] = manifest.replace(b'at": 2', b'at": 1')
        assert entries["manifest.json"] != manifest
        pack(file, entries)
        found = restore(file, tmp_path / "b")
        assert (found.applications, found.missing) == (("one",), ())

    async def test_verify_when_an_entry_is_no_file_or_comes_twice_then_refused(
        self, data_dir: Path, file: Path
    ) -> None:
        """Links and devices have no place in a backup."""
        back_up(data_dir, file)
        whole = file.read_bytes()
        with tarfile.open(file, "a") as archive:
            link = tarfile.TarInfo("logs/one.log")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        with pytest.raises(WrongState, match="data after its end"):
            verify(file)
        entries = unpacked(file)
        for type_ in (b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"S", b"x", b"g"):
            header = tarfile.TarInfo("logs/one.log")
            header.type, header.size = type_, 10
            file.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(512) + whole)
            with pytest.raises(WrongState, match=r"no backup of a PlexSpaces node|does not belong"):
                verify(file)
            file.write_bytes(whole[:1024] + header.tobuf(tarfile.GNU_FORMAT) + bytes(512))
            with pytest.raises(WrongState, match="which does not belong in a backup"):
                verify(file)
        pack(file, entries, twice="registry.db")
        with pytest.raises(WrongState, match=r"'registry\.db', which does not belong in a backup"):
            verify(file)

    async def test_verify_when_the_registry_has_other_tables_or_is_newer_then_refused(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """What SQLite would run by itself is in no registry of ours, and all of ours is in it."""
        back_up(data_dir, file)
        entries = unpacked(file)
        for sql, why in (
            ("INSERT INTO migrations VALUES (99)", "schema 99, this version"),
            ("DELETE FROM migrations", "does not name its schema"),
            ("DROP TABLE keyvalue", "other tables"),
            ("CREATE TABLE more (y, x AS (hex(zeroblob(400000000))))", "other tables"),
            ("CREATE VIRTUAL TABLE more USING fts5 (x)", "other tables"),
            (
                "CREATE TRIGGER t AFTER INSERT ON removed BEGIN DELETE FROM keyvalue; END",
                "other tables",
            ),
        ):
            changed = tmp_path / "changed.db"
            changed.write_bytes(entries["registry.db"])
            with closing(sqlite3.connect(changed, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute(sql)
            pack(file, entries | {"registry.db": changed.read_bytes()})
            with pytest.raises(WrongState, match=why):
                verify(file)
            with pytest.raises(WrongState, match=why):
                registry_copy.check(changed)

    async def test_restore_when_there_is_data_then_it_stays(
        self, data_dir: Path, file: Path
    ) -> None:
        """A restore never writes over anything; the hint moves it out of the way."""
        back_up(data_dir, file)
        before = contents(data_dir)
        with pytest.raises(AlreadyExists, match="already contains node data") as caught:
            restore(file, data_dir)
        assert (caught.value.hint or "").startswith(f"mv {data_dir} {data_dir}.before")
        assert contents(data_dir) == before

    async def test_restore_when_it_was_killed_then_it_can_be_repeated(
        self, data_dir: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Until it is done the directory says that it is not whole; again takes what is there."""
        back_up(data_dir, file)
        target = tmp_path / "b"

        with killed_at(registry_copy, "check"):
            restore(file, target)
        assert (target / "restoring").exists()
        assert (target / "registry.db").exists()
        restore(file, target)
        assert not (target / "restoring").exists()
        async with Registry.open(target / "registry.db") as registry:
            assert await stored(registry, "one") == RECORD

    async def test_restore_when_it_was_killed_at_its_very_beginning_then_no_node_starts(
        self, data_dir: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What says so is there before anything else is, and another node's id is no obstacle."""
        back_up(data_dir, file)
        target = tmp_path / "b"

        with killed_at(DataDirectory, "lay_out"):
            restore(file, target, "node-x")
        assert {path.name for path in target.iterdir()} == {"node.lock", "restoring"}
        (target / "node-id").write_text("node-x\n")
        restore(file, target, "node-y")
        assert (target / "node-id").read_text() == "node-y\n"

    async def test_restore_when_the_directory_is_a_file_systems_then_it_is_empty(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """A fresh disk has a directory of its own in its root, which stays."""
        back_up(data_dir, file)
        (tmp_path / "b" / "lost+found").mkdir(parents=True, mode=0o700)
        (tmp_path / "b").chmod(0o700)
        restore(file, tmp_path / "b")
        assert (tmp_path / "b" / "lost+found").is_dir()

    async def test_restore_when_a_node_holds_the_directory_then_refused(
        self, data_dir: Path, file: Path, tmp_path: Path
    ) -> None:
        """Also one that has nothing in it yet."""
        back_up(data_dir, file)
        with (
            DataDirectory.open(tmp_path / "b", "node-a"),
            pytest.raises(WrongState, match="is in use by node 'node-a'"),
        ):
            restore(file, tmp_path / "b")

    @pytest.mark.parametrize("name", ["nothing.tar", "data"])
    async def test_verify_when_there_is_no_such_file_then_invalid(
        self, data_dir: Path, tmp_path: Path, name: str
    ) -> None:
        """A missing file and a directory are told apart from a damaged one."""
        with pytest.raises(InvalidArgument, match="cannot be read"):
            verify(tmp_path / name)


class TestData:
    async def test_verify_data_when_an_artifact_is_damaged_then_its_application_is_named(
        self, data_dir: Path
    ) -> None:
        """A directory is checked in place, and nothing is removed."""
        before = contents(data_dir)
        assert verify_data(data_dir)[1] == ()
        assert contents(data_dir) == before
        (data_dir / "artifacts" / f"{DIGEST}.wasm").write_bytes(ARTIFACT[:-1] + b"?")
        found, missing = verify_data(data_dir)
        assert (found.artifacts, missing) == ({"one": DIGEST}, ("one",))
        (data_dir / "artifacts" / f"{DIGEST}.wasm").unlink()
        assert verify_data(data_dir)[1] == ("one",)
        with pytest.raises(NotFound):
            verify_data(data_dir / "logs")


def unpacked(file: Path) -> dict[str, bytes]:
    """Return the entries of a backup, its sums left out."""
    with tarfile.open(file) as archive:
        return {
            entry.name: (archive.extractfile(entry) or io.BytesIO()).read()
            for entry in archive
            if entry.isreg() and entry.name != "SHA256SUMS"
        }


def pack(file: Path, entries: dict[str, bytes], *, twice: str = "") -> None:
    """Write a file with right sums of whatever it holds."""
    named = [*entries.items(), *((name, entries[name]) for name in (twice,) if twice)]
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in named)
    with tarfile.open(file, "w") as archive:
        for name, data in [*named, ("SHA256SUMS", sums.encode())]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
