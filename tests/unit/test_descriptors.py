"""File descriptors: who gets how many, and how it is known that there was none."""

from __future__ import annotations

import errno
import resource

import pytest

from plexspaces_node.node.api import descriptors


@pytest.mark.parametrize(
    ("limit", "machines", "connections"),
    [
        (2048, 100, 2048 - 128 - 384 - 600),
        (20_000, 100, 10_000),
        (1024, 10_000, 256),
        (40, 1, 16),
    ],
)
def test_connections_when_counted_then_the_machines_have_theirs(
    limit: int, machines: int, connections: int
) -> None:
    """Clients get what machines leave, but never so few that nobody can end a machine."""
    assert descriptors.for_connections(limit, machines) == connections


@pytest.mark.parametrize(("limit", "connections"), [(20_000, 9_444), (100_000, 10_000)])
def test_connections_when_there_are_two_ports_then_both_fit(limit: int, connections: int) -> None:
    """What is left is divided, and each part is bounded."""
    assert descriptors.for_connections(limit, 100, ports=2) == connections


def test_limit_when_raised_then_it_is_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual soft limit of 1,024 is not a node's."""
    limits = [(1024, 20_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda what, given: limits.append(given))
    descriptors.raise_limit()
    descriptors.raise_limit()
    assert limits == [(1024, 20_000), (20_000, 20_000)]
    assert descriptors.in_force() == 20_000


def test_error_when_something_else_lacked_then_it_is_not_descriptors() -> None:
    """Only what the kernel said decides."""
    error = RuntimeError("cannot start")
    error.__cause__ = OSError(errno.ENOMEM, "no memory")
    assert not descriptors.are_what_lacked(error)
    error.__cause__ = OSError(errno.ENFILE, "too many files in the system")
    assert descriptors.are_what_lacked(error)
