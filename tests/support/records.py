"""Rows of the registry, and damage to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from plexspaces_node.model import ArtifactKind, Language, VmConfig
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired, Registry

_RECORD = ApplicationRecord(
    name="app",
    id="app-1",
    version="1",
    language=Language.RUST,
    kind=ArtifactKind.ACTOR,
    digest="ab" * 32,
    vm_config=VmConfig(),
    env={},
    desired=Desired.RUNNING,
    generation=1,
    request_id="",
    created_ns=1,
)


def record_of(name: str, **values: Any) -> ApplicationRecord:
    """Return the row of a small application that is to run, but for these values."""
    return replace(_RECORD, name=name, **values)


async def stored(registry: Registry, name: str) -> ApplicationRecord:
    """Return the row of an application that the registry has."""
    [record] = [one for one in await registry.list_applications() if one.name == name]
    return record


def damage_root(registry: Path, name: str) -> None:
    """Overwrite the first page of a table or an index of a registry that nobody has open."""
    with closing(sqlite3.connect(registry)) as connection:
        found = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        [[page]] = connection.execute(found, (name,)).fetchall()
    with registry.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xa5" * 4096)
