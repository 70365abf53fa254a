"""A component of the form in which componentize-qjs makes them, with nothing of QuickJS inside."""

from __future__ import annotations

from plexspaces_node.toolchains.wasm.assembly import assemble

TOP = 0x100000
"""Where the stack begins, which grows down to 0."""
NOTED_AT = TOP + 0x300
"""Where the engine has noted the stack's top; behind it come the limit and the last exception."""

COMPONENT = f"""
(component
  (core module $other (memory 1) (global (mut i32) (i32.const 7)) (data (i32.const 0) "other"))
  (component
    (core module $env
      (memory (export "memory") 25)
      (global (export "__stack_pointer") (mut i32) (i32.const {TOP}))
      (global (export "__heap_base") (mut i32) (i32.const {TOP + 0x200}))
      (data (i32.const {TOP + 0x100}) "\\f0\\fd\\0f\\00 a number that is near the top")
      (data (i32.const {NOTED_AT}) "\\10\\fe\\0f\\00")
      (data (i32.const {NOTED_AT + 12}) "\\04")
      ;; As an application's own data may look.
      (data (i32.const {NOTED_AT + 64}) "\\10\\fe\\0f\\00\\00\\00\\00\\00\\00\\00\\00\\00\\04")
      (func (export "noted") (result i32) (i32.load (i32.const {NOTED_AT})))
      (func (export "limit") (result i32) (i32.load (i32.const {NOTED_AT + 4})))
      (func (export "pointer") (result i32) (global.get 0))
      (func (export "pages") (result i32) (memory.size)))
    (core instance $made (instantiate $env))
    (func (export "noted") (result u32) (canon lift (core func $made "noted")))
    (func (export "limit") (result u32) (canon lift (core func $made "limit")))
    (func (export "pointer") (result u32) (canon lift (core func $made "pointer")))
    (func (export "pages") (result u32) (canon lift (core func $made "pages"))))
  (instance $inner (instantiate 0))
  (export "noted" (func $inner "noted"))
  (export "limit" (func $inner "limit"))
  (export "pointer" (func $inner "pointer"))
  (export "pages" (func $inner "pages")))
"""


def typescript_component(text: str = COMPONENT) -> bytes:
    """Return it as the compiler would have written it."""
    return assemble(text)
