"""Rows of the registry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plexspaces_node.model import ArtifactKind, Language, VmConfig
from plexspaces_node.node.registry.registry import ApplicationRecord, Desired

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
