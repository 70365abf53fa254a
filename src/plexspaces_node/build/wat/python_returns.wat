;; What is called after a function of a Python component has returned: as before, and then it frees
;; the bytes that were returned. See build/python_returns.py.
(module
  (import "env" "memory" (memory 0))
  (import "libc.so" "free" (func $free (param i32)))
  (import "actor" "cabi_post_plexspaces:application/actor@0.1.0#handle-message"
    (func $handled (param i32)))
  (import "actor" "cabi_post_plexspaces:application/actor@0.1.0#snapshot-state"
    (func $snapshot (param i32)))

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
    (call $free (local.get $bytes))))
