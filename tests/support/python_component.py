"""A component of the form in which componentize-py makes them, with nothing of Python inside."""

from __future__ import annotations

from wasmtime import wat2wasm

from plexspaces_node.build.wrap import ACTOR

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


def python_component(text: str = COMPONENT) -> bytes:
    """Return it as the compiler would have written it."""
    return bytes(wat2wasm(text))
