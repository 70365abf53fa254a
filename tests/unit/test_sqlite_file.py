"""The registry's file by itself: what its transactions do for each job in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from plexspaces_node.errors import NotFound, ResourceExhausted
from plexspaces_node.node.registry.sqlite_errors import Damaged
from plexspaces_node.node.registry.sqlite_file import Bounds, Failure, Job, Mode, SqliteFile


def table(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE applications (name TEXT)")


def put(name: str) -> Job:
    """A job that writes a row."""

    def run(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO applications VALUES (?)", (name,))
        return name

    return Job(run, Mode.WRITE)


def put_and_fail(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO applications VALUES ('half')")
    raise NotFound("no such thing")


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM applications")]


def clear(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM applications")


@contextmanager
def opened(directory: Path, **bounds: int) -> Iterator[tuple[SqliteFile, list[Damaged]]]:
    damages: list[Damaged] = []
    opening = SqliteFile.open(
        directory / "r.db", [table], bounds=Bounds(**bounds), on_damage=damages.append
    )
    with closing(opening) as file:
        yield file, damages


def test_transact_when_one_job_fails_then_it_is_undone_alone(tmp_path: Path) -> None:
    """Those beside it are committed, and each gets its own outcome."""
    with opened(tmp_path) as (file, damages):
        first, failed, last = file.transact(
            [put("a"), Job(put_and_fail, Mode.WRITE), put("b")],
        )
        assert (first, last) == ("a", "b")
        assert isinstance(failed, Failure)
        assert isinstance(failed.error, NotFound)
        assert damages == []
    with opened(tmp_path) as (file, _):
        assert file.transact([Job(names, Mode.READ)]) == [["a", "b"]]


def test_transact_when_the_file_has_reached_its_limit_then_only_what_grows_is_refused(
    tmp_path: Path,
) -> None:
    """Whoever reads or frees room goes on, also in the same batch."""
    with opened(tmp_path) as (file, _):
        file.transact([put("a")])
    with opened(tmp_path, file_bytes=1) as (file, _):
        found, refused, freed = file.transact(
            [Job(names, Mode.READ), put("b"), Job(clear, Mode.WRITE, frees=True)]
        )
        assert found == ["a"]
        assert isinstance(refused, Failure)
        assert isinstance(refused.error, ResourceExhausted)
        assert freed is None
        assert file.transact([Job(names, Mode.READ)]) == [[]]
