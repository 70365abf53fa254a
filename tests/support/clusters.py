"""Nodes and applications of a cluster, for tests."""

from __future__ import annotations

from typing import Any

from plexspaces_node.node.cluster.records import Application, Node


def a_node(name: str, **given: Any) -> Node:
    """Return a node with room for 16 applications and 1,024 MiB."""
    usual: dict[str, Any] = {
        "id": name,
        "http": "127.0.0.1:1",
        "grpc": "127.0.0.1:2",
        "version": "1",
        "level": "process",
        "memory_mib": 1024,
        "applications": 16,
        "incarnation": 1,
    }
    return Node(**{**usual, **given})


def an_application(name: str, **given: Any) -> Application:
    """Return an actor of 64 MiB, whose id is its name."""
    usual: dict[str, Any] = {
        "name": name,
        "id": name,
        "generation": 1,
        "version": "1",
        "language": "rust",
        "kind": "actor",
        "digest": "0" * 64,
        "vcpus": 1,
        "memory_mib": 64,
        "created_ns": 0,
        "source": "a",
    }
    return Application(**{**usual, **given})
