"""Test an application without a node.

::

    from plexspaces_actor import testing

    def test_it_remembers() -> None:
        with testing.memory() as host:
            host.applications["greeter"] = lambda message_type, payload: b"hello"
            actor = Counter()
            assert actor.add(2) == 2                         # the method itself
            assert actor.receive("add", b"3") == b"5"        # as the node would
            assert testing.restarted(actor).count == 5
            assert host.values["last"] == b"5"               # what keyvalue holds
            assert host.told == [("audit", "added", b"3")]   # what was told to others

The log is the standard library's: in pytest, use ``caplog``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from . import _host
from ._actor import Actor
from ._host import Answer, MemoryHost

A = TypeVar("A", bound=Actor)

__all__ = ["Answer", "MemoryHost", "memory", "restarted"]


@contextmanager
def memory(applications: Mapping[str, Answer] | None = None) -> Iterator[MemoryHost]:
    """Run the block with a host of its own, without keys or sent messages."""
    host = MemoryHost(applications)
    replaced = _host.install(host)
    try:
        yield host
    finally:
        _host.install(replaced)


def restarted(actor: A) -> A:
    """Return a new instance with the state of `actor`, as after a restart."""
    state = actor.snapshot()
    fresh = type(actor)()
    if state:
        fresh.restore(state)
    fresh.start()
    return fresh
