;; Frees the bytes that a Python component returned or handed over, and holds those that it keeps. See
;; toolchains/python/memory.py, which writes the functions' numbers in the table in braces, and puts what is
;; kept in the place of `$kept`.
(module
  (import "env" "memory" (memory 0))
  (import "libc.so" "free" (func $free (param i32)))
  (import "libc.so" "malloc" (func $malloc (param i32) (result i32)))
  (import "actor" "cabi_post_plexspaces:application/actor@0.1.0#handle-message"
    (func $handled (param i32)))
  (import "actor" "cabi_post_plexspaces:application/actor@0.1.0#snapshot-state"
    (func $snapshot (param i32)))
  (import "calls" "$imports" (table 0 funcref))
  (import "calls" "{get}" (func $get (param i32 i32 i32)))
  (import "calls" "{put}" (func $put (param i32 i32 i32 i32 i32)))
  (import "calls" "{tell}" (func $tell (param i32 i32 i32 i32 i32 i32 i32)))
  (import "calls" "{ask}" (func $ask (param i32 i32 i32 i32 i32 i32 i32 i32)))

  ;; Passive: it is no part of the memory.
  (data $kept "")

  (elem (i32.const {get}) func $get-or-read)
  (elem (i32.const {put}) func $put-and-free)
  (elem (i32.const {tell}) func $tell-and-free)
  (elem (i32.const {ask}) func $ask-and-free)

  ;; What is called after a function has returned: as before, and then the bytes are freed.

  ;; result<list<u8>, actor-error>: the texts of an error are freed as it is.
  (func (export "cabi_post_plexspaces:application/actor@0.1.0#handle-message") (param $result i32)
    (local $bytes i32)
    (if (i32.eqz (i32.load8_u (local.get $result)))
      (then (local.set $bytes (i32.load offset=4 (local.get $result)))))
    (call $handled (local.get $result))
    (call $free (local.get $bytes)))

  ;; list<u8>
  (func (export "cabi_post_plexspaces:application/actor@0.1.0#snapshot-state") (param $list i32)
    (local $bytes i32)
    (local.set $bytes (i32.load (local.get $list)))
    (call $snapshot (local.get $list))
    (call $free (local.get $bytes)))

  ;; What is called for a function of the host: it, and then the bytes are freed, whether it did
  ;; what was asked or not. The texts beside them are freed as it is. The host has read both by now,
  ;; and its answer lies in memory of its own.

  ;; key, value, where the result is put
  (func $put-and-free
    (param $key i32) (param $key-size i32) (param $value i32) (param $value-size i32)
    (param $result i32)
    (call $put
      (local.get $key) (local.get $key-size) (local.get $value) (local.get $value-size)
      (local.get $result))
    (call $free (local.get $value)))

  ;; to, msg-type, payload, where the result is put
  (func $tell-and-free
    (param $to i32) (param $to-size i32) (param $type i32) (param $type-size i32)
    (param $payload i32) (param $payload-size i32) (param $result i32)
    (call $tell
      (local.get $to) (local.get $to-size) (local.get $type) (local.get $type-size)
      (local.get $payload) (local.get $payload-size) (local.get $result))
    (call $free (local.get $payload)))

  ;; to, msg-type, payload, timeout-ms, where the result is put
  (func $ask-and-free
    (param $to i32) (param $to-size i32) (param $type i32) (param $type-size i32)
    (param $payload i32) (param $payload-size i32) (param $timeout-ms i32) (param $result i32)
    (call $ask
      (local.get $to) (local.get $to-size) (local.get $type) (local.get $type-size)
      (local.get $payload) (local.get $payload-size) (local.get $timeout-ms) (local.get $result))
    (call $free (local.get $payload)))

  ;; A key of 12 bytes that begins with 0 and 1 names a part of what is kept: from which byte on, and
  ;; how many. Every other is the host's to answer.

  ;; key, where the result is put: result<option<list<u8>>, string>
  (func $get-or-read (param $key i32) (param $key-size i32) (param $result i32)
    (local $length i32) (local $bytes i32)
    (if (i32.ne (local.get $key-size) (i32.const 12))
      (then (return (call $get (local.get $key) (local.get $key-size) (local.get $result)))))
    (if (i32.ne (i32.load16_u (local.get $key)) (i32.const 0x0100))
      (then (return (call $get (local.get $key) (local.get $key-size) (local.get $result)))))
    (local.set $length (call $number (i32.add (local.get $key) (i32.const 7))))
    (local.set $bytes (call $malloc (local.get $length)))
    (if (i32.eqz (local.get $bytes)) (then (unreachable)))
    (memory.init $kept
      (local.get $bytes)
      (call $number (i32.add (local.get $key) (i32.const 2)))
      (local.get $length))
    (i32.store8 (local.get $result) (i32.const 0))
    (i32.store8 offset=4 (local.get $result) (i32.const 1))
    (i32.store offset=8 (local.get $result) (local.get $bytes))
    (i32.store offset=12 (local.get $result) (local.get $length)))

  ;; Five letters, the lower six bits of each.
  (func $number (param $at i32) (result i32)
    (local $end i32) (local $number i32)
    (local.set $end (i32.add (local.get $at) (i32.const 5)))
    (loop $next
      (local.set $number
        (i32.or
          (i32.shl (local.get $number) (i32.const 6))
          (i32.and (i32.load8_u (local.get $at)) (i32.const 63))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
    (local.get $number)))
