;; What `plexspaces advise --measure` deploys at each level: a core module, which wrap.py makes an
;; actor. It takes as many rounds of a loop as the first four bytes of a message say, little-endian,
;; and answers with what they made. A message may be as long as there is memory.
(module
  (memory (export "memory") 4)
  (global $top (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $ok (param $at i32) (param $size i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (local.get $at))
    (i32.store (i32.const 24) (local.get $size))
    (i32.const 16))
  (func (export "plexspaces:application/actor@0.1.0#handle-message")
    (param $from i32) (param $from-size i32) (param $type i32) (param $type-size i32)
    (param $at i32) (param $size i32) (result i32)
    (local $left i32) (local $made i32)
    ;; What the host handed over is not needed after the call.
    (global.set $top (i32.const 4096))
    (local.set $made (i32.const 1))
    (if (i32.ge_u (local.get $size) (i32.const 4))
      (then (local.set $left (i32.load align=1 (local.get $at)))))
    (block $done (loop $more
      (br_if $done (i32.eqz (local.get $left)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      ;; Each round needs the one before, so that no compiler leaves them out.
      (local.set $made (i32.add (i32.mul (local.get $made) (i32.const 1664525)) (i32.const 1013904223)))
      (br $more)))
    (i32.store (i32.const 64) (local.get $made))
    (call $ok (i32.const 64) (i32.const 4)))
  (func (export "plexspaces:application/actor@0.1.0#init") (param i32 i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0)) (i32.const 16))
  (func (export "plexspaces:application/actor@0.1.0#snapshot-state") (result i32)
    (i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (i32.const 0)) (i32.const 16))
  (func (export "plexspaces:application/actor@0.1.0#shutdown")))
