from __future__ import annotations

import os
from pathlib import Path

import pytest

from plexspaces_node.errors import InvalidArgument
from plexspaces_node.toolchains.cache import BuildCache


def store(cache: BuildCache, digest: str, content: bytes) -> Path:
    with cache.scratch() as scratch:
        built = scratch / "built"
        built.write_bytes(content)
        return cache.store(digest, built)


def age(path: Path, seconds: float) -> None:
    status = path.stat()
    os.utime(path, (status.st_atime, status.st_mtime - seconds))


def test_find_after_store_returns_the_build(tmp_path: Path) -> None:
    """What was stored under a digest is found under it, and nothing under another."""
    cache = BuildCache(tmp_path / "cache")

    path = store(cache, "aa", b"wasm")

    assert cache.find("aa") == path
    assert path.read_bytes() == b"wasm"
    assert cache.find("bb") is None
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["aa.wasm"]


def test_find_without_a_directory_finds_nothing_and_makes_nothing(tmp_path: Path) -> None:
    """Looking into a cache that was never used does not make one."""
    assert BuildCache(tmp_path / "cache").find("aa") is None
    assert not (tmp_path / "cache").exists()


def test_store_over_the_bound_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    """The cache stays within its bound, keeping the build just stored and those used lately."""
    cache = BuildCache(tmp_path, max_bytes=10)
    for number, digest in enumerate(("old", "used", "new")):
        age(store(cache, digest, b"1234"), 300 - number)
        if digest == "used":
            cache.find("old")

    store(cache, "huge", b"x" * 11)

    assert [path.name for path in tmp_path.iterdir()] == ["huge.wasm"]


def test_store_while_another_build_cleans_up_is_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process removes between being listed and being looked at is no error."""
    cache = BuildCache(tmp_path)
    listed = Path.glob
    gone = [tmp_path / "scratch-gone", tmp_path / "gone.wasm"]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*gone, *listed(self, pattern)])

    assert store(cache, "aa", b"wasm").read_bytes() == b"wasm"


def test_find_marks_a_build_as_used(tmp_path: Path) -> None:
    """A build that is found outlives one that was stored after it and never used."""
    cache = BuildCache(tmp_path, max_bytes=10)
    age(store(cache, "first", b"1234"), 200)
    age(store(cache, "second", b"1234"), 100)
    cache.find("first")

    store(cache, "third", b"1234")

    assert cache.find("first") is not None
    assert cache.find("second") is None


def test_scratch_when_the_build_fails_leaves_nothing(tmp_path: Path) -> None:
    """A failing build's scratch directory is gone, with all that was in it."""

    def fail() -> None:
        with BuildCache(tmp_path).scratch() as scratch:
            (scratch / "deep").mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_store_removes_scratch_of_builds_killed_long_ago(tmp_path: Path) -> None:
    """What a killed build left is removed by a later one, but not that of one still running."""
    abandoned, running = tmp_path / "scratch-a", tmp_path / "scratch-b"
    for path in (abandoned, running):
        path.mkdir()
    age(abandoned, 2 * 24 * 3600)

    store(BuildCache(tmp_path), "aa", b"wasm")

    assert not abandoned.exists()
    assert running.exists()


def test_scratch_without_a_writable_place_says_which_variable_helps(tmp_path: Path) -> None:
    """A cache that cannot be made is an error with the setting that moves it."""
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(InvalidArgument, match="cannot be written") as error,
        BuildCache(tmp_path / "file" / "cache").scratch(),
    ):
        pass

    assert "XDG_CACHE_HOME" in str(error.value.hint)
