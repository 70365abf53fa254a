"""A project's Cargo.toml: the name of its library, and which other directories it compiles.

Only reads, and as little as possible: Cargo decides what a manifest means.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plexspaces_node.errors import InvalidArgument

MANIFEST = "Cargo.toml"
LOCK = "Cargo.lock"

_DEPENDENCIES = ("dependencies", "build-dependencies")


@dataclass(frozen=True, slots=True)
class Library:
    """The library of a package: the name of its artifact, and its first file."""

    name: str
    entry: Path


def library(project: Path) -> Library:
    """Return the project's library. Blocks.

    Raises `InvalidArgument` if it has none, and if the manifest is not one of a package.
    """
    manifest = _read(project)
    package = _table(manifest.get("package"))
    name = package.get("name")
    if not isinstance(name, str):
        raise InvalidArgument(
            f"{project / MANIFEST} has no [package] with a name",
            hint="pass the directory of a package, not of a workspace",
        )
    own = _table(manifest.get("lib"))
    found = Library(
        name=str(own.get("name", name.replace("-", "_"))),
        entry=project / str(own.get("path", "src/lib.rs")),
    )
    if not found.entry.is_file():
        raise InvalidArgument(
            f"{project} has no {found.entry.relative_to(project)}",
            hint="write the application's actor there, and plexspaces::export!(IT);, or an HTTP "
            "component's main function, with #[wstd::http_server]",
        )
    return found


def dependencies(project: Path) -> frozenset[str]:
    """Return the crates that the package itself names as dependencies. Blocks."""
    return frozenset(_table(_read(project).get("dependencies")))


def workspace(project: Path) -> Path:
    """Return the directory in which Cargo keeps the lock file. Blocks."""
    if "workspace" in _read(project):
        return project
    for directory in project.parents:
        if (directory / MANIFEST).is_file() and "workspace" in _read(directory):
            return directory
    return project


def outside(project: Path) -> list[Path]:
    """Return the directories outside of the project that are compiled with it. Blocks.

    A workspace around it is one: its manifest and lock file decide too.
    """
    top = project.resolve()
    found = {directory for directory in _dependencies(top, set()) if not _within(directory, top)}
    root = workspace(top)
    return sorted(
        {root, *(directory for directory in found if not _within(directory, root))} - {top}
    )


def _dependencies(package: Path, seen: set[Path]) -> Iterator[Path]:
    manifest = _read(package)
    tables = [manifest, *_table(manifest.get("target")).values()]
    listed = [_table(table).get(kind) for table in tables for kind in _DEPENDENCIES]
    listed += [_table(manifest.get("workspace")).get("dependencies")]
    listed += _table(manifest.get("patch")).values()
    for entry in [entry for part in listed for entry in _table(part).values()]:
        path = _table(entry).get("path")
        directory = (package / path).resolve() if isinstance(path, str) else package
        if directory in seen or not (directory / MANIFEST).is_file():
            continue
        seen.add(directory)
        yield directory
        yield from _dependencies(directory, seen)


def _within(directory: Path, top: Path) -> bool:
    return directory.is_relative_to(top)


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _read(package: Path) -> Mapping[str, Any]:
    path = package / MANIFEST
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidArgument(f"{path} cannot be read: {exc}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise InvalidArgument(f"{path} is not TOML: {exc}") from exc
