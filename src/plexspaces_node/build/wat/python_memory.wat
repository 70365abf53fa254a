;; Frees the bytes that a Python component returned or handed over. See build/python_memory.py, which
;; writes the functions' numbers in the table in braces.
(module
  (import "env" "memory" (memory 0))
  (import "libc.so" "free" (func $free (param i32)))
  (import "actor" "cabi_post_plexspaces:application/actor@0.1.0#handle-message"
    (func $handled (param i32)))
  (import "actor" "cabi_post_plexspaces:application/actor@0.1.0#snapshot-state"
    (func $snapshot (param i32)))
  (import "calls" "$imports" (table 0 funcref))
  (import "calls" "{put}" (func $put (param i32 i32 i32 i32 i32)))
  (import "calls" "{tell}" (func $tell (param i32 i32 i32 i32 i32 i32 i32)))
  (import "calls" "{ask}" (func $ask (param i32 i32 i32 i32 i32 i32 i32 i32)))

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
    (call $free (local.get $payload))))
