"""The component that componentize-py makes frees what it returned, once it has been led to."""

from __future__ import annotations

from typing import Any

import pytest
from wasmtime import Engine, Store, wat2wasm
from wasmtime.component import Component, Linker

from plexspaces_node.build.python_returns import freeing_returned_bytes
from plexspaces_node.build.wrap import ACTOR
from plexspaces_node.errors import Internal

REPLY_AT, STATE_AT = 0x500, 0x600
"""Where in its memory the component has its reply and its state."""

COMPONENT = f"""
(component
  (core module $env-module (memory (export "memory") 1))
  (core module $libc-module
    (global $freed (mut i32) (i32.const 0))
    (func (export "free") (param i32) (global.set $freed (local.get 0)))
    (func (export "freed") (result i32) (global.get $freed)))
  (core module $actor-module
    (import "env" "memory" (memory 1))
    (data (i32.const {REPLY_AT}) "reply")
    (data (i32.const {STATE_AT}) "state")
    (func (export "{ACTOR}#handle-message") (param $failed i32) (result i32)
      (i32.store8 (i32.const 16) (local.get $failed))
      (i32.store (i32.const 20) (i32.const {REPLY_AT}))
      (i32.store (i32.const 24) (i32.const 5))
      (i32.const 16))
    (func (export "{ACTOR}#snapshot-state") (result i32)
      (i32.store (i32.const 32) (i32.const {STATE_AT}))
      (i32.store (i32.const 36) (i32.const 5))
      (i32.const 32))
    ;; As the runtime's own: afterwards the place of the result is no more.
    (func (export "cabi_post_{ACTOR}#handle-message") (param i32)
      (memory.fill (local.get 0) (i32.const 0xff) (i32.const 12)))
    (func (export "cabi_post_{ACTOR}#snapshot-state") (param i32)
      (memory.fill (local.get 0) (i32.const 0xff) (i32.const 8))))
  (core module $start-module)
  (core instance $env (instantiate $env-module))
  (core instance $libc (instantiate $libc-module))
  (core instance $actor (instantiate $actor-module (with "env" (instance $env))))
  (core instance (instantiate $start-module
    (with "env" (instance $env)) (with "libc.so" (instance $libc))))
  (alias core export $env "memory" (core memory $memory))
  (type $handle (func (param "failed" bool) (result (result (list u8) (error string)))))
  (alias core export $actor "{ACTOR}#handle-message" (core func $handle))
  (alias core export $actor "cabi_post_{ACTOR}#handle-message" (core func $handled))
  (func (export "handle") (type $handle)
    (canon lift (core func $handle) (memory $memory) (post-return $handled)))
  (type $snapshot (func (result (list u8))))
  (alias core export $actor "{ACTOR}#snapshot-state" (core func $snapshot))
  (alias core export $actor "cabi_post_{ACTOR}#snapshot-state" (core func $snapshotted))
  (func (export "snapshot") (type $snapshot)
    (canon lift (core func $snapshot) (memory $memory) (post-return $snapshotted)))
  (type $freed (func (result u32)))
  (alias core export $libc "freed" (core func $freed))
  (func (export "freed") (type $freed) (canon lift (core func $freed)))
)
"""


def made(text: str = COMPONENT) -> bytes:
    """Return a component as its compiler wrote it."""
    return bytes(wat2wasm(text))


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
    running = Running(made())
    assert running.call("handle", False) == b"reply"
    assert running.call("freed") == 0


def test_reply_and_state_are_freed_once_they_are_read() -> None:
    """What the host reads is whole, and then the component's own `free` gets its address."""
    running = Running(freeing_returned_bytes(made()))
    assert running.call("handle", False) == b"reply"
    assert running.call("freed") == REPLY_AT
    assert running.call("snapshot") == b"state"
    assert running.call("freed") == STATE_AT


def test_texts_of_an_error_are_left_alone() -> None:
    """The runtime frees them itself: freed twice they would spoil its memory."""
    running = Running(freeing_returned_bytes(made()))
    assert running.call("handle", True) == "reply"
    assert running.call("freed") == 0


@pytest.mark.parametrize(
    ("known", "other"),
    [('"libc.so"', '"libc"'), (f'"cabi_post_{ACTOR}#snapshot-state"', '"snapshotted"')],
    ids=["a library", "a function"],
)
def test_component_of_another_form_is_refused(known: str, other: str) -> None:
    """A compiler that links otherwise makes the build fail, and no component that leaks or dies."""
    binary = made(COMPONENT.replace(known, other))
    with pytest.raises(Internal, match="form that is not known"):
        freeing_returned_bytes(binary)


def test_component_cut_short_is_refused() -> None:
    """What is no whole component raises a platform error."""
    with pytest.raises(Internal):
        freeing_returned_bytes(made()[:-20])
