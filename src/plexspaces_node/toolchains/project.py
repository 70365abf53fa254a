"""A project on disk: its language, its name, its source files and their digest.

Only reads. Does not know what a compiler does with the files.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from plexspaces_node.errors import InvalidArgument, NotFound
from plexspaces_node.model import MIB, Language

OUTPUT_DIRECTORY = "dist"
MAX_FILES = 20_000
MAX_BYTES = 512 * MIB

_MARKS: tuple[tuple[str, Language], ...] = (
    ("Cargo.toml", Language.RUST),
    ("go.mod", Language.GO),
    ("app.py", Language.PYTHON),
    ("server.py", Language.PYTHON),
)
"""Files that identify the language."""

_WEAK_MARKS: tuple[tuple[str, Language], ...] = (
    ("pyproject.toml", Language.PYTHON),
    ("package.json", Language.TYPESCRIPT),
)
"""Files that identify it if none of the others exists: other projects have these for their
tools."""

_NOT_SOURCE = frozenset(
    {
        ".git",
        ".hg",
        ".hypothesis",
        ".idea",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".ruff_cache",
        ".svn",
        ".tox",
        ".venv",
        ".vscode",
        "__pycache__",
        "node_modules",
    }
)

_NOT_SOURCE_MARKS = ("pyvenv.cfg", "CACHEDIR.TAG")
"""Files that mark a generated directory: a virtual environment, cargo's ``target``."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source file: where it is, and its path below the directory that was read."""

    path: Path
    relative: str


def detect(project: Path) -> Language:
    """Return the language of a project from its files.

    Cargo.toml is Rust, go.mod Go, app.py or server.py Python; without any of them pyproject.toml is
    Python and package.json TypeScript. Raises `NotFound` if the directory does not exist,
    `InvalidArgument` if it is not a project or one of two languages.
    """
    if not project.is_dir():
        what = "is not a directory" if project.exists() else "does not exist"
        raise NotFound(
            f"{project} {what}",
            hint="plexspaces build DIR, or plexspaces deploy DIR",
        )
    found = [(mark, lang) for mark, lang in _MARKS if (project / mark).is_file()]
    if not found:
        found = [(mark, lang) for mark, lang in _WEAK_MARKS if (project / mark).is_file()][:1]
    if not found:
        marks = ", ".join(mark for mark, _ in (*_MARKS, *_WEAK_MARKS))
        raise InvalidArgument(
            f"{project} is not a project: it contains none of {marks}",
            hint="pass a project directory, or create one: plexspaces new --help",
        )
    if len({language for _, language in found}) > 1:
        marks = " and ".join(mark for mark, _ in found)
        raise InvalidArgument(
            f"{project} contains {marks}: its language is ambiguous",
            hint="put each application into its own directory",
        )
    return found[0][1]


def project_name(project: Path) -> str:
    """Return the directory's name in the form of an application's name."""
    return application_name(project.resolve().name)


def application_name(text: str) -> str:
    """Return the application name that is closest to a text."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower())[:63].strip("-")
    return name or "application"


def default_output(project: Path) -> Path:
    """Return the default output of a build: ``dist/NAME.wasm`` in the project."""
    return project / OUTPUT_DIRECTORY / f"{project_name(project)}.wasm"


def read_sources(
    directory: Path, *, ignoring: Path | None = None, max_files: int = MAX_FILES
) -> list[Source]:
    """Return the source files of a directory, sorted.

    Leaves out `ignoring`, ``dist`` at the top, version control, virtual environments and caches of
    tools. Blocks. Raises `InvalidArgument` for a directory too large to be a project.
    """
    sources: list[Source] = []
    total = 0
    for path in _walk(directory):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # a link to nowhere, or an editor's file that has just gone
        if not stat.S_ISREG(status.st_mode) or path == ignoring:
            continue
        sources.append(Source(path, path.relative_to(directory).as_posix()))
        total += status.st_size
        if len(sources) > max_files or total > MAX_BYTES:
            raise InvalidArgument(
                f"{directory} contains more than {max_files} files or {MAX_BYTES // MIB} MiB",
                hint="pass a directory that contains only the project's files",
            )
    return sorted(sources, key=lambda source: source.relative)


def digest_sources(sources: Iterable[Source], salt: Iterable[str]) -> str:
    """Return the SHA-256 over names and contents of files and over `salt`, in hex. Blocks."""
    whole = hashlib.sha256()
    for text in salt:
        _add(whole, text.encode())
    for source in sources:
        _add(whole, source.relative.encode("utf-8", "surrogateescape"))
        with _open(source.path) as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _walk(directory: Path) -> Iterator[Path]:
    for here, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if _is_source(Path(here, name), directory)]
        yield from (Path(here, name) for name in files)


def _is_source(path: Path, top: Path) -> bool:
    if path.name in _NOT_SOURCE or any((path / mark).exists() for mark in _NOT_SOURCE_MARKS):
        return False
    return path != top / OUTPUT_DIRECTORY


def _open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as exc:
        raise InvalidArgument(f"{path} cannot be read: {exc.strerror}") from exc


def _add(whole: hashlib._Hash, part: bytes) -> None:
    # With its length, so that no two lists of parts give the same bytes.
    whole.update(len(part).to_bytes(8, "little") + part)
