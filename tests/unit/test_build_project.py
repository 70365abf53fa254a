from __future__ import annotations

import os
from pathlib import Path

import pytest

from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.model import Language
from plexspaces_node.toolchains.project import (
    default_output,
    detect,
    digest_sources,
    project_name,
    read_sources,
)


def write(directory: Path, *names: str, text: str = "x") -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(directory: Path, *, ignoring: Path | None = None) -> list[str]:
    return [source.relative for source in read_sources(directory, ignoring=ignoring)]


def digest(directory: Path, *salt: str) -> str:
    return digest_sources(read_sources(directory), salt)


@pytest.mark.parametrize(
    ("files", "language"),
    [
        (["Cargo.toml"], Language.RUST),
        (["go.mod", "main.go"], Language.GO),
        (["app.py"], Language.PYTHON),
        (["app.py", "pyproject.toml", "package.json"], Language.PYTHON),
        (["pyproject.toml"], Language.PYTHON),
        (["package.json"], Language.TYPESCRIPT),
        (["go.mod", "package.json"], Language.GO),
    ],
)
def test_detect_with_a_project_finds_its_language(
    tmp_path: Path, files: list[str], language: Language
) -> None:
    """The language follows from the project's files; files of mere tools do not decide."""
    write(tmp_path, *files)

    assert detect(tmp_path) is language


def test_detect_with_two_languages_names_both_files(tmp_path: Path) -> None:
    """A directory that is a project of two languages is refused, with both files in the error."""
    write(tmp_path, "app.py", "go.mod")

    with pytest.raises(InvalidArgument, match=r"go\.mod and app\.py"):
        detect(tmp_path)


def test_detect_with_no_project_says_what_was_looked_for(tmp_path: Path) -> None:
    """A directory without a project's files is refused with the names that would do."""
    write(tmp_path, "notes.txt")

    with pytest.raises(InvalidArgument, match=r"Cargo\.toml, go\.mod, app\.py"):
        detect(tmp_path)


def test_detect_without_a_directory_is_not_found(tmp_path: Path) -> None:
    """A path that is absent or a file is told apart in the error."""
    write(tmp_path, "file")

    with pytest.raises(NotFound, match="does not exist"):
        detect(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="is not a directory"):
        detect(tmp_path / "file")


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("calculator", "calculator"),
        ("My App_2", "my-app-2"),
        ("--", "application"),
        ("é", "application"),
        ("x" * 80, "x" * 63),
    ],
)
def test_project_name_with_any_directory_is_an_application_name(
    tmp_path: Path, directory: str, name: str
) -> None:
    """Whatever a directory is called, the name taken from it is a legal application name."""
    assert project_name(tmp_path / directory) == name
    assert default_output(tmp_path / directory) == tmp_path / directory / "dist" / f"{name}.wasm"


def test_read_sources_with_tools_at_work_leaves_out_what_is_no_source(tmp_path: Path) -> None:
    """Version control, virtual environments, caches, dist and the output are left out."""
    write(tmp_path, "app.py", "deep/dist/kept.py", "data/words.txt", "out.wasm")
    write(tmp_path, ".git/HEAD", "__pycache__/app.pyc", "dist/old.wasm", "env/pyvenv.cfg", "env/a")

    assert names(tmp_path, ignoring=tmp_path / "out.wasm") == [
        "app.py",
        "data/words.txt",
        "deep/dist/kept.py",
    ]


def test_read_sources_with_pipes_and_dead_links_reads_regular_files_only(tmp_path: Path) -> None:
    """A named pipe, which would block for ever, and a link to nowhere are passed over."""
    write(tmp_path, "app.py")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dead").symlink_to("nowhere")
    (tmp_path / "link.py").symlink_to("app.py")

    assert names(tmp_path) == ["app.py", "link.py"]


def test_read_sources_with_too_many_files_refuses(tmp_path: Path) -> None:
    """A directory larger than any project is refused instead of being read for minutes."""
    write(tmp_path, "a", "b", "c")

    with pytest.raises(InvalidArgument, match="more than 2 files"):
        read_sources(tmp_path, max_files=2)


def test_digest_with_any_difference_differs(tmp_path: Path) -> None:
    """Content, name, place and salt each change the digest; where the project lies does not."""
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, "app.py", text="same")
    write(two, "app.py", text="same")
    first = digest(one, "salt")

    assert digest(two, "salt") == first
    assert digest(one, "sal", "t") != first
    write(two, "app.py", text="other")
    assert digest(two, "salt") != first
    (one / "app.py").rename(one / "ap.py")
    assert digest(one, "salt") != first


def test_digest_with_an_unreadable_file_names_it(tmp_path: Path) -> None:
    """A source file that has gone or cannot be read is an error that names the file."""
    write(tmp_path, "app.py")
    sources = read_sources(tmp_path)
    (tmp_path / "app.py").unlink()

    with pytest.raises(InvalidArgument, match=r"app\.py cannot be read"):
        digest_sources(sources, ())
