;; A WASI command written by hand: copies stdin to stdout. The first byte of its input chooses:
;; x ends with status 3 after a line on stderr, t traps, l loops for ever, b writes 32 MiB, y copies
;; and then ends with its second byte for a status, q copies and then traps, a writes its arguments,
;; each with a zero byte behind it.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $count (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $arguments (param i32 i32) (result i32)))
  (memory (export "memory") 40)
  (data (i32.const 64) "no such thing\n")
  ;; 0: an iovec; 8: how much was read or written; 1024: the data
  (func (export "_start")
    (local $first i32)
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 2097152))
    (loop $more
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.eqz (i32.load (i32.const 8))) (then (return)))
      (local.set $first (i32.load8_u (i32.const 1024)))
      (if (i32.eq (local.get $first) (i32.const 120)) (then
        (i32.store (i32.const 0) (i32.const 64))
        (i32.store (i32.const 4) (i32.const 14))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $exit (i32.const 3))))
      (if (i32.eq (local.get $first) (i32.const 116)) (then unreachable))
      (if (i32.eq (local.get $first) (i32.const 108)) (then (loop $for-ever (br $for-ever))))
      (if (i32.eq (local.get $first) (i32.const 98)) (then
        (i32.store (i32.const 4) (i32.const 1048576))
        (local.set $first (i32.const 32))
        (loop $flood
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (local.set $first (i32.sub (local.get $first) (i32.const 1)))
          (br_if $flood (local.get $first)))
        (return)))
      (if (i32.eq (local.get $first) (i32.const 97)) (then
        (drop (call $count (i32.const 16) (i32.const 4)))
        (drop (call $arguments (i32.const 2200000) (i32.const 2300000)))
        (i32.store (i32.const 0) (i32.const 2300000))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (return)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.eq (local.get $first) (i32.const 121)) (then
        (call $exit (i32.load8_u (i32.const 1025)))))
      (if (i32.eq (local.get $first) (i32.const 113)) (then unreachable))
      (i32.store (i32.const 4) (i32.const 2097152))
      (br $more))))
