"""The component that componentize-py makes frees what it returned, once it has been led to."""

from __future__ import annotations

from typing import Any

import pytest
from support.python_component import COMPONENT, REPLY_AT, STATE_AT, python_component
from wasmtime import Engine, Store
from wasmtime.component import Component, Linker

from plexspaces_node.build.python_returns import freeing_returned_bytes
from plexspaces_node.build.wrap import ACTOR
from plexspaces_node.errors import Internal


class Running:
    """A component with an instance."""

    def __init__(self, binary: bytes) -> None:
        engine = Engine()
        self._store = Store(engine)
        component = Component(engine, binary)
        self._instance = Linker(engine).instantiate(self._store, component)

    def call(self, name: str, *arguments: object) -> Any:
        """Call an exported function."""
        function = self._instance.get_func(self._store, name)
        assert function is not None
        return function(self._store, *arguments)


def test_component_as_it_was_made_frees_nothing() -> None:
    """The component of these tests has the fault."""
    running = Running(python_component())
    assert running.call("handle", False) == b"reply"
    assert running.call("freed") == 0


def test_reply_and_state_are_freed_once_they_are_read() -> None:
    """What the host reads is whole, and then the component's own `free` gets its address."""
    running = Running(freeing_returned_bytes(python_component()))
    assert running.call("handle", False) == b"reply"
    assert running.call("freed") == REPLY_AT
    assert running.call("snapshot") == b"state"
    assert running.call("freed") == STATE_AT


def test_texts_of_an_error_are_left_alone() -> None:
    """The runtime frees them itself: freed twice they would spoil its memory."""
    running = Running(freeing_returned_bytes(python_component()))
    assert running.call("handle", True) == "reply"
    assert running.call("freed") == 0


@pytest.mark.parametrize(
    ("known", "other"),
    [('"libc.so"', '"libc"'), (f'"cabi_post_{ACTOR}#snapshot-state"', '"snapshotted"')],
    ids=["a library", "a function"],
)
def test_component_of_another_form_is_refused(known: str, other: str) -> None:
    """A compiler that links otherwise makes the build fail, and no component that leaks or dies."""
    binary = python_component(COMPONENT.replace(known, other))
    with pytest.raises(Internal, match="form that is not known"):
        freeing_returned_bytes(binary)


def test_component_cut_short_is_refused() -> None:
    """What is no whole component raises a platform error."""
    with pytest.raises(Internal):
        freeing_returned_bytes(python_component()[:-20])
