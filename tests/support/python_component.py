"""A component of the form in which componentize-py makes them, with nothing of Python inside.

It exports what an application does as functions without types of their own: `handle` and `snapshot`
return bytes, `put`, `tell` and `ask` call the host with some and return whether it said no; `get`
calls it with a key and returns what came.
`freed` is the address that was last freed, `frees` how many there were. What is freed is damaged.
"""

from __future__ import annotations

from plexspaces_node.toolchains.wasm.assembly import assemble
from plexspaces_node.toolchains.wasm.wrap import ACTOR, CONTRACT, VERSION

KEYVALUE = f"{CONTRACT}/keyvalue@{VERSION}"
MESSAGING = f"{CONTRACT}/messaging@{VERSION}"

REPLY_AT, STATE_AT, VALUE_AT, PART_AT = 0x500, 0x600, 0x700, 0x900
"""Where in its memory the component has its reply, its state and what it hands to the host."""

COMPONENT = f"""
(component
  (import "{KEYVALUE}" (instance $keyvalue
    (export "get" (func (param "key" string) (result (result (option (list u8)) (error string)))))
    (export "put" (func (param "key" string) (param "value" (list u8))
      (result (result (error string)))))))
  (import "{MESSAGING}" (instance $messaging
    (export "tell" (func (param "to" string) (param "msg-type" string) (param "payload" (list u8))
      (result (result (error string)))))
    (export "ask" (func (param "to" string) (param "msg-type" string) (param "payload" (list u8))
      (param "timeout-ms" u32) (result (result (list u8) (error string)))))))

  ;; Imports are called through a table, which is filled when there is a memory to lower them with.
  (core module $shim-module
    (type $tell (func (param i32 i32 i32 i32 i32 i32 i32)))
    (type $put (func (param i32 i32 i32 i32 i32)))
    (type $ask (func (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (type $get (func (param i32 i32 i32)))
    (table (export "$imports") 4 4 funcref)
    (func (export "3") (type $get)
      (local.get 0) (local.get 1) (local.get 2)
      (call_indirect (type $get) (i32.const 3)))
    (func (export "0") (type $put)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
      (call_indirect (type $put) (i32.const 0)))
    (func (export "1") (type $tell)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)
      (local.get 6) (call_indirect (type $tell) (i32.const 1)))
    (func (export "2") (type $ask)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)
      (local.get 6) (local.get 7) (call_indirect (type $ask) (i32.const 2))))
  (core module $fill-module
    (import "" "$imports" (table 4 4 funcref))
    (import "" "3" (func $get (param i32 i32 i32)))
    (import "" "0" (func $put (param i32 i32 i32 i32 i32)))
    (import "" "1" (func $tell (param i32 i32 i32 i32 i32 i32 i32)))
    (import "" "2" (func $ask (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (elem (i32.const 0) func $put $tell $ask $get))

  (core module $env-module (memory (export "memory") 1))
  (core module $libc-module
    (import "env" "memory" (memory 1))
    (global $freed (mut i32) (i32.const 0))
    (global $frees (mut i32) (i32.const 0))
    (func (export "free") (param i32)
      (if (i32.eqz (local.get 0)) (then (return)))
      (memory.fill (local.get 0) (i32.const 0xff) (i32.const 5))
      (global.set $freed (local.get 0))
      (global.set $frees (i32.add (global.get $frees) (i32.const 1))))
    (func (export "malloc") (param i32) (result i32) (i32.const {PART_AT}))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x800))
    (func (export "freed") (result i32) (global.get $freed))
    (func (export "frees") (result i32) (global.get $frees)))
  (core module $actor-module
    (import "env" "memory" (memory 1))
    (import "{KEYVALUE}" "get" (func $get (param i32 i32 i32)))
    (import "{KEYVALUE}" "put" (func $put (param i32 i32 i32 i32 i32)))
    (import "{MESSAGING}" "tell" (func $tell (param i32 i32 i32 i32 i32 i32 i32)))
    (import "{MESSAGING}" "ask" (func $ask (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (data (i32.const {REPLY_AT}) "reply")
    (data (i32.const {STATE_AT}) "state")
    (data (i32.const {VALUE_AT}) "value")
    (func (export "{ACTOR}#handle-message") (param $failed i32) (result i32)
      (i32.store8 (i32.const 16) (local.get $failed))
      (i32.store (i32.const 20) (i32.const {REPLY_AT}))
      (i32.store (i32.const 24) (i32.const 5))
      (i32.const 16))
    (func (export "{ACTOR}#snapshot-state") (result i32)
      (i32.store (i32.const 32) (i32.const {STATE_AT}))
      (i32.store (i32.const 36) (i32.const 5))
      (i32.const 32))
    (func (export "get") (param $key i32) (param $size i32) (result i32)
      (call $get (local.get $key) (local.get $size) (i32.const 48))
      (i32.const 48))
    (func (export "put") (result i32)
      (call $put (i32.const {REPLY_AT}) (i32.const 1)
        (i32.const {VALUE_AT}) (i32.const 5) (i32.const 48))
      (i32.load8_u (i32.const 48)))
    (func (export "tell") (result i32)
      (call $tell (i32.const {REPLY_AT}) (i32.const 1) (i32.const {STATE_AT}) (i32.const 1)
        (i32.const {VALUE_AT}) (i32.const 5) (i32.const 48))
      (i32.load8_u (i32.const 48)))
    (func (export "ask") (result i32)
      (call $ask (i32.const {REPLY_AT}) (i32.const 1) (i32.const {STATE_AT}) (i32.const 1)
        (i32.const {VALUE_AT}) (i32.const 5) (i32.const 7) (i32.const 48))
      (i32.load8_u (i32.const 48)))
    ;; As the runtime's own: afterwards the place of the result is no more.
    (func (export "cabi_post_{ACTOR}#handle-message") (param i32)
      (memory.fill (local.get 0) (i32.const 0xff) (i32.const 12)))
    (func (export "cabi_post_{ACTOR}#snapshot-state") (param i32)
      (memory.fill (local.get 0) (i32.const 0xff) (i32.const 8))))
  (core module $start-module)

  (core instance $shim (instantiate $shim-module))
  (core instance $env (instantiate $env-module))
  (core instance $libc (instantiate $libc-module (with "env" (instance $env))))
  (alias core export $libc "cabi_realloc" (core func $realloc))
  (alias core export $shim "0" (core func $indirect-put))
  (alias core export $shim "3" (core func $indirect-get))
  (core instance $keyvalue-calls
    (export "get" (func $indirect-get)) (export "put" (func $indirect-put)))
  (alias core export $shim "1" (core func $indirect-tell))
  (alias core export $shim "2" (core func $indirect-ask))
  (core instance $messaging-calls
    (export "tell" (func $indirect-tell)) (export "ask" (func $indirect-ask)))
  (core instance $actor (instantiate $actor-module
    (with "env" (instance $env))
    (with "{KEYVALUE}" (instance $keyvalue-calls))
    (with "{MESSAGING}" (instance $messaging-calls))))

  (alias core export $env "memory" (core memory $memory))
  (alias core export $shim "$imports" (core table $table))
  (core func $put (canon lower (func $keyvalue "put")
    (memory $memory) (realloc $realloc) string-encoding=utf8))
  (core func $tell (canon lower (func $messaging "tell")
    (memory $memory) (realloc $realloc) string-encoding=utf8))
  (core func $ask (canon lower (func $messaging "ask")
    (memory $memory) (realloc $realloc) string-encoding=utf8))
  (core func $get (canon lower (func $keyvalue "get")
    (memory $memory) (realloc $realloc) string-encoding=utf8))
  (core instance $calls
    (export "$imports" (table $table))
    (export "0" (func $put)) (export "1" (func $tell)) (export "2" (func $ask))
    (export "3" (func $get)))
  (core instance (instantiate $fill-module (with "" (instance $calls))))
  (core instance (instantiate $start-module
    (with "env" (instance $env)) (with "libc.so" (instance $libc))))

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
  (type $get-type (func (param "key" string) (result (result (option (list u8)) (error string)))))
  (func (export "get") (type $get-type) (canon lift (core func $actor "get")
    (memory $memory) (realloc $realloc) string-encoding=utf8))
  (func (export "put") (result bool) (canon lift (core func $actor "put")))
  (func (export "tell") (result bool) (canon lift (core func $actor "tell")))
  (func (export "ask") (result bool) (canon lift (core func $actor "ask")))
  (func (export "freed") (result u32) (canon lift (core func $libc "freed")))
  (func (export "frees") (result u32) (canon lift (core func $libc "frees")))
)
"""


def python_component(text: str = COMPONENT) -> bytes:
    """Return it as the compiler would have written it."""
    return assemble(text)
